//! Makes a rack from its configuration: what all slots share, then the slots. What can be refused comes first; no
//! board is touched before all of it is there.

use std::path::Path;
use std::sync::Arc;

use panda_board::driver::Machine;
use panda_http::{Identity, ServerSettings};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::listening::{Listeners, rpcs, urls};
use super::rollout;
use super::running::finish;
use super::slots::Prepared;
use super::{LEDGER, Rack, RackError, Ready, Sockets, StateLock, drivers};
use crate::config::{Config, SlotSettings};
use crate::console::{self, Consoles};
use crate::depot::Depot;
use crate::filecache::{self, Filecache};
use crate::front::SlotFront;
use crate::front::routes::Hosts;
use crate::identity::KeyAndCertificate;
use crate::ledger::Ledger;
use crate::operators::{self, Desk, Operated, Rpc};
use crate::slot::SlotHandle;
use crate::webservice::{Keeper, WebService};
use panda_image::Image;

/// What all slots are made from.
pub(super) struct Assembly<'a> {
    pub(super) config: &'a Config,
    pub(super) state: &'a Path,
    pub(super) image: Arc<Image>,
    pub(super) ledger: Ledger,
    pub(super) master: Arc<KeyAndCertificate>,
    pub(super) filecache: Filecache,
    pub(super) depot: Depot,
}

impl Rack {
    /// Starts everything that `config` describes, in the state directory that `lock` is of.
    ///
    /// # Errors
    /// See [`RackError`]. No board has been touched then.
    pub(crate) async fn start(config: Config, lock: StateLock) -> Result<Self, RackError> {
        let ready = match Ready::examine(&config).await {
            Ok(ready) => ready,
            Err(wrong) => return Err(RackError::Several(wrong)),
        };
        Self::start_at(config, ready, lock, Sockets::default()).await
    }

    /// As [`Rack::start`], with what it needs looked at already, and listening on what `sockets` holds.
    ///
    /// # Errors
    /// See [`RackError`]. No board has been touched then.
    pub(crate) async fn start_at(
        config: Config,
        ready: Ready,
        lock: StateLock,
        sockets: Sockets,
    ) -> Result<Self, RackError> {
        let state = config.rack.state_dir.clone();
        let Ready { image, webservice } = ready;
        let rpcs = rpcs(&config)?;
        let made = drivers::make(&config, Machine::default()).await?;
        let listeners = Listeners::bind(&config, sockets).await?;
        let sockets_for_operators = operators::bind(&config.operators, &state)?;

        let ledger = Ledger::open(&state.join(LEDGER))?;
        let master = Arc::new(KeyAndCertificate::master(&state)?);
        let directory = state.join(filecache::DIRECTORY);
        let filecache = Filecache::open(&directory, &config.filecache, ledger.clone()).await?;
        let mut tasks = Tasks::default();
        // A start that fails below leaves nothing running.
        let unfinished = tasks.stop.clone().drop_guard();
        let identity = Identity::from_pem(&master.certificate_pem, &master.key_pem)?;
        let (depot, depot_task) = Depot::serve(
            listeners.depot,
            &identity,
            filecache.clone(),
            ServerSettings::default(),
            tasks.stop.clone(),
        )?;
        tasks
            .all
            .spawn(async move { finish("depot", depot_task.await) });

        let assembly = Assembly {
            config: &config,
            state: &state,
            image,
            ledger,
            master,
            filecache,
            depot,
        };
        let mut prepared = Vec::new();
        for (settings, drivers) in config.slots.iter().zip(made) {
            prepared.push(assembly.prepare(settings, drivers).await?);
        }
        // Nothing can be refused any more: from here on boards are touched.
        let mut begun = Begun::default();
        for ((settings, prepared), rpc) in config.slots.iter().zip(prepared).zip(rpcs) {
            let webservice = webservice.as_ref();
            assembly.start_slot(settings, prepared, rpc, webservice, &mut tasks, &mut begun);
        }
        let slots: Vec<SlotHandle> = begun
            .operated
            .iter()
            .map(|slot| slot.handle.clone())
            .collect();
        let current = assembly.image.id();
        let ledger = assembly.ledger.clone();
        let stop = tasks.stop.clone();
        tasks
            .all
            .spawn(rollout::run(slots.clone(), current, ledger, stop));
        let desk = Desk {
            slots: begun.operated,
            consoles: begun.consoles,
            ledger: assembly.ledger.clone(),
            dialect: config.rack.dialect,
            virtualized: config.rack.virtualized,
            typists: Default::default(),
        };
        let serve = operators::serve(sockets_for_operators, desk, tasks.stop.clone());
        tasks.all.spawn(serve);

        let stop_fronts = CancellationToken::new();
        let fronts = listeners
            .fronts
            .serve(&config, &begun.hosts, &begun.fronts, &stop_fronts);
        unfinished.disarm();
        Ok(Self {
            slots,
            urls: urls(&config),
            fronts,
            others: tasks.all,
            stop_fronts,
            stop_others: tasks.stop,
            drain: config.front.server().drain,
            _lock: lock,
        })
    }
}

/// What runs beside the fronts, and what stops it.
#[derive(Default)]
struct Tasks {
    all: JoinSet<()>,
    stop: CancellationToken,
}

/// The slots that have begun, as the rest of the rack knows them.
#[derive(Default)]
struct Begun {
    operated: Vec<Operated>,
    consoles: Consoles,
    hosts: Hosts,
    fronts: Vec<Arc<SlotFront>>,
}

impl Assembly<'_> {
    /// Begins a slot's life, with everything that follows it.
    fn start_slot(
        &self,
        settings: &SlotSettings,
        mut prepared: Prepared,
        rpc: Rpc,
        webservice: Option<&Arc<WebService>>,
        tasks: &mut Tasks,
        begun: &mut Begun,
    ) {
        let owed = prepared.duty;
        let recorded = prepared.console.take();
        let (handle, front) = self.begin(settings, prepared);
        if let Some((recorder, log, told)) = recorded {
            begun.consoles.insert(handle.name().to_owned(), log);
            let (ledger, stop) = (self.ledger.clone(), tasks.stop.clone());
            let follow = console::follow(handle.clone(), ledger, told, stop.clone());
            tasks.all.spawn(follow);
            tasks.all.spawn(recorder.run(stop));
        }
        let names: Vec<String> = settings.host_names().map(str::to_owned).collect();
        for name in &names {
            begun.hosts.insert(name, front.clone());
        }
        let duty = webservice.map(|service| {
            let ledger = self.ledger.clone();
            let inputs = Arc::new(self.filecache.clone());
            let (keeper, duty) = Keeper::new(handle.clone(), inputs, service.clone(), ledger, owed);
            tasks.all.spawn(keeper.run(tasks.stop.clone()));
            duty
        });
        begun.operated.push(Operated {
            handle,
            hosts: names,
            rpc,
            duty,
        });
        begun.fronts.push(front);
    }
}
