//! Downloads from servers that redirect, want credentials, and lie.

use std::time::Duration;

use bytes::Bytes;
use panda_http::download::{DownloadSettings, Sink};
use panda_http::pinned::client_config;
use panda_http::{DownloadError, Downloader, Source};

use crate::peers::{Origin, ok, redirect};
use crate::pinned::{identity, server};

/// `:tok:en/1` and `user:pa55` as basic authentication.
const TOKEN: &str = "Basic OnRvazplbi8x";
const USER: &str = "Basic dXNlcjpwYTU1";

#[derive(Default)]
struct Bucket {
    expected: Option<u64>,
    bytes: Vec<u8>,
}

impl Sink for Bucket {
    async fn expect(&mut self, bytes: u64) -> Result<(), DownloadError> {
        self.expected = Some(bytes);
        Ok(())
    }

    async fn write(&mut self, piece: &Bytes) -> Result<(), DownloadError> {
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

pub(crate) fn downloader(settings: DownloadSettings) -> Downloader {
    Downloader::public(settings).unwrap()
}

async fn fetch(url: &str, username: &str, password: &str) -> Result<Bucket, DownloadError> {
    let source = Source::new(url, username, password)?;
    let mut bucket = Bucket::default();
    downloader(DownloadSettings::default())
        .fetch(&source, &mut bucket)
        .await?;
    Ok(bucket)
}

/// Answers one request a connection and keeps the connection, but drops it with the next request on it, as a
/// server does whose patience ends just then.
async fn impatient() -> std::net::SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let got = stream.read(&mut head).await.unwrap();
                let first = head[..got].starts_with(b"GET /first");
                let answer = if first {
                    redirect("/second")
                } else {
                    ok("content")
                };
                stream.write_all(&answer).await.unwrap();
                drop(stream.read(&mut head).await);
            });
        }
    });
    address
}

#[tokio::test]
async fn a_kept_connection_that_the_server_drops_costs_no_download() {
    let address = impatient().await;
    let bucket = fetch(&format!("http://{address}/first"), "", "").await;
    assert_eq!(&*bucket.unwrap().bytes, b"content");
}

#[tokio::test]
async fn a_file_arrives_and_its_length_is_known_first() {
    let origin = Origin::fixed(ok("content")).await;
    let bucket = fetch(&origin.url("/x?y=1"), "", "").await.unwrap();
    assert_eq!(
        (bucket.expected, &*bucket.bytes),
        (Some(7), &b"content"[..])
    );
    let heads = origin.heads();
    assert!(
        heads[0].starts_with("GET /x?y=1 HTTP/1.1\r\n"),
        "{}",
        heads[0]
    );
    assert_eq!(crate::peers::header(&heads[0], "accept-encoding"), None);
    assert_eq!(origin.authorizations(), [None]);
}

#[tokio::test]
async fn a_file_without_a_declared_length_ends_with_its_connection() {
    let origin = Origin::fixed("HTTP/1.0 200 OK\r\n\r\ncontent").await;
    let bucket = fetch(&origin.url("/"), "", "").await.unwrap();
    assert_eq!((bucket.expected, &*bucket.bytes), (None, &b"content"[..]));
}

#[tokio::test]
async fn credentials_go_out_at_once_with_an_empty_user_name_too() {
    let origin = Origin::fixed(ok("x")).await;
    fetch(&origin.url("/"), "", "tok:en/1").await.unwrap();
    fetch(&origin.url("/"), "user", "pa55").await.unwrap();
    let within = format!("http://user:p%6155@{}/", origin.address);
    fetch(&within, "", "").await.unwrap();
    fetch(&within, "", "tok:en/1").await.unwrap();
    let sent = [TOKEN, USER, USER, TOKEN].map(|text| Some(text.to_owned()));
    assert_eq!(origin.authorizations(), sent);
}

#[tokio::test]
async fn credentials_stay_with_their_origin_across_redirects() {
    let other = Origin::fixed(ok("content")).await;
    let target = other.url("/there");
    let origin = Origin::start(move |head| {
        let target = target.clone();
        async move {
            if head.starts_with("GET /first ") {
                redirect("/second")
            } else {
                redirect(&target)
            }
        }
    });
    let origin = origin.await;
    let bucket = fetch(&origin.url("/first"), "", "tok:en/1").await.unwrap();
    assert_eq!(bucket.bytes, b"content");
    assert_eq!(
        origin.authorizations(),
        [Some(TOKEN.to_owned()), Some(TOKEN.to_owned())]
    );
    assert_eq!(other.authorizations(), [None]);
}

#[tokio::test]
async fn redirects_are_followed_ten_times_and_no_more() {
    let origin = Origin::start(|head| async move {
        let left: u32 = head[5..].split(' ').next().unwrap().parse().unwrap();
        if left == 0 {
            ok("content")
        } else {
            redirect(&format!("/{}", left - 1))
        }
    });
    let origin = origin.await;
    assert_eq!(
        fetch(&origin.url("/10"), "", "").await.unwrap().bytes,
        b"content"
    );
    let error = fetch(&origin.url("/11"), "", "").await.err().unwrap();
    assert!(
        error.to_string().ends_with("more than 10 redirects"),
        "{error}"
    );
    assert_eq!(origin.heads().len(), 22);
}

#[tokio::test]
async fn bad_redirects_are_refused() {
    for (answer, problem) in [
        (
            redirect("file:///etc/passwd"),
            "a redirect to something else than http or https",
        ),
        (redirect("http://"), "a redirect to no URL"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: \xff\r\n\r\n".to_vec(),
            "a redirect to no URL",
        ),
        (
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "a redirect to nowhere",
        ),
    ] {
        let origin = Origin::fixed(answer).await;
        let error = fetch(&origin.url("/x"), "", "").await.err().unwrap();
        assert_eq!(
            error,
            DownloadError::Redirect {
                place: origin.url("/x"),
                problem
            }
        );
    }
}

#[tokio::test]
async fn fewer_bytes_than_declared_are_refused() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort").await;
    let error = fetch(&origin.url("/x"), "", "").await.err().unwrap();
    let place = origin.url("/x");
    assert_eq!(
        error,
        DownloadError::Length {
            place,
            declared: 10,
            got: 5
        }
    );
}

#[tokio::test]
async fn bytes_beyond_the_declared_length_are_not_part_of_the_file() {
    let origin = Origin::fixed("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlonger").await;
    assert_eq!(
        fetch(&origin.url("/x"), "", "").await.unwrap().bytes,
        b"long"
    );
}

#[tokio::test]
async fn a_chunked_file_that_breaks_off_is_refused() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n";
    let origin = Origin::fixed(answer).await;
    let error = fetch(&origin.url("/x"), "", "").await.err().unwrap();
    assert!(matches!(error, DownloadError::Transport { .. }), "{error}");
}

#[tokio::test]
async fn more_bytes_than_allowed_are_refused_declared_or_not() {
    let settings = DownloadSettings {
        max_bytes: 4,
        ..DownloadSettings::default()
    };
    for (answer, written) in [
        (ok("12345"), 0),
        (b"HTTP/1.0 200 OK\r\n\r\n12345".to_vec(), 4),
    ] {
        let origin = Origin::fixed(answer).await;
        let source = Source::new(&origin.url("/x"), "", "").unwrap();
        let mut bucket = Bucket::default();
        let error = downloader(settings)
            .fetch(&source, &mut bucket)
            .await
            .unwrap_err();
        assert_eq!(
            error,
            DownloadError::TooLong {
                place: origin.url("/x"),
                max: 4
            }
        );
        assert!(bucket.bytes.len() <= written);
        assert_eq!(bucket.expected, None);
    }
}

#[tokio::test]
async fn a_status_other_than_200_is_told_without_credentials_and_query() {
    for status in [204, 206, 304, 401, 404, 500] {
        let origin =
            Origin::fixed(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")).await;
        let url = format!("http://us3r:pa55@{}/x?t=t0k", origin.address);
        let error = fetch(&url, "", "").await.err().unwrap();
        assert_eq!(
            error,
            DownloadError::Status {
                place: origin.url("/x"),
                status
            }
        );
        let shown = format!("{error} {error:?}");
        assert!(
            !["us3r", "pa55", "t0k"]
                .iter()
                .any(|secret| shown.contains(secret)),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn a_refused_connection_is_told_without_secrets() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = fetch(&format!("http://{address}/x?t=t0k"), "us3r", "pa55")
        .await
        .err()
        .unwrap();
    let text = error.to_string();
    let expected = format!("http://{address}/x: no connection: ");
    assert!(
        text.starts_with(&expected) && text.contains("refused"),
        "{text}"
    );
    let shown = format!("{error} {error:?}");
    assert!(
        !["us3r", "pa55", "t0k"]
            .iter()
            .any(|secret| shown.contains(secret)),
        "{shown}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stalls_or_drips_is_given_up() {
    let silent = Origin::start(|_| std::future::pending()).await;
    let error = fetch(&silent.url("/x"), "", "").await.err().unwrap();
    assert!(error.to_string().ends_with("no answer in time"), "{error}");

    let settings = DownloadSettings {
        total_limit: Duration::from_secs(5),
        ..Default::default()
    };
    let source = Source::new(&silent.url("/x"), "", "").unwrap();
    let error = downloader(settings)
        .fetch(&source, &mut Bucket::default())
        .await
        .unwrap_err();
    assert_eq!(
        error,
        DownloadError::TooSlow {
            place: silent.url("/x"),
            seconds: 5
        }
    );
}

#[tokio::test]
async fn https_trusts_the_hosts_authorities_or_the_one_pinned_server() {
    let (worker, depot) = (identity(), identity());
    let (server, _peers) = server(&depot, worker.certificate().clone()).await;
    let url = format!("https://{}/input/x", server.address);
    let error = fetch(&url, "", "tok:en/1").await.err().unwrap().to_string();
    let expected = format!("{url}: no connection: ");
    assert!(error.starts_with(&expected), "{error}");
    assert!(error.contains("certificate"), "{error}");

    let tls = client_config(&worker, depot.certificate().clone()).unwrap();
    let pinned = Downloader::new(DownloadSettings::default(), tls).unwrap();
    let mut bucket = Bucket::default();
    let source = Source::new(&url, "", "").unwrap();
    pinned.fetch(&source, &mut bucket).await.unwrap();
    assert_eq!(bucket.bytes, b"boot\n");
}
