//! Launchpad's builder protocol, as it is spoken today and as it was in 2011.
//!
//! - [`xml`]: XML-RPC documents, bounded, to and from [`dxr::Value`]
//! - [`call`]: the methods, their arguments and their replies
//! - [`status`]: what a builder says of itself, in both dialects
//! - [`names`]: build ids, file names and sums as checked types
//! - [`log`]: taking secrets out of a build log

pub mod call;
pub mod log;
pub mod names;
pub mod status;
pub mod xml;

#[cfg(test)]
mod testing;

pub use call::{
    Abort, Aborting, Answered, BuildCall, BuildReply, Call, CallError, Clean, Cleaned, Echo,
    Echoed, EnsurePresent, GetInfo, GetProxyInfo, GetStatus, GetStatusDict, Info, Needed, Presence,
    ProxyInfo, Reply, Request, StatusReply,
};
pub use names::{BuildId, FileMap, FileName, Sum};
pub use status::{BuildStatus, Dialect, Outcome, Status, StatusReport};
