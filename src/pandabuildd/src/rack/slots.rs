//! One slot of a rack: first all of it that can be refused, then its life.

use std::sync::Arc;

use panda_slot::{AttemptNo, Slot};
use tokio::sync::watch;

use super::assembling::Assembly;
use super::{RackError, drivers};
use crate::activity::{BoardActivities, Parts};
use crate::config::SlotSettings;
use crate::console::{self, Current, Recorder};
use crate::failpoint;
use crate::front::{Announced, Face, SlotFront};
use crate::guest::Results;
use crate::slot::{self, SlotHandle};

/// A console's recorder, its logs, and what tells it which boot it is.
pub(super) type Recorded = (Recorder, console::ConsoleLog, watch::Sender<Current>);

/// A slot before its life begins.
pub(super) struct Prepared {
    pub(super) console: Option<Recorded>,
    initial: Option<Slot>,
    /// What an earlier daemon has left to tell Launchpad.
    pub(super) duty: Option<AttemptNo>,
    results: Results,
    activities: BoardActivities,
}

impl Assembly<'_> {
    /// All of a slot that can fail; no board is touched.
    pub(super) async fn prepare(
        &self,
        settings: &SlotSettings,
        drivers: drivers::Made,
    ) -> Result<Prepared, RackError> {
        let name = settings.name.get_ref();
        let initial = self.ledger.load_slot(name).await?;
        let duty = self.ledger.duty(name).await?;
        let needed = initial.as_ref().map(Results::needed_by).unwrap_or_default();
        let results = Results::at(self.state, name, &needed).map_err(|source| {
            let path = self.state.join("slots").join(name);
            RackError::State { path, source }
        })?;
        let console = self.console(settings)?;
        let activities = BoardActivities::new(Parts {
            slot: name.clone(),
            link: *settings.link.get_ref(),
            link_listen: settings.link_listen(),
            depot_address: self.config.depot.address(),
            network: settings.network(),
            expected: settings.board.clone(),
            power: failpoint::power::guarded(drivers.power),
            port: drivers.port,
            sense: drivers.sense,
            image: self.image.clone(),
            master: self.master.clone(),
            ledger: self.ledger.clone(),
            depot: self.depot.clone(),
            inputs: self.filecache.clone(),
            results: results.clone(),
            boot: self.config.boot.clone(),
            guest: self.config.guest.clone(),
        })?;
        Ok(Prepared {
            console,
            initial,
            duty,
            results,
            activities,
        })
    }

    /// The recorder of a slot's console, where it has one.
    fn console(&self, settings: &SlotSettings) -> Result<Option<Recorded>, RackError> {
        let Some(source) = &settings.console else {
            return Ok(None);
        };
        let slot = self.state.join("slots").join(settings.name.get_ref());
        let path = slot.join(console::DIRECTORY);
        let (told, current) = watch::channel(Current::default());
        match Recorder::new(source.clone(), &path, current) {
            Ok((recorder, log)) => Ok(Some((recorder, log, told))),
            Err(source) => Err(RackError::State { path, source }),
        }
    }

    /// Begins the slot's life.
    pub(super) fn begin(
        &self,
        settings: &SlotSettings,
        prepared: Prepared,
    ) -> (SlotHandle, Arc<SlotFront>) {
        let Prepared {
            console: _,
            initial,
            duty: _,
            results,
            activities,
        } = prepared;
        let reports = activities.clone();
        let announced: Announced =
            Arc::new(move || reports.report().map(|report| report.build_types));
        let handle = slot::spawn(
            settings.name.get_ref(),
            initial,
            self.ledger.clone(),
            Arc::new(activities),
            self.config.slot_task.clone(),
        );
        let manifest = self.image.manifest();
        // An image that names its worker says what that one knows.
        let own = manifest.worker.as_ref().map(|worker| &worker.build_types);
        let face = Face {
            dialect: self.config.rack.dialect,
            virtualized: self.config.rack.virtualized,
            arch: manifest.arch.clone(),
            build_types: own.unwrap_or(&self.config.rack.build_types).clone(),
            announced,
        };
        let front = SlotFront::new(handle.clone(), face, results, self.filecache.clone());
        (handle, Arc::new(front))
    }
}
