//! What the daemon and the agent share of HTTP. The worker on a board *is* a Launchpad builder, and
//! so is every slot of the master: one server loop, one XML-RPC service and one typed client serve
//! both sides.
//!
//! ```text
//!   listener ──▶ server::serve ──▶ handler(request, peer) ──▶ service::respond ──▶ BuilderService
//!   endpoint::Endpoint ──▶ client::BuilderClient           (and plain GET/POST for link and depot)
//!   download::Downloader ──▶ draft::Draft ──▶ store::Store (content named by its SHA-1)
//! ```
//!
//! # Layout
//! - [`server`]: accept loop over TCP or TLS; [`places`]: who may have how many connections;
//!   `shared_stream`: whether a caller has gone; [`body`]: bodies and small answers
//! - [`unix`]: a server on a Unix socket, whose peers the kernel names, and a request to one
//! - [`service`]: a builder's two routes, `/rpc` and `/filecache/NAME`; [`ranges`]: file answers;
//!   `encoding`: calls that come compressed; [`relay`]: a builder that stands behind another
//! - [`endpoint`]: HTTP to one fixed peer; [`client`]: the builder protocol's typed client
//! - [`download`]: fetching from anywhere, with redirects and credentials
//! - [`draft`]: a file that is hashed while it is written; [`store`]: the content store
//! - [`pinned`]: TLS in which both sides know the other's one certificate
//! - [`failpoint`]: where tests have a program die

pub mod body;
pub mod client;
pub mod download;
pub mod draft;
mod encoding;
pub mod endpoint;
pub mod failpoint;
pub mod pinned;
pub mod places;
pub mod ranges;
pub mod relay;
pub mod server;
pub mod service;
mod shared_stream;
pub mod store;
pub mod unix;

pub use body::Body;
pub use client::{BuilderClient, ClientLimits};
pub use download::{DownloadError, Downloader, Source};
pub use endpoint::{ClientError, Endpoint, FaultText};
pub use pinned::Identity;
pub use places::{PlaceLimits, Places, Standing};
pub use ranges::ServedFile;
pub use relay::Relay;
pub use server::{Peer, ServerSettings, serve, serve_in};
pub use service::{BuilderService, FileError, ServiceLimits, respond};
pub use store::{Fetched, Store, StoreError};
