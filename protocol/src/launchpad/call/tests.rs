//! Each method's arguments, right and wrong, and round trips of any call.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::launchpad::testing;

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn structure<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Struct(members.map(|(name, value)| (name.to_owned(), value)).into())
}

fn build(change: impl FnOnce(&mut [Value; 5])) -> Result<Call, CallError> {
    let mut params = [
        string("PACKAGEBUILD-1"),
        string("binarypackage"),
        string("aa"),
        structure([("hello_1.0.dsc", string("bb"))]),
        structure([("series", string("noble"))]),
    ];
    change(&mut params);
    Call::decode("build", params.into())
}

fn problem(call: Result<Call, CallError>) -> &'static str {
    match call {
        Err(CallError::Argument { argument, .. }) => argument,
        other => panic!("not an argument's error: {other:?}"),
    }
}

#[test]
fn calls_without_arguments_take_none() {
    for (method, call) in [
        ("info", Call::Info),
        ("status", Call::Status),
        ("status_dict", Call::StatusDict),
        ("abort", Call::Abort),
        ("clean", Call::Clean),
        ("proxy_info", Call::ProxyInfo),
    ] {
        assert_eq!(Call::decode(method, Vec::new()), Ok(call));
        let error = Call::decode(method, vec![Value::Nil]).unwrap_err();
        assert_eq!(
            error,
            CallError::Count {
                method,
                expected: 0,
                got: 1
            }
        );
        assert_eq!(error.fault().code, 8002);
    }
}

#[test]
fn an_unknown_method_is_named_in_its_fault() {
    let fault = Call::decode("nosuch", Vec::new()).unwrap_err().fault();
    let text = "procedure nosuch not found".to_owned();
    assert_eq!(fault, Fault { code: 8001, text });
}

#[test]
fn an_unknown_method_s_name_is_cut_and_printable() {
    let name = format!("é\n\u{1b}\u{202e}{}", "x".repeat(1000));
    let error = Call::decode(&name, Vec::new()).unwrap_err();
    assert_eq!(
        error,
        CallError::UnknownMethod(format!("é???{}", "x".repeat(96)))
    );
}

#[test]
fn ensurepresent_takes_two_to_four_arguments() {
    let decode = |params| Call::decode("ensurepresent", params);
    let bare = EnsurePresent {
        sum: Sum("aa".to_owned()),
        url: None,
        username: String::new(),
        password: String::new(),
    };
    let full = EnsurePresent {
        url: Some("http://x/".to_owned()),
        password: "tok:en/1".to_owned(),
        ..bare.clone()
    };
    assert_eq!(
        decode(vec![string("aa"), Value::Nil]),
        Ok(Call::EnsurePresent(bare.clone()))
    );
    assert_eq!(
        decode(vec![string("aa"), Value::Nil, Value::Nil, Value::Nil]),
        Ok(Call::EnsurePresent(bare))
    );
    assert_eq!(
        decode(vec![
            string("aa"),
            string("http://x/"),
            string(""),
            string("tok:en/1")
        ]),
        Ok(Call::EnsurePresent(full))
    );
    for got in [0, 1, 5] {
        assert_eq!(
            decode(vec![string("aa"); got]),
            Err(CallError::Count {
                method: "ensurepresent",
                expected: 4,
                got
            })
        );
    }
    assert_eq!(problem(decode(vec![Value::Nil, Value::Nil])), "sha1");
    assert_eq!(
        problem(decode(vec![string("aa"), Value::Integer(1)])),
        "url"
    );
    assert_eq!(
        problem(decode(vec![string("aa"), Value::Nil, Value::Boolean(true)])),
        "username"
    );
}

#[test]
fn build_arguments_are_checked() {
    assert!(build(|_| {}).is_ok());
    assert!(build(|params| params[0] = string(&"x".repeat(MAX_TEXT))).is_ok());
    assert_eq!(
        problem(build(|params| params[0] = string(&"x".repeat(MAX_TEXT + 1)))),
        "build_id"
    );
    assert_eq!(problem(build(|params| params[0] = string(""))), "build_id");
    assert_eq!(problem(build(|params| params[0] = Value::Nil)), "build_id");
    assert_eq!(
        problem(build(|params| params[1] = Value::Nil)),
        "build_type"
    );
    assert_eq!(
        problem(build(|params| params[2] = Value::Integer(1))),
        "chroot"
    );
    assert_eq!(
        problem(build(|params| params[3] = Value::Array(Vec::new()))),
        "filemap"
    );
    assert_eq!(
        problem(build(|params| params[3] = structure([("a", Value::Nil)]))),
        "filemap"
    );
    assert_eq!(problem(build(|params| params[4] = Value::Nil)), "args");
    for name in ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\0b", "a\nb"] {
        let call = build(|params| params[3] = structure([(name, string("aa"))]));
        assert_eq!(problem(call), "filemap", "{name:?}");
    }
    for got in [0, 4, 6] {
        assert_eq!(
            Call::decode("build", vec![string("x"); got]),
            Err(CallError::Count {
                method: "build",
                expected: 5,
                got
            })
        );
    }
}

#[test]
fn neither_errors_nor_debug_show_credentials() {
    let secret = "hunter2";
    let fetch = Call::decode(
        "ensurepresent",
        vec![
            string("aa"),
            string("http://hunter2@x/"),
            string(secret),
            string(secret),
        ],
    );
    let archives = structure([(
        "archives",
        Value::Array(vec![string("deb http://u:hunter2@x/ s main")]),
    )]);
    let started = build(|params| params[4] = archives.clone());
    assert!(fetch.is_ok() && started.is_ok());
    let refused = build(|params| {
        params[3] = structure([("../hunter2", string(secret))]);
        params[4] = archives.clone();
    });
    assert!(refused.is_err());
    assert!(!format!("{fetch:?} {started:?} {refused:?}").contains(secret));
}

fn call() -> impl Strategy<Value = Call> {
    let ensure = (
        testing::sum(),
        prop::option::of(testing::text()),
        testing::text(),
        testing::text(),
    );
    let build = (
        testing::build_id(),
        testing::text(),
        testing::sum(),
        btree_map(testing::file_name(), testing::sum(), 0..5),
        btree_map(testing::text(), testing::value(), 0..5),
    );
    prop_oneof![
        vec(testing::value(), 0..4).prop_map(Call::Echo),
        prop::sample::select(vec![
            Call::Info,
            Call::Status,
            Call::StatusDict,
            Call::Abort,
            Call::Clean,
            Call::ProxyInfo
        ]),
        ensure.prop_map(|(sum, url, username, password)| {
            Call::EnsurePresent(EnsurePresent {
                sum,
                url,
                username,
                password,
            })
        }),
        build.prop_map(|(build_id, build_type, chroot, filemap, args)| {
            Call::Build(Box::new(BuildCall {
                build_id,
                build_type,
                chroot,
                filemap,
                args,
            }))
        }),
    ]
}

proptest! {
    #[test]
    fn any_call_survives_encoding(call in call()) {
        let (method, params) = call.encode();
        prop_assert_eq!(Call::decode(method, params), Ok(call));
    }
}
