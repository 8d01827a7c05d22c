//! Who holds a listener up: connections that show nothing, and callers that have gone.

use std::time::Duration;

use panda_http::{PlaceLimits, Places, ServerSettings, Standing};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::peers::rest;
use crate::toy::{Running, Toy, start, start_in};

const INFO: &[u8] = b"POST /rpc HTTP/1.0\r\nContent-Length: 71\r\n\r\n\
    <methodCall><methodName>info</methodName><params></params></methodCall>";
const CLEAN: &[u8] = b"POST /rpc HTTP/1.0\r\nContent-Length: 72\r\n\r\n\
    <methodCall><methodName>clean</methodName><params></params></methodCall>";

async fn connect(server: &Running, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(server.address).await.unwrap()
}

/// What a call from there is answered; empty where the connection is closed.
async fn info(server: &Running, from: &str) -> String {
    let mut stream = connect(server, from).await;
    match stream.write_all(INFO).await {
        Ok(()) => rest(&mut stream).await,
        Err(_) => String::new(),
    }
}

#[tokio::test]
async fn silent_connections_of_many_addresses_never_keep_a_caller_waiting() {
    let toy = Toy::new();
    let settings = ServerSettings {
        connections: 32,
        connections_per_address: 16,
        ..ServerSettings::default()
    };
    let server = start(&toy, settings).await;
    let mut silent = Vec::new();
    for number in 0..96 {
        silent.push(connect(&server, &format!("127.0.0.{}", 2 + number % 6)).await);
    }
    let answer = timeout(Duration::from_secs(20), info(&server, "127.0.0.9")).await;
    assert!(answer.unwrap().starts_with("HTTP/1.0 200 OK"));
}

#[tokio::test]
async fn a_peer_that_may_not_connect_is_closed_unheard_and_places_are_kept_for_who_is_known() {
    let toy = Toy::new();
    let limits = PlaceLimits {
        connections: 4,
        per_address: 4,
        reserved: 2,
    };
    let policy = |address: std::net::IpAddr| match address.to_string().as_str() {
        "127.0.0.1" => Standing::Known,
        "127.0.0.66" => Standing::Refused,
        _ => Standing::Stranger,
    };
    let places = Places::new(limits, std::sync::Arc::new(policy));
    let server = start_in(&toy, places).await;
    assert_eq!(info(&server, "127.0.0.66").await, "");
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&server, "127.0.0.2").await;
        stream.write_all(CLEAN).await.unwrap();
        toy.cleaning.notified().await;
        busy.push(stream);
    }
    assert_eq!(info(&server, "127.0.0.3").await, "");
    assert!(
        info(&server, "127.0.0.1")
            .await
            .starts_with("HTTP/1.0 200 OK")
    );
}

#[tokio::test]
async fn a_call_whose_caller_has_reset_its_connection_ends_and_gives_its_place_back() {
    let toy = Toy::new();
    let settings = ServerSettings {
        connections: 1,
        ..ServerSettings::default()
    };
    let server = start(&toy, settings).await;
    let mut gone = connect(&server, "127.0.0.1").await;
    gone.write_all(CLEAN).await.unwrap();
    toy.cleaning.notified().await;
    gone.set_zero_linger().unwrap();
    drop(gone);
    // `clean` waits for ever: the only place comes free because its caller's end was seen.
    let answer = timeout(Duration::from_secs(20), info(&server, "127.0.0.1")).await;
    assert!(answer.unwrap().starts_with("HTTP/1.0 200 OK"));
}

#[tokio::test]
async fn a_call_whose_caller_has_only_closed_its_sending_side_ends_after_a_while() {
    let toy = Toy::new();
    let server = start(&toy, ServerSettings::default()).await;
    let mut gone = connect(&server, "127.0.0.1").await;
    gone.write_all(CLEAN).await.unwrap();
    gone.shutdown().await.unwrap();
    toy.cleaning.notified().await;
    let answer = timeout(Duration::from_secs(20), rest(&mut gone)).await;
    assert_eq!(answer.unwrap(), "");
}
