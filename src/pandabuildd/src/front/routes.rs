//! Which slot a request is for. Launchpad knows each builder by a host name, which all may lead to one
//! address; a slot may also have an address of its own.
//!
//! | listener | `Host` names a slot | it names none, or is missing |
//! | --- | --- | --- |
//! | shared | that slot | 404 with what to do; there is no guessing |
//! | a slot's own | the own slot | the own slot |
//! | both at once | that slot | the own slot |
//!
//! The name is compared without its port, case and final dot: the manager sends `Host` without a port.

use std::collections::HashMap;
use std::sync::Arc;

use http::header::HOST;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use panda_http::body::text_response;
use panda_http::{Body, ServerSettings, ServiceLimits, respond, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{SlotFront, repeated};

/// Host names and the slots they lead to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts(HashMap<String, Arc<SlotFront>>);

impl Hosts {
    /// One more name. The configuration has checked that no two slots share one.
    pub(crate) fn insert(&mut self, name: &str, slot: Arc<SlotFront>) {
        self.0.insert(plain(name), slot);
    }

    fn get(&self, host: &str) -> Option<&Arc<SlotFront>> {
        self.0.get(&plain(host))
    }
}

/// What one listener leads to.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    /// By name; empty where the listener is a slot's own only.
    pub(crate) hosts: Arc<Hosts>,
    /// The slot that requests without a known name are for.
    pub(crate) own: Option<Arc<SlotFront>>,
}

impl Routes {
    /// Serves `listener` until `stop`, then lets calls in flight end and returns.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        settings: ServerSettings,
        limits: ServiceLimits,
        stop: CancellationToken,
    ) {
        let handler = move |request: Request<Incoming>, _| {
            let routes = self.clone();
            async move { routes.answer(&limits, request).await }
        };
        serve(listener, None, settings, stop, handler).await;
    }

    async fn answer(&self, limits: &ServiceLimits, request: Request<Incoming>) -> Response<Body> {
        let host = host_of(&request).unwrap_or_default();
        match self.hosts.get(host).or(self.own.as_ref()) {
            Some(slot) => respond(&**slot, limits, request).await,
            None => text_response(
                StatusCode::NOT_FOUND,
                &format!(
                    "no slot of this rack has the host name {:?}: builders are chosen by the Host header; \
                     `hosts` of each [[slot]] in rack.toml are the names that it knows",
                    repeated(host)
                ),
            ),
        }
    }
}

/// The host that a request names: in its target where that is absolute, else in its header.
fn host_of<B>(request: &Request<B>) -> Option<&str> {
    request
        .uri()
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| request.headers().get(HOST)?.to_str().ok())
}

/// Without port and final dot, in lower case.
fn plain(host: &str) -> String {
    let host = match host.rsplit_once(':') {
        // An IPv6 address has colons of its own, inside brackets.
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') =>
        {
            if name.contains(':') && !name.ends_with(']') {
                host
            } else {
                name
            }
        }
        _ => host,
    };
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_compared_without_port_case_and_final_dot() {
        for host in [
            "panda01.rack.example",
            "PANDA01.Rack.Example",
            "panda01.rack.example:8221",
            "panda01.rack.example.",
        ] {
            assert_eq!(plain(host), "panda01.rack.example", "{host}");
        }
        assert_eq!(plain("[::1]:8221"), "[::1]");
        assert_eq!(plain("[::1]"), "[::1]");
        assert_eq!(plain("::1"), "::1");
        assert_eq!(plain(""), "");
    }

    #[test]
    fn an_absolute_target_wins_over_the_header() {
        let request = Request::builder()
            .uri("http://a.example:1/rpc")
            .header(HOST, "b.example")
            .body(())
            .unwrap();
        assert_eq!(host_of(&request), Some("a.example:1"));
        let request = Request::builder()
            .uri("/rpc")
            .header(HOST, "b.example")
            .body(())
            .unwrap();
        assert_eq!(host_of(&request), Some("b.example"));
    }
}
