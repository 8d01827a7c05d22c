//! Python's `xmlrpc.client`, which Launchpad's manager and worker are built on, and we read each
//! other. Left out, with a line that says so, only where there is no `python3`.

#![expect(clippy::disallowed_types, reason = "Python is another process")]
#![expect(clippy::expect_used, reason = "whatever goes wrong fails the test")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use dxr::Value;
use panda_protocol::launchpad::xml::{
    Fault, Limits, decode_answer, decode_call, encode_answer, encode_call,
};
use panda_protocol::launchpad::{
    BuildId, BuildStatus, Dialect, FileName, Outcome, Status, StatusReport,
};

/// What `script` prints, given `input`; nothing where there is no Python.
fn python(script: &str, input: &str) -> Option<String> {
    let child = Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: no python3 here to read what we write (Debian: python3)");
            return None;
        }
        Err(error) => panic!("python3 does not start: {error}"),
    };
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("Python reads");
    drop(stdin);
    let output = child.wait_with_output().expect("Python ends");
    assert!(output.status.success(), "Python refuses:\n{input}");
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

/// Python reads an answer, a call or a fault and writes it again.
const AGAIN: &str = "
import sys, xmlrpc.client as x
sys.stdin.reconfigure(encoding='utf-8', newline='')
sys.stdout.reconfigure(encoding='utf-8', newline='')
try:
    values, method = x.loads(sys.stdin.read())
    print(x.dumps(values, method, methodresponse=method is None, allow_none=True))
except x.Fault as fault:
    print(x.dumps(fault))
";

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn structure<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Struct(members.map(|(name, value)| (name.to_owned(), value)).into())
}

/// Values of every kind that Python can write (it reads `i8` and writes none).
fn every_kind() -> Value {
    let mut values = vec![
        Value::Integer(i32::MIN),
        Value::Integer(i32::MAX),
        Value::Boolean(true),
        Value::Boolean(false),
        Value::Nil,
        Value::DateTime("20251122T09:53:30".parse().expect("a time")),
        Value::Base64(Vec::new()),
        Value::Base64((0..=255).cycle().take(1000).collect()),
        Value::Array(Vec::new()),
        Value::Struct(BTreeMap::new()),
        structure([
            (
                " a b ",
                Value::Array(vec![Value::Nil, structure([("", string(""))])]),
            ),
            ("<&>\n", Value::Nil),
        ]),
    ];
    let doubles = [
        0.0,
        -0.0,
        0.1,
        1.5,
        1e16,
        1e-7,
        1e300,
        5e-324,
        f64::MAX,
        f64::MIN_POSITIVE,
    ];
    values.extend(doubles.map(Value::Double));
    let texts = [
        "",
        " ",
        "  a  ",
        "\n",
        "\ta\t",
        "]]>",
        "<![CDATA[x]]>",
        "\"'",
        "&amp;",
        "📦é",
        "\u{85}\u{2028}\u{feff}",
    ];
    values.extend(texts.map(string));
    Value::Array(values)
}

#[test]
fn python_reads_our_answers_and_we_read_python_s() {
    let answer = Ok(every_kind());
    let written = encode_answer(&answer).expect("a writable answer");
    let Some(again) = python(AGAIN, &written) else {
        return;
    };
    assert_eq!(
        decode_answer(again.as_bytes(), &Limits::default()),
        Ok(answer)
    );
}

#[test]
fn python_reads_our_calls_and_we_read_python_s() {
    let params = vec![every_kind(), Value::Nil, string("x")];
    let written = encode_call("echo", &params).expect("a writable call");
    let Some(again) = python(AGAIN, &written) else {
        return;
    };
    let read = decode_call(again.as_bytes(), &Limits::default());
    assert_eq!(read, Ok(("echo".to_owned(), params)));
}

#[test]
fn python_reads_our_faults_and_we_read_python_s() {
    let answer = Err(Fault {
        code: 8001,
        text: "procedure <x> not found".to_owned(),
    });
    let written = encode_answer(&answer).expect("a writable answer");
    let Some(again) = python(AGAIN, &written) else {
        return;
    };
    assert_eq!(
        decode_answer(again.as_bytes(), &Limits::default()),
        Ok(answer)
    );
}

/// What Python itself cannot write back: it writes carriage returns raw, so that they are lost.
#[test]
fn python_reads_long_integers_and_carriage_returns() {
    let script = "import sys, xmlrpc.client as x; print(ascii(x.loads(sys.stdin.read())[0][0]))";
    let value = Value::Array(vec![Value::Long(i64::MIN), string("a\r\nb\r")]);
    let written = encode_answer(&Ok(value)).expect("a writable answer");
    let Some(shown) = python(script, &written) else {
        return;
    };
    assert_eq!(shown, "[-9223372036854775808, 'a\\r\\nb\\r']\n");
}

#[test]
fn python_sees_the_status_that_a_manager_wants() {
    let build_id = BuildId::try_from("PACKAGEBUILD-1".to_owned()).expect("a build id");
    let name = FileName::try_from("a.deb".to_owned()).expect("a file name");
    let sum = "8ac5eec6b0a0b5e6eb5289572d0b39449bc91c9d"
        .parse()
        .expect("a SHA-1");
    let outcome = Outcome {
        build_status: BuildStatus::Ok,
        filemap: [(name, sum)].into(),
        dependencies: String::new(),
    };
    let building = Status::Building {
        build_id: build_id.clone(),
        logtail: b"a\xff\n".to_vec(),
    };
    let waiting = Status::Waiting { build_id, outcome };
    let script = "
import json, sys, xmlrpc.client as x
value = x.loads(sys.stdin.read())[0][0]
print(json.dumps(value, sort_keys=True, default=lambda binary: binary.data.hex()))
";
    for (status, dialect, shown) in [
        (
            building.clone(),
            Dialect::Current,
            r#"{"build_id": "PACKAGEBUILD-1", "builder_status": "BuilderStatus.BUILDING", "logtail": "61ff0a"}"#,
        ),
        (
            building,
            Dialect::Y2011,
            r#"["BuilderStatus.BUILDING", "PACKAGEBUILD-1", "61ff0a"]"#,
        ),
        (
            waiting.clone(),
            Dialect::Current,
            r#"{"build_id": "PACKAGEBUILD-1", "build_status": "BuildStatus.OK", "builder_status": "BuilderStatus.WAITING", "dependencies": "", "filemap": {"a.deb": "8ac5eec6b0a0b5e6eb5289572d0b39449bc91c9d"}}"#,
        ),
        (
            waiting,
            Dialect::Y2011,
            r#"["BuilderStatus.WAITING", "BuildStatus.OK", "PACKAGEBUILD-1", {"a.deb": "8ac5eec6b0a0b5e6eb5289572d0b39449bc91c9d"}, ""]"#,
        ),
        (
            Status::Aborting { build_id: None },
            Dialect::Y2011,
            r#"["BuilderStatus.ABORTING", ""]"#,
        ),
        (
            Status::Idle,
            Dialect::Y2011,
            r#"["BuilderStatus.IDLE", ""]"#,
        ),
    ] {
        let value = StatusReport::bare(status).to_value(dialect);
        let written = encode_answer(&Ok(value)).expect("a writable answer");
        let Some(json) = python(script, &written) else {
            return;
        };
        assert_eq!(json.trim_end(), shown);
    }
}
