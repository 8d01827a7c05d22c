//! Each method's arguments, right and wrong, and round trips of any call.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::launchpad::status::MAX_TEXT;
use crate::launchpad::{Sum, testing};

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

/// `value` is refused as a reply of `R`, for this reason.
#[track_caller]
fn refused<R: Reply + std::fmt::Debug>(value: Value, problem: &str) {
    assert_eq!(R::decode(value).unwrap_err().0, problem);
}

fn array_of<const N: usize>(items: [Value; N]) -> Value {
    Value::Array(items.into())
}

#[test]
fn a_reply_of_another_shape_is_refused_and_the_reason_quotes_nothing_of_it() {
    let secret = || string("s3cret");
    refused::<Echoed>(secret(), "not an array");
    refused::<Info>(array_of([secret(), secret()]), "not an array of three");
    refused::<Info>(
        array_of([secret(), secret(), secret()]),
        "its build types are not an array",
    );
    refused::<Info>(
        array_of([secret(), Value::Nil, array_of([])]),
        "holds something else than texts",
    );
    refused::<Presence>(array_of([secret()]), "not an array of two");
    refused::<Presence>(
        array_of([secret(), secret()]),
        "does not say by a boolean whether the file is there",
    );
    refused::<BuildReply>(
        array_of([Value::Nil, secret()]),
        "does not begin with a status",
    );
    refused::<BuildReply>(array_of([secret(), secret()]), "an unknown status");
    refused::<BuildReply>(
        array_of([string("BuilderStatus.BUILDING"), string("")]),
        "an empty build_id",
    );
    refused::<BuildReply>(
        array_of([string("BuilderStatus.UNKNOWNSUM"), Value::Nil]),
        "says nothing beside its status",
    );
    refused::<Aborting>(string("BuilderStatus.IDLE"), "not BuilderStatus.ABORTING");
    refused::<Cleaned>(string("BuilderStatus.ABORTING"), "not BuilderStatus.IDLE");
    refused::<ProxyInfo>(secret(), "not a struct");
    refused::<StatusReply>(secret(), "neither a struct nor an array");
    // The 2011 array is no answer to the call that asks for the struct.
    let idle = array_of([string("BuilderStatus.IDLE"), string("")]);
    assert_eq!(
        StatusReply::decode(idle.clone()).unwrap().dialect,
        crate::launchpad::Dialect::Y2011
    );
    refused::<crate::launchpad::StatusReport>(idle, "not a struct");
}

#[test]
fn a_document_that_answers_something_else_names_the_method_and_nothing_of_itself() {
    let limits = Limits::default();
    let text = xml::encode_answer(&Ok(string("s3cret"))).unwrap();
    let error = Clean::read_answer(text.as_bytes(), &limits).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid answer to clean: not BuilderStatus.IDLE"
    );
    let error = Clean::read_answer(b"<s3cret/>", &limits).unwrap_err();
    assert!(matches!(error, AnswerError::Xml(_)));
    assert!(!format!("{error} {error:?}").contains("s3cret"));
}

#[test]
fn what_is_said_to_people_is_cut_and_can_always_be_written() {
    let text = format!("a\u{1}b\n{}", "x".repeat(1000));
    let written = |reply: Value| xml::encode_answer(&Ok(reply));
    assert!(written(Presence::no(text.clone()).encode()).is_ok());
    assert!(written(BuildReply::UnknownSum(text.clone()).encode()).is_ok());
    assert!(written(Info::new(&text, vec![text.clone()]).encode()).is_ok());
    let value = array_of([Value::Boolean(false), string(&text)]);
    let heard = Presence::decode(value).unwrap().info;
    assert!(heard.starts_with("a b xxx"), "{heard}");
    assert_eq!(heard.chars().count(), 500);
    // A caller's own text is said back without what could break a line.
    let missing = [
        (Needed::Chroot, Sum("a\na".to_owned())),
        (Needed::File, Sum("b".repeat(200))),
    ];
    let expected = format!("CHROOTSUM -> aa, FILESUM -> {}", "b".repeat(100));
    assert_eq!(
        BuildReply::unknown_sums(&missing),
        BuildReply::UnknownSum(expected)
    );
}

proptest! {
    /// What a builder says is what its caller hears.
    #[test]
    fn replies_survive_being_said(
        values in vec(testing::value(), 0..4),
        fields in btree_map(testing::text(), testing::value(), 0..4),
        build_id in testing::build_id(),
        present in any::<bool>(),
        info in "[ -~]{0,500}",
    ) {
        let reply = Echoed(values);
        prop_assert_eq!(Echoed::decode(reply.clone().encode()), Ok(reply));
        let reply = ProxyInfo(fields);
        prop_assert_eq!(ProxyInfo::decode(reply.clone().encode()), Ok(reply));
        let reply = Presence { present, info: info.clone() };
        prop_assert_eq!(Presence::decode(reply.clone().encode()), Ok(reply));
        let reply = Info::new(&info, vec![info.clone(); 3]);
        prop_assert_eq!(Info::decode(reply.clone().encode()), Ok(reply));
        for reply in [
            BuildReply::Building { build_id },
            BuildReply::UnknownBuilder(info.clone()),
            BuildReply::UnknownSum(info),
        ] {
            prop_assert_eq!(BuildReply::decode(reply.clone().encode()), Ok(reply));
        }
    }
}
