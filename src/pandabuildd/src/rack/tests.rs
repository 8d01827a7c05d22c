//! A whole rack, started and stopped. Its boards are not there: what they do is tried elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use panda_board::proxr::ProxrSerialSettings;
use panda_http::client::ClientLimits;
use panda_http::endpoint::{ClientError, EndpointSettings};
use panda_http::{BuilderClient, Endpoint, pinned};
use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::operators::GetSlots;
use tokio::net::TcpListener;

use super::listening::bind;
use super::*;
use crate::config::Config;
use crate::operators::client::Daemon;

struct Bench {
    directory: tempfile::TempDir,
    front: SocketAddr,
    own: SocketAddr,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let agent = directory.path().join("agent");
        std::fs::write(&agent, "#!/bin/sh\n").unwrap();
        let settings = AgentToml {
            version: agent_toml::VERSION,
            arch: "armhf".into(),
            executor: None,
            insecure_fixed_disk_key: false,
        };
        panda_image::process::make(&directory.path().join("image"), &agent, &settings).unwrap();
        Self {
            directory,
            front: free(),
            own: free(),
        }
    }

    fn config(&self) -> Config {
        let text = format!(
            "[rack]\nname = \"r\"\nstate_dir = \"state\"\nimage = \"image\"\n[front]\nlisten = \"{}\"\n\
             [depot]\nlisten = \"{}\"\n[boot]\npower_ms = 100\n[operators]\nsocket = \"state/control.sock\"\n\
             [[slot]]\nname = \"panda01\"\nlink = \"127.0.0.1:1\"\n\
             power = {{ driver = \"twin\", socket = \"1.power\" }}\npipe = {{ driver = \"twin\", socket = \"1.pipe\" }}\n\
             [[slot]]\nname = \"panda02\"\nlisten = \"{}\"\nlink = \"127.0.0.1:2\"\n\
             power = {{ driver = \"twin\", socket = \"2.power\" }}\npipe = {{ driver = \"twin\", socket = \"2.pipe\" }}\n",
            self.front,
            free(),
            self.own
        );
        Config::parse(&text, &self.directory.path().join("rack.toml")).unwrap()
    }

    fn lock(&self) -> StateLock {
        StateLock::take(&self.directory.path().join("state")).unwrap()
    }
}

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn builder(address: SocketAddr) -> BuilderClient {
    let tls = pinned::public_client_config().unwrap();
    let endpoint = Endpoint::new(
        &format!("http://{address}"),
        tls,
        EndpointSettings::default(),
    )
    .unwrap();
    BuilderClient::new(endpoint, ClientLimits::default())
}

#[tokio::test]
async fn a_rack_answers_on_every_address_and_its_socket_and_leaves_all_of_them_when_it_stops() {
    let bench = Bench::new();
    let rack = Rack::start(bench.config(), bench.lock()).await.unwrap();
    let urls: Vec<_> = rack
        .urls()
        .iter()
        .map(|(slot, url)| format!("{slot} {url}"))
        .collect();
    let shared = format!("panda01 http://panda01:{}", bench.front.port());
    assert_eq!(urls, [shared, format!("panda02 http://{}", bench.own)]);
    // Its board is not there: it faults, and does not say IDLE.
    let told = builder(bench.own).status().await.unwrap_err();
    assert!(
        matches!(told, ClientError::Fault { code: 8002, .. }),
        "{told}"
    );
    // The shared address does not guess.
    assert_eq!(
        builder(bench.front).status().await.unwrap_err(),
        ClientError::Status(404)
    );
    let socket = bench.directory.path().join("state/control.sock");
    let daemon = Daemon::at(socket.clone());
    let asked = daemon.ask(&GetSlots::default(), Duration::ZERO).await;
    let slots = asked.unwrap().slots;
    let names: Vec<_> = slots.iter().map(|slot| slot.slot.as_str()).collect();
    assert_eq!(names, ["panda01", "panda02"]);

    rack.stop().await;
    assert!(!socket.exists());
    assert!(matches!(
        builder(bench.own).status().await.unwrap_err(),
        ClientError::Transport(_)
    ));
    let again = Rack::start(bench.config(), bench.lock()).await.unwrap();
    again.stop().await;
}

#[tokio::test]
async fn a_rack_that_is_refused_has_touched_no_board() {
    let bench = Bench::new();
    let taken = TcpListener::bind(bench.own).await.unwrap();
    let error = Rack::start(bench.config(), bench.lock())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("slot panda02 cannot listen"), "{error}");
    drop(taken);
    let ledger = bench.directory.path().join("state").join(LEDGER);
    assert!(!ledger.exists());
    // An image that has changed.
    std::fs::write(bench.directory.path().join("image/kernel"), "other").unwrap();
    let error = Rack::start(bench.config(), bench.lock())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("image/kernel"), "{error}");
    assert!(!ledger.exists());
}

#[tokio::test]
async fn a_driver_that_cannot_work_here_is_refused_before_any_board_is_touched() {
    let bench = Bench::new();
    let mut config = bench.config();
    let relay = "device = \"/dev/serial/by-id/none\"\nrelay = 1";
    let relay: ProxrSerialSettings = toml::from_str(relay).unwrap();
    config.slots[1].power = vec![Arc::new(relay)];
    let error = Rack::start(config, bench.lock())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("slot panda02: [slot.power]: device: /dev/serial/by-id/none"),
        "{error}"
    );
    let state = bench.directory.path().join("state");
    assert!(!state.join(LEDGER).exists() && !state.join("slots").exists());
}

#[tokio::test]
async fn an_address_in_use_is_named_with_who_wanted_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind("slot panda01", address, &mut Sockets::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("slot panda01 cannot listen on {address}")),
        "{error}"
    );
    assert!(error.contains("another program has it"), "{error}");
}
