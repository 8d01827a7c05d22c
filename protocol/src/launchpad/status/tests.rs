//! Statuses both ways in both dialects, and what a hostile board may say.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::digest::Sha1;
use crate::launchpad::testing;
use crate::launchpad::xml::encode_answer;

const SUM: &str = "8ac5eec6b0a0b5e6eb5289572d0b39449bc91c9d";

fn structure<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Struct(members.map(|(name, value)| (name.to_owned(), value)).into())
}

fn array<const N: usize>(items: [Value; N]) -> Value {
    Value::Array(items.into())
}

fn id(text: &str) -> BuildId {
    BuildId::try_from(text.to_owned()).unwrap()
}

fn refusal(value: &Value) -> &'static str {
    StatusReport::from_value(value).unwrap_err().0
}

/// One of each status, with what it is in today's dialect and in 2011's.
fn table() -> Vec<(Status, Value, Value)> {
    let changes = FileName::try_from("hello_1.0_armhf.changes".to_owned()).unwrap();
    let filemap = FileMap::from([(changes, SUM.parse().unwrap())]);
    let files = structure([("hello_1.0_armhf.changes", string(SUM))]);
    vec![
        (
            Status::Idle,
            structure([("builder_status", string("BuilderStatus.IDLE"))]),
            array([string("BuilderStatus.IDLE"), string("")]),
        ),
        (
            Status::Building {
                build_id: id("PACKAGEBUILD-1"),
                logtail: b"a\n\xff".to_vec(),
            },
            structure([
                ("builder_status", string("BuilderStatus.BUILDING")),
                ("build_id", string("PACKAGEBUILD-1")),
                ("logtail", Value::Base64(b"a\n\xff".to_vec())),
            ]),
            array([
                string("BuilderStatus.BUILDING"),
                string("PACKAGEBUILD-1"),
                Value::Base64(b"a\n\xff".to_vec()),
            ]),
        ),
        (
            Status::Aborting {
                build_id: Some(id("PACKAGEBUILD-1")),
            },
            structure([
                ("builder_status", string("BuilderStatus.ABORTING")),
                ("build_id", string("PACKAGEBUILD-1")),
            ]),
            array([string("BuilderStatus.ABORTING"), string("PACKAGEBUILD-1")]),
        ),
        (
            Status::Aborting { build_id: None },
            structure([
                ("builder_status", string("BuilderStatus.ABORTING")),
                ("build_id", string("")),
            ]),
            array([string("BuilderStatus.ABORTING"), string("")]),
        ),
        (
            Status::Waiting {
                build_id: id("PACKAGEBUILD-1"),
                outcome: Outcome {
                    build_status: BuildStatus::Ok,
                    filemap,
                    dependencies: String::new(),
                },
            },
            structure([
                ("builder_status", string("BuilderStatus.WAITING")),
                ("build_status", string("BuildStatus.OK")),
                ("build_id", string("PACKAGEBUILD-1")),
                ("filemap", files.clone()),
                ("dependencies", string("")),
            ]),
            array([
                string("BuilderStatus.WAITING"),
                string("BuildStatus.OK"),
                string("PACKAGEBUILD-1"),
                files,
                string(""),
            ]),
        ),
        (
            Status::Waiting {
                build_id: id("PACKAGEBUILD-1"),
                outcome: Outcome {
                    build_status: BuildStatus::DepFail,
                    filemap: FileMap::new(),
                    dependencies: "libfoo (>= 2)".to_owned(),
                },
            },
            structure([
                ("builder_status", string("BuilderStatus.WAITING")),
                ("build_status", string("BuildStatus.DEPFAIL")),
                ("build_id", string("PACKAGEBUILD-1")),
                ("filemap", structure([])),
                ("dependencies", string("libfoo (>= 2)")),
            ]),
            array([
                string("BuilderStatus.WAITING"),
                string("BuildStatus.DEPFAIL"),
                string("PACKAGEBUILD-1"),
                structure([]),
                string("libfoo (>= 2)"),
            ]),
        ),
        (
            Status::Waiting {
                build_id: id("PACKAGEBUILD-1"),
                outcome: Outcome::bare(BuildStatus::ChrootFail),
            },
            structure([
                ("builder_status", string("BuilderStatus.WAITING")),
                ("build_status", string("BuildStatus.CHROOTFAIL")),
                ("build_id", string("PACKAGEBUILD-1")),
            ]),
            array([
                string("BuilderStatus.WAITING"),
                string("BuildStatus.CHROOTFAIL"),
                string("PACKAGEBUILD-1"),
            ]),
        ),
    ]
}

#[test]
fn each_status_has_its_form_in_each_dialect() {
    for (status, current, y2011) in table() {
        let report = StatusReport::bare(status);
        assert_eq!(report.to_value(Dialect::Current), current);
        assert_eq!(report.to_value(Dialect::Y2011), y2011);
        assert_eq!(StatusReport::from_value(&current), Ok(report.clone()));
        assert_eq!(StatusReport::from_value(&y2011), Ok(report));
    }
}

#[test]
fn aborted_is_2011_s_and_waiting_today() {
    let report = StatusReport::bare(Status::Aborted { build_id: id("x") });
    let y2011 = array([string("BuilderStatus.ABORTED"), string("x")]);
    assert_eq!(report.to_value(Dialect::Y2011), y2011);
    assert_eq!(StatusReport::from_value(&y2011), Ok(report.clone()));
    assert_eq!(
        report.to_value(Dialect::Current),
        structure([
            ("builder_status", string("BuilderStatus.WAITING")),
            ("build_status", string("BuildStatus.ABORTED")),
            ("build_id", string("x")),
        ])
    );
    let told = structure([
        ("builder_status", string("BuilderStatus.ABORTED")),
        ("build_id", string("x")),
    ]);
    assert_eq!(refusal(&told), "unknown builder_status");
}

#[test]
fn version_and_extra_fields_pass_and_never_override() {
    let told = structure([
        ("builder_status", string("BuilderStatus.IDLE")),
        ("builder_version", string("254")),
        ("revocation_endpoint", string("http://x/")),
        ("build_id", string("a lie")),
        ("filemap", string("a lie")),
    ]);
    let report = StatusReport::from_value(&told).unwrap();
    assert_eq!(report.version.as_deref(), Some("254"));
    assert_eq!(
        report.extra,
        BTreeMap::from([("revocation_endpoint".to_owned(), string("http://x/"))])
    );

    let extra = PROTOCOL_FIELDS
        .map(|name| (name.to_owned(), string("a lie")))
        .into();
    for (status, current, _) in table() {
        let lying = StatusReport {
            version: None,
            status,
            extra: BTreeMap::clone(&extra),
        };
        assert_eq!(lying.to_value(Dialect::Current), current);
    }
}

#[test]
fn control_characters_in_texts_do_not_keep_a_status_from_being_told() {
    let outcome = Outcome {
        build_status: BuildStatus::DepFail,
        filemap: FileMap::new(),
        dependencies: "\u{1b}[1mlibfoo\0".to_owned(),
    };
    let report = StatusReport {
        version: Some("1\u{8}".to_owned()),
        ..StatusReport::bare(Status::Waiting {
            build_id: id("x"),
            outcome,
        })
    };
    for dialect in [Dialect::Current, Dialect::Y2011] {
        let document = encode_answer(&Ok(report.to_value(dialect))).unwrap();
        assert!(
            document.contains("<string>\u{fffd}[1mlibfoo\u{fffd}</string>"),
            "{document}"
        );
    }
}

#[test]
fn a_log_tail_may_be_text() {
    let building = Status::Building {
        build_id: id("x"),
        logtail: "é\n".into(),
    };
    for told in [
        structure([
            ("builder_status", string("BuilderStatus.BUILDING")),
            ("build_id", string("x")),
            ("logtail", string("é\n")),
        ]),
        array([string("BuilderStatus.BUILDING"), string("x"), string("é\n")]),
    ] {
        assert_eq!(StatusReport::from_value(&told).unwrap().status, building);
    }
}

#[test]
fn a_status_that_lacks_a_field_is_refused() {
    for (_, current, y2011) in table() {
        let (Value::Struct(fields), Value::Array(items)) = (current, y2011) else {
            panic!("forms")
        };
        for name in fields.keys() {
            let mut fewer = fields.clone();
            fewer.remove(name);
            assert!(
                StatusReport::from_value(&Value::Struct(fewer)).is_err(),
                "without {name}"
            );
        }
        if items[0] != string("BuilderStatus.IDLE") {
            let fewer = Value::Array(items[..items.len() - 1].to_vec());
            assert!(StatusReport::from_value(&fewer).is_err(), "{fewer:?}");
            let more = Value::Array([items, vec![string("")]].concat());
            assert!(StatusReport::from_value(&more).is_err(), "{more:?}");
        }
    }
}

#[test]
fn what_is_no_status_is_refused() {
    assert_eq!(refusal(&Value::Nil), "neither a struct nor an array");
    assert_eq!(refusal(&array([])), "an array of the wrong length");
    assert_eq!(
        refusal(&array([Value::Nil])),
        "a field that should be a string is none"
    );
    assert_eq!(
        refusal(&array([string("BuilderStatus.SLEEPING")])),
        "unknown builder status"
    );
    assert_eq!(refusal(&structure([])), "no builder_status");
    let empty_id = array([string("BuilderStatus.BUILDING"), string(""), string("")]);
    assert_eq!(refusal(&empty_id), "an empty build_id");
    let ok = array([string("BuilderStatus.WAITING"), string("OK"), string("x")]);
    assert_eq!(refusal(&ok), "unknown build_status");
}

fn waiting(filemap: Value, dependencies: Value) -> Value {
    array([
        string("BuilderStatus.WAITING"),
        string("BuildStatus.OK"),
        string("x"),
        filemap,
        dependencies,
    ])
}

#[test]
fn hostile_results_are_refused() {
    for name in [
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        "a\0",
        &"x".repeat(256),
    ] {
        assert_eq!(
            refusal(&waiting(structure([(name, string(SUM))]), string(""))),
            "filemap holds a name that is not a plain file name"
        );
    }
    for sum in ["", "x", "../../etc/passwd", &SUM.to_uppercase(), &SUM[1..]] {
        assert_eq!(
            refusal(&waiting(structure([("a", string(sum))]), string(""))),
            "filemap holds a sum that is not a SHA-1"
        );
    }
    assert_eq!(
        refusal(&waiting(array([]), string(""))),
        "filemap is not a struct"
    );
    let nil = StatusReport::from_value(&waiting(structure([]), Value::Nil)).unwrap();
    assert_eq!(
        nil,
        StatusReport::from_value(&waiting(structure([]), string(""))).unwrap()
    );
}

#[test]
fn sizes_are_bounded() {
    let files = |count: usize| {
        Value::Struct(
            (0..count)
                .map(|number| (number.to_string(), string(SUM)))
                .collect(),
        )
    };
    assert!(StatusReport::from_value(&waiting(files(MAX_FILES), string(""))).is_ok());
    assert_eq!(
        refusal(&waiting(files(MAX_FILES + 1), string(""))),
        "a filemap of more than 10,000 files"
    );

    let building = |id: usize, tail: Value| {
        array([
            string("BuilderStatus.BUILDING"),
            string(&"x".repeat(id)),
            tail,
        ])
    };
    let long = "a text of more than 64 KiB";
    let full = string(&"x".repeat(MAX_TEXT));
    let over = string(&"x".repeat(MAX_TEXT + 1));
    assert!(StatusReport::from_value(&building(MAX_TEXT, full.clone())).is_ok());
    assert_eq!(refusal(&building(MAX_TEXT + 1, string(""))), long);
    assert_eq!(refusal(&building(1, over.clone())), long);
    assert!(StatusReport::from_value(&building(1, Value::Base64(vec![0; MAX_TEXT]))).is_ok());
    assert_eq!(
        refusal(&building(1, Value::Base64(vec![0; MAX_TEXT + 1]))),
        "a logtail of more than 64 KiB"
    );
    assert!(StatusReport::from_value(&waiting(structure([]), full)).is_ok());
    assert_eq!(refusal(&waiting(structure([]), over.clone())), long);
    let version = structure([
        ("builder_status", string("BuilderStatus.IDLE")),
        ("builder_version", over),
    ]);
    assert_eq!(refusal(&version), long);
}

#[test]
fn build_statuses_are_read_as_they_are_written() {
    for status in BuildStatus::ALL {
        assert_eq!(status.to_string().parse(), Ok(status));
    }
    for text in [
        "",
        "OK",
        "BuildStatus.",
        "BuildStatus.ok",
        "BuildStatus.OK ",
        "BuilderStatus.OK",
    ] {
        assert_eq!(text.parse::<BuildStatus>(), Err(BadBuildStatus));
    }
}

fn status() -> impl Strategy<Value = Status> {
    let outcome = (
        prop::sample::select(BuildStatus::ALL.to_vec()),
        testing::file_map(),
        testing::text(),
    )
        .prop_map(|(build_status, filemap, dependencies)| {
            if build_status.has_results() {
                Outcome {
                    build_status,
                    filemap,
                    dependencies,
                }
            } else {
                Outcome::bare(build_status)
            }
        });
    prop_oneof![
        Just(Status::Idle),
        (testing::build_id(), vec(any::<u8>(), 0..3000))
            .prop_map(|(build_id, logtail)| Status::Building { build_id, logtail }),
        prop::option::of(testing::build_id()).prop_map(|build_id| Status::Aborting { build_id }),
        (testing::build_id(), outcome)
            .prop_map(|(build_id, outcome)| Status::Waiting { build_id, outcome }),
    ]
}

fn report() -> impl Strategy<Value = StatusReport> {
    let extra = btree_map(testing::text(), testing::value(), 0..4).prop_map(|mut extra| {
        extra.retain(|name, _| !PROTOCOL_FIELDS.contains(&name.as_str()));
        extra
    });
    (prop::option::of(testing::text()), status(), extra).prop_map(|(version, status, extra)| {
        StatusReport {
            version,
            status,
            extra,
        }
    })
}

proptest! {
    #[test]
    fn any_report_survives_today_s_dialect(report in report()) {
        prop_assert_eq!(StatusReport::from_value(&report.to_value(Dialect::Current)), Ok(report));
    }

    #[test]
    fn any_status_survives_2011_s_dialect(report in report()) {
        let told = report.to_value(Dialect::Y2011);
        prop_assert_eq!(StatusReport::from_value(&told), Ok(StatusReport::bare(report.status)));
    }

    #[test]
    fn any_value_is_a_status_or_is_refused(value in testing::value()) {
        if let Ok(report) = StatusReport::from_value(&value) {
            prop_assert!(StatusReport::from_value(&report.to_value(Dialect::Current)).is_ok());
        }
    }

    #[test]
    fn any_sum_in_a_filemap_is_the_digest_it_says(bytes in any::<[u8; 20]>()) {
        let sum = Sha1::from_bytes(bytes);
        let told = waiting(structure([("a", string(&sum.to_string()))]), string(""));
        let Status::Waiting { outcome, .. } = StatusReport::from_value(&told).unwrap().status else { panic!("waiting") };
        prop_assert_eq!(outcome.filemap.into_values().collect::<Vec<_>>(), vec![sum]);
    }
}
