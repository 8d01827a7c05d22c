//! The worker that a boot's link leads to: the agent's own, or the one that the image names.

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use panda_http::body::text_response;
use panda_http::{Body, ServiceLimits, respond};

use crate::foreign::Foreign;
use crate::worker::Worker;

/// A worker behind the link.
#[derive(Debug, Clone)]
pub enum Served {
    /// The agent's own.
    Own(Worker),
    /// The image's own.
    Foreign(Foreign),
}

impl Served {
    /// The architecture that it announces.
    #[must_use]
    pub fn arch(&self) -> &str {
        match self {
            Self::Own(worker) => worker.arch(),
            Self::Foreign(worker) => worker.arch(),
        }
    }

    /// The build types that it announces.
    #[must_use]
    pub fn build_types(&self) -> Vec<String> {
        match self {
            Self::Own(worker) => worker
                .build_types()
                .iter()
                .map(ToString::to_string)
                .collect(),
            Self::Foreign(worker) => worker.build_types().to_vec(),
        }
    }

    /// Answers a request of the builder protocol. A worker that has ended is gone (410): the master then waits
    /// for nothing.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let limits = ServiceLimits::default();
        match self {
            Self::Own(worker) => respond(worker, &limits, request).await,
            Self::Foreign(worker) => match worker.ended() {
                Some(how) => {
                    let text = format!("the worker has ended: {how}");
                    text_response(StatusCode::GONE, &text)
                }
                None => respond(worker, &limits, request).await,
            },
        }
    }
}
