//! `proxy_info`: of the running build, where its type has a proxy; else a fault. Launchpad asks when the build
//! has ended, to close the proxy's session.
//!
//! ```text
//! < {use_fetch_service, revocation_endpoint}
//! ```

use std::collections::BTreeMap;
use std::fmt;

use dxr::Value;

use super::{Call, Reply, ReplyError, Request};

/// `proxy_info`: of the running build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GetProxyInfo;

impl Request for GetProxyInfo {
    const METHOD: &'static str = "proxy_info";
    type Reply = ProxyInfo;
}

impl From<GetProxyInfo> for Call {
    fn from(_: GetProxyInfo) -> Self {
        Self::ProxyInfo
    }
}

/// The reply to `proxy_info`. Its fields are the worker's and Launchpad's business: they hold a token.
#[derive(Clone, Default, PartialEq)]
pub struct ProxyInfo(pub BTreeMap<String, Value>);

impl fmt::Debug for ProxyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyInfo").finish_non_exhaustive()
    }
}

impl Reply for ProxyInfo {
    fn decode(value: Value) -> Result<Self, ReplyError> {
        match value {
            Value::Struct(fields) => Ok(Self(fields)),
            _ => Err(ReplyError("not a struct")),
        }
    }

    fn encode(self) -> Value {
        Value::Struct(self.0)
    }
}
