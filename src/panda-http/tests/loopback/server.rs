//! The accept loop: what a connection may do, and what it may not cost.

use std::time::Duration;

use panda_http::ServerSettings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::peers::{body, exchange, rest};
use crate::toy::{Toy, start};

const INFO: &str = "<methodCall><methodName>info</methodName><params></params></methodCall>";
const CLEAN: &str = "<methodCall><methodName>clean</methodName><params></params></methodCall>";

fn post(version: &str, document: &str) -> Vec<u8> {
    let length = document.len();
    format!(
        "POST /rpc HTTP/{version}\r\nHost: panda01\r\nContent-Length: {length}\r\n\r\n{document}"
    )
    .into_bytes()
}

/// Reads one answer with a `Content-Length` and leaves the connection as it is.
async fn one_answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"</methodResponse>") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    while bytes.ends_with(b"</methodResponse>") {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let length = crate::peers::header(&text, "content-length")
            .unwrap()
            .parse::<usize>()
            .unwrap();
        if body(&text).len() >= length {
            break;
        }
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn http_1_1_keeps_its_connection_and_1_0_does_not() {
    let toy = Toy::new();
    let server = start(&toy, ServerSettings::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(&post("1.1", INFO)).await.unwrap();
        assert!(one_answer(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    }
    stream.write_all(&post("1.0", INFO)).await.unwrap();
    let last = rest(&mut stream).await;
    assert!(last.contains("HTTP/1.0 200 OK"), "{last}");
}

#[tokio::test]
async fn a_client_that_has_closed_its_sending_side_gets_its_answer() {
    let toy = Toy::new();
    let server = start(&toy, ServerSettings::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&post("1.0", CLEAN)).await.unwrap();
    stream.shutdown().await.unwrap();
    toy.cleaning.notified().await;
    toy.cleaned.notify_one();
    assert!(rest(&mut stream).await.contains("BuilderStatus.IDLE"));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_and_a_silent_connection_are_closed() {
    let toy = Toy::new();
    let server = start(&toy, ServerSettings::default()).await;
    for sent in ["", "POST /rpc HTTP/1.1\r\nHost: a\r\nX: "] {
        let exchange = exchange(server.address, sent.as_bytes());
        let hour = Duration::from_secs(3600);
        let answer = tokio::time::timeout(hour, exchange).await.unwrap();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_head_without_bound_is_refused() {
    let toy = Toy::new();
    let server = start(&toy, ServerSettings::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(60 << 20));
    // The server stops reading long before the end, and says so if the bytes on the way allow it.
    assert!(stream.write_all(head.as_bytes()).await.is_err());
    let answer = rest(&mut stream).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_is_given_up() {
    let toy = Toy::new();
    toy.put("big", &vec![b'x'; 64 << 20]);
    let settings = ServerSettings {
        connections: 1,
        ..ServerSettings::default()
    };
    let server = start(&toy, settings).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /filecache/big HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    // The only place is free again only because the first connection was dropped.
    let hour = Duration::from_secs(3600);
    let call = post("1.0", INFO);
    let answer = tokio::time::timeout(hour, exchange(server.address, &call)).await;
    let answer = answer.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
    drop(idle);
}

#[tokio::test]
async fn one_address_cannot_take_every_connection() {
    let toy = Toy::new();
    let settings = ServerSettings {
        connections_per_address: 2,
        ..ServerSettings::default()
    };
    let server = start(&toy, settings).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&post("1.1", INFO)).await.unwrap();
        one_answer(&mut stream).await;
        held.push(stream);
    }
    let one_more = async || {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // A server that has closed already may be noticed here, or in reading.
        match stream.write_all(&post("1.0", INFO)).await {
            Ok(()) => rest(&mut stream).await,
            Err(_) => String::new(),
        }
    };
    assert_eq!(one_more().await, "");
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(server.address).await.unwrap();
    other.write_all(&post("1.0", INFO)).await.unwrap();
    assert!(rest(&mut other).await.starts_with("HTTP/1.0 200 OK"));
    drop(held);
    // The places are free again once the server has seen the ends.
    let freed = async { while one_more().await.is_empty() {} };
    let soon = Duration::from_secs(20);
    tokio::time::timeout(soon, freed).await.unwrap();
}

#[tokio::test]
async fn a_stop_lets_the_call_in_flight_end_and_takes_no_other() {
    let toy = Toy::new();
    let mut server = start(&toy, ServerSettings::default()).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(&post("1.1", INFO)).await.unwrap();
    one_answer(&mut idle).await;
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(&post("1.1", CLEAN)).await.unwrap();
    toy.cleaning.notified().await;
    server.stop.cancel();
    assert_eq!(rest(&mut idle).await, "");
    assert!(!server.task.is_finished());
    toy.cleaned.notify_one();
    assert!(rest(&mut busy).await.contains("BuilderStatus.IDLE"));
    (&mut server.task).await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_stop_answers_the_call_of_a_connection_that_was_accepted_before_it() {
    let toy = Toy::new();
    let mut server = start(&toy, ServerSettings::default()).await;
    let mut early = TcpStream::connect(server.address).await.unwrap();
    // Connections are accepted in their order.
    let mut later = TcpStream::connect(server.address).await.unwrap();
    later.write_all(&post("1.0", INFO)).await.unwrap();
    assert!(rest(&mut later).await.starts_with("HTTP/1.0 200 OK"));
    server.stop.cancel();
    while TcpStream::connect(server.address).await.is_ok() {}
    early.write_all(&post("1.1", INFO)).await.unwrap();
    let answer = rest(&mut early).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer:?}"
    );
    (&mut server.task).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_ever() {
    let toy = Toy::new();
    let mut server = start(&toy, ServerSettings::default()).await;
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(&post("1.1", CLEAN)).await.unwrap();
    toy.cleaning.notified().await;
    let begun = tokio::time::Instant::now();
    server.stop.cancel();
    (&mut server.task).await.unwrap();
    assert_eq!(
        begun.elapsed().as_secs(),
        ServerSettings::default().drain.as_secs()
    );
    assert_eq!(rest(&mut busy).await, "");
}

#[tokio::test]
async fn a_log_that_grows_is_sent_as_long_as_it_was_promised() {
    let toy = Toy::new();
    let path = toy.put("buildlog", &vec![b'a'; 4 << 20]);
    let server = start(&toy, ServerSettings::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET /filecache/buildlog HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    let mut log = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    std::io::Write::write_all(&mut log, &vec![b'b'; 1 << 20]).unwrap();
    let answer = rest(&mut stream).await;
    assert_eq!(body(&answer).len(), 4 << 20);
    assert!(body(&answer).bytes().all(|byte| byte == b'a'));
}

#[tokio::test]
async fn a_file_that_shrinks_breaks_the_connection() {
    let toy = Toy::new();
    let path = toy.put("buildlog", &vec![b'a'; 32 << 20]);
    let server = start(&toy, ServerSettings::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET /filecache/buildlog HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(0)
        .unwrap();
    // It ends although HTTP/1.1 keeps connections, and before the promised bytes have come.
    let got = tokio::time::timeout(Duration::from_secs(20), rest(&mut stream))
        .await
        .unwrap();
    assert!(body(&got).len() < 32 << 20);
}
