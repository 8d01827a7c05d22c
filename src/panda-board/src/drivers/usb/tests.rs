//! The driver as a whole, over a directory in sysfs' place and a device in libusb's.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use panda_protocol::hub_power::Switching;

use super::hub_port::HubRequests;
use super::libusb::{Opener, TransferError, Transfers};
use super::list::list_by;
use super::sysfs::Identity;
use super::testing::{HUB, KEYBOARD, Machine, ROM};
use super::*;
use crate::{Pipe, PipeError, Port as _, Presence};

const LIMIT: Duration = Duration::from_secs(60);

/// What a device does with the next transfers; then it stays silent.
#[derive(Default)]
struct Script {
    steps: Mutex<VecDeque<Step>>,
    written: Mutex<Vec<u8>>,
    opened: Mutex<Vec<u32>>,
    silence: Condvar,
}

enum Step {
    /// Takes at most so many bytes.
    Take(usize),
    Say(Vec<u8>),
    Fail(TransferError),
}

struct Fake(Arc<Script>);

impl Opener for Fake {
    fn open(&self, bus: u16, identity: Identity) -> io::Result<Box<dyn Transfers>> {
        assert_eq!(bus, 1);
        self.0.opened.lock().unwrap().push(identity.devnum);
        Ok(Box::new(Self(self.0.clone())))
    }
}

impl Fake {
    fn next(&self, wait: Duration) -> Result<Step, TransferError> {
        // Silent until the test has it do something, for as long as libusb would wait.
        let steps = self.0.steps.lock().unwrap();
        let silent = |steps: &mut VecDeque<Step>| steps.is_empty();
        let (mut steps, _) = self
            .0
            .silence
            .wait_timeout_while(steps, wait, silent)
            .unwrap();
        match steps.pop_front() {
            Some(Step::Fail(error)) => Err(error),
            Some(step) => Ok(step),
            None => Err(TransferError::TimedOut),
        }
    }
}

impl Transfers for Fake {
    fn write(&self, endpoint: u8, bytes: &[u8], wait: Duration) -> Result<usize, TransferError> {
        assert_eq!(endpoint, 1);
        let Step::Take(most) = self.next(wait)? else {
            panic!("a write where a read was expected")
        };
        let taken = &bytes[..most.min(bytes.len())];
        self.0.written.lock().unwrap().extend_from_slice(taken);
        Ok(taken.len())
    }

    fn read(&self, endpoint: u8, into: &mut [u8], wait: Duration) -> Result<usize, TransferError> {
        assert_eq!(endpoint, 0x81);
        let Step::Say(bytes) = self.next(wait)? else {
            panic!("a read where a write was expected")
        };
        into[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

struct Bench {
    machine: Machine,
    usb: Usb,
    port: UsbPort,
    script: Arc<Script>,
}

impl Bench {
    fn new() -> Self {
        let machine = Machine::new();
        let script = Arc::new(Script::default());
        let usb = Usb::start_with(machine.sysfs(), Arc::new(Fake(script.clone()))).unwrap();
        let path: PortPath = "1-2.3".parse().unwrap();
        usb.guard(std::slice::from_ref(&path)).unwrap();
        let port = usb.port(&path);
        Self {
            machine,
            usb,
            port,
            script,
        }
    }

    async fn until(&self, wanted: impl FnMut(&Presence) -> bool) -> Presence {
        let mut presence = self.port.watch();
        *presence.wait_for(wanted).await.unwrap()
    }

    async fn arrival(&self) -> u64 {
        match self.until(|seen| matches!(seen, Presence::Device(_))).await {
            Presence::Device(device) => device.arrival,
            _ => unreachable!(),
        }
    }

    async fn rom(&self) -> Box<dyn Pipe> {
        self.machine.plug("1-2.3", &ROM);
        let arrival = self.arrival().await;
        self.port.open(arrival).await.unwrap()
    }

    fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.script.steps.lock().unwrap().extend(steps);
        self.script.silence.notify_all();
    }

    /// Lets go of the pipe, and waits until its device's authorisation has been taken back.
    fn release(&self, pipe: Box<dyn Pipe>) {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

        let attribute = self.machine.root().join("1-2.3/authorized");
        let changes = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        changes
            .add_watch(&attribute, AddWatchFlags::IN_CLOSE_WRITE)
            .unwrap();
        drop(pipe);
        changes.read_events().unwrap();
        assert_eq!(self.machine.read("1-2.3/authorized"), "0");
    }
}

#[tokio::test]
async fn a_rom_is_authorised_while_its_pipe_is_open_and_everything_goes_through() {
    let bench = Bench::new();
    let mut pipe = bench.rom().await;
    assert_eq!(bench.machine.read("1-2.3/authorized"), "1");
    let devnum: u32 = bench.machine.read("1-2.3/devnum").parse().unwrap();
    assert_eq!(*bench.script.opened.lock().unwrap(), [devnum]);
    // Taken in pieces, with a silence between: nothing is lost or sent twice.
    bench.script([
        Step::Take(3),
        Step::Fail(TransferError::TimedOut),
        Step::Take(100),
        Step::Fail(TransferError::TimedOut),
        Step::Say(b"greeting".to_vec()),
    ]);
    pipe.write(b"0123456789", LIMIT).await.unwrap();
    assert_eq!(*bench.script.written.lock().unwrap(), b"0123456789");
    assert_eq!(pipe.read(81, LIMIT).await.unwrap(), b"greeting");
    bench.release(pipe);
}

#[tokio::test]
async fn what_is_not_a_rom_in_every_descriptor_is_never_authorised_or_opened() {
    let bench = Bench::new();
    let mut disguised = ROM;
    disguised[32] = 3;
    for (descriptors, why) in [
        (&KEYBOARD[..], "it is 0627:0001"),
        (&HUB, "it is 0409:55aa"),
        (&disguised, "interface 0 is of class 03"),
    ] {
        bench.machine.plug("1-2.3", descriptors);
        let arrival = bench.arrival().await;
        let error = bench.port.open(arrival).await.map(drop).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(bench.machine.read("1-2.3/authorized"), "0");
        bench.machine.unplug("1-2.3");
        bench.until(|seen| *seen == Presence::Empty).await;
    }
    assert!(bench.script.opened.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_rom_that_a_driver_of_the_kernel_takes_is_refused() {
    let bench = Bench::new();
    bench.machine.plug("1-2.3", &ROM);
    let arrival = bench.arrival().await;
    let interface = bench.machine.root().join("1-2.3:1.0");
    std::fs::create_dir(&interface).unwrap();
    std::os::unix::fs::symlink("/x/usbhid", interface.join("driver")).unwrap();
    let error = bench.port.open(arrival).await.map(drop).unwrap_err();
    assert!(
        error.to_string().contains("driver usbhid has taken"),
        "{error}"
    );
    assert!(bench.script.opened.lock().unwrap().is_empty());
    assert_eq!(bench.machine.read("1-2.3/authorized"), "0");
}

#[tokio::test]
async fn only_the_arrival_that_was_seen_is_opened() {
    let bench = Bench::new();
    bench.machine.plug("1-2.3", &ROM);
    let first = bench.arrival().await;
    bench.machine.unplug("1-2.3");
    bench.machine.plug("1-2.3", &ROM);
    // Whether the watcher has seen the second one already or not.
    let early = bench.port.open(first).await.map(drop).unwrap_err();
    assert!(matches!(early, PipeError::Gone), "{early}");
    bench
        .until(|seen| matches!(seen, Presence::Device(device) if device.arrival > first))
        .await;
    let late = bench.port.open(first).await.map(drop).unwrap_err();
    assert!(matches!(late, PipeError::Gone), "{late}");
    assert!(bench.script.opened.lock().unwrap().is_empty());
}

#[tokio::test]
async fn unplugging_ends_a_transfer_as_gone_whatever_libusb_says() {
    let bench = Bench::new();
    let mut pipe = bench.rom().await;
    bench.script([Step::Fail(TransferError::Gone)]);
    let error = pipe.write(b"x", LIMIT).await.unwrap_err();
    assert!(matches!(error, PipeError::Gone), "{error}");
    // A transfer error first, the departure after it.
    bench.script([Step::Fail(TransferError::Io(io::Error::other(
        "libusb: Input/Output Error",
    )))]);
    let writing = pipe.write(b"x", LIMIT);
    let (error, ()) = tokio::join!(writing, async {
        bench.machine.unplug("1-2.3");
    });
    assert!(matches!(error.unwrap_err(), PipeError::Gone));
    // A silent one that leaves does not hold anybody up until the limit.
    let error = pipe.read(81, LIMIT).await.unwrap_err();
    assert!(matches!(error, PipeError::Gone), "{error}");
}

#[tokio::test]
async fn stalls_errors_and_silence_are_told_apart() {
    let bench = Bench::new();
    let mut pipe = bench.rom().await;
    bench.script([
        Step::Fail(TransferError::Stalled),
        Step::Fail(TransferError::Io(io::Error::other("overflow"))),
        Step::Say(vec![0; 82]),
    ]);
    let stalled = pipe.write(&[0; 5], LIMIT).await.unwrap_err().to_string();
    assert_eq!(stalled, "write of 5 bytes: stalled");
    let io = pipe.read(4, LIMIT).await.unwrap_err();
    assert!(matches!(io, PipeError::Io { .. }), "{io}");
    let more = pipe.read(81, LIMIT).await.unwrap_err().to_string();
    assert!(
        more.contains("82 bytes came; expected at most 81"),
        "{more}"
    );
    let silent = pipe.read(4, Duration::from_millis(30)).await.unwrap_err();
    assert!(matches!(silent, PipeError::TimedOut { .. }), "{silent}");
    let silent = pipe
        .write(&[1], Duration::from_millis(30))
        .await
        .unwrap_err();
    assert!(matches!(silent, PipeError::TimedOut { .. }), "{silent}");
}

#[tokio::test]
async fn a_pipe_that_nobody_waits_for_lets_go_of_its_device() {
    let bench = Bench::new();
    let mut pipe = bench.rom().await;
    let read = tokio::time::timeout(Duration::from_millis(5), pipe.read(4, LIMIT)).await;
    assert!(read.is_err());
    bench.release(pipe);
}

#[tokio::test]
async fn ports_that_are_not_there_are_named_with_those_that_are() {
    let bench = Bench::new();
    let path = |text: &str| text.parse::<PortPath>().unwrap();
    assert_eq!(bench.usb.has_port(&path("1-2.4")), Ok(()));
    let error = bench.usb.has_port(&path("1-7")).unwrap_err();
    assert_eq!(
        error,
        "port 1-7 does not exist; this machine has 1-1, 1-2, 1-2.1, 1-2.2, 1-2.3, 1-2.4"
    );
}

/// Every hub says that it switches each port by itself; the root hub may not be asked.
struct Asked;

impl HubRequests for Asked {
    fn ask(
        &self,
        hub: &HubPath,
        _: panda_protocol::hub_power::Request,
        _: usize,
    ) -> io::Result<Vec<u8>> {
        if *hub == HubPath::root(1) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "denied"));
        }
        Ok(hex_literal::hex!("09 29 04 e1 00 32 64 00 ff").to_vec())
    }

    fn tell(&self, _: &HubPath, _: panda_protocol::hub_power::Request) -> io::Result<()> {
        panic!("a list changes nothing")
    }
}

#[test]
fn a_list_has_every_hub_and_port_and_what_could_not_be_asked() {
    let machine = Machine::new();
    machine.plug("1-2.3", &ROM);
    machine.write("1-2.3/product", "OMAP\u{1b}[2J4430\n");
    machine.plug("1-2.4", &KEYBOARD);
    machine.write("1-2.4/authorized", "0");
    std::fs::write(machine.port("1-2.1", "disable"), "1\n").unwrap();
    let mut disguised = ROM;
    disguised[32] = 8;
    machine.plug("1-1", &disguised);
    let hubs = list_by(&machine.sysfs(), &Asked).unwrap();
    let paths: Vec<_> = hubs.iter().map(|hub| hub.path.to_string()).collect();
    assert_eq!(paths, ["usb1", "1-2"]);
    assert_eq!(
        hubs[0].switching,
        Err("permission denied; only root may ask a hub".to_owned())
    );
    assert_eq!(hubs[1].switching, Ok(Switching::Individual));
    let device = |hub: usize, port: usize| hubs[hub].ports[port].device.clone().unwrap().unwrap();
    let rom = device(1, 2);
    assert_eq!((rom.chip, rom.not_rom), (Some("OMAP4430"), None));
    assert_eq!(rom.name, "OMAP[2J4430");
    assert_eq!(device(1, 3).authorized, Authorized::No);
    assert!(device(0, 0).not_rom.unwrap().contains("class 08"));
    assert!(device(0, 1).hub);
    assert!(hubs[1].ports[0].disabled && hubs[1].ports[0].device == Ok(None));
    assert!(!hubs[1].ports[1].disabled);
}
