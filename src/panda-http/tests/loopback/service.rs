//! A builder's routes, as Launchpad's manager, Python and attackers use them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dxr::Value;
use panda_http::ServerSettings;
use panda_protocol::launchpad::xml::{Fault, Limits, decode_answer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::peers::{body, exchange, header, rest};
use crate::toy::{Running, Toy, limits, start};

const CALL: &str = "<?xml version='1.0'?><methodCall><methodName>NAME</methodName><params>PARAMS</params></methodCall>";

/// A raw HTTP/1.0 call, as the manager's client writes it.
fn post(document: &str) -> Vec<u8> {
    let length = document.len();
    format!(
        "POST /rpc HTTP/1.0\r\nUser-Agent: Twisted/XMLRPClib\r\nHost: panda01\r\n\
         Content-type: text/xml; charset=utf-8\r\nContent-length: {length}\r\n\r\n{document}"
    )
    .into_bytes()
}

fn call(method: &str, params: &str) -> Vec<u8> {
    post(&CALL.replace("NAME", method).replace("PARAMS", params))
}

fn value(answer: &str) -> Result<Value, Fault> {
    let (_version, status) = answer.lines().next().unwrap().split_once(' ').unwrap();
    assert_eq!(status, "200 OK", "{answer}");
    assert_eq!(
        header(answer, "content-type"),
        Some("text/xml; charset=utf-8")
    );
    assert_eq!(
        header(answer, "content-length"),
        Some(body(answer).len().to_string().as_str())
    );
    decode_answer(body(answer).as_bytes(), &Limits::default()).unwrap()
}

async fn toy() -> (std::sync::Arc<Toy>, Running) {
    let toy = Toy::new();
    let server = start(&toy, ServerSettings::default()).await;
    (toy, server)
}

/// A recorded exchange's request, as bytes on the wire, and its answer's document.
fn recorded(name: &str) -> (Vec<u8>, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures/exchanges")
        .join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let (request, answer) = text.split_once("--- answer ---\n").unwrap();
    let (head, document) = request.split_once("\n\n").unwrap();
    let document = document.trim_end();
    let mut wire = String::new();
    for line in head.lines() {
        let line = match line.split_once(':') {
            Some((name, _)) if name.eq_ignore_ascii_case("content-length") => {
                format!("{name}: {}", document.len())
            }
            _ => line.to_owned(),
        };
        wire.push_str(&line);
        wire.push_str("\r\n");
    }
    // Python keeps its connection; the test reads to the end.
    let document = format!("{wire}Connection: close\r\n\r\n{document}");
    (
        document.into_bytes(),
        answer.split_once("\n\n").unwrap().1.to_owned(),
    )
}

#[tokio::test]
async fn recorded_calls_of_the_manager_get_the_recorded_answers() {
    let (_toy, server) = toy().await;
    for name in [
        "003-ensurepresent.http",
        "046-echo.http",
        "047-echo.http",
        "050-nosuch.http",
    ] {
        let (request, document) = recorded(name);
        let answer = exchange(server.address, &request).await;
        let expected = decode_answer(document.trim().as_bytes(), &Limits::default()).unwrap();
        assert_eq!(value(&answer), expected, "{name}");
    }
}

#[tokio::test]
async fn faults_have_the_codes_of_the_reference_and_quote_nothing() {
    let (_toy, server) = toy().await;
    let fault =
        async |request: Vec<u8>| value(&exchange(server.address, &request).await).unwrap_err();
    let unknown = fault(call("nosuch", "")).await;
    assert_eq!(
        (unknown.code, unknown.text.as_str()),
        (8001, "procedure nosuch not found")
    );
    let secret = "<param><value><string>s3cret</string></value></param>";
    for request in [
        call("build", secret),
        call("status", secret),
        post("<methodCall><s3cret>"),
        post("s3cret"),
        post(""),
    ] {
        let fault = fault(request).await;
        assert_eq!(fault.code, 8002, "{}", fault.text);
        assert!(!fault.text.contains("s3cret"), "{}", fault.text);
    }
    let refused = fault(call("abort", "")).await;
    assert_eq!(
        (refused.code, refused.text.as_str()),
        (8002, "nothing is running")
    );
}

#[tokio::test]
async fn an_answer_that_xml_cannot_hold_becomes_a_plain_fault() {
    let (_toy, server) = toy().await;
    let answer = exchange(server.address, &call("proxy_info", "")).await;
    assert_eq!(
        value(&answer),
        Err(Fault {
            code: 8002,
            text: "error".to_owned()
        })
    );
}

#[tokio::test]
async fn other_methods_are_refused_and_other_paths_are_not_there() {
    let (toy, server) = toy().await;
    toy.put("buildlog", b"log");
    for (line, status, allow) in [
        ("GET /rpc", "405", Some("POST")),
        ("PUT /rpc", "405", Some("POST")),
        ("POST /filecache/buildlog", "405", Some("GET, HEAD")),
        ("DELETE /filecache/buildlog", "405", Some("GET, HEAD")),
        ("GET /", "404", None),
        ("GET /filecache/", "404", None),
        ("GET /filecache", "404", None),
        ("GET /filecache/../buildlog", "404", None),
        ("GET /filecache/%2e%2e%2fbuildlog", "404", None),
        ("GET /filecache/..", "404", None),
        ("GET /filecache/%2e%2e", "404", None),
        ("GET /filecache/x%2f..%2fbuildlog", "404", None),
        ("GET /filecache/buildlog%00", "404", None),
        ("GET /filecache/nosuch", "404", None),
        ("POST /RPC2", "404", None),
    ] {
        let answer = exchange(
            server.address,
            format!("{line} HTTP/1.0\r\n\r\n").as_bytes(),
        )
        .await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{line}: {answer}");
        assert_eq!(header(&answer, "allow"), allow, "{line}");
        assert_eq!(
            header(&answer, "content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
    assert_eq!(*toy.asked.lock().unwrap(), ["nosuch"]);
}

#[tokio::test]
async fn a_file_comes_whole_in_ranges_and_as_a_head() {
    let (toy, server) = toy().await;
    toy.put("buildlog", b"0123456789");
    let get = async |method: &str, headers: &str| {
        let request = format!("{method} /filecache/buildlog HTTP/1.0\r\n{headers}\r\n");
        let answer = exchange(server.address, request.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap().to_owned();
        let field = |name| header(&answer, name).unwrap_or("none").to_owned();
        (
            status,
            field("content-length"),
            field("content-range"),
            body(&answer).to_owned(),
        )
    };
    let want = |status: &str, length: &str, range: &str, body: &str| {
        (
            status.to_owned(),
            length.to_owned(),
            range.to_owned(),
            body.to_owned(),
        )
    };
    assert_eq!(
        get("GET", "").await,
        want("200", "10", "none", "0123456789")
    );
    assert_eq!(get("HEAD", "").await, want("200", "10", "none", ""));
    let part = "Range: bytes=2-4\r\n";
    assert_eq!(
        get("GET", part).await,
        want("206", "3", "bytes 2-4/10", "234")
    );
    assert_eq!(
        get("HEAD", part).await,
        want("206", "3", "bytes 2-4/10", "")
    );
    assert_eq!(
        get("GET", "Range: bytes=7-\r\n").await,
        want("206", "3", "bytes 7-9/10", "789")
    );
    assert_eq!(
        get("GET", "Range: bytes=-2\r\n").await,
        want("206", "2", "bytes 8-9/10", "89")
    );
    assert_eq!(
        get("GET", "Range: bytes=x\r\n").await,
        want("200", "10", "none", "0123456789")
    );
    let twice = "Range: bytes=1-2\r\nRange: bytes=4-5\r\n";
    assert_eq!(
        get("GET", twice).await,
        want("200", "10", "none", "0123456789")
    );
    let conditional = "Range: bytes=1-2\r\nIf-Range: \"x\"\r\n";
    assert_eq!(
        get("GET", conditional).await,
        want("200", "10", "none", "0123456789")
    );
    let (status, _, range, _) = get("GET", "Range: bytes=10-\r\n").await;
    assert_eq!((status.as_str(), range.as_str()), ("416", "bytes */10"));
}

#[tokio::test]
async fn a_files_answer_says_what_the_reference_says() {
    let (toy, server) = toy().await;
    let path = toy.put("buildlog", b"log");
    let time = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
    std::fs::File::open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
    let answer = exchange(server.address, b"GET /filecache/buildlog HTTP/1.0\r\n\r\n").await;
    assert_eq!(header(&answer, "accept-ranges"), Some("bytes"));
    assert_eq!(
        header(&answer, "last-modified"),
        Some("Sun, 06 Nov 1994 08:49:37 GMT")
    );
    let later = exchange(server.address, b"GET /filecache/later HTTP/1.0\r\n\r\n").await;
    assert!(later.starts_with("HTTP/1.0 503 "), "{later}");
    assert_eq!(body(&later), "the slot is between boots\n");
}

#[tokio::test]
async fn a_file_with_an_impossible_time_is_served_without_it() {
    let (toy, server) = toy().await;
    let path = toy.put("buildlog", b"log");
    let before = std::time::UNIX_EPOCH - Duration::from_secs(1);
    std::fs::File::open(path)
        .unwrap()
        .set_modified(before)
        .unwrap();
    let request = b"GET /filecache/buildlog HTTP/1.0\r\n\r\n";
    let answer = exchange(server.address, request).await;
    assert_eq!(body(&answer), "log");
    assert_eq!(header(&answer, "last-modified"), None);
}

#[tokio::test]
async fn a_directory_is_not_a_file() {
    let (toy, server) = toy().await;
    std::fs::create_dir(toy.files.path().join("dir")).unwrap();
    let answer = exchange(server.address, b"GET /filecache/dir HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 500 "), "{answer}");
}

#[tokio::test]
async fn a_declared_body_of_1_gib_is_refused_before_it_is_sent() {
    let (_toy, server) = toy().await;
    let head = b"POST /rpc HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n";
    let answer = exchange(server.address, head).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(header(&answer, "connection"), Some("close"));
}

#[tokio::test]
async fn a_chunked_body_without_end_is_refused_at_the_bound() {
    let (_toy, server) = toy().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = b"POST /rpc HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
    let most = limits().xml.bytes / 0x2000;
    for _ in 0..=most {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    let mut status = [0; 13];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 413 ");
    rest(&mut stream).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_given_up() {
    let (_toy, server) = toy().await;
    let head = b"POST /rpc HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n<method";
    let hour = Duration::from_secs(3600);
    let answer = tokio::time::timeout(hour, exchange(server.address, head)).await;
    let answer = answer.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

/// A call whose document is `packed`, said to be of `encoding`.
fn packed(encoding: &str, packed: &[u8]) -> Vec<u8> {
    let mut call = format!(
        "POST /rpc HTTP/1.0\r\nContent-Encoding: {encoding}\r\nContent-Length: {}\r\n\r\n",
        packed.len()
    )
    .into_bytes();
    call.extend_from_slice(packed);
    call
}

#[tokio::test]
async fn a_packed_call_is_unpacked_within_bounds_or_refused_with_what_to_do() {
    let (_toy, server) = toy().await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let info = CALL.replace("NAME", "info").replace("PARAMS", "");
    let said = async |encoding: &str, bytes: &[u8]| {
        exchange(server.address, &packed(encoding, bytes)).await
    };
    let answer = said("gzip", &gzip(info.as_bytes())).await;
    assert!(answer.contains("binarypackage"), "{answer}");
    // Packed it is small, and unpacked over the bound.
    let bomb = gzip(&vec![b' '; limits().xml.bytes + 1]);
    let answer = said("gzip", &bomb).await;
    assert!(answer.starts_with("HTTP/1.0 413 "), "{answer}");
    let answer = said("gzip", info.as_bytes()).await;
    assert_eq!(value(&answer).unwrap_err().code, 8002);
    assert!(answer.contains("gzip, and is not"), "{answer}");
    for encoding in ["deflate", "br", "gzip, gzip"] {
        let answer = said(encoding, info.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.0 415 "), "{answer}");
        assert_eq!(header(&answer, "accept-encoding"), Some("gzip"));
    }
}

#[tokio::test]
async fn python_calls_every_method() {
    let script = r#"
import sys, xmlrpc.client as x
b = x.ServerProxy(sys.argv[1], allow_none=True)
deep = [1, True, None, 1.5, x.Binary(b"\0\xff"), {"a": [{"b": None}]}, " blanks \n", "\u00e9<&>"]
assert b.echo(*deep) == deep, b.echo(*deep)
class Packing(x.Transport):
    encode_threshold = 1
p = x.ServerProxy(sys.argv[1], allow_none=True, transport=Packing())
assert p.echo(*deep) == deep, p.echo(*deep)
assert b.info() == ["1.0", "armhf", ["binarypackage"]]
assert b.status()["build_status"] == "BuildStatus.PACKAGEFAIL"
assert b.ensurepresent("0" * 40, "http://x/", "", "tok:en/1") == [True, "Download"]
assert b.build("1", "binarypackage", "0" * 40, {"a.dsc": "0" * 40}, {})[0] == "BuilderStatus.BUILDING"
for call, code in [(b.abort, 8002), (b.nosuch, 8001), (lambda: b.info(1), 8002)]:
    try:
        call()
    except x.Fault as fault:
        assert fault.faultCode == code, fault
    else:
        raise SystemExit("no fault")
print("done")
"#;
    let (_toy, server) = toy().await;
    let url = format!("http://{}/rpc", server.address);
    let python = tokio::task::spawn_blocking(move || {
        let spawned = Command::new("python3")
            .args(["-", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                println!("skipped: python3: {error}");
                return None;
            }
        };
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        Some(child.wait_with_output().unwrap())
    });
    let Some(output) = python.await.unwrap() else {
        return;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "done\n",
        "{errors}"
    );
}
