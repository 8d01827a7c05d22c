//! A board's supply with failpoints around every order, whichever driver it is. Put around each by `rack`.

use std::sync::Arc;

use async_trait::async_trait;
use panda_board::{Power, PowerError, PowerState};

use super::{Point, after, before};

/// `power`, whose orders pass failpoints; itself in programs that hold none.
#[must_use]
pub(crate) fn guarded(power: Arc<dyn Power>) -> Arc<dyn Power> {
    if cfg!(debug_assertions) {
        Arc::new(Guarded(power))
    } else {
        power
    }
}

struct Guarded(Arc<dyn Power>);

#[async_trait]
impl Power for Guarded {
    async fn off(&self) -> Result<(), PowerError> {
        before(Point::SupplyOff);
        let done = self.0.off().await;
        after(Point::SupplyOff);
        done
    }

    async fn on(&self) -> Result<(), PowerError> {
        before(Point::SupplyOn);
        let done = self.0.on().await;
        after(Point::SupplyOn);
        done
    }

    async fn read(&self) -> Result<Option<PowerState>, PowerError> {
        self.0.read().await
    }
}
