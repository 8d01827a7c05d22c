//! A web service that behaves, or does not.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{AUTHORIZATION, ETAG, HeaderValue, IF_MATCH, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use panda_http::body::{Body, bytes_response, text_response};
use panda_http::{ServerSettings, serve};
use panda_protocol::launchpad::BuildCall;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::slot::SlotHandle;

/// What the service does with one request instead of answering well.
#[derive(Debug, Clone)]
pub(super) enum Trick {
    Status(u16),
    Html,
    Redirect,
    /// More bytes than are taken.
    Endless,
    /// No answer.
    Hang,
    /// The change is made, but not answered.
    TakeAndHang,
    /// The entry changes first.
    ChangeFirst(&'static str),
    /// A dispatch reaches the slot first.
    DispatchFirst(SlotHandle, Box<BuildCall>),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) authorization: String,
    pub(super) if_match: Option<String>,
    pub(super) body: Option<Value>,
    /// What the entry said when it came.
    pub(super) clean_status: &'static str,
    /// Whether a dispatch to the slot would have been served when it came.
    pub(super) slot_idle: bool,
}

#[derive(Debug)]
struct State {
    clean_status: &'static str,
    builderok: bool,
    failnotes: Option<String>,
    version: u32,
    /// For requests of this method, in turn.
    tricks: VecDeque<(Method, Trick)>,
}

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
    seen: watch::Sender<Vec<Seen>>,
    slot: SlotHandle,
}

impl Fake {
    pub(super) async fn start(slot: SlotHandle, clean_status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(State {
                clean_status,
                builderok: true,
                failnotes: None,
                version: 1,
                tricks: VecDeque::new(),
            })),
            seen: watch::channel(Vec::new()).0,
            slot,
        };
        let handler = {
            let fake = fake.clone();
            move |request, _| {
                let fake = fake.clone();
                async move { fake.answer(request).await }
            }
        };
        tokio::spawn(serve(
            listener,
            None,
            ServerSettings::default(),
            CancellationToken::new(),
            handler,
        ));
        fake
    }

    /// Somebody else writes.
    pub(super) fn set(&self, clean_status: &'static str) {
        let mut state = self.state.lock().unwrap();
        state.clean_status = clean_status;
        state.version += 1;
    }

    pub(super) fn disable(&self, failnotes: &str) {
        let mut state = self.state.lock().unwrap();
        (state.builderok, state.failnotes) = (false, Some(failnotes.to_owned()));
        state.version += 1;
    }

    pub(super) fn trick(&self, method: Method, trick: Trick) {
        let mut state = self.state.lock().unwrap();
        state.tricks.push_back((method, trick));
    }

    pub(super) fn clean_status(&self) -> &'static str {
        self.state.lock().unwrap().clean_status
    }

    pub(super) fn failure(&self) -> (bool, Option<String>) {
        let state = self.state.lock().unwrap();
        (state.builderok, state.failnotes.clone())
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    pub(super) fn patches(&self) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|seen| seen.method == Method::PATCH);
        seen
    }

    /// Waits for so many requests more than there are.
    pub(super) async fn more(&self, count: usize) {
        let mut seen = self.seen.subscribe();
        let until = seen.borrow_and_update().len() + count;
        seen.wait_for(|seen| seen.len() >= until).await.unwrap();
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = |name| {
            let value = head.headers.get(name)?;
            Some(value.to_str().unwrap().to_owned())
        };
        let trick = {
            let mut state = self.state.lock().unwrap();
            let seen = Seen {
                method: head.method.clone(),
                path: head.uri.path().to_owned(),
                authorization: text(AUTHORIZATION).unwrap_or_default(),
                if_match: text(IF_MATCH),
                body: serde_json::from_slice(&body).ok(),
                clean_status: state.clean_status,
                slot_idle: self.slot.view().is_idle(),
            };
            self.seen.send_modify(|all| all.push(seen));
            let due = state
                .tricks
                .front()
                .is_some_and(|(method, _)| *method == head.method);
            due.then(|| state.tricks.pop_front().unwrap().1)
        };
        let well = || self.well(&head.method, text(IF_MATCH).as_deref(), &body);
        match trick {
            None => well(),
            Some(Trick::Status(status)) => {
                text_response(StatusCode::from_u16(status).unwrap(), "no: hush")
            }
            Some(Trick::Html) => bytes_response(
                StatusCode::OK,
                "text/html",
                "<html>Welcome to this network</html>",
            ),
            Some(Trick::Redirect) => {
                let mut answer = text_response(StatusCode::FOUND, "");
                let location = HeaderValue::from_static("/elsewhere");
                answer.headers_mut().insert(LOCATION, location);
                answer
            }
            Some(Trick::Endless) => {
                bytes_response(StatusCode::OK, "application/json", vec![b' '; 300 * 1024])
            }
            Some(Trick::Hang) => std::future::pending().await,
            Some(Trick::TakeAndHang) => {
                drop(well());
                std::future::pending().await
            }
            Some(Trick::ChangeFirst(clean_status)) => {
                self.set(clean_status);
                well()
            }
            Some(Trick::DispatchFirst(slot, call)) => {
                slot.build(*call).await.unwrap();
                well()
            }
        }
    }

    fn well(&self, method: &Method, if_match: Option<&str>, body: &Bytes) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        let etag = format!("\"read-{}\"", state.version);
        let mut status = StatusCode::OK;
        if *method == Method::PATCH {
            if if_match != Some(etag.as_str()) {
                return text_response(StatusCode::PRECONDITION_FAILED, "");
            }
            let changes: Value = serde_json::from_slice(body).unwrap();
            for (key, value) in changes.as_object().unwrap() {
                match key.as_str() {
                    "clean_status" => {
                        assert_eq!(value, "Clean");
                        state.clean_status = "Clean";
                    }
                    "builderok" => state.builderok = value.as_bool().unwrap(),
                    "failnotes" => state.failnotes = value.as_str().map(str::to_owned),
                    other => panic!("{other}"),
                }
            }
            state.version += 1;
            status = StatusCode::from_u16(209).unwrap();
        }
        let etag = format!("\"read-{}\"", state.version);
        let entry = json!({
            "clean_status": state.clean_status, "builderok": state.builderok, "name": "panda01",
            "failnotes": state.failnotes, "http_etag": etag,
        });
        let mut answer = bytes_response(status, "application/json", entry.to_string());
        answer
            .headers_mut()
            .insert(ETAG, HeaderValue::from_str(&etag).unwrap());
        answer
    }
}
