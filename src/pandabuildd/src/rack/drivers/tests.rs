//! Drivers made on machines of a test's own.

use std::path::Path;

use nix::pty::{OpenptyResult, openpty};
use nix::unistd::ttyname;
use panda_board::usb::{Sysfs, UsbPortSettings};

use super::*;

/// A rack of slots whose tables are these.
fn config(slots: &[&str]) -> Config {
    let mut text = "[rack]\nname = \"r\"\nstate_dir = \"s\"\nimage = \"i\"\n\
                    [front]\nlisten = \"127.0.0.1:1\"\n[depot]\nlisten = \"127.0.0.1:2\"\n"
        .to_owned();
    for (n, tables) in slots.iter().enumerate() {
        text += &format!(
            "[[slot]]\nname = \"panda{n}\"\nlink = \"127.0.0.1:{}\"\n\
             pipe = {{ driver = \"twin\", socket = \"pipe{n}\" }}\n{tables}\n",
            n + 10
        );
    }
    Config::parse(&text, Path::new("/rack.toml")).unwrap()
}

fn powers(config: &Config) -> Result<Vec<Arc<dyn Power>>, RackError> {
    let made = make_all(&config.slots, Machine::at(Sysfs::at("/nonexistent")))?;
    Ok(made.into_iter().map(|made| made.power).collect())
}

fn refusal(slots: &[&str]) -> String {
    match powers(&config(slots)) {
        Ok(_) => panic!("{slots:?} was not refused"),
        Err(error) => error.to_string(),
    }
}

/// A serial device that has two names.
fn device() -> (OpenptyResult, tempfile::TempDir, [String; 2]) {
    let pty = openpty(None, None).unwrap();
    let name = ttyname(&pty.slave).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("by-id");
    std::os::unix::fs::symlink(&name, &link).unwrap();
    let names = [name, link].map(|path| path.to_str().unwrap().to_owned());
    (pty, directory, names)
}

fn relay(device: &str, relay: u8) -> String {
    format!("power = {{ driver = \"proxr-serial\", device = {device:?}, relay = {relay} }}")
}

#[tokio::test]
async fn a_rack_may_mix_drivers_and_slots_on_one_relay_board_share_its_task() {
    let (_pty, _directory, [one, two]) = device();
    let marks = tempfile::tempdir().unwrap();
    let command = format!(
        "power = {{ driver = \"command\", argv = [\"touch\", \"{}/{{state}}\"] }}",
        marks.path().display()
    );
    let config = config(&[
        &relay(&one, 1),
        &relay(&two, 2),
        &command,
        "power = { driver = \"twin\", socket = \"power\" }",
        "power = { driver = \"proxr-tcp\", address = \"127.0.0.1\", relay = 1 }",
    ]);
    let mut machine = Machine::default();
    for slot in &config.slots {
        make_slot(slot, &mut machine).map(drop).unwrap();
    }
    assert_eq!(machine.shares(), 2);
    powers(&config).unwrap()[2].off().await.unwrap();
    assert!(marks.path().join("off").exists());
}

#[tokio::test]
async fn what_is_not_there_or_not_a_device_is_named_with_slot_and_key() {
    let missing = refusal(&[&relay("/dev/serial/by-id/none", 1)]);
    assert!(
        missing
            .starts_with("slot panda0: [slot.power]: device: /dev/serial/by-id/none: No such file"),
        "{missing}"
    );
    let directory = refusal(&[&relay("/tmp", 1)]);
    assert!(
        directory.contains("device: /tmp: this is a directory"),
        "{directory}"
    );
    let twin = "power = { driver = \"twin\", socket = \"power\" }";
    let console = format!("{twin}\nconsole = {{ driver = \"serial\", device = \"/dev/none\" }}");
    let console = refusal(&[&console]);
    assert!(
        console.starts_with("slot panda0: [slot.console]: device: /dev/none"),
        "{console}"
    );
    let program =
        refusal(&["power = { driver = \"command\", argv = [\"no-such-pdu\", \"{state}\"] }"]);
    assert!(
        program.contains("argv: no program \"no-such-pdu\""),
        "{program}"
    );
}

#[tokio::test]
async fn two_names_of_one_device_hide_nothing() {
    let (_pty, _directory, [one, two]) = device();
    let same = refusal(&[&relay(&one, 1), &relay(&two, 1)]);
    assert!(
        same.starts_with("slot panda1: [slot.power]: relay: ")
            && same.contains("slot panda0 has it already")
            && same.contains("two names of one device"),
        "{same}"
    );
    let line = |device: &str| format!("console = {{ driver = \"serial\", device = {device:?} }}");
    let twin = |n: u8| format!("power = {{ driver = \"twin\", socket = \"power{n}\" }}");
    let both = refusal(&[
        &format!("{}\n{}", twin(0), line(&one)),
        &format!("{}\n{}", twin(1), line(&two)),
    ]);
    assert!(
        both.starts_with("slot panda1: [slot.console]: device: ")
            && both.contains("slot panda0 has it already"),
        "{both}"
    );
    let mixed = refusal(&[&format!("{}\n{}", relay(&one, 1), line(&two))]);
    assert!(
        mixed.starts_with("slot panda0: [slot.power]: device: ")
            && mixed.contains("this is a console already, of slot panda0"),
        "{mixed}"
    );
}

/// Bus 1 with two ports, as Linux lays it out.
fn usb() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for port in ["usb1", "1-0:1.0/usb1-port1", "1-0:1.0/usb1-port2"] {
        std::fs::create_dir_all(root.join(port)).unwrap();
    }
    std::fs::write(root.join("usb1/authorized_default"), "1\n").unwrap();
    directory
}

fn on_usb(port: &str) -> Config {
    let power = "power = { driver = \"twin\", socket = \"power\" }";
    let mut config = config(&[power]);
    let settings: UsbPortSettings = toml::from_str(&format!("port = {port:?}")).unwrap();
    config.slots[0].pipe = Arc::new(settings);
    config
}

#[tokio::test]
async fn at_the_start_every_bus_with_a_slot_port_is_closed_to_what_nobody_awaits() {
    let machine = usb();
    let default = machine.path().join("usb1/authorized_default");
    let made = make(&on_usb("1-2"), Machine::at(Sysfs::at(machine.path())))
        .await
        .unwrap();
    assert_eq!(std::fs::read_to_string(&default).unwrap(), "0\n");
    let presence = *made[0].port.watch().borrow();
    assert_eq!(presence, panda_board::Presence::Empty);

    std::fs::remove_file(&default).unwrap();
    let refused = make(&on_usb("1-2"), Machine::at(Sysfs::at(machine.path()))).await;
    let error = refused.map(drop).unwrap_err().to_string();
    assert!(
        error.starts_with("slot panda0: [slot.pipe]: port: bus 1: ")
            && error.contains("Run the daemon as root"),
        "{error}"
    );
}

#[tokio::test]
async fn a_port_or_hub_that_does_not_exist_is_refused_with_those_that_do() {
    let machine = usb();
    let refused = make(&on_usb("1-2.4"), Machine::at(Sysfs::at(machine.path()))).await;
    let error = refused.map(drop).unwrap_err().to_string();
    assert_eq!(
        error,
        "slot panda0: [slot.pipe]: port: port 1-2.4 does not exist; this machine has 1-1, 1-2"
    );
    // Nothing was closed for a rack that does not start.
    let default = machine.path().join("usb1/authorized_default");
    assert_eq!(std::fs::read_to_string(default).unwrap(), "1\n");
    let hub = config(&["power = { driver = \"hub-port\", hub = \"1-2\", port = 1 }"]);
    let error = make(&hub, Machine::at(Sysfs::at(machine.path())))
        .await
        .map(drop);
    let error = error.unwrap_err().to_string();
    assert_eq!(
        error,
        "slot panda0: [slot.power]: hub: there is no hub 1-2 now; there are usb1"
    );
    let sense = "power = { driver = \"twin\", socket = \"power\" }\n\
                 sense = { driver = \"command\", argv = [\"no-such-sense\"] }";
    let error = make(&config(&[sense]), Machine::at(Sysfs::at(machine.path())))
        .await
        .map(drop);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("[slot.sense]: argv: no program"), "{error}");
}
