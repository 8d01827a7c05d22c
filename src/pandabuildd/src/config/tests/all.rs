//! A file with several mistakes: all are told, in the order of their lines.

use super::*;

/// What is told of `text`, without the file: `line N: key: …`.
fn told(text: &str) -> Vec<String> {
    let ConfigError::Wrong(problems) = parse(text).unwrap_err() else {
        panic!("the file itself is right")
    };
    let told = problems.to_string();
    let told = told.lines().map(|line| {
        let rest = line.strip_prefix("/etc/rack.toml: ");
        rest.expect("each line names the file").to_owned()
    });
    told.collect()
}

#[test]
fn six_mistakes_of_different_rooms_are_told_at_once_in_the_order_of_their_lines() {
    let text = RACK
        .replace("name = \"rack1\"", "name = \"rack1\"\nlink_mbit_per_s = 0")
        .replace(
            "[depot]",
            "[boot]\npower_ms = 0\nrom_windows_ms = 7\n\n[depot]",
        )
        .replace(
            "name = \"panda02\"",
            "name = \"panda01\"\nconsole = { driver = \"tcp\", address = \"here\" }",
        )
        .replace("socket = \"b/2/power\"", "socket = \"b/1/power\"")
        .replace(
            "[slot.pipe]\ndriver = \"twin\"",
            "[slot.pipe]\ndriver = \"usb2\"",
        );
    let told = told(&text);
    let wanted = [
        "line 3: rack.link_mbit_per_s: expected 1 to 1000000, got 0",
        "line 12: boot.rom_windows_ms: unknown field `rom_windows_ms`, expected one of",
        "line 11: boot.power_ms: expected 1 to 3600000 milliseconds, got 0",
        "line 25: slot.name: \"panda01\": slot panda01 has it already",
        "line 26: slot.console.address: invalid socket address syntax; expected IP:PORT",
        "line 31: slot.power.socket: \"b/1/power\": slot panda01 has it already",
        "line 33: slot.pipe.driver: \"usb2\": expected one of [\"twin\", \"usb\"]",
    ];
    assert_eq!(told.len(), wanted.len(), "{told:#?}");
    for wanted in wanted {
        let found = told.iter().any(|line| line.starts_with(wanted));
        assert!(found, "{wanted}: {told:#?}");
    }
    let line = |told: &String| {
        let (line, _) = told["line ".len()..].split_once(':').unwrap();
        line.parse::<usize>().unwrap()
    };
    assert!(told.is_sorted_by_key(line), "{told:#?}");
}

#[test]
fn every_mistake_of_one_drivers_table_is_told() {
    let text = RACK.replace(
        "driver = \"twin\"\nsocket = \"b/2/power\"",
        "driver = \"proxr-tcp\"\naddress = \"10.0.0.5\"\nrelay = 9\npause_ms = 70000\nanswer = 1",
    );
    assert_eq!(
        told(&text),
        [
            "line 26: slot.power.relay: relay 9 does not exist; a bank's relays are 1 to 8",
            "line 27: slot.power.pause_ms: expected 0 to 60000 milliseconds, got 70000",
            "line 28: slot.power.answer: unknown field `answer`, expected one of `address`, `bank`, `relay`, \
             `normally_closed`, `connect_ms`, `answer_ms`, `pause_ms`",
        ]
    );
}

#[test]
fn every_line_that_is_no_toml_is_told_and_nothing_is_guessed_of_the_rest() {
    let text = RACK
        .replace("name = \"rack1\"", "name = rack1")
        .replace("[depot]", "[depot");
    let told = told(&text);
    assert!(told.len() >= 2, "{told:#?}");
    assert!(told[0].starts_with("line 2: "), "{told:#?}");
    assert!(
        told.iter().any(|line| line.starts_with("line 9: ")),
        "{told:#?}"
    );
    assert!(
        !told.iter().any(|line| line.contains("missing")),
        "{told:#?}"
    );
}

#[test]
fn what_could_not_be_read_is_not_missed_as_well() {
    let text = RACK
        .replace("link = \"127.0.0.1:8401\"", "link = 8401")
        .replace(
            "[front]\nlisten = \"127.0.0.1:8221\"",
            "[front]\nlisten = 8221",
        );
    let told = told(&text);
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].starts_with("line 7: front.listen: "), "{told:#?}");
    assert!(told[1].starts_with("line 15: slot.link: "), "{told:#?}");
}

#[test]
fn a_table_that_there_is_not_and_one_that_must_be_there_are_both_told() {
    let text = RACK.replace("[depot]", "[dept]");
    assert_eq!(
        told(&text),
        [
            "line 1: depot: missing; expected a table [depot]",
            "line 9: dept: unknown field `dept`, expected one of `rack`, `front`, `depot`, `filecache`, `boot`, `guest`, \
             `slot_task`, `operators`, `webservice`, `slot`",
        ]
    );
}
