//! Every request is read as it is written, and nothing else is read.

use super::*;
use crate::ids::BootNo;
use crate::operators::console::Place;

fn sent(request: &impl Request) -> Result<Operation, Problem> {
    decode(request_method(request), &request.target(), &request.body())
}

fn request_method<R: Request>(_: &R) -> &'static str {
    R::METHOD.as_str()
}

#[test]
fn every_request_is_read_as_it_is_written() {
    let slot = || "panda01".to_owned();
    assert_eq!(sent(&GetVersion).unwrap(), Operation::Version(GetVersion));
    for fresh_within_seconds in [None, Some(60)] {
        let request = GetSlots {
            fresh_within_seconds,
        };
        assert_eq!(sent(&request).unwrap(), Operation::Slots(request));
    }
    for name in ["panda01", "a/b", "a b?c#%d", "..", "pand\u{e4}\n"] {
        let request = GetSlot { slot: name.into() };
        assert_eq!(sent(&request).unwrap(), Operation::Slot(request));
    }
    for slot in [None, Some(slot())] {
        let request = GetBoots { slot, limit: 7 };
        assert_eq!(sent(&request).unwrap(), Operation::Boots(request));
    }
    let place = Place {
        boot: BootNo::new(12),
        part: 1,
        offset: 345,
    };
    for (boot, from, wait_seconds) in [
        (None, None, None),
        (Some(BootNo::new(12)), Some(place), Some(30)),
    ] {
        let slot = slot();
        let request = ReadConsole {
            slot,
            boot,
            from,
            wait_seconds,
        };
        assert_eq!(sent(&request).unwrap(), Operation::ReadConsole(request));
    }
    let request = TypeKeys {
        slot: slot(),
        keys: (0..=255).collect(),
    };
    assert_eq!(sent(&request).unwrap(), Operation::TypeKeys(request));
    for (force, wait_seconds) in [(false, None), (true, Some(600))] {
        let request = Reset {
            slot: slot(),
            force,
            wait_seconds,
        };
        assert_eq!(sent(&request).unwrap(), Operation::Reset(request));
    }
    let request = Hold {
        slot: slot(),
        reason: "new supply".into(),
    };
    assert_eq!(sent(&request).unwrap(), Operation::Hold(request));
    for wait_seconds in [None, Some(3600)] {
        let request = Drain {
            slot: slot(),
            reason: "new supply".into(),
            wait_seconds,
        };
        assert_eq!(sent(&request).unwrap(), Operation::Drain(request));
    }
    let request = Release { slot: slot() };
    assert_eq!(sent(&request).unwrap(), Operation::Release(request));
    for wait_ms in [None, Some(25_000)] {
        let request = LaunchpadReset {
            name: "PANDA01.rack1.example\n".into(),
            wait_ms,
        };
        assert_eq!(sent(&request).unwrap(), Operation::LaunchpadReset(request));
    }
    let request = RecordRefusal {
        from: "192.0.2.1 1234".into(),
        command: "id\n".into(),
    };
    assert_eq!(sent(&request).unwrap(), Operation::RecordRefusal(request));
}

#[test]
fn what_is_sent_stands_as_the_document_shows_it() {
    let reset = Reset {
        slot: "panda01".into(),
        force: false,
        wait_seconds: Some(600),
    };
    assert_eq!(reset.target(), "/v1/slots/panda01/reset");
    assert_eq!(reset.body(), br#"{"force":false,"wait_seconds":600}"#);
    let boots = GetBoots {
        slot: Some("panda01".into()),
        limit: 20,
    };
    assert_eq!(boots.target(), "/v1/slots/panda01/boots?limit=20");
}

fn kind(method: &str, target: &str, body: &str) -> (ProblemKind, String) {
    let problem = decode(method, target, body.as_bytes()).unwrap_err();
    assert_eq!(problem.status, problem.kind.status());
    (problem.kind, problem.detail)
}

#[test]
fn other_paths_versions_and_methods_are_refused_with_what_there_is() {
    for path in [
        "",
        "/",
        "*",
        "/slots",
        "/v1",
        "/v1/",
        "/v1/slots/",
        "/v1/slots//",
        "/v1/slot",
        "/V1/slots",
        "/v/slots",
        "/v1/slots/panda01/",
        "/v1/slots/panda01/format",
        "//v1/slots",
        "/v1/slots/panda01/reset/now",
        "/rpc",
    ] {
        assert_eq!(kind("GET", path, "").0, ProblemKind::NoSuchPath, "{path}");
    }
    for path in ["/v2/slots", "/v0/slots", "/v10/", "/v2"] {
        let (kind, detail) = kind("GET", path, "");
        assert_eq!(kind, ProblemKind::NoSuchVersion, "{path}");
        assert!(detail.contains("/v1/"), "{detail}");
    }
    for (method, path, allow) in [
        ("POST", "/v1/slots", "GET"),
        ("HEAD", "/v1/slots/panda01", "GET"),
        ("GET", "/v1/slots/panda01/reset", "POST"),
        ("DELETE", "/v1/slots/panda01/console", "GET,POST"),
        ("get", "/v1/version", "GET"),
    ] {
        let problem = decode(method, path, b"").unwrap_err();
        assert_eq!(
            problem.kind,
            ProblemKind::MethodNotAllowed,
            "{method} {path}"
        );
        assert_eq!(problem.allow.join(","), allow);
    }
    let long = format!("/v1/slots/{}", "x".repeat(MAX_TARGET));
    assert_eq!(kind("GET", &long, "").0, ProblemKind::UriTooLong);
}

#[test]
fn a_malformed_request_is_told_what_of_it_is_wrong() {
    let hold = "/v1/slots/panda01/hold";
    let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(501));
    for (method, target, body, named) in [
        ("GET", "/v1/slots?fresh=1", "", "\"fresh\""),
        (
            "GET",
            "/v1/slots?fresh_within_seconds=x",
            "",
            "fresh_within_seconds",
        ),
        ("GET", "/v1/slots?fresh_within_seconds=86401", "", "86400"),
        ("GET", "/v1/boots?limit=0", "", "limit: expected 1 to 1000"),
        ("GET", "/v1/boots?limit=1001", "", "limit"),
        ("GET", "/v1/boots?limit=1&limit=2", "", "twice"),
        ("GET", "/v1/slots/panda01/console?from=12", "", "from"),
        ("GET", "/v1/slots/%ff", "", "UTF-8"),
        ("GET", "/v1/slots", "{}", "no body"),
        ("POST", "/v1/slots/panda01/reset", "{", "body: EOF"),
        ("POST", "/v1/slots/panda01/reset", "[true]", "an object"),
        (
            "POST",
            "/v1/slots/panda01/reset",
            r#"{"forse":true}"#,
            "`forse`",
        ),
        (
            "POST",
            "/v1/slots/panda01/reset",
            r#"{"slot":"panda02"}"#,
            "`slot`",
        ),
        (
            "POST",
            "/v1/slots/panda01/reset",
            r#"{"force":"yes"}"#,
            "boolean",
        ),
        (
            "POST",
            "/v1/slots/panda01/reset",
            r#"{"wait_seconds":-1}"#,
            "-1",
        ),
        (
            "POST",
            "/v1/slots/panda01/reset",
            r#"{"wait_seconds":86401}"#,
            "wait_seconds",
        ),
        (
            "POST",
            "/v1/slots/panda01/reset?force=true",
            "",
            "\"force\"",
        ),
        ("POST", hold, "", "`reason`"),
        ("POST", hold, r#"{"reason":" "}"#, "reason"),
        ("POST", hold, r#"{"reason":"a\nb"}"#, "one line"),
        ("POST", hold, &long, "500"),
        ("POST", "/v1/slots/panda01/release", r#"{"now":1}"#, "`now`"),
        ("POST", "/v1/launchpad-reset", "{}", "`name`"),
        (
            "POST",
            "/v1/launchpad-reset",
            r#"{"name":"a","name":"b"}"#,
            "duplicate",
        ),
    ] {
        let (kind, detail) = kind(method, target, body);
        assert_eq!(kind, ProblemKind::Malformed, "{target} {body}");
        assert!(detail.contains(named), "{target} {body}: {detail}");
    }
    let deep = format!(r#"{{"force":{}"#, "[".repeat(60_000));
    let (deep, _) = kind("POST", "/v1/slots/panda01/reset", &deep);
    assert_eq!(deep, ProblemKind::Malformed);
}

#[test]
fn an_order_without_a_body_is_one_with_nothing_but_defaults() {
    let reset = Reset {
        slot: "panda01".into(),
        ..Reset::default()
    };
    let read = decode("POST", "/v1/slots/panda01/reset", b"").unwrap();
    assert_eq!(read, Operation::Reset(reset));
}
