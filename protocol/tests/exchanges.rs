//! What Launchpad's manager and worker really said to each other (`fixtures/exchanges`): every
//! request is the call it should be, every answer reads, and both survive being written by us.

#![expect(clippy::disallowed_methods, reason = "fixtures are files")]
#![expect(
    clippy::expect_used,
    reason = "a fixture that is not as expected fails the test"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dxr::Value;
use panda_protocol::launchpad::xml::{
    Fault, Limits, decode_answer, decode_call, encode_answer, encode_call,
};
use panda_protocol::launchpad::{
    Abort, Aborting, Answered, BuildCall, BuildId, BuildReply, BuildStatus, Call, CallError, Clean,
    Cleaned, Dialect, Echo, Echoed, EnsurePresent, FileName, GetInfo, GetProxyInfo, GetStatus,
    Outcome, Presence, Reply, Request, Status, StatusReply, Sum,
};
use proptest::prelude::*;

/// A recorded exchange: the bodies of request and answer.
struct Exchange {
    request: String,
    answer: String,
}

/// The recorded calls, by their number; the downloads are left out.
fn recorded_calls() -> BTreeMap<String, PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/exchanges");
    let files = std::fs::read_dir(&directory).expect("fixtures/exchanges");
    files
        .map(|entry| entry.expect("a directory entry").path())
        .filter_map(|path| {
            let name = path.file_stem()?.to_str()?;
            let (number, what) = name.split_once('-')?;
            (!what.starts_with("GET")).then(|| (number.to_owned(), path.clone()))
        })
        .collect()
}

fn exchange(number: &str) -> Exchange {
    let path = &recorded_calls()[number];
    let text = std::fs::read_to_string(path).expect("a readable fixture");
    let (request, answer) = text
        .split_once("--- answer ---\n")
        .expect("request and answer");
    let body = |text: &str| {
        text.split_once("\n\n")
            .expect("headers and body")
            .1
            .to_owned()
    };
    Exchange {
        request: body(request),
        answer: body(answer),
    }
}

/// The call in a request, having checked that it survives being written by us.
fn call(number: &str) -> Result<Call, CallError> {
    let limits = Limits::default();
    let document = exchange(number).request;
    let (method, params) = decode_call(document.as_bytes(), &limits).expect("a call");
    let written = encode_call(&method, &params).expect("a writable call");
    let again = decode_call(written.as_bytes(), &limits);
    assert_eq!(again, Ok((method.clone(), params.clone())), "{number}");

    let call = Call::decode(&method, params)?;
    let (method, params) = call.encode();
    let written = encode_call(method, &params).expect("a writable call");
    let (method, params) = decode_call(written.as_bytes(), &limits).expect("a call");
    assert_eq!(Call::decode(&method, params), Ok(call.clone()), "{number}");
    Ok(call)
}

/// What was answered to a request, as its own reply, having checked that it survives being written by us.
fn answered<R: Request>(number: &str) -> Answered<R> {
    let limits = Limits::default();
    let method = call(number).expect("a call").method();
    assert_eq!(method, R::METHOD, "{number}");
    let read = || R::read_answer(exchange(number).answer.as_bytes(), &limits).expect("an answer");
    assert_eq!(read().map(Reply::encode), answer(number), "{number}");
    read()
}

/// The answer in an exchange as a value, having checked that it survives being written by us.
fn answer(number: &str) -> Result<Value, Fault> {
    let limits = Limits::default();
    let answer = decode_answer(exchange(number).answer.as_bytes(), &limits).expect("an answer");
    let written = encode_answer(&answer).expect("a writable answer");
    assert_eq!(
        decode_answer(written.as_bytes(), &limits),
        Ok(answer.clone()),
        "{number}"
    );
    answer
}

/// The status in an answer, having checked that it survives both dialects.
fn status(number: &str) -> Status {
    assert_eq!(call(number), Ok(Call::Status));
    let StatusReply { dialect, report } = answered::<GetStatus>(number).expect("no fault");
    assert_eq!(dialect, Dialect::Current);
    let y2011 = StatusReply {
        dialect: Dialect::Y2011,
        report: report.clone(),
    };
    let again = StatusReply::decode(y2011.clone().encode());
    assert_eq!(again, Ok(y2011), "{number}");
    assert_eq!(
        (report.version, report.extra),
        (None, BTreeMap::new()),
        "{number}"
    );
    report.status
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn array<const N: usize>(items: [Value; N]) -> Value {
    Value::Array(items.into())
}

fn structure<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Struct(members.map(|(name, value)| (name.to_owned(), value)).into())
}

fn build_id(text: &str) -> BuildId {
    BuildId::try_from(text.to_owned()).expect("a build id")
}

fn file_name(text: &str) -> FileName {
    FileName::try_from(text.to_owned()).expect("a file name")
}

fn sum(text: &str) -> Sum {
    Sum(text.to_owned())
}

#[test]
fn idle() {
    assert_eq!(status("001"), Status::Idle);
    assert_eq!(status("002"), Status::Idle);
}

#[test]
fn ensurepresent() {
    for (number, sha1, file, password) in [
        (
            "003",
            "4e02b6d6e8f66e63059b1bab5deeb2bbec66d027",
            "hello_1.0.dsc",
            "tok:en/1",
        ),
        (
            "004",
            "91adca077767edea0fe9106d65d182e60c3ebf1c",
            "chroot.tar",
            "",
        ),
    ] {
        let expected = EnsurePresent {
            sum: sum(sha1),
            url: Some(format!("http://librarian.example/{file}")),
            username: String::new(),
            password: password.to_owned(),
        };
        assert_eq!(call(number), Ok(Call::EnsurePresent(expected)));
        assert_eq!(
            answered::<EnsurePresent>(number),
            Ok(Presence::yes(Presence::DOWNLOAD))
        );
    }
}

#[test]
fn build() {
    let args = [
        ("arch_indep", Value::Boolean(false)),
        ("arch_tag", string("armhf")),
        ("archive_private", Value::Boolean(false)),
        ("archive_purpose", string("PPA")),
        ("archives", array([])),
        ("build_debug_symbols", Value::Boolean(false)),
        (
            "build_url",
            string("https://launchpad.test/~user/+archive/ppa/+build/1"),
        ),
        ("builder_constraints", array([])),
        ("fast_cleanup", Value::Boolean(false)),
        ("image_type", string("chroot")),
        ("launchpad_instance", string("devel")),
        ("launchpad_server_url", string("launchpad.test")),
        ("ogrecomponent", string("main")),
        ("series", string("noble")),
        ("suite", string("noble")),
        ("trusted_keys", array([])),
    ];
    let args: BTreeMap<_, _> = args.map(|(name, value)| (name.to_owned(), value)).into();
    for (number, id) in [("005", "PACKAGEBUILD-1"), ("018", "PACKAGEBUILD-2")] {
        let dsc = sum("4e02b6d6e8f66e63059b1bab5deeb2bbec66d027");
        let expected = BuildCall {
            build_id: build_id(id),
            build_type: "binarypackage".to_owned(),
            chroot: sum("91adca077767edea0fe9106d65d182e60c3ebf1c"),
            filemap: [(file_name("hello_1.0.dsc"), dsc)].into(),
            args: args.clone(),
        };
        assert_eq!(
            call(number),
            Ok(Call::Build(Box::new(expected))),
            "{number}"
        );
        assert_eq!(
            answered::<BuildCall>(number),
            Ok(BuildReply::Building {
                build_id: build_id(id)
            })
        );
    }
}

#[test]
fn building() {
    for (number, last_line) in [
        ("006", "compiling step 1 of build PACKAGEBUILD-1\n"),
        ("007", "compiling step 3 of build PACKAGEBUILD-1\n"),
    ] {
        let Status::Building {
            build_id: id,
            logtail,
        } = status(number)
        else {
            panic!("{number} is not BUILDING");
        };
        assert_eq!(id, build_id("PACKAGEBUILD-1"));
        let logtail = String::from_utf8(logtail).expect("UTF-8");
        assert!(logtail.starts_with("https://launchpad.test/~user/+archive/ppa/+build/1\n[Sun"));
        assert!(logtail.ends_with(last_line), "{logtail}");
    }
}

#[test]
fn waiting() {
    let files = [
        (
            "hello_1.0_armhf.changes",
            "8ac5eec6b0a0b5e6eb5289572d0b39449bc91c9d",
        ),
        (
            "hello_1.0_armhf.deb",
            "6a1a7ffea3bc20d2551c73f760fa098de5164a9a",
        ),
    ];
    let outcome = Outcome {
        build_status: BuildStatus::Ok,
        filemap: files
            .map(|(name, sum)| (file_name(name), sum.parse().expect("a SHA-1")))
            .into(),
        dependencies: String::new(),
    };
    let expected = Status::Waiting {
        build_id: build_id("PACKAGEBUILD-1"),
        outcome,
    };
    assert_eq!(status("009"), expected);
    assert_eq!(status("013"), expected);
}

#[test]
fn abort_and_clean() {
    assert_eq!(answered::<Clean>("014"), Ok(Cleaned));
    assert_eq!(answered::<Abort>("022"), Ok(Aborting));
    assert_eq!(answered::<Clean>("026"), Ok(Cleaned));
}

#[test]
fn info() {
    let info = answered::<GetInfo>("045").expect("no fault");
    assert_eq!(
        (info.version.as_str(), info.arch.as_str()),
        ("1.0", "armhf")
    );
    let types = info.build_types;
    assert_eq!((types.len(), types[0].as_str()), (10, "binarypackage"));
}

#[test]
fn echo() {
    let every_type = vec![
        Value::Integer(1),
        Value::Boolean(true),
        Value::Nil,
        Value::Double(1.5),
        Value::Base64(vec![0x00, 0xff]),
        structure([(
            "a",
            array([Value::Integer(1), structure([("b", Value::Nil)])]),
        )]),
    ];
    for (number, values) in [("046", vec![string("ping")]), ("047", every_type)] {
        assert_eq!(call(number), Ok(Call::Echo(values.clone())));
        assert_eq!(answered::<Echo>(number), Ok(Echoed(values)));
    }
}

#[test]
fn faults() {
    let error = Fault {
        code: 8002,
        text: "error".to_owned(),
    };
    assert_eq!(answered::<Abort>("049"), Err(error.clone()));
    assert_eq!(answered::<GetProxyInfo>("051"), Err(error));
    // Ours for an unknown method is the reference's own, word for word.
    let unknown = call("050").expect_err("no such method");
    assert_eq!(answer("050"), Err(unknown.fault()));
}

#[test]
fn build_of_an_unknown_type() {
    let expected = BuildCall {
        build_id: build_id("x"),
        build_type: "nosuch".to_owned(),
        chroot: sum("aa"),
        filemap: BTreeMap::new(),
        args: BTreeMap::new(),
    };
    assert_eq!(call("052"), Ok(Call::Build(Box::new(expected))));
    let Ok(BuildReply::UnknownBuilder(info)) = answered::<BuildCall>("052") else {
        panic!("not UNKNOWNBUILDER")
    };
    assert!(info.starts_with("nosuch not in ['binarypackage'"), "{info}");
}

#[test]
fn every_recorded_call_and_answer_reads() {
    let recorded = recorded_calls();
    assert_eq!(recorded.len(), 20);
    for number in recorded.keys() {
        assert_eq!(call(number).is_err(), number == "050", "{number}");
        let fault = ["049", "050", "051"].contains(&number.as_str());
        assert_eq!(answer(number).is_err(), fault, "{number}");
    }
}

/// Where the order of members is not at stake, what we write is what the reference wrote.
#[test]
fn answers_are_written_byte_for_byte_as_the_reference_writes_them() {
    for number in [
        "001", "003", "005", "014", "022", "045", "046", "047", "049", "050", "052",
    ] {
        let written = encode_answer(&answer(number)).expect("a writable answer");
        assert_eq!(
            written.trim_end(),
            exchange(number).answer.trim_end(),
            "{number}"
        );
    }
}

proptest! {
    /// Documents that differ in a few places from real ones: the likeliest to find a way that
    /// neither well-formed nor senseless ones take.
    #[test]
    fn a_damaged_document_is_read_or_refused(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..4usize, "[ -~]{0,3}|<!--|-->|</|/>|<!\\[CDATA\\[|]]>|&#|\u{0}"), 1..4),
    ) {
        let numbers: Vec<String> = recorded_calls().into_keys().collect();
        let Exchange { mut request, mut answer } = exchange(&numbers[which.index(numbers.len())]);
        for (place, length, text) in damage {
            for document in [&mut request, &mut answer] {
                let from = place.index(document.len());
                let to = (from + length).min(document.len());
                document.replace_range(from..to, &text);
            }
        }
        let limits = Limits::default();
        if let Ok((method, params)) = decode_call(request.as_bytes(), &limits) {
            let written = encode_call(&method, &params).expect("what was read can be written");
            let again = decode_call(written.as_bytes(), &limits);
            prop_assert_eq!(again, Ok((method.clone(), params.clone())));
            if let Ok(call) = Call::decode(&method, params) {
                let (method, params) = call.encode();
                prop_assert_eq!(Call::decode(method, params), Ok(call));
            }
        }
        if let Ok(answer) = decode_answer(answer.as_bytes(), &limits) {
            let written = encode_answer(&answer).expect("what was read can be written");
            prop_assert_eq!(decode_answer(written.as_bytes(), &limits), Ok(answer.clone()));
            if let Ok(Ok(status)) = answer.map(StatusReply::decode) {
                prop_assert_eq!(StatusReply::decode(status.clone().encode()), Ok(status));
            }
        }
    }
}
