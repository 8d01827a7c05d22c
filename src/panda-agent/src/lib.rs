//! The board's side of pandabuildd, one static program: a boot's first seconds, the authenticated
//! link to the master, and the worker that runs the build.
//!
//! ```text
//! init ──▶ boot.toml, scratch ──▶ worker ◀── link (TLS: master only)
//!   └────────────────────────────────────▶ depot (TLS): the boot's report, input files
//! ```
//!
//! # Layout
//! - [`init`]: what happens between power and proof
//! - [`link`]: the channel that only the master and this boot share
//! - [`worker`]: a Launchpad builder; also runs alone
//! - [`foreign`]: a worker that the image names in its place

pub mod foreign;
pub mod init;
pub mod link;
pub mod worker;

/// What the worker calls itself.
pub const VERSION: &str = concat!("panda-agent ", env!("CARGO_PKG_VERSION"));
