//! A builder behind a relay: calls, answers and files pass as they are; what is none does not.

use std::collections::BTreeMap;
use std::time::Duration;

use dxr::Value;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use panda_http::endpoint::EndpointSettings;
use panda_http::{BuilderClient, ClientLimits, Endpoint, Relay, ServerSettings, pinned};
use panda_protocol::launchpad::xml::Fault;
use panda_protocol::launchpad::{Abort, Echo, Echoed, FileName, GetStatus};

use crate::peers::Origin;
use crate::toy::{Toy, start};

fn relay(url: &str) -> Relay {
    let tls = pinned::public_client_config().unwrap();
    let endpoint = Endpoint::new(url, tls, EndpointSettings::default()).unwrap();
    let limits = ClientLimits {
        file_limit: Duration::from_secs(20),
        ..ClientLimits::default()
    };
    Relay::new(BuilderClient::new(endpoint, limits))
}

fn name(text: &str) -> FileName {
    FileName::try_from(text.to_owned()).unwrap()
}

async fn get(
    relay: &Relay,
    file: &str,
    range: Option<&'static str>,
) -> (StatusCode, HeaderMap, Result<Vec<u8>, String>) {
    let mut asked = HeaderMap::new();
    if let Some(range) = range {
        asked.insert("range", http::HeaderValue::from_static(range));
    }
    let response = relay.file(&Method::GET, &name(file), &asked).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string());
    let body = body.map(|body| body.to_bytes().to_vec());
    (head.status, head.headers, body)
}

#[tokio::test]
async fn values_of_every_kind_and_faults_pass_as_they_are() {
    let toy = Toy::new();
    let server = start(&toy, ServerSettings::default()).await;
    let relay = relay(&format!("http://{}", server.address));
    let values = vec![
        Value::Nil,
        Value::Long(1 << 40),
        Value::Double(-0.1),
        Value::Boolean(true),
        Value::Base64(vec![0, 255]),
        Value::Struct(BTreeMap::from([(
            " é<&>".to_owned(),
            Value::Array(vec![
                Value::String(" x\n".to_owned()),
                Value::Struct(BTreeMap::new()),
            ]),
        )])),
    ];
    let echoed = relay.ask(Echo(values.clone())).await;
    assert_eq!(echoed, Ok(Echoed(values)));
    let fault = Fault {
        code: 8002,
        text: "nothing is running".to_owned(),
    };
    assert_eq!(relay.ask(Abort).await, Err(fault));
}

#[tokio::test]
async fn files_and_ranges_of_them_pass() {
    let toy = Toy::new();
    toy.put("a+b %é", b"0123456789");
    let server = start(&toy, ServerSettings::default()).await;
    let relay = relay(&format!("http://{}", server.address));
    let (status, headers, body) = get(&relay, "a+b %é", None).await;
    assert_eq!((status, body), (StatusCode::OK, Ok(b"0123456789".to_vec())));
    assert_eq!(headers["content-length"], "10");
    let (status, headers, body) = get(&relay, "a+b %é", Some("bytes=8-20")).await;
    assert_eq!(
        (status, body),
        (StatusCode::PARTIAL_CONTENT, Ok(b"89".to_vec()))
    );
    assert_eq!(headers["content-range"], "bytes 8-9/10");
    let (status, ..) = get(&relay, "a+b %é", Some("bytes=10-")).await;
    assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
    let (status, ..) = get(&relay, "nothing", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let head = relay
        .file(&Method::HEAD, &name("a+b %é"), &HeaderMap::new())
        .await;
    assert_eq!(head.headers()["content-length"], "10");
}

#[tokio::test]
async fn what_is_no_file_and_a_builder_that_is_not_there_are_a_bad_gateway() {
    let elsewhere = Origin::fixed(crate::peers::redirect("http://x.example/")).await;
    let (status, headers, _) = get(&relay(&elsewhere.url("")), "buildlog", None).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(!headers.contains_key("location"));
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let (status, ..) = get(&relay(&gone), "buildlog", None).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    let fault = relay(&gone).ask(GetStatus).await.unwrap_err();
    assert!(
        fault.text.starts_with("the worker gives no answer: "),
        "{}",
        fault.text
    );
}

#[tokio::test]
async fn a_file_that_breaks_off_is_not_taken_for_a_whole_one() {
    let short = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let origin = Origin::fixed(short).await;
    let (status, _, body) = get(&relay(&origin.url("")), "buildlog", None).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.is_err());
}
