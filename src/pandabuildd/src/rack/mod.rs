//! Assembles a rack from its configuration, and runs it until it is told to stop. Everything that can be
//! refused (the state directory, the image, every address) is tried before the first board is touched.
//!
//! ```text
//! config ─▶ state directory, locked ─▶ image, checked ─▶ addresses, bound or held for us ([`sockets`]) ─▶ ledger, key, inputs, depot
//!        ─▶ each slot: its results, drivers, hands, task, front ─▶ listeners, control socket
//! stop   ─▶ no slot says IDLE any more ─▶ calls in flight end ─▶ slots let go of their boards, which go on
//! ```

pub(crate) mod drivers;
mod error;
pub mod sockets;
mod state;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use panda_board::usb::Sysfs;
use panda_http::pinned::public_client_config;
use panda_http::{Identity, ServerSettings};
use panda_slot::{AttemptNo, Slot};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::error::RackError;
pub use self::sockets::Sockets;
pub use self::state::StateLock;
use crate::config::{Config, SlotSettings};
use crate::console::{self, Consoles, Current, Recorder};
use crate::control::{self, Desk, Operated, Rpc};
use crate::depot::{Depot, Inputs};
use crate::failpoint;
use crate::filecache::{self, Filecache};
use crate::front::routes::{Hosts, Routes};
use crate::front::{Announced, Face, SlotFront};
use crate::guest::Results;
use crate::identity::KeyAndCertificate;
use crate::images::Image;
use crate::ledger::Ledger;
use crate::rig::{Rig, RigParts};
use crate::slot::{self, SlotHandle};
use crate::webservice::{Keeper, WebService};

/// The ledger's name in the state directory.
const LEDGER: &str = "ledger.sqlite";

/// A rack that runs.
#[derive(Debug)]
pub struct Rack {
    slots: Vec<SlotHandle>,
    urls: Vec<(String, String)>,
    fronts: JoinSet<()>,
    others: JoinSet<()>,
    stop_fronts: CancellationToken,
    stop_others: CancellationToken,
    drain: Duration,
    _lock: StateLock,
}

impl Rack {
    /// Starts everything that `config` describes, in the state directory that `lock` is of.
    ///
    /// # Errors
    /// See [`RackError`]. No board has been touched then.
    pub async fn start(config: Config, lock: StateLock) -> Result<Self, RackError> {
        Self::start_at(config, lock, Sockets::default()).await
    }

    /// As [`Rack::start`], listening on what `sockets` holds already.
    ///
    /// # Errors
    /// See [`RackError`]. No board has been touched then.
    pub async fn start_at(
        config: Config,
        lock: StateLock,
        sockets: Sockets,
    ) -> Result<Self, RackError> {
        let state = config.rack.state_dir.clone();
        let directory = config.rack.image.clone();
        let image = tokio::task::spawn_blocking(move || Image::load(&directory));
        let image = Arc::new(image.await.map_err(|_| RackError::Interrupted)??);
        let webservice = config.webservice.clone().map(WebService::new).transpose()?;
        let webservice = webservice.map(Arc::new);
        let rpcs = rpcs(&config)?;
        let made = drivers::make(&config, Sysfs::default()).await?;
        let listeners = Listeners::bind(&config, sockets).await?;
        let control = control::bind(&state.join(control::SOCKET))?;

        let ledger = Ledger::open(&state.join(LEDGER))?;
        let master = Arc::new(KeyAndCertificate::master(&state)?);
        let filecache = Filecache::open(
            &state.join(filecache::DIRECTORY),
            &config.filecache,
            ledger.clone(),
        )
        .await?;
        let inputs = filecache::inputs(&filecache);
        let stop_others = CancellationToken::new();
        // A start that fails below leaves nothing running.
        let unfinished = stop_others.clone().drop_guard();
        let identity = Identity::from_pem(&master.certificate_pem, &master.key_pem)?;
        let (depot, depot_task) = Depot::serve(
            listeners.depot,
            &identity,
            inputs.clone(),
            ServerSettings::default(),
            stop_others.clone(),
        )?;
        let mut others = JoinSet::new();
        others.spawn(async move { finish("depot", depot_task.await) });

        let assembly = Assembly {
            config: &config,
            state: &state,
            image,
            ledger,
            master,
            filecache,
            inputs,
            depot,
        };
        let mut hosts = Hosts::default();
        let mut fronts = Vec::new();
        let mut operated = Vec::new();
        let mut consoles = Consoles::new();
        let mut prepared = Vec::new();
        for (settings, drivers) in config.slots.iter().zip(made) {
            prepared.push(assembly.prepare(settings, drivers).await?);
        }
        // Nothing can be refused any more: from here on boards are touched.
        for ((settings, mut prepared), rpc) in config.slots.iter().zip(prepared).zip(rpcs) {
            let owed = prepared.duty;
            let recorded = prepared.console.take();
            let (handle, front) = assembly.begin(settings, prepared);
            if let Some((recorder, log, told)) = recorded {
                let ledger = assembly.ledger.clone();
                consoles.insert(handle.name().to_owned(), log);
                others.spawn(console::follow(
                    handle.clone(),
                    ledger,
                    told,
                    stop_others.clone(),
                ));
                others.spawn(recorder.run(stop_others.clone()));
            }
            others.spawn(release_after_resets(
                handle.clone(),
                assembly.inputs.clone(),
                stop_others.clone(),
            ));
            let names: Vec<String> = settings.host_names().map(str::to_owned).collect();
            for name in &names {
                hosts.insert(name, front.clone());
            }
            let duty = webservice.as_ref().map(|service| {
                let ledger = assembly.ledger.clone();
                let inputs = Arc::new(assembly.filecache.clone());
                let (keeper, duty) =
                    Keeper::new(handle.clone(), inputs, service.clone(), ledger, owed);
                others.spawn(keeper.run(stop_others.clone()));
                duty
            });
            operated.push(Operated {
                handle,
                hosts: names,
                rpc,
                duty,
            });
            fronts.push(front);
        }
        let slots = operated.iter().map(|slot| slot.handle.clone()).collect();
        let desk = Desk {
            slots: operated,
            consoles,
            ledger: assembly.ledger.clone(),
            dialect: config.rack.dialect,
            virtualized: config.rack.virtualized,
        };
        let control = control::serve(control, desk, stop_others.clone());
        others.spawn(async move { finish("control socket", control.await) });

        let stop_fronts = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (listener, shared, own) in listeners.fronts {
            let hosts = if shared {
                Arc::new(hosts.clone())
            } else {
                Arc::default()
            };
            let own = own.and_then(|index| fronts.get(index).cloned());
            let (server, limits) = (config.front.server(), config.front.service());
            tasks.spawn(Routes { hosts, own }.serve(listener, server, limits, stop_fronts.clone()));
        }
        unfinished.disarm();
        Ok(Self {
            slots,
            urls: urls(&config),
            fronts: tasks,
            others,
            stop_fronts,
            stop_others,
            drain: config.front.server().drain,
            _lock: lock,
        })
    }

    /// Each slot's name, and the URL that Launchpad may know it by.
    #[must_use]
    pub fn urls(&self) -> &[(String, String)] {
        &self.urls
    }

    /// Stops: no slot says IDLE any more, calls in flight end, and the boards go on as they are for the next
    /// daemon.
    pub async fn stop(mut self) {
        for slot in &self.slots {
            if slot.quiesce().await.is_err() {
                tracing::debug!(slot = slot.name(), "had ended already");
            }
        }
        self.stop_fronts.cancel();
        // A `clean` may wait longer than callers are waited for: it is answered when its slot closes.
        if timeout(self.drain / 2, join(&mut self.fronts))
            .await
            .is_err()
        {
            tracing::info!("calls still wait for their boards; they are told to come again");
        }
        for slot in &self.slots {
            slot.close().await;
        }
        join(&mut self.fronts).await;
        self.stop_others.cancel();
        join(&mut self.others).await;
    }
}

async fn join(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        finish("a listener", ended);
    }
}

fn finish(what: &str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(what, %error, "ended badly");
    }
}

/// Everything that is listened on.
struct Listeners {
    depot: TcpListener,
    /// The listener, whether all slots are there by name, and the slot whose own it is.
    fronts: Vec<(TcpListener, bool, Option<usize>)>,
}

impl Listeners {
    async fn bind(config: &Config, mut held: Sockets) -> Result<Self, RackError> {
        held.check(config)?;
        let depot = bind("[depot]", config.depot.listen, &mut held).await?;
        let mut fronts = Vec::new();
        let own = |address| {
            config
                .slots
                .iter()
                .position(|slot| slot.own_address() == Some(address))
        };
        if let Some(shared) = config.front.listen {
            fronts.push((bind("[front]", shared, &mut held).await?, true, own(shared)));
        }
        for (index, slot) in config.slots.iter().enumerate() {
            let Some(address) = slot
                .own_address()
                .filter(|own| config.front.listen != Some(*own))
            else {
                continue;
            };
            let who = format!("slot {}", slot.name.get_ref());
            fronts.push((bind(&who, address, &mut held).await?, false, Some(index)));
        }
        Ok(Self { depot, fronts })
    }
}

async fn bind(
    who: &str,
    address: SocketAddr,
    held: &mut Sockets,
) -> Result<TcpListener, RackError> {
    let listener = match held.take(address) {
        Some(listener) => TcpListener::from_std(listener),
        None => TcpListener::bind(address).await,
    };
    listener.map_err(|source| RackError::Listen {
        who: who.to_owned(),
        address,
        source,
    })
}

/// What all slots are made from.
struct Assembly<'a> {
    config: &'a Config,
    state: &'a Path,
    image: Arc<Image>,
    ledger: Ledger,
    master: Arc<KeyAndCertificate>,
    filecache: Filecache,
    inputs: Arc<dyn Inputs>,
    depot: Depot,
}

impl Assembly<'_> {
    /// All of a slot that can fail; no board is touched.
    async fn prepare(
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
        let rig = Rig::new(RigParts {
            slot: name.clone(),
            link: *settings.link.get_ref(),
            link_listen: settings.link_listen(),
            depot_address: self.config.depot.address(),
            network: settings.network(),
            expected: settings.board,
            power: failpoint::power::guarded(drivers.power),
            port: drivers.port,
            sense: drivers.sense,
            image: self.image.clone(),
            master: self.master.clone(),
            ledger: self.ledger.clone(),
            depot: self.depot.clone(),
            inputs: self.inputs.clone(),
            results: results.clone(),
            boot: self.config.boot.clone(),
            guest: self.config.guest.clone(),
        })?;
        Ok(Prepared {
            console,
            initial,
            duty,
            results,
            rig,
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
    fn begin(&self, settings: &SlotSettings, prepared: Prepared) -> (SlotHandle, Arc<SlotFront>) {
        let Prepared {
            console: _,
            initial,
            duty: _,
            results,
            rig,
        } = prepared;
        let reports = rig.clone();
        let announced: Announced =
            Arc::new(move || reports.report().map(|report| report.build_types));
        let handle = slot::spawn(
            settings.name.get_ref(),
            initial,
            self.ledger.clone(),
            Arc::new(rig),
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

/// A console's recorder, its logs, and what tells it which boot it is.
type Recorded = (Recorder, console::ConsoleLog, watch::Sender<Current>);

/// A slot before its life begins.
struct Prepared {
    console: Option<Recorded>,
    initial: Option<Slot>,
    /// What an earlier daemon has left to tell Launchpad.
    duty: Option<AttemptNo>,
    results: Results,
    rig: Rig,
}

/// Inputs that were brought for a build which never came are let go when the slot is reset.
async fn release_after_resets(slot: SlotHandle, inputs: Arc<dyn Inputs>, stop: CancellationToken) {
    let mut watch = slot.watch();
    let mut boot = watch.borrow_and_update().slot.boot;
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            changed = watch.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let view = watch.borrow_and_update();
        let reset = view.slot.boot != boot && view.slot.live().is_none();
        boot = view.slot.boot;
        drop(view);
        if reset {
            inputs.release(slot.name());
        }
    }
}

/// Each slot's RPC, as Launchpad reaches it.
fn rpcs(config: &Config) -> Result<Vec<Rpc>, RackError> {
    // Not used: these calls go over plain HTTP. Making one reads every certificate of the system.
    let tls = public_client_config()?;
    let rpc = |slot: &SlotSettings| {
        let host = slot.host_names().next().unwrap_or_default();
        // A slot without an address of its own is at the shared one: the configuration's check saw to it.
        let address = slot.own_address().or(config.front.listen);
        let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        Rpc::new(host, address, tls.clone()).map_err(|source| RackError::Rpc {
            slot: slot.name.get_ref().clone(),
            source,
        })
    };
    config.slots.iter().map(rpc).collect()
}

/// The URL of each slot: its own address, or its first host name at the shared one.
fn urls(config: &Config) -> Vec<(String, String)> {
    config
        .slots
        .iter()
        .map(|slot| {
            let shared = config.front.listen.map_or(0, |listen| listen.port());
            let url = match slot.own_address() {
                Some(own) if own.ip().is_unspecified() => {
                    format!("http://localhost:{}", own.port())
                }
                Some(own) => format!("http://{own}"),
                None => format!(
                    "http://{}:{shared}",
                    slot.host_names().next().unwrap_or_default()
                ),
            };
            (slot.name.get_ref().clone(), url)
        })
        .collect()
}

#[cfg(test)]
mod tests;
