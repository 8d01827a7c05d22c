//! Step 2, `evidence`: the board is held without power for seconds, watched. Nothing may be on its port
//! the whole time; how well the cut itself is shown is graded, and `require_cut` sets the least grade.
//!
//! | grade | what was seen |
//! | --- | --- |
//! | `sensed` | an independent sense of the rail saw it dark after the hold |
//! | `presence` | the image's gadget was on the port, and left within a window after the order |
//! | `readback` | the driver reads back off, after the hold as before it |
//!
//! A running Panda without a gadget has nothing on its port, so an empty port alone is no grade at all.
//! A driver that switches the port's own power makes the gadget leave without the board losing power: with such a
//! driver there is no `presence` (`Power::switches_port`).
//!
//! Where `presence` is demanded and was not to be had, as on a board that was off, the cut is [`Weak`]: the step
//! has failed, and the board may be booted once to bring its gadget up, for the next cut (`super::prepare`).

use panda_board::{PowerState, Presence};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::chain::{Chain, Note};
use super::cut::{Ordered, describe, device, unseen};
use super::error::{Failure, StepError};
use super::settings::ms;
use crate::ledger::Grade;

/// What a cut has shown.
#[derive(Debug)]
pub(crate) enum Evidence {
    /// As much as the rack demands.
    Enough(Dark),
    /// Less, for want of a gadget that leaves.
    Weak(Weak),
}

/// The board has no power, with evidence, and is still watched.
#[derive(Debug)]
pub(crate) struct Dark {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    pub(super) last_arrival: Option<u64>,
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "tests read it; the ledger has it by the step's note"
        )
    )]
    grade: Grade,
}

impl Dark {
    /// How well the cut is shown.
    #[cfg(test)]
    pub(super) fn grade(&self) -> Grade {
        self.grade
    }
}

/// The board is without power as far as its driver says, which is less than the rack demands; still watched.
#[derive(Debug)]
pub(crate) struct Weak {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    pub(super) last_arrival: Option<u64>,
    pub(super) failure: Failure,
}

impl Weak {
    /// What is missing.
    #[must_use]
    pub(crate) fn failure(&self) -> &Failure {
        &self.failure
    }

    /// The same, for good.
    #[must_use]
    pub(crate) fn into_failure(self) -> Failure {
        self.failure
    }
}

impl Ordered {
    /// Gathers evidence of the cut while the board is held without power.
    ///
    /// # Errors
    /// Anything on the port, power that is still there, or evidence weaker than `require_cut` that no boot can
    /// mend.
    pub(crate) async fn evidence(self) -> Result<Evidence, Failure> {
        gather(self).await
    }
}

async fn gather(ordered: Ordered) -> Result<Evidence, Failure> {
    let Ordered {
        chain,
        mut port,
        gadget,
        at,
        mut last_arrival,
    } = ordered;
    let settings = chain.settings();
    let limit = ms(settings.port_clears_ms) + ms(settings.cut_hold_ms) + ms(settings.power_ms) * 4;
    let work = async {
        last_arrival =
            port_clears(&mut port, at + ms(settings.port_clears_ms), last_arrival).await?;
        let left_after = at.elapsed();
        let presence = gadget && left_after <= ms(settings.gadget_leaves_ms);
        read_off(&chain).await?;
        hold(&mut port, ms(settings.cut_hold_ms)).await?;
        let readback = read_off(&chain).await?;
        let sensed = match &chain.board.sense {
            Some(sense) => chain
                .power("sense of the rail", sense.dark())
                .await?
                .then_some(()),
            None => None,
        };
        if chain.board.sense.is_some() && sensed.is_none() {
            return Err(StepError::RailAlive);
        }
        port_still_empty(&mut port)?;

        let grades = [
            (sensed.is_some(), Grade::Sensed),
            (presence, Grade::Presence),
            (readback, Grade::Readback),
        ];
        let grade = grades
            .into_iter()
            .find_map(|(seen, grade)| seen.then_some(grade));
        match grade {
            Some(grade) if grade >= settings.require_cut => {
                let detail = format!(
                    "port empty {} ms after the order and for a hold of {} ms",
                    left_after.as_millis(),
                    settings.cut_hold_ms
                );
                Ok((
                    grade,
                    Note {
                        detail,
                        grade: Some(grade),
                    },
                ))
            }
            weaker => Err(StepError::WeakEvidence {
                found: weaker.map_or_else(
                    || "none (the driver cannot read back)".to_owned(),
                    |grade| grade.to_string(),
                ),
                required: settings.require_cut,
            }),
        }
    };
    match chain.step("evidence", limit, work).await {
        Ok(grade) => Ok(Evidence::Enough(Dark {
            chain,
            port,
            last_arrival,
            grade,
        })),
        Err(failure) if is_mended_by_a_gadget(&chain, &failure) => Ok(Evidence::Weak(Weak {
            chain,
            port,
            last_arrival,
            failure,
        })),
        Err(failure) => Err(failure),
    }
}

/// All that is missing is a gadget that leaves, and a boot could bring one up.
fn is_mended_by_a_gadget(chain: &Chain, failure: &Failure) -> bool {
    let settings = chain.settings();
    matches!(failure.error(), StepError::WeakEvidence { .. })
        && settings.require_cut == Grade::Presence
        && settings.gadget.is_some()
        && !chain.board.power.switches_port()
}

/// Waits for the port to be empty, and returns the highest arrival seen up to then.
async fn port_clears(
    port: &mut watch::Receiver<Presence>,
    deadline: Instant,
    mut last_arrival: Option<u64>,
) -> Result<Option<u64>, StepError> {
    loop {
        let now = *port.borrow_and_update();
        last_arrival = last_arrival.max(device(now).map(|device| device.arrival));
        if now == Presence::Empty {
            return Ok(last_arrival);
        }
        match timeout_at(deadline, port.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(unseen()),
            Err(_) => return Err(occupied(now)),
        }
    }
}

/// Holds the board without power. Any change at all on the port ends it: a device that came and left
/// again between two looks, or a driver that lost sight of the port, is no empty port.
async fn hold(
    port: &mut watch::Receiver<Presence>,
    hold: std::time::Duration,
) -> Result<(), StepError> {
    tokio::select! {
        () = sleep(hold) => Ok(()),
        changed = port.changed() => {
            changed.map_err(|_| unseen())?;
            Err(occupied(*port.borrow_and_update()))
        }
    }
}

/// The port is empty and has not changed since the last look.
pub(super) fn port_still_empty(port: &mut watch::Receiver<Presence>) -> Result<(), StepError> {
    let changed = port.has_changed().map_err(|_| unseen())?;
    let now = *port.borrow_and_update();
    if changed || now != Presence::Empty {
        Err(occupied(now))
    } else {
        Ok(())
    }
}

fn occupied(presence: Presence) -> StepError {
    match presence {
        Presence::Unknown => unseen(),
        Presence::Device(device) => StepError::PortOccupied {
            found: describe(device),
        },
        Presence::Empty => StepError::PortOccupied {
            found: "a device that left again".to_owned(),
        },
    }
}

/// Reads the power back: whether the driver can at all.
async fn read_off(chain: &Chain) -> Result<bool, StepError> {
    match chain.power("power read", chain.board.power.read()).await? {
        Some(PowerState::Off) => Ok(true),
        Some(PowerState::On) => Err(StepError::StillOn),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use panda_slot::BootNo;
    use std::sync::Arc;

    use panda_board::PowerState;

    use super::super::board_in_memory::{GADGET, Script, TestBoard, device as on_port};
    use super::super::chain::BoardParts;
    use super::super::cut::order;
    use super::super::settings::BootSettings;
    use super::*;

    /// A supply that switches the board's port too.
    struct Switching(TestBoard);

    #[async_trait::async_trait]
    impl panda_board::Power for Switching {
        async fn off(&self) -> Result<(), panda_board::PowerError> {
            self.0.off().await
        }

        async fn on(&self) -> Result<(), panda_board::PowerError> {
            self.0.on().await
        }

        async fn read(&self) -> Result<Option<PowerState>, panda_board::PowerError> {
            self.0.read().await
        }

        fn switches_port(&self) -> bool {
            true
        }
    }

    async fn grade(reads: Option<PowerState>, switches_port: bool) -> Result<Grade, Failure> {
        let board = TestBoard::new(Script {
            reads,
            ..Script::default()
        });
        board.put(on_port(GADGET.vendor, GADGET.product, 2, 1));
        let settings = BootSettings {
            gadget: Some(GADGET),
            ..BootSettings::default()
        };
        let drivers = board.drivers(settings.clone());
        let drivers = if switches_port {
            Arc::new(BoardParts {
                power: Arc::new(Switching(board.clone())),
                port: Arc::new(board.clone()),
                sense: None,
                families: settings.families(),
                family: None,
                settings,
                journal: Arc::new(board.clone()),
            })
        } else {
            drivers
        };
        match order(Chain::new(drivers, BootNo::new(1)))
            .await?
            .evidence()
            .await?
        {
            Evidence::Enough(dark) => Ok(dark.grade()),
            Evidence::Weak(weak) => panic!("{weak:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_gadget_that_leaves_a_port_without_power_is_no_evidence() {
        let off = Some(PowerState::Off);
        assert_eq!(grade(off, false).await.unwrap(), Grade::Presence);
        assert_eq!(grade(off, true).await.unwrap(), Grade::Readback);
        assert_eq!(grade(None, false).await.unwrap(), Grade::Presence);
        let none = grade(None, true).await.unwrap_err();
        assert!(
            matches!(none.error(), StepError::WeakEvidence { .. }),
            "{none}"
        );
    }
}
