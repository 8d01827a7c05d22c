//! Drivers' tables: each with its own keys, and nothing that two slots could share.

use panda_board::command::{CommandSenseSettings, CommandSettings};
use panda_board::console::SerialConsoleSettings;
use panda_board::proxr::{ProxrSerialSettings, ProxrTcpSettings};
use panda_board::usb::{HubPortSettings, UsbPortSettings};

use super::*;

/// The second slot's power table begins on line 23, its driver is on line 24.
fn power_error(table: &str) -> String {
    error(
        "[slot.power]\ndriver = \"twin\"\nsocket = \"b/2/power\"",
        &format!("[slot.power]\n{table}"),
    )
}

#[test]
fn each_driver_takes_its_own_keys_and_a_rack_may_mix_them() {
    let relays = RACK.replacen(
        "power = { driver = \"twin\", socket = \"b/1/power\" }",
        "power = { driver = \"proxr-serial\", device = \"relays\", relay = 8 }\n\
         console = { driver = \"serial\", device = \"/dev/ttyS1\", baud = 9600 }",
        1,
    );
    let with = |table: &str| {
        let text = relays.replace("driver = \"twin\"\nsocket = \"b/2/power\"", table);
        parse(&text).unwrap()
    };
    let config = with("driver = \"proxr-tcp\"\naddress = \"10.0.0.5\"\nbank = 2\nrelay = 3");
    let serial: &ProxrSerialSettings = settings(config.slots[0].power[0].as_ref());
    assert_eq!(serial.device, Path::new("/etc/relays"));
    assert_eq!(serial.baud, 115_200);
    assert!(serial.normally_closed);
    let tcp: &ProxrTcpSettings = settings(config.slots[1].power[0].as_ref());
    assert_eq!(tcp.address.to_string(), "10.0.0.5:2101");
    assert_eq!((tcp.bank, tcp.relay, tcp.pause_ms), (2, 3, 1_000));
    let console: &SerialConsoleSettings = settings(config.slots[0].console.as_deref().unwrap());
    assert_eq!(console.baud, 9_600);
    let config = with("driver = \"command\"\nargv = [\"pdu\", \"3\", \"{state}\"]\nreads = true");
    let command: &CommandSettings = settings(config.slots[1].power[0].as_ref());
    assert!(command.reads);
}

#[test]
fn a_mistake_in_a_drivers_table_has_the_line_of_its_key() {
    for (table, says) in [
        (
            "driver = \"relay\"",
            "line 24: slot.power.driver: \"relay\": expected one of [\"twin\", \"proxr-tcp\"",
        ),
        (
            "socket = \"x\"",
            "line 23: slot.power.driver: missing; expected one of",
        ),
        ("driver = 7", "line 24: slot.power.driver: expected one of"),
        (
            "driver = \"twin\"\nrelay = 1",
            "line 25: slot.power.relay: unknown field `relay`, expected `socket`",
        ),
        (
            "driver = \"twin\"",
            "line 24: slot.power.driver: driver \"twin\": missing field `socket`",
        ),
        (
            "driver = \"proxr-tcp\"\naddress = \"relays:2101\"\nrelay = 1",
            "line 25: slot.power.address: \"relays:2101\": expected an IP address",
        ),
        (
            "driver = \"proxr-tcp\"\naddress = \"10.0.0.5\"\nbank = 5\nrelay = 1",
            "line 26: slot.power.bank: relay bank 5 does not exist; banks are 1 to 4",
        ),
        (
            "driver = \"proxr-tcp\"\naddress = \"10.0.0.5\"\nrelay = 9",
            "line 26: slot.power.relay: relay 9 does not exist",
        ),
        (
            "driver = \"proxr-tcp\"\naddress = \"10.0.0.5\"\nrelay = \"one\"",
            "line 26: slot.power.relay: invalid type: string",
        ),
        (
            "driver = \"proxr-tcp\"\naddress = \"10.0.0.5\"\nrelay = 300",
            "line 26: slot.power.relay: invalid value: integer `300`",
        ),
        (
            "driver = \"proxr-serial\"\nbaud = 7\nrelay = 1\ndevice = \"x\"",
            "line 25: slot.power.baud: expected one of [1200",
        ),
        (
            "driver = \"command\"\nlimit_ms = 5\nargv = [\"pdu\", \"off\"]",
            "line 26: slot.power.argv: expected {state} in one of the arguments",
        ),
    ] {
        let text = power_error(table);
        let says = format!("/etc/rack.toml: {says}");
        // Beside it there may be a key that is missing.
        assert!(text.lines().any(|line| line.starts_with(&says)), "{text}");
    }
    let text = error(
        "link = \"127.0.0.1:8402\"",
        "link = \"127.0.0.1:8402\"\nconsole = { driver = \"usb\" }",
    );
    assert!(
        text.contains(
            "line 23: slot.console.driver: \"usb\": expected one of [\"twin\", \"serial\", \"tcp\"]"
        ),
        "{text}"
    );
}

#[test]
fn what_only_one_slot_can_have_is_refused_to_the_second() {
    let with_one = |power: &str, console: &str| {
        RACK.replacen(
            "power = { driver = \"twin\", socket = \"b/1/power\" }\n",
            &format!("power = {power}\nconsole = {console}\n"),
            1,
        )
    };
    let tcp = "{ driver = \"proxr-tcp\", address = \"10.0.0.5\", relay = 1 }";
    let serial = "{ driver = \"proxr-serial\", device = \"/dev/relays\", relay = 1 }";
    let console = "{ driver = \"serial\", device = \"/dev/ttyS1\" }";
    let remote = "{ driver = \"tcp\", address = \"10.0.0.6:3001\" }";
    for (one, two, line, says) in [
        (
            tcp,
            "driver = \"proxr-tcp\"\naddress = \"10.0.0.5:2101\"\nrelay = 1",
            27,
            "slot.power.relay: \"relay 1 of bank 1 at 10.0.0.5:2101\": slot panda01 has it already",
        ),
        (
            serial,
            "driver = \"proxr-serial\"\ndevice = \"/dev/relays\"\nrelay = 1",
            27,
            "slot.power.relay: \"relay 1 of bank 1 at /dev/relays\": slot panda01",
        ),
        (
            serial,
            "driver = \"proxr-serial\"\ndevice = \"/dev/ttyS1\"\nrelay = 1",
            26,
            "slot.power.device: \"/dev/ttyS1\": this is a console already",
        ),
        (
            tcp,
            "driver = \"proxr-tcp\"\naddress = \"10.0.0.5\"\nrelay = 2\npause_ms = 2",
            24,
            "slot.power: slot panda01 is on the same relay board",
        ),
        (
            serial,
            "driver = \"proxr-serial\"\ndevice = \"/dev/relays\"\nbaud = 9600\nrelay = 2",
            24,
            "slot.power: slot panda01 is on the same relay board",
        ),
    ] {
        let text = with_one(one, console).replace("driver = \"twin\"\nsocket = \"b/2/power\"", two);
        let text = parse(&text).unwrap_err().to_string();
        assert!(
            text.starts_with(&format!("/etc/rack.toml: line {line}: {says}")),
            "{text}"
        );
    }
    for (console, key) in [(console, "device"), (remote, "address")] {
        let twice = with_one(tcp, console) + &format!("console = {console}\n");
        // After [slot.pipe], so as a table of its own.
        let twice = twice.replace(
            "socket = \"b/2/pipe\"\nconsole = ",
            "socket = \"b/2/pipe\"\n[slot.console]\n#",
        );
        let table = console.trim_matches(['{', '}', ' ']).replace(", ", "\n");
        let text = parse(&format!("{twice}{table}\n")).unwrap_err().to_string();
        assert!(
            text.contains(&format!("slot.console.{key}: "))
                && text.contains("slot panda01 has it already"),
            "{text}"
        );
    }
}

/// A rack of slots whose tables are these, and more of it.
fn rack_of(more: &str, slots: &[&str]) -> Result<Config, ConfigError> {
    let mut text = format!(
        "[rack]\nname = \"r\"\nstate_dir = \"s\"\nimage = \"i\"\n[front]\nlisten = \"127.0.0.1:1\"\n\
         [depot]\nlisten = \"127.0.0.1:2\"\n{more}\n"
    );
    for (n, tables) in slots.iter().enumerate() {
        text += &format!(
            "[[slot]]\nname = \"panda{n}\"\nlink = \"127.0.0.1:{}\"\n{tables}\n",
            n + 10
        );
    }
    parse(&text)
}

const USB_1: &str = "pipe = { driver = \"usb\", port = \"1-2.1\" }";
const USB_2: &str = "pipe = { driver = \"usb\", port = \"1-2.2\" }";

fn hub_port(hub: &str, port: u8) -> String {
    format!("power = {{ driver = \"hub-port\", hub = \"{hub}\", port = {port} }}")
}

fn relay(relay: u8) -> String {
    format!("{{ driver = \"proxr-serial\", device = \"relays\", relay = {relay} }}")
}

#[test]
fn a_slot_may_have_a_usb_port_several_supplies_and_a_sense() {
    let both = format!(
        "{USB_1}\npower = [{{ driver = \"hub-port\", hub = \"1-2\", port = 1 }}, {}]\n\
         sense = {{ driver = \"command\", argv = [\"rail\", \"1\"] }}",
        relay(1)
    );
    let config = rack_of("", &[&both, &format!("{USB_2}\npower = {}", relay(2))]).unwrap();
    let usb: &UsbPortSettings = settings(config.slots[0].pipe.as_ref());
    assert_eq!(usb.port.to_string(), "1-2.1");
    let [hub, serial] = config.slots[0].power.as_slice() else {
        panic!("{:?}", config.slots[0].power)
    };
    let hub: &HubPortSettings = settings(hub.as_ref());
    let serial: &ProxrSerialSettings = settings(serial.as_ref());
    assert_eq!(hub.path().to_string(), "1-2.1");
    assert_eq!(serial.device, Path::new("/etc/relays"));
    let sense: &CommandSenseSettings = settings(config.slots[0].sense.as_deref().unwrap());
    assert_eq!(sense.argv, ["rail", "1"]);
    assert_eq!(config.slots[1].power.len(), 1);
    let _: &ProxrSerialSettings = settings(config.slots[1].power[0].as_ref());
    // The long form.
    let long = format!(
        "{USB_1}\n[[slot.power]]\ndriver = \"hub-port\"\nhub = \"1-2\"\nport = 1\n\
         [[slot.power]]\ndriver = \"command\"\nargv = [\"pdu\", \"{{state}}\"]"
    );
    let config = rack_of("", &[&long]).unwrap();
    assert_eq!(config.slots[0].power.len(), 2);
}

#[test]
fn what_only_one_slot_can_have_of_usb_is_refused_to_another() {
    let powered = |pipe: &str, power: &str| format!("{pipe}\n{power}");
    let one = powered(USB_1, &hub_port("1-2", 1));
    for (two, says) in [
        (
            powered(USB_1, &hub_port("1-2", 2)),
            "line 18: slot.pipe.port: 1-2.1: slot panda0 has it already",
        ),
        (
            powered(&USB_2.replace("1-2.2", "1-2.1.3"), &hub_port("1-3", 2)),
            "line 18: slot.pipe.port: 1-2.1.3: slot panda0 is on 1-2.1, and no board is behind",
        ),
        (
            powered(USB_2, &hub_port("1-2", 1)),
            "line 19: slot.power.port: 1-2.1: slot panda0 switches 1-2.1 already",
        ),
        // The port that the whole hub is on.
        (
            powered(USB_2, &hub_port("usb1", 2)),
            "line 19: slot.power.port: 1-2: slot panda0 switches 1-2.1 already",
        ),
        (
            powered(USB_2, "power = []"),
            "slot.power: expected 1 to 4 supplies, found 0",
        ),
        (
            powered(USB_2, &format!("power = [{}, {}]", relay(3), relay(3))),
            "slot.power.relay: \"relay 3 of bank 1 at relays\": slot panda1 has it already",
        ),
        (
            powered(
                USB_2,
                "power = { driver = \"hub-port\", hub = \"hub\", port = 1 }",
            ),
            "slot.power.hub: \"hub\": expected a USB hub's path, such as 1-2",
        ),
        (
            powered("pipe = { driver = \"usb\", port = 3 }", &hub_port("1-2", 2)),
            "slot.pipe.port: invalid type: integer `3`",
        ),
        (
            format!(
                "{USB_2}\n{}\nsense = {{ driver = \"command\", argv = [] }}",
                hub_port("1-2", 2)
            ),
            "slot.sense.argv: expected a program",
        ),
    ] {
        let error = rack_of("", &[&one, &two]).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    let relayed = format!("{USB_1}\npower = {}", relay(1));
    let cut_off = powered(USB_2, &hub_port("1-2", 1));
    let error = rack_of("", &[&relayed, &cut_off]).unwrap_err().to_string();
    assert!(
        error.contains("1-2.1: the board of slot panda0 is on 1-2.1, and would lose its port"),
        "{error}"
    );
}

#[test]
fn presence_is_no_evidence_where_the_port_is_switched_with_the_board() {
    let boot = "[boot]\nrequire_cut = \"presence\"\ngadget = { vendor = 1, product = 2 }";
    let slot = format!("{USB_1}\n{}", hub_port("1-2", 1));
    let error = rack_of(boot, &[&slot]).unwrap_err().to_string();
    assert!(
        error.contains("slot.power.port: boot.require_cut is `presence`"),
        "{error}"
    );
    rack_of("", &[&slot]).unwrap();
    let relayed = format!("{USB_1}\npower = {}", relay(1));
    rack_of(boot, &[&relayed]).unwrap();
}
