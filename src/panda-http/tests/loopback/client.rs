//! The typed client: against the toy builder, and against builders that lie.

use std::collections::BTreeMap;

use dxr::Value;
use panda_http::client::Pieces;
use panda_http::endpoint::EndpointSettings;
use panda_http::pinned::public_client_config;
use panda_http::{BuilderClient, ClientError, ClientLimits, Endpoint, ServerSettings};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::call::{AnswerError, ReplyError};
use panda_protocol::launchpad::status::MAX_FILES;
use panda_protocol::launchpad::{
    BuildCall, BuildId, BuildReply, BuildStatus, Dialect, EnsurePresent, FileName, Info, Outcome,
    Presence, Status, StatusReport, Sum, xml,
};

use crate::peers::{Origin, header, ok};
use crate::toy::{Toy, start};

fn client(url: &str) -> BuilderClient {
    let tls = public_client_config().unwrap();
    let endpoint = Endpoint::new(url, tls, EndpointSettings::default()).unwrap();
    BuilderClient::new(endpoint, ClientLimits::default())
}

fn build_call(build_type: &str) -> BuildCall {
    BuildCall {
        build_id: BuildId::try_from("PACKAGEBUILD-1".to_owned()).unwrap(),
        build_type: build_type.to_owned(),
        chroot: Sum("0".repeat(40)),
        filemap: BTreeMap::new(),
        args: BTreeMap::new(),
    }
}

fn ensure_call(password: &str) -> EnsurePresent {
    EnsurePresent {
        sum: Sum("0".repeat(40)),
        url: Some("http://librarian.example/x".to_owned()),
        username: String::new(),
        password: password.to_owned(),
    }
}

async fn all(mut pieces: Pieces) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await? {
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// As many files as a build may have, with the longest names that a file can have.
#[tokio::test]
async fn the_longest_status_that_an_honest_builder_can_say_is_read() {
    let files = (0..MAX_FILES).map(|number| {
        let name = format!("{number:0>255}");
        (FileName::try_from(name).unwrap(), Sha1::of(b"x"))
    });
    let outcome = Outcome {
        filemap: files.collect(),
        ..Outcome::bare(BuildStatus::Ok)
    };
    let waiting = Status::Waiting {
        build_id: BuildId::try_from("PACKAGEBUILD-1".to_owned()).unwrap(),
        outcome,
    };
    let said = StatusReport::bare(waiting.clone()).to_value(Dialect::Current);
    let origin = Origin::fixed(ok(&xml::encode_answer(&Ok(said)).unwrap())).await;
    let heard = client(&origin.url("/")).status().await.unwrap().status;
    assert!(heard == waiting);
}

#[tokio::test]
async fn every_call_has_its_typed_answer() {
    let toy = Toy::new();
    let server = start(&toy, ServerSettings::default()).await;
    let client = client(&format!("http://{}/", server.address));
    client
        .echo(vec![Value::Integer(1), Value::String(" x\n".to_owned())])
        .await
        .unwrap();
    let info = Info {
        version: "1.0".to_owned(),
        arch: "armhf".to_owned(),
        build_types: vec!["binarypackage".to_owned()],
    };
    assert_eq!(client.info().await.unwrap(), info);
    let Status::Waiting { outcome, .. } = client.status().await.unwrap().status else {
        panic!()
    };
    assert_eq!(outcome, Outcome::bare(BuildStatus::PackageFail));
    for (password, present) in [("tok:en/1", true), ("other", false)] {
        let presence = client.ensure_present(ensure_call(password)).await.unwrap();
        assert_eq!(
            presence,
            Presence {
                present,
                info: "Download".to_owned()
            }
        );
    }
    for (build_type, answer) in [
        (
            "binarypackage",
            BuildReply::Building {
                build_id: build_call("").build_id,
            },
        ),
        (
            "sums",
            BuildReply::UnknownSum("CHROOTSUM -> 91adca07".to_owned()),
        ),
        (
            "live",
            BuildReply::UnknownBuilder("live not in ['binarypackage']".to_owned()),
        ),
    ] {
        assert_eq!(client.build(build_call(build_type)).await.unwrap(), answer);
    }
    toy.cleaned.notify_one();
    client.clean().await.unwrap();
    let error = client.abort().await.unwrap_err();
    let ClientError::Fault { code: 8002, text } = &error else {
        panic!("{error}")
    };
    assert_eq!(text.as_str(), "nothing is running");
}

#[tokio::test]
async fn files_come_whole_or_from_an_offset() {
    let toy = Toy::new();
    let server = start(&toy, ServerSettings::default()).await;
    let client = client(&format!("http://{}", server.address));
    let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    toy.put("buildlog", &content);
    assert_eq!(
        all(client.file("buildlog", 200_000).await.unwrap())
            .await
            .unwrap(),
        content
    );
    let error = client.file("buildlog", 199_999).await.unwrap_err();
    assert_eq!(error, ClientError::TooLong(199_999));
    assert_eq!(
        client.file("nosuch", 10).await.unwrap_err(),
        ClientError::Status(404)
    );
    let part = client
        .file_part("buildlog", 150_000, 10_000)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(all(part).await.unwrap(), &content[150_000..160_000]);
    let end = client
        .file_part("buildlog", 199_990, 10_000)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(all(end).await.unwrap(), &content[199_990..]);
    assert!(
        client
            .file_part("buildlog", 200_000, 10)
            .await
            .unwrap()
            .is_none()
    );
    let missing = client.file_part("nosuch", 0, 10).await.unwrap_err();
    assert_eq!(missing, ClientError::Status(404));
}

#[tokio::test]
async fn a_builder_without_ranges_is_read_from_the_wanted_offset() {
    let origin = Origin::fixed(ok("0123456789")).await;
    let client = client(&origin.url(""));
    let part = client.file_part("buildlog", 3, 4).await.unwrap().unwrap();
    assert_eq!(all(part).await.unwrap(), b"3456");
    let beyond = client.file_part("buildlog", 30, 4).await.unwrap().unwrap();
    assert_eq!(all(beyond).await.unwrap(), b"");
    assert_eq!(header(&origin.heads()[0], "range"), Some("bytes=3-6"));
}

#[tokio::test]
async fn another_part_than_was_asked_for_is_refused() {
    for range in [
        "Content-Range: bytes 0-3/10\r\n",
        "Content-Range: x\r\n",
        "",
    ] {
        let answer =
            format!("HTTP/1.1 206 Partial Content\r\n{range}Content-Length: 4\r\n\r\nabcd");
        let origin = Origin::fixed(answer).await;
        let error = client(&origin.url(""))
            .file_part("buildlog", 3, 4)
            .await
            .unwrap_err();
        assert_eq!(error, ClientError::Malformed("Range"));
    }
}

#[tokio::test]
async fn a_part_longer_than_asked_for_is_cut_and_a_file_longer_than_allowed_is_refused() {
    let origin = Origin::start(|head| async move {
        if header(&head, "range").is_some() {
            b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 3-9/10\r\n\r\n3456789".to_vec()
        } else {
            b"HTTP/1.1 200 OK\r\n\r\n0123456789".to_vec()
        }
    });
    let origin = origin.await;
    let client = client(&origin.url(""));
    let part = client.file_part("buildlog", 3, 4).await.unwrap().unwrap();
    assert_eq!(all(part).await.unwrap(), b"3456");
    let error = all(client.file("buildlog", 9).await.unwrap())
        .await
        .unwrap_err();
    assert_eq!(error, ClientError::TooLong(9));
}

#[tokio::test]
async fn a_file_that_breaks_off_is_an_error() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
    let error = all(client(&origin.url("")).file("x", 10).await.unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Transport(_)), "{error}");
}

#[tokio::test]
async fn answers_beyond_the_bounds_are_refused() {
    let bytes = ClientLimits::default().xml.bytes;
    let declared = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes + 1);
    let undeclared = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(bytes + 1));
    for answer in [declared, undeclared] {
        let origin = Origin::fixed(answer).await;
        let error = client(&origin.url("")).status().await.unwrap_err();
        assert_eq!(error, ClientError::TooLong(bytes as u64));
    }
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_of_its_kind() {
    let invalid =
        |method, problem| ClientError::Answer(AnswerError::Reply(method, ReplyError(problem)));
    let document = |value: &str| {
        ok(&format!(
            "<methodResponse><params><param><value>{value}</value></param></params></methodResponse>"
        ))
    };
    let origin = Origin::fixed(document("<string>x</string>")).await;
    let client_of = |origin: &Origin| client(&origin.url(""));
    let wrong = client_of(&origin);
    assert_eq!(
        wrong.info().await.unwrap_err(),
        invalid("info", "not an array of three")
    );
    assert_eq!(
        wrong.abort().await.unwrap_err(),
        invalid("abort", "not BuilderStatus.ABORTING")
    );
    assert_eq!(
        wrong.clean().await.unwrap_err(),
        invalid("clean", "not BuilderStatus.IDLE")
    );
    assert_eq!(
        wrong.echo(vec![]).await.unwrap_err(),
        invalid("echo", "not an array")
    );
    let build = wrong.build(build_call("x")).await.unwrap_err();
    assert_eq!(build, invalid("build", "not an array of two"));
    let ensure = wrong
        .ensure_present(ensure_call("s3cret"))
        .await
        .unwrap_err();
    assert_eq!(ensure, invalid("ensurepresent", "not an array of two"));
    assert_eq!(
        wrong.status().await.unwrap_err(),
        invalid("status", "neither a struct nor an array")
    );
    assert_eq!(
        wrong.proxy_info().await.unwrap_err(),
        invalid("proxy_info", "not a struct")
    );
    let other = Origin::fixed(document("<array><data></data></array>")).await;
    assert_eq!(
        client_of(&other).echo(vec![Value::Nil]).await.unwrap_err(),
        invalid("echo", "other values than were sent")
    );
    let garbage = Origin::fixed(ok("<html>")).await;
    assert!(matches!(
        client_of(&garbage).status().await,
        Err(ClientError::Answer(AnswerError::Xml(_)))
    ));
    let unwell = Origin::fixed("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(
        client_of(&unwell).status().await.unwrap_err(),
        ClientError::Status(500)
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Origin::fixed(ok("x")).await;
    let origin = Origin::fixed(crate::peers::redirect(&other.url("/rpc"))).await;
    let client = client(&origin.url(""));
    assert_eq!(client.status().await.unwrap_err(), ClientError::Status(302));
    assert_eq!(
        client.file("x", 1).await.unwrap_err(),
        ClientError::Status(302)
    );
    assert!(other.heads().is_empty());
}

#[tokio::test]
async fn a_faults_text_is_cut_and_has_no_control_characters() {
    let text = format!("one\ttwo\n{}", "x".repeat(5000));
    let fault = format!(
        "<methodResponse><fault><value><struct>\
         <member><name>faultCode</name><value><int>8002</int></value></member>\
         <member><name>faultString</name><value><string>{text}</string></value></member>\
         </struct></value></fault></methodResponse>"
    );
    let origin = Origin::fixed(ok(&fault)).await;
    let error = client(&origin.url("")).status().await.unwrap_err();
    let ClientError::Fault { code: 8002, text } = &error else {
        panic!("{error}")
    };
    let text = text.as_str();
    assert!(text.starts_with("one two xxx"), "{text}");
    assert_eq!(text.chars().count(), 500);
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("xxx") && shown.contains("8002"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_builder_that_never_answers_is_given_up() {
    let origin = Origin::start(|_| std::future::pending()).await;
    let client = client(&origin.url(""));
    assert!(client.status().await.unwrap_err().is_silence());
    assert!(client.file("buildlog", 1).await.unwrap_err().is_silence());
}

#[tokio::test]
async fn no_error_and_no_debug_output_shows_the_urls_password() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = client(&format!("http://us3r:pa55@{address}/?t=t0k"));
    let error = client.status().await.unwrap_err();
    assert!(error.is_silence());
    let shown = format!("{error} {error:?} {client:?}");
    for secret in ["us3r", "pa55", "t0k"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("refused"), "{shown}");
}

#[test]
fn only_http_urls_with_a_host_are_builders() {
    for url in [
        "",
        "panda01:8221",
        "ftp://panda01/",
        "file:///x",
        "http://",
        "unix:/run/x",
    ] {
        let tls = public_client_config().unwrap();
        let error = Endpoint::new(url, tls, EndpointSettings::default()).unwrap_err();
        assert_eq!(error, ClientError::Url, "{url}");
    }
}

#[test]
fn a_builder_may_live_below_a_path() {
    let tls = public_client_config().unwrap();
    let endpoint = Endpoint::new("http://h/rack/", tls, EndpointSettings::default()).unwrap();
    assert_eq!(endpoint.url("/rpc").as_str(), "http://h/rack/rpc");
}
