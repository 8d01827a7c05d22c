//! Several supplies as one: a Panda can be fed by its own supply and by its USB port, and has lost power only when both
//! are off. All are switched off at once, and on one after the other in their order (the port first, as the boot ROM
//! looks for it when the board starts).

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::{Power, PowerError, PowerState};

/// See the module.
pub struct Together(Vec<Arc<dyn Power>>);

impl Together {
    /// These, at least one.
    #[must_use]
    pub const fn new(supplies: Vec<Arc<dyn Power>>) -> Self {
        Self(supplies)
    }
}

impl fmt::Debug for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Together").field(&self.0.len()).finish()
    }
}

#[async_trait]
impl Power for Together {
    /// Every supply is switched, whatever the others answer.
    async fn off(&self) -> Result<(), PowerError> {
        let all = join_all(self.0.iter().map(|supply| supply.off())).await;
        all.into_iter().collect()
    }

    async fn on(&self) -> Result<(), PowerError> {
        for supply in &self.0 {
            supply.on().await?;
        }
        Ok(())
    }

    /// On where any is; off where all are; unknown where one that cannot be read may be on.
    async fn read(&self) -> Result<Option<PowerState>, PowerError> {
        let all = join_all(self.0.iter().map(|supply| supply.read())).await;
        let all: Vec<_> = all.into_iter().collect::<Result<_, _>>()?;
        Ok(if all.contains(&Some(PowerState::On)) {
            Some(PowerState::On)
        } else if all.contains(&None) {
            None
        } else {
            Some(PowerState::Off)
        })
    }

    fn switches_port(&self) -> bool {
        self.0.iter().any(|supply| supply.switches_port())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Writes down what it is told; answers as it is set.
    struct Supply {
        name: &'static str,
        state: Option<PowerState>,
        fails: bool,
        port: bool,
        told: Arc<Mutex<Vec<String>>>,
    }

    #[async_trait]
    impl Power for Supply {
        async fn off(&self) -> Result<(), PowerError> {
            self.told.lock().unwrap().push(format!("{} off", self.name));
            if self.fails {
                return Err(PowerError::Answer("stuck".to_owned()));
            }
            Ok(())
        }

        async fn on(&self) -> Result<(), PowerError> {
            self.told.lock().unwrap().push(format!("{} on", self.name));
            Ok(())
        }

        async fn read(&self) -> Result<Option<PowerState>, PowerError> {
            Ok(self.state)
        }

        fn switches_port(&self) -> bool {
            self.port
        }
    }

    fn supplies(
        states: [Option<PowerState>; 2],
        fails: bool,
    ) -> (Together, Arc<Mutex<Vec<String>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let supply = |name, state, fails, port| -> Arc<dyn Power> {
            Arc::new(Supply {
                name,
                state,
                fails,
                port,
                told: told.clone(),
            })
        };
        let both = vec![
            supply("port", states[0], fails, true),
            supply("relay", states[1], false, false),
        ];
        (Together::new(both), told)
    }

    #[tokio::test]
    async fn all_are_switched_and_one_that_fails_does_not_spare_the_others() {
        let (both, told) = supplies([None; 2], true);
        let error = both.off().await.unwrap_err().to_string();
        assert_eq!(error, "power: stuck");
        assert_eq!(*told.lock().unwrap(), ["port off", "relay off"]);
        both.on().await.unwrap();
        assert_eq!(told.lock().unwrap()[2..], ["port on", "relay on"]);
        assert!(both.switches_port());
    }

    #[tokio::test]
    async fn power_is_off_only_where_every_supply_reads_off() {
        use PowerState::{Off, On};
        for (states, wanted) in [
            ([Some(Off), Some(Off)], Some(Off)),
            ([Some(Off), Some(On)], Some(On)),
            ([None, Some(On)], Some(On)),
            ([None, Some(Off)], None),
        ] {
            let (both, _) = supplies(states, false);
            assert_eq!(both.read().await.unwrap(), wanted, "{states:?}");
        }
    }
}
