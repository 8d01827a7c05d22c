//! `driver = "hub-port"`: power by a USB hub that switches each of its ports by itself. On Linux 6.0 and later by the
//! port's own file `disable`, since the kernel otherwise gives a port its power back; on older ones by the hub class's
//! requests. Every switch is read back.
//!
//! A SuperSpeed hub is two hubs in one, and a socket has power as long as either has its port on: both are switched.
//!
//! What a hub says may be wrong: many announce single switching and switch nothing (`docs/usb.md`).

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use panda_protocol::hub_power::{self, Generation, Hub, Switching};
use serde::Deserialize;

use super::libusb;
use super::sysfs::{self, Sysfs};
use crate::driver::{Claim, Machine, PowerDriver, Settings, Thing};
use crate::port_path::{HubPath, PortPath};
use crate::settings::{Mistake, Mistakes};
use crate::{Power, PowerError, PowerState};

/// A switch must read back, and an order to be off must last, within this.
const SETTLES: Duration = Duration::from_secs(2);
/// A port must stay off for so long: where the device's leaving is noticed only after the switch, or the device did not
/// answer, the kernel gives the port its power back, once for each such event.
const STAYS_OFF: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(20);
const DISABLE: &str = "disable";

/// `driver = "hub-port"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubPortSettings {
    /// The hub.
    pub hub: HubPath,
    /// Its port, from 1.
    pub port: u8,
}

impl HubPortSettings {
    /// What `driver` says.
    pub const DRIVER: &'static str = "hub-port";

    /// The port's path.
    #[must_use]
    pub fn path(&self) -> PortPath {
        self.hub.port(self.port)
    }

    /// Whether there is such a hub now, with such a port.
    fn is_there(&self, sysfs: &Sysfs) -> Result<(), Mistake> {
        let name = &self.hub;
        let ports = sysfs.ports(name);
        if ports.is_empty() {
            let known = hubs(sysfs);
            let text = format!("there is no hub {name} now; there {known}");
            return Err(Mistake::new("hub", text));
        }
        if !ports.contains(&self.path()) {
            let text = format!("hub {name} has the ports 1 to {}", ports.len());
            return Err(Mistake::new("port", text));
        }
        Ok(())
    }
}

impl Settings for HubPortSettings {
    fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let expected = "expected the number of a port of the hub, from 1";
        mistakes.unless(self.port != 0, "port", expected);
        mistakes.end()
    }

    fn claims(&self) -> Vec<Claim> {
        let power = Thing::PortPower(self.path());
        vec![Claim::alone("port", power, "a port's power")]
    }

    fn find(&self, machine: &Machine) -> Result<(), Mistake> {
        self.is_there(machine.sysfs())
    }
}

impl PowerDriver for HubPortSettings {
    fn make(&self, machine: &mut Machine) -> Result<Arc<dyn Power>, Mistake> {
        Ok(Arc::new(HubPower::find(self, machine.sysfs())?))
    }
}

/// What a hub answers to requests. Blocking.
pub(super) trait HubRequests: Send + Sync {
    fn ask(&self, hub: &HubPath, request: hub_power::Request, most: usize) -> io::Result<Vec<u8>>;
    fn tell(&self, hub: &HubPath, request: hub_power::Request) -> io::Result<()>;
}

/// Over libusb.
#[derive(Debug, Clone)]
pub(super) struct Requests(pub(super) Sysfs);

impl Requests {
    fn numbers(&self, hub: &HubPath) -> io::Result<(u16, u32)> {
        let devnum = self.0.number(&hub.to_string(), "devnum")?;
        Ok((hub.port(1).bus(), devnum))
    }
}

impl HubRequests for Requests {
    fn ask(&self, hub: &HubPath, request: hub_power::Request, most: usize) -> io::Result<Vec<u8>> {
        let (bus, devnum) = self.numbers(hub)?;
        libusb::ask(bus, devnum, request, most)
    }

    fn tell(&self, hub: &HubPath, request: hub_power::Request) -> io::Result<()> {
        let (bus, devnum) = self.numbers(hub)?;
        libusb::tell(bus, devnum, request)
    }
}

/// Which generation a hub is, and what it says of its power.
pub(super) fn describe(
    sysfs: &Sysfs,
    requests: &dyn HubRequests,
    hub: &HubPath,
) -> io::Result<(Generation, Hub)> {
    let generation = generation(sysfs, hub)?;
    let request = hub_power::descriptor(generation);
    let answer = requests.ask(hub, request, hub_power::DESCRIPTOR_BYTES);
    let answer = answer.map_err(|error| match error.kind() {
        // What lets a user talk to boot ROMs does not let him talk to hubs.
        kind @ io::ErrorKind::PermissionDenied => {
            io::Error::new(kind, "permission denied; only root may ask a hub")
        }
        _ => error,
    })?;
    let hub = hub_power::parse_descriptor(&answer, generation).map_err(io::Error::other)?;
    Ok((generation, hub))
}

fn generation(sysfs: &Sysfs, hub: &HubPath) -> io::Result<Generation> {
    // In Mb/s.
    let speed = sysfs.text(&hub.to_string(), "speed")?;
    Ok(match speed.parse::<f32>() {
        Ok(speed) if speed >= 5000.0 => Generation::Super,
        _ => Generation::Usb2,
    })
}

/// A hub port's power. Cheap to clone.
#[derive(Clone)]
pub struct HubPower {
    sysfs: Sysfs,
    path: PortPath,
    generation: Generation,
    requests: Arc<dyn HubRequests>,
    /// One order after the other: the kernel may keep one waiting for longer than anybody waits for it, and it must not
    /// be overtaken by the next.
    turn: Arc<Mutex<()>>,
}

impl std::fmt::Debug for HubPower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubPower")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl HubPower {
    /// Of this port, once its hub has said that it can. Blocking.
    ///
    /// # Errors
    /// No such hub or port, one that cannot be asked, or one that does not switch single ports.
    pub fn find(settings: &HubPortSettings, sysfs: &Sysfs) -> Result<Self, Mistake> {
        Self::find_by(settings, sysfs, Arc::new(Requests(sysfs.clone())))
    }

    pub(super) fn find_by(
        settings: &HubPortSettings,
        sysfs: &Sysfs,
        requests: Arc<dyn HubRequests>,
    ) -> Result<Self, Mistake> {
        settings.is_there(sysfs)?;
        let name = &settings.hub;
        let wrong = |text: String| Mistake::new("hub", text);
        let (generation, hub) = describe(sysfs, requests.as_ref(), name).map_err(|error| {
            wrong(format!(
                "{name} cannot be asked how it switches power: {error}"
            ))
        })?;
        let instead = "use a hub that does (docs/usb.md), a relay or a command";
        match hub.switching {
            Switching::Individual => {}
            Switching::Ganged => {
                return Err(wrong(format!(
                    "{name} switches the power of all its ports together, not of each by itself; {instead}"
                )));
            }
            Switching::None => {
                return Err(wrong(format!(
                    "{name} cannot switch the power of its ports; {instead}"
                )));
            }
        }
        Ok(Self {
            sysfs: sysfs.clone(),
            path: settings.path(),
            generation,
            requests,
            turn: Arc::default(),
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, PowerError> + Send + 'static,
    ) -> Result<T, PowerError> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _turn = this.turn.lock().unwrap_or_else(PoisonError::into_inner);
            work(&this)
        });
        let done = done.await;
        done.map_err(|error| PowerError::Io {
            what: "a hub's port".to_owned(),
            source: io::Error::other(error),
        })?
    }

    fn switch(&self, on: bool) -> Result<(), PowerError> {
        let what = if on { "on" } else { "off" };
        let failed = |source| PowerError::Io {
            what: format!("switching port {} {what}", self.path),
            source,
        };
        self.order(on).map_err(failed)?;
        let mut ordered = Instant::now();
        let until = ordered + SETTLES;
        let mut off_since: Option<Instant> = None;
        loop {
            match (self.is_on().map_err(failed)?, on) {
                (true, true) => return Ok(()),
                (false, false) => {
                    if off_since.get_or_insert_with(Instant::now).elapsed() >= STAYS_OFF {
                        return Ok(());
                    }
                }
                _ if Instant::now() > until => {
                    return Err(PowerError::Answer(format!(
                        "port {} was switched {what} and reads back as {}",
                        self.path,
                        if on { "off" } else { "on" }
                    )));
                }
                (true, false) if off_since.take().is_some() || ordered.elapsed() >= STAYS_OFF => {
                    tracing::info!(port = %self.path, "has power, though it was switched off; switched off again");
                    self.order(false).map_err(failed)?;
                    ordered = Instant::now();
                }
                (true, false) | (false, true) => {}
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Orders it once.
    fn order(&self, on: bool) -> io::Result<()> {
        let files = self.files()?;
        if files.is_empty() {
            let request = hub_power::switch(self.path.number(), on);
            return self.requests.tell(&self.path.hub(), request);
        }
        for file in files {
            sysfs::write(&file, if on { "0" } else { "1" })?;
        }
        Ok(())
    }

    /// The port's own switches: none on a kernel before 6.0.
    fn files(&self) -> io::Result<Vec<std::path::PathBuf>> {
        let away = |error: io::Error| match error.kind() {
            kind @ io::ErrorKind::NotFound => {
                io::Error::new(kind, "its hub is away, or has lost its own power")
            }
            _ => error,
        };
        let directories = self.sysfs.port_directories(&self.path).map_err(away)?;
        let files = directories.into_iter().map(|path| path.join(DISABLE));
        Ok(files.filter(|file| file.exists()).collect())
    }

    fn is_on(&self) -> io::Result<bool> {
        let files = self.files()?;
        if files.is_empty() {
            let request = hub_power::status(self.path.number());
            let answer = self
                .requests
                .ask(&self.path.hub(), request, hub_power::STATUS_BYTES)?;
            return hub_power::parse_status(&answer, self.generation).map_err(io::Error::other);
        }
        for file in files {
            let value = sysfs::read(&file, 8)?;
            match value.trim_ascii() {
                b"0" => return Ok(true),
                b"1" => {}
                _ => {
                    let text = format!("{} holds neither 0 nor 1", file.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
        }
        Ok(false)
    }
}

/// The hubs that there are, in words.
fn hubs(sysfs: &Sysfs) -> String {
    let names = sysfs.devices().unwrap_or_default();
    let hubs = names.iter().filter(|name| {
        let hub = name.parse::<HubPath>();
        hub.is_ok_and(|hub| !sysfs.ports(&hub).is_empty())
    });
    let hubs: Vec<&str> = hubs.take(64).map(String::as_str).collect();
    if hubs.is_empty() {
        "is none".to_owned()
    } else {
        format!("are {}", hubs.join(", "))
    }
}

#[async_trait]
impl Power for HubPower {
    async fn off(&self) -> Result<(), PowerError> {
        self.blocking(|this| this.switch(false)).await
    }

    async fn on(&self) -> Result<(), PowerError> {
        self.blocking(|this| this.switch(true)).await
    }

    async fn read(&self) -> Result<Option<PowerState>, PowerError> {
        let on = self.blocking(|this| {
            this.is_on().map_err(|source| PowerError::Io {
                what: format!("reading the power of port {}", this.path),
                source,
            })
        });
        Ok(Some(if on.await? {
            PowerState::On
        } else {
            PowerState::Off
        }))
    }

    fn switches_port(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use hex_literal::hex;

    use super::super::testing::Machine;
    use super::*;

    /// A hub of four ports.
    struct Fake {
        characteristics: u8,
        on: Mutex<[bool; 4]>,
        /// It acknowledges, and switches nothing.
        liar: bool,
        told: Mutex<Vec<hub_power::Request>>,
        /// It says so when it is told, and acts when it may.
        slow: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
    }

    impl Fake {
        fn new(characteristics: u8, liar: bool) -> Arc<Self> {
            Arc::new(Self {
                characteristics,
                on: Mutex::new([true; 4]),
                liar,
                told: Mutex::default(),
                slow: Mutex::default(),
            })
        }
    }

    impl HubRequests for Fake {
        fn ask(&self, _: &HubPath, request: hub_power::Request, _: usize) -> io::Result<Vec<u8>> {
            if request.request == 6 {
                let mut descriptor = hex!("09 29 04 00 00 32 64 00 ff");
                descriptor[3] = self.characteristics;
                return Ok(descriptor.to_vec());
            }
            let on = self.on.lock().unwrap()[usize::from(request.index) - 1];
            Ok(vec![0, u8::from(on), 0, 0])
        }

        fn tell(&self, _: &HubPath, request: hub_power::Request) -> io::Result<()> {
            if let Some((begun, may)) = self.slow.lock().unwrap().take() {
                begun.send(()).unwrap();
                may.recv().unwrap();
            }
            self.told.lock().unwrap().push(request);
            if !self.liar {
                self.on.lock().unwrap()[usize::from(request.index) - 1] = request.request == 3;
            }
            Ok(())
        }
    }

    fn settings(text: &str) -> HubPortSettings {
        toml::from_str(text).unwrap()
    }

    fn find(machine: &Machine, text: &str, fake: &Arc<Fake>) -> Result<HubPower, Mistake> {
        HubPower::find_by(&settings(text), &machine.sysfs(), fake.clone())
    }

    const PORT: &str = "hub = \"1-2\"\nport = 3";

    #[tokio::test]
    async fn a_port_is_switched_by_its_file_where_the_kernel_has_one() {
        let machine = Machine::new();
        let fake = Fake::new(0xe1, false);
        let power = find(&machine, PORT, &fake).unwrap();
        assert_eq!(power.read().await.unwrap(), Some(PowerState::On));
        power.off().await.unwrap();
        assert_eq!(std::fs::read(machine.port("1-2.3", DISABLE)).unwrap(), b"1");
        assert_eq!(power.read().await.unwrap(), Some(PowerState::Off));
        power.on().await.unwrap();
        assert_eq!(std::fs::read(machine.port("1-2.3", DISABLE)).unwrap(), b"0");
        assert!(fake.told.lock().unwrap().is_empty());
        assert!(power.switches_port());
    }

    #[tokio::test]
    async fn both_halves_of_a_superspeed_hub_are_switched() {
        let machine = Machine::new();
        let power = find(&machine, PORT, &Fake::new(0xe1, false)).unwrap();
        let other = machine.root().join("2-2:1.0/2-2-port3");
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(other.join(DISABLE), "0").unwrap();
        std::os::unix::fs::symlink(&other, machine.port("1-2.3", "peer")).unwrap();
        power.off().await.unwrap();
        assert_eq!(std::fs::read(other.join(DISABLE)).unwrap(), b"1");
        std::fs::write(other.join(DISABLE), "0").unwrap();
        assert_eq!(power.read().await.unwrap(), Some(PowerState::On));
    }

    #[tokio::test]
    async fn older_kernels_have_the_hub_asked_itself() {
        let machine = Machine::new();
        std::fs::remove_file(machine.port("1-2.3", DISABLE)).unwrap();
        let fake = Fake::new(0xe1, false);
        let power = find(&machine, PORT, &fake).unwrap();
        power.off().await.unwrap();
        assert_eq!(power.read().await.unwrap(), Some(PowerState::Off));
        assert_eq!(*fake.on.lock().unwrap(), [true, true, false, true]);
        power.on().await.unwrap();
        let told = fake.told.lock().unwrap().clone();
        assert_eq!(
            told,
            [hub_power::switch(3, false), hub_power::switch(3, true)]
        );
    }

    #[tokio::test]
    async fn a_port_that_the_kernel_gives_its_power_back_is_switched_off_again() {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

        let machine = Machine::new();
        let power = find(&machine, PORT, &Fake::new(0xe1, false)).unwrap();
        let file = machine.port("1-2.3", DISABLE);
        let changes = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        changes
            .add_watch(&file, AddWatchFlags::IN_CLOSE_WRITE)
            .unwrap();
        let kernel = std::thread::spawn({
            let file = file.clone();
            move || {
                changes.read_events().unwrap();
                let mut open = std::fs::OpenOptions::new();
                let mut file = open.write(true).open(&file).unwrap();
                std::io::Write::write_all(&mut file, b"0").unwrap();
            }
        });
        power.off().await.unwrap();
        kernel.join().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"1");
    }

    #[tokio::test]
    async fn a_port_whose_hub_is_away_is_told_so() {
        let machine = Machine::new();
        let power = find(&machine, PORT, &Fake::new(0xe1, false)).unwrap();
        machine.unplug_hub("1-2");
        let error = power.off().await.unwrap_err().to_string();
        assert!(error.contains("its hub is away"), "{error}");
    }

    #[tokio::test]
    async fn an_order_that_nobody_waits_for_any_more_is_not_overtaken() {
        let machine = Machine::new();
        std::fs::remove_file(machine.port("1-2.3", DISABLE)).unwrap();
        let fake = Fake::new(0xe1, false);
        let power = find(&machine, PORT, &fake).unwrap();
        let (begun, begins) = mpsc::channel();
        let (may, waits) = mpsc::channel();
        *fake.slow.lock().unwrap() = Some((begun, waits));
        let on = tokio::spawn({
            let power = power.clone();
            async move { power.on().await }
        });
        tokio::task::spawn_blocking(move || begins.recv())
            .await
            .unwrap()
            .unwrap();
        on.abort();
        let (off, ()) = tokio::join!(power.off(), async { may.send(()).unwrap() });
        off.unwrap();
        let told = fake.told.lock().unwrap().clone();
        assert_eq!(
            told,
            [hub_power::switch(3, true), hub_power::switch(3, false)]
        );
    }

    #[tokio::test]
    async fn a_switch_that_does_not_read_back_has_failed() {
        let machine = Machine::new();
        std::fs::remove_file(machine.port("1-2.3", DISABLE)).unwrap();
        let power = find(&machine, PORT, &Fake::new(0xe1, true)).unwrap();
        let error = power.off().await.unwrap_err().to_string();
        assert!(
            error.contains("port 1-2.3 was switched off and reads back as on"),
            "{error}"
        );
    }

    #[test]
    fn a_hub_that_cannot_is_refused_in_words() {
        let machine = Machine::new();
        for (characteristics, words) in [
            (0xe0, "switches the power of all its ports together"),
            (0xe2, "cannot switch the power of its ports"),
            (0xe3, "cannot switch the power of its ports"),
        ] {
            let error = find(&machine, PORT, &Fake::new(characteristics, false))
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("hub: 1-2 ") && error.contains(words),
                "{error}"
            );
        }
        let fake = Fake::new(0xe1, false);
        let none = find(&machine, "hub = \"1-1\"\nport = 3", &fake).unwrap_err();
        assert_eq!(
            none.to_string(),
            "hub: there is no hub 1-1 now; there are usb1, 1-2"
        );
        let none = find(&machine, "hub = \"1-2\"\nport = 5", &fake).unwrap_err();
        assert_eq!(none.to_string(), "port: hub 1-2 has the ports 1 to 4");
        assert!(settings("hub = \"usb1\"\nport = 0").check().is_err());
        assert!(toml::from_str::<HubPortSettings>("hub = \"1-2:1.0\"\nport = 1").is_err());
    }
}
