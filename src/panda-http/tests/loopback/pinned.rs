//! The link's TLS: both sides accept exactly one certificate, whose key the other must hold.

use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use panda_http::body::text_response;
use panda_http::endpoint::EndpointSettings;
use panda_http::pinned::{PinnedError, client_config, server_config};
use panda_http::{ClientError, Endpoint, Identity, Peer, ServerSettings, serve};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::toy::Running;

struct Pem {
    certificate: String,
    key: String,
}

/// A self-signed certificate as the daemon makes them, long expired.
fn pem() -> Pem {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::new(vec!["panda".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let certificate = params.self_signed(&key).unwrap().pem();
    Pem {
        certificate,
        key: key.serialize_pem(),
    }
}

pub(crate) fn identity() -> Identity {
    let Pem { certificate, key } = pem();
    Identity::from_pem(&certificate, &key).unwrap()
}

pub(crate) type Peers = Arc<Mutex<Vec<Peer>>>;

/// A server that shows `own`, accepts `accepted`, and keeps what it learns of its clients.
pub(crate) async fn server(own: &Identity, accepted: CertificateDer<'static>) -> (Running, Peers) {
    let tls = server_config(own, Arc::new(move |der| der == &*accepted)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peers = Peers::default();
    let seen = peers.clone();
    let stop = CancellationToken::new();
    let settings = ServerSettings::default();
    let task = tokio::spawn(serve(
        listener,
        Some(tls),
        settings,
        stop.clone(),
        move |_, peer| {
            seen.lock().unwrap().push(Peer::clone(&peer));
            ready(text_response(StatusCode::OK, "boot"))
        },
    ));
    (
        Running {
            address,
            stop,
            task,
        },
        peers,
    )
}

async fn get(
    server: &Running,
    own: &Identity,
    peer: &Identity,
) -> Result<(StatusCode, bytes::Bytes), ClientError> {
    let tls = client_config(own, peer.certificate().clone()).unwrap();
    let endpoint = Endpoint::pinned(server.address, tls, EndpointSettings::default()).unwrap();
    endpoint.get("/boot", 100, Duration::from_secs(10)).await
}

#[tokio::test]
async fn two_that_know_each_other_speak_although_their_certificates_are_long_expired() {
    let (master, boot) = (identity(), identity());
    let (server, peers) = server(&boot, master.certificate().clone()).await;
    let (status, body) = get(&server, &master, &boot).await.unwrap();
    assert_eq!((status, &*body), (StatusCode::OK, &b"boot\n"[..]));
    let peer = peers.lock().unwrap()[0].clone();
    assert_eq!(peer.certificate.as_ref(), Some(master.certificate()));
    assert_eq!(peer.local, server.address);
}

#[tokio::test]
async fn a_client_with_another_certificate_is_refused() {
    let (master, boot, other) = (identity(), identity(), identity());
    let (server, peers) = server(&boot, master.certificate().clone()).await;
    let error = get(&server, &other, &boot).await.unwrap_err();
    assert!(error.is_silence(), "{error}");
    assert!(peers.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_server_with_another_certificate_is_refused() {
    let (master, boot, other) = (identity(), identity(), identity());
    let (server, peers) = server(&other, master.certificate().clone()).await;
    let error = get(&server, &master, &boot).await.unwrap_err();
    assert!(error.is_silence(), "{error}");
    assert!(peers.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_certificate_without_its_key_is_worth_nothing() {
    let (master, boot) = (pem(), pem());
    // rustls itself refuses to pair them, so the thief signs with its own key by hand.
    assert!(matches!(
        server_config(
            &Identity::from_pem(&boot.certificate, &master.key).unwrap(),
            Arc::new(|_| true)
        ),
        Err(PinnedError::Unusable(_))
    ));
    let mine = Identity::from_pem(&master.certificate, &master.key).unwrap();
    let theirs = Identity::from_pem(&boot.certificate, &boot.key).unwrap();
    let (server, peers) = server(&theirs, mine.certificate().clone()).await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let thief = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let thief = rustls::pki_types::PrivateKeyDer::try_from(thief.serialize_der()).unwrap();
    let key = provider.key_provider.load_private_key(thief).unwrap();
    let stolen = rustls::sign::CertifiedKey::new(vec![mine.certificate().clone()], key);
    let mut tls = client_config(&mine, theirs.certificate().clone()).unwrap();
    tls.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
    let endpoint = Endpoint::pinned(server.address, tls, EndpointSettings::default()).unwrap();
    let error = endpoint
        .get("/boot", 100, Duration::from_secs(10))
        .await
        .unwrap_err();
    assert!(error.is_silence(), "{error}");
    assert!(peers.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_client_without_a_certificate_and_one_without_tls_are_refused() {
    let (master, boot) = (identity(), identity());
    let (server, peers) = server(&boot, master.certificate().clone()).await;
    let mut tls = client_config(&master, boot.certificate().clone()).unwrap();
    tls.client_auth_cert_resolver = Arc::new(NoCertificate);
    let endpoint = Endpoint::pinned(server.address, tls, EndpointSettings::default()).unwrap();
    endpoint
        .get("/boot", 100, Duration::from_secs(10))
        .await
        .unwrap_err();
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain
        .write_all(b"GET /boot HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let ended = plain.read_to_end(&mut answer).await;
    assert!(ended.is_err() || !answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(peers.lock().unwrap().is_empty());
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_is_given_up() {
    let (master, boot) = (identity(), identity());
    let (server, _peers) = server(&boot, master.certificate().clone()).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let hour = Duration::from_secs(3600);
    let mut byte = [0];
    let end = tokio::time::timeout(hour, silent.read(&mut byte)).await;
    assert_eq!(end.unwrap().unwrap(), 0);
}

#[test]
fn what_is_no_pem_is_refused_and_keys_are_not_shown() {
    let good = pem();
    assert!(matches!(
        Identity::from_pem("", &good.key),
        Err(PinnedError::Certificate)
    ));
    assert!(matches!(
        Identity::from_pem(&good.certificate, "x"),
        Err(PinnedError::Key)
    ));
    let swapped = Identity::from_pem(&good.key, &good.certificate);
    assert!(matches!(swapped, Err(PinnedError::Certificate)));
    let identity = Identity::from_pem(&good.certificate, &good.key).unwrap();
    assert_eq!(format!("{identity:?}"), "Identity { .. }");
}
