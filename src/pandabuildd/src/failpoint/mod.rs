//! Every place at which a `kill -9` may find the daemon: before and after each commit of the ledger and each effect on
//! the world. Tests have the daemon die at each of them (see [`panda_http::failpoint`], which holds the mechanism, and
//! `scripts/failpoints`, which prints what the next daemon made of it).
//!
//! The list is complete by construction, because each kind passes one place, and that place asks for a point:
//!
//! | what | passes | a new one without a point |
//! | --- | --- | --- |
//! | a commit | `Ledger::write`; all else reads over a connection that cannot write | cannot be written |
//! | a slot's effect | `Task::perform` by [`Point::of_effect`] | does not compile |
//! | a step of a boot | `Chain::step` by [`Point::of_step`] | fails every test that takes it |
//! | an operator's or Launchpad's order | `Desk::carry_out`, by its kind | does not compile |
//! | an order to a board's supply | [`power`], around every driver | – |
//! | a file that is written, named, removed; a call that changes a worker or Launchpad | a line beside it | fails the test that reads the sources |

pub(crate) mod power;

use panda_http::failpoint::{POINTS, Side, pass};
use panda_slot::Effect;

/// Declares the points with their names.
macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A failpoint of the daemon.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// All of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$point,)*];

            /// Its name.
            #[must_use]
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// The ledger's file gets a schema.
    CommitSchema = "commit.schema",
    /// A slot's state, and a build accepted with it.
    CommitSlot = "commit.slot",
    /// A boot with its secrets.
    CommitBoot = "commit.boot",
    /// A step of a boot.
    CommitStep = "commit.step",
    /// A build's arguments are forgotten.
    CommitAttemptEnd = "commit.attempt-end",
    /// An input is pinned.
    CommitPin = "commit.pin",
    /// A slot's inputs are unpinned.
    CommitUnpin = "commit.unpin",
    /// A duty towards the web service begins.
    CommitDuty = "commit.duty",
    /// It is done.
    CommitDutyEnd = "commit.duty-end",

    /// [`Effect::StartCut`]
    StartCut = "slot.start-cut",
    /// [`Effect::StartPreparing`]
    StartPreparing = "slot.start-preparing",
    /// [`Effect::StartBoot`]
    StartBoot = "slot.start-boot",
    /// [`Effect::StartProving`]
    StartProving = "slot.start-proving",
    /// [`Effect::StartGuest`]
    StartGuest = "slot.start-guest",
    /// [`Effect::StartCollecting`]
    StartCollecting = "slot.start-collecting",
    /// [`Effect::StartAbort`]
    StartAbort = "slot.start-abort",
    /// [`Effect::StartTrial`]
    StartTrial = "slot.start-trial",
    /// [`Effect::PowerOff`]
    PowerOff = "slot.power-off",
    /// [`Effect::Alert`]
    Alert = "slot.alert",
    /// [`Effect::ReportTrial`]
    ReportTrial = "slot.report-trial",
    /// [`Effect::DropKept`]
    DropKept = "slot.drop-kept",
    /// [`Effect::ReleaseInputs`]
    ReleaseInputs = "slot.release-inputs",
    /// [`Effect::BuildEnded`]
    BuildEnded = "slot.build-ended",
    /// [`Effect::ArmCleanDue`]
    ArmCleanDue = "slot.arm-clean-due",
    /// [`Effect::ArmRetry`]
    ArmRetry = "slot.arm-retry",
    /// [`Effect::Answer`]
    Answer = "slot.answer",

    /// Power off is ordered.
    Cut = "boot.cut",
    /// The cut is evidenced.
    Evidence = "boot.evidence",
    /// A boot for the evidence of the next cut begins.
    Prepare = "boot.prepare",
    /// The image's gadget is awaited.
    Gadget = "boot.gadget",
    /// Power on is ordered.
    PowerOn = "boot.power-on",
    /// The boot ROM is awaited.
    Rom = "boot.rom",
    /// The ROM tells its chip.
    AsicId = "boot.asic-id",
    /// The second stage is sent.
    SecondStage = "boot.second-stage",
    /// The boot image is sent.
    BootImage = "boot.boot-image",
    /// The second stage leaves the port.
    Started = "boot.started",
    /// The agent's report is awaited.
    Handshake = "boot.handshake",
    /// The link answers for the boot.
    Proof = "boot.proof",
    /// A supply is told to be off.
    SupplyOff = "supply.off",
    /// A supply is told to be on.
    SupplyOn = "supply.on",

    /// The worker is told to have an input.
    GuestInput = "guest.input",
    /// The worker is given the build.
    GuestBuild = "guest.build",
    /// The slot hears that the worker has the build.
    GuestAcknowledge = "guest.acknowledge",
    /// The worker is told to abort.
    GuestAbort = "guest.abort",
    /// An attempt's directory is made.
    ResultsPrepare = "results.prepare",
    /// The log is begun, or cut to what is known of it.
    LogBegin = "log.begin",
    /// The mark of an earlier boot's log is removed.
    LogForget = "log.forget",
    /// Lines are appended to the log.
    LogLines = "log.lines",
    /// The mark of how far the log has come is replaced.
    LogMark = "log.mark",
    /// The whole log is brought to the disk.
    LogEnd = "log.end",
    /// What else the worker says of its build is replaced.
    ExtrasKeep = "extras.keep",
    /// It is forgotten.
    ExtrasForget = "extras.forget",
    /// Results that are dropped are put out of the way.
    ResultsDrop = "results.drop",
    /// They are removed.
    ResultsRemove = "results.remove",
    /// A start removes what an earlier life has left.
    ResultsSweep = "results.sweep",

    /// The depot takes a board's report.
    DepotReport = "depot.report",
    /// The depot serves an input.
    DepotInput = "depot.input",
    /// The depot serves a root file system.
    DepotRootfs = "depot.rootfs",

    /// An operator's reset.
    ControlReset = "control.reset",
    /// Launchpad's reset.
    ControlPpaReset = "control.ppa-reset",
    /// An operator's hold.
    ControlHold = "control.hold",
    /// An operator's release.
    ControlRelease = "control.release",
    /// The operators' socket gets its name.
    ControlSocket = "control.socket",
    /// Launchpad's web service is told something.
    WebChange = "web.change",
    /// A file of the master's identity gets its name.
    MasterKey = "master.key",
}

impl Point {
    /// The names of all failpoints that this program passes, those of `panda-http` included.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().map(|point| point.name()).chain(POINTS)
    }

    /// The point of a slot's effect.
    #[must_use]
    pub(crate) const fn of_effect(effect: &Effect) -> Self {
        match effect {
            Effect::StartCut { .. } => Self::StartCut,
            Effect::StartPreparing { .. } => Self::StartPreparing,
            Effect::StartBoot { .. } => Self::StartBoot,
            Effect::StartProving { .. } => Self::StartProving,
            Effect::StartGuest { .. } => Self::StartGuest,
            Effect::StartCollecting { .. } => Self::StartCollecting,
            Effect::StartAbort { .. } => Self::StartAbort,
            Effect::StartTrial { .. } => Self::StartTrial,
            Effect::PowerOff => Self::PowerOff,
            Effect::Alert { .. } => Self::Alert,
            Effect::ReportTrial { .. } => Self::ReportTrial,
            Effect::DropKept { .. } => Self::DropKept,
            Effect::ReleaseInputs => Self::ReleaseInputs,
            Effect::BuildEnded { .. } => Self::BuildEnded,
            Effect::ArmCleanDue { .. } => Self::ArmCleanDue,
            Effect::ArmRetry { .. } => Self::ArmRetry,
            Effect::Answer { .. } => Self::Answer,
        }
    }

    /// The point of a boot's step, by the step's name in the ledger.
    #[must_use]
    pub(crate) fn of_step(name: &str) -> Option<Self> {
        Some(match name {
            "cut" => Self::Cut,
            "evidence" => Self::Evidence,
            "prepare" => Self::Prepare,
            "gadget" => Self::Gadget,
            "power on" => Self::PowerOn,
            "rom" => Self::Rom,
            "asic id" => Self::AsicId,
            "second stage" => Self::SecondStage,
            "boot image" => Self::BootImage,
            "started" => Self::Started,
            "handshake" => Self::Handshake,
            "proof" => Self::Proof,
            _ => return None,
        })
    }
}

/// What `point` stands at has not been done.
#[inline]
pub(crate) fn before(point: Point) {
    pass(point.name(), Side::Before, String::new);
}

/// What `point` stands at has been done, and nobody has heard of it.
#[inline]
pub(crate) fn after(point: Point) {
    pass(point.name(), Side::After, String::new);
}

/// `work` with `point` on both sides, of which `detail` tells what is under way.
#[inline]
pub(crate) fn around<T>(point: Point, detail: impl Fn() -> String, work: impl FnOnce() -> T) -> T {
    pass(point.name(), Side::Before, &detail);
    let done = work();
    pass(point.name(), Side::After, &detail);
    done
}

/// A boot's step, with its point on both sides.
pub(crate) async fn step<T>(name: &'static str, work: impl Future<Output = T>) -> T {
    let point = Point::of_step(name);
    debug_assert!(
        point.is_some(),
        "the boot step {name:?} has no failpoint: give it one in Point::of_step"
    );
    if let Some(point) = point {
        before(point);
    }
    let done = work.await;
    if let Some(point) = point {
        after(point);
    }
    done
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_failpoints_share_a_name() {
        let names: Vec<_> = Point::names().collect();
        let different: HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        assert!(names.len() > POINTS.len());
    }

    #[test]
    fn a_step_that_nobody_gave_a_point_has_none() {
        assert_eq!(Point::of_step("cut"), Some(Point::Cut));
        assert_eq!(Point::of_step("a new one"), None);
    }
}
