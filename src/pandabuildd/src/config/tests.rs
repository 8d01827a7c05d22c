//! The example, and every way to be wrong, with its exact line and key.

use std::any::Any;

use panda_board::twin::TwinSettings;

use super::*;

mod all;
mod drivers;

/// A driver's settings as what they are; `&dyn Any` of the box's content.
fn settings<T: Any>(settings: &dyn Any) -> &T {
    settings.downcast_ref().expect("another driver's settings")
}

const RACK: &str = r#"[rack]
name = "rack1"
state_dir = "state"
image = "/images/good"

[front]
listen = "127.0.0.1:8221"

[depot]
listen = "127.0.0.1:8300"

[[slot]]
name = "panda01"
hosts = ["panda01.rack.example"]
link = "127.0.0.1:8401"
power = { driver = "twin", socket = "b/1/power" }
pipe = { driver = "twin", socket = "b/1/pipe" }

[[slot]]
name = "panda02"
listen = "127.0.0.1:8222"
link = "127.0.0.1:8402"
[slot.power]
driver = "twin"
socket = "b/2/power"
[slot.pipe]
driver = "twin"
socket = "b/2/pipe"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/rack.toml"))
}

fn error(from: &str, to: &str) -> String {
    assert!(RACK.contains(from), "{from}");
    parse(&RACK.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn the_commented_example_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("rack.example.toml");
    let config = Config::load(&path).unwrap();
    assert!(!config.slots.is_empty());
    assert_eq!(config.rack.state_dir, Path::new("/var/lib/pandabuildd"));
}

/// What the example shows as a default is the default: a line that is commented out changes nothing.
#[test]
fn what_the_example_says_of_defaults_is_true() {
    let text = include_str!("../../rack.example.toml");
    let on: String = text
        .lines()
        .map(|line| match line.strip_prefix("#= ") {
            Some(setting) => format!("{setting}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    assert_ne!(on, text, "defaults are written as `#= key = value`");
    let (with, without) = (parse(&on).unwrap(), parse(text).unwrap());
    assert_eq!(with.front, without.front);
    assert_eq!(with.filecache, without.filecache);
    assert_eq!(with.boot, without.boot);
    assert_eq!(with.guest, without.guest);
    assert_eq!(with.slot_task, without.slot_task);
    assert_eq!(with.rack, without.rack);
}

/// Every key of the tables with settings stands in the example, commented out or not.
#[test]
fn the_example_shows_every_key() {
    let text = include_str!("../../rack.example.toml");
    let shown = |table: &str, key: &str| {
        let header = format!("[{table}]");
        let inside = text
            .lines()
            .map(|line| line.trim_start_matches(['#', '=', ' ']))
            .skip_while(|line| *line != header)
            .skip(1)
            .take_while(|line| !line.starts_with('['));
        inside
            .filter_map(|line| line.split_once(" ="))
            .any(|(name, _)| name == key)
    };
    let mut missing_keys = Vec::new();
    for table in [
        "rack",
        "front",
        "depot",
        "filecache",
        "boot",
        "guest",
        "slot_task",
        "operators",
    ] {
        let header = format!("[{table}]\n");
        let with = if RACK.contains(&header) {
            RACK.replacen(&header, &format!("{header}no_such_key = 1\n"), 1)
        } else {
            format!("{header}no_such_key = 1\n{RACK}")
        };
        let error = parse(&with).unwrap_err().to_string();
        let (_, known) = error.split_once("expected ").unwrap();
        let keys = known.split('`').skip(1).step_by(2);
        // Read, with a warning, where they used to stand.
        let former = ["asic_id_ms", "second_stage_ms", "boot_image_ms"];
        let keys = keys.filter(|key| table != "boot" || !former.contains(key));
        let tables = |key: &str| text.contains(&format!("\n[{table}.{key}."));
        let missing = keys.filter(|key| !shown(table, key) && !tables(key));
        missing_keys.extend(missing.map(|key| format!("[{table}] {key}")));
    }
    assert_eq!(missing_keys, Vec::<String>::new());
}

#[test]
fn a_right_file_is_taken_whole_with_paths_from_its_directory() {
    let config = parse(RACK).unwrap();
    assert_eq!(config.rack.state_dir, Path::new("/etc/state"));
    assert_eq!(config.rack.image, Path::new("/images/good"));
    let [power] = config.slots[0].power.as_slice() else {
        panic!("{:?}", config.slots[0].power)
    };
    let twin: &TwinSettings = settings(power.as_ref());
    assert_eq!(twin.socket, Path::new("/etc/b/1/power"));
    assert_eq!(
        config.slots[0].host_names().collect::<Vec<_>>(),
        ["panda01.rack.example"]
    );
    assert_eq!(
        config.slots[1].host_names().collect::<Vec<_>>(),
        ["panda02"]
    );
    assert_eq!(config.depot.address().to_string(), "127.0.0.1:8300");
}

#[test]
fn an_unknown_key_names_file_line_and_what_is_allowed() {
    let error = error("name = \"panda01\"", "name = \"panda01\"\nhost = [\"x\"]");
    assert!(
        error.starts_with("/etc/rack.toml: ") && error.contains("line 14"),
        "{error}"
    );
    assert!(
        error.contains("unknown field `host`") && error.contains("`hosts`"),
        "{error}"
    );
    let error = error_in_boot("rom_windows_ms = 1");
    assert!(
        error.contains("line 10") && error.contains("rom_window_ms"),
        "{error}"
    );
}

fn error_in_boot(line: &str) -> String {
    error("[depot]", &format!("[boot]\n{line}\n\n[depot]"))
}

#[test]
fn a_wrong_type_or_missing_key_names_its_line() {
    let text = error("link = \"127.0.0.1:8401\"", "link = 8401");
    assert!(text.contains("line 15") && text.contains("8401"), "{text}");
    let text = error("link = \"127.0.0.1:8401\"", "link = \"panda01:8401\"");
    assert!(
        text.contains("line 15") && text.contains("socket address"),
        "{text}"
    );
    let text = error("name = \"rack1\"\n", "");
    assert!(text.contains("missing field `name`"), "{text}");
    let text = error("driver = \"twin\"", "driver = \"usb\"");
    assert!(
        text.contains("line 16") && text.contains("\"twin\""),
        "{text}"
    );
    let text = error("name = \"rack1\"", "name = \"rack1\"\ndialect = \"2012\"");
    assert!(text.contains("line 3") && text.contains("2011"), "{text}");
}

#[test]
fn an_address_that_is_none_says_what_one_looks_like() {
    for (from, to, line) in [
        (
            "listen = \"127.0.0.1:8221\"",
            "listen = \"localhost:8221\"",
            7,
        ),
        ("link = \"127.0.0.1:8402\"", "link = \"10.0.0.2\"", 22),
    ] {
        let text = error(from, to);
        assert!(text.contains(&format!("line {line}")), "{text}");
        assert!(text.contains("expected IP:PORT"), "{text}");
    }
}

#[test]
fn a_value_out_of_range_names_its_line_and_key() {
    let text = error_in_boot("power_ms = 5000\nrom_window_ms = 0");
    assert!(
        text.starts_with("/etc/rack.toml: line 11: boot.rom_window_ms: expected 1 to"),
        "{text}"
    );
    let text = error_in_boot("require_cut = \"presence\"");
    assert!(
        text.contains("line 10: boot.require_cut: ") && text.contains("gadget"),
        "{text}"
    );
    let text = error("name = \"rack1\"", "name = \"\"");
    assert!(text.contains("line 2: rack.name: "), "{text}");
    let text = error(
        "link = \"127.0.0.1:8402\"",
        "link = \"127.0.0.1:8402\"\nlink_listen = \"10.0.2.15:0\"",
    );
    assert!(
        text.contains("line 23: slot.link_listen: port 0 is no port"),
        "{text}"
    );
    let text = error("listen = \"127.0.0.1:8300\"", "listen = \"0.0.0.0:8300\"");
    assert!(
        text.contains("depot.advertise") && text.contains("say which one"),
        "{text}"
    );
}

#[test]
fn slots_that_share_something_are_refused_with_the_second_ones_line() {
    for (from, to, line, key) in [
        ("name = \"panda02\"", "name = \"panda01\"", 20, "slot.name"),
        (
            "name = \"panda02\"",
            "name = \"panda02\"\nhosts = [\"PANDA01.Rack.example\"]",
            21,
            "slot.hosts",
        ),
        (
            "link = \"127.0.0.1:8402\"",
            "link = \"127.0.0.1:8401\"",
            22,
            "slot.link",
        ),
        (
            "listen = \"127.0.0.1:8222\"",
            "listen = \"127.0.0.1:8300\"",
            21,
            "slot.listen",
        ),
        (
            "listen = \"127.0.0.1:8222\"",
            "listen = \"0.0.0.0:8221\"",
            21,
            "slot.listen",
        ),
        (
            "socket = \"b/2/power\"",
            "socket = \"b/1/pipe\"",
            25,
            "slot.power.socket",
        ),
        (
            "socket = \"b/2/pipe\"",
            "socket = \"b/2/power\"",
            28,
            "slot.pipe.socket",
        ),
    ] {
        let text = error(from, to);
        assert!(
            text.starts_with(&format!("/etc/rack.toml: line {line}: {key}: ")),
            "{to}: {text}"
        );
        assert!(text.contains("already"), "{text}");
    }
}

#[test]
fn one_slot_may_have_the_shared_address_as_its_own_but_not_two() {
    let shared = RACK.replace("listen = \"127.0.0.1:8222\"", "listen = \"127.0.0.1:8221\"");
    parse(&shared).unwrap();
    let twice = shared.replace(
        "name = \"panda01\"",
        "name = \"panda01\"\nlisten = \"127.0.0.1:8221\"",
    );
    let text = parse(&twice).unwrap_err().to_string();
    assert!(
        text.contains("slot panda01 listens there already"),
        "{text}"
    );
}

#[test]
fn a_slot_that_nobody_can_reach_is_refused() {
    let text = error("[front]\nlisten = \"127.0.0.1:8221\"\n", "");
    assert!(
        text.contains("slot.listen: panda01 cannot be reached"),
        "{text}"
    );
}

#[test]
fn names_that_are_none_are_refused() {
    for name in [
        "",
        "Panda",
        "-a",
        "a-",
        "a.b",
        "a b",
        "päd",
        &"a".repeat(64),
    ] {
        let text = error("name = \"panda01\"", &format!("name = {name:?}"));
        assert!(text.contains("line 13: slot.name: "), "{name}: {text}");
    }
    for host in ["", "a..b", "host:8221", "http://host", "a_b"] {
        let text = error("\"panda01.rack.example\"", &format!("{host:?}"));
        assert!(text.contains("line 14: slot.hosts: "), "{host}: {text}");
    }
    let long = format!("socket = {:?}", "x".repeat(120));
    let text = error("socket = \"b/2/pipe\"", &long);
    assert!(
        text.contains("slot.pipe.socket: ") && text.contains("107"),
        "{text}"
    );
}

#[test]
fn a_rack_without_slots_is_refused() {
    let (head, _) = RACK.split_once("[[slot]]").unwrap();
    let text = parse(head).unwrap_err().to_string();
    assert!(
        text.contains("slot: expected 1 to 500 [[slot]] tables, found 0"),
        "{text}"
    );
}

#[test]
fn a_network_that_no_board_could_take_is_refused() {
    for (line, key) in [
        ("address = \"10.77.0.11\"", "address"),
        ("address = \"10.77.0.11/33\"", "address"),
        ("gateway = \"gw\"", "gateway"),
        ("nameservers = [\"a\"]", "nameservers"),
        ("mac = \"02:00\"", "mac"),
    ] {
        let text = parse(&format!("{RACK}[slot.network]\n{line}\n"))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains(&format!("line 30: slot.network.{key}: expected")),
            "{text}"
        );
    }
}
