//! What a worker says of its build beyond the protocol's own fields: further fields of `status`, which a build
//! type may add, and the build's proxy. They are the worker's and Launchpad's business: nothing here reads
//! them. They are kept with the attempt, because Launchpad asks for both when the board has lost power already.
//!
//! ```text
//! follow, collect ──▶ STATE/slots/panda01/attempt-7/words.xml ──▶ front: status, proxy_info
//! ```
//!
//! The board is hostile, so they are bounded; what is over the bound is left out and the build goes on. They
//! never override the protocol's own fields: [`panda_protocol::launchpad::StatusReport`] sees to that, both
//! when it is read and when it is written.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use dxr::Value;
use panda_http::{BuilderClient, ClientError};
use panda_protocol::launchpad::ProxyInfo;
use panda_protocol::launchpad::xml::{self, DEEPEST, Limits};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use crate::failpoint::{self, Point};

/// The file in the attempt's directory. It keeps the name that earlier versions gave it, so that they find theirs.
const NAME: &str = "words.xml";
/// The most bytes of it all.
const MAX_BYTES: usize = 256 << 10;
/// The most further fields of a status.
const MAX_FIELDS: usize = 100;
/// The members of the file's one value.
const STATUS: &str = "status";
const PROXY: &str = "proxy";
/// For reading back what was bounded when it was written; it is nested one struct deeper here.
const LIMITS: Limits = Limits {
    bytes: MAX_BYTES,
    depth: DEEPEST,
    items: 100_000,
};

/// The fields of a struct.
pub(crate) type Fields = BTreeMap<String, Value>;

/// What a worker has said of its build.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Extras {
    /// Further fields of its `status`.
    pub(crate) status: Fields,
    /// Its answer to `proxy_info`, where it has a proxy.
    pub(crate) proxy: Option<ProxyInfo>,
}

impl Extras {
    /// Those of the attempt whose directory this is; none where none were kept.
    pub(super) async fn read(directory: &Path) -> Self {
        let bytes = match tokio::fs::read(directory.join(NAME)).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                tracing::warn!(%error, "what the worker said of its build cannot be read");
                return Self::default();
            }
        };
        // Only a disk that lost the half of it makes this fail; a build does without.
        Self::decode(&bytes).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let Value::Struct(mut members) = xml::decode_answer(bytes, &LIMITS).ok()?.ok()? else {
            return None;
        };
        let mut take = |name| match members.remove(name) {
            Some(Value::Struct(fields)) => Some(fields),
            _ => None,
        };
        Some(Self {
            status: take(STATUS)?,
            proxy: take(PROXY).map(ProxyInfo),
        })
    }

    /// None where they are too many.
    fn encode(&self) -> Option<String> {
        if self.status.len() > MAX_FIELDS {
            return None;
        }
        let mut members = Fields::from([(STATUS.to_owned(), Value::Struct(self.status.clone()))]);
        if let Some(proxy) = &self.proxy {
            members.insert(PROXY.to_owned(), Value::Struct(proxy.0.clone()));
        }
        let text = xml::encode_answer(&Ok(Value::Struct(members))).ok()?;
        (text.len() <= MAX_BYTES).then_some(text)
    }
}

/// Keeps them as they change.
#[derive(Debug)]
pub(super) struct ExtrasKeeper {
    directory: PathBuf,
    kept: Extras,
    /// The last ones were over the bound, and that was said.
    over: bool,
    /// The worker has answered whether it has a proxy.
    asked: bool,
}

impl ExtrasKeeper {
    /// Goes on with those of the attempt whose directory this is.
    pub(super) async fn resume(directory: &Path) -> Self {
        Self {
            kept: Extras::read(directory).await,
            directory: directory.to_owned(),
            over: false,
            asked: false,
        }
    }

    /// Forgets those of an attempt: it begins anew, on a new boot.
    pub(super) async fn forget(directory: &Path) -> io::Result<()> {
        failpoint::before(Point::ExtrasForget);
        let removed = tokio::fs::remove_file(directory.join(NAME)).await;
        failpoint::after(Point::ExtrasForget);
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Asks for the proxy, unless that was answered. Silence is the status's business.
    ///
    /// # Errors
    /// An answer that is none.
    pub(super) async fn ask_proxy(&mut self, worker: &BuilderClient) -> Result<(), ClientError> {
        if self.asked {
            return Ok(());
        }
        let proxy = match worker.proxy_info().await {
            Ok(proxy) => proxy,
            Err(error) if error.is_silence() || matches!(error, ClientError::Status(_)) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.asked = true;
        if proxy.is_some() {
            let proxy = Extras {
                proxy,
                ..self.kept.clone()
            };
            self.take(proxy).await;
        }
        Ok(())
    }

    /// Takes the further fields of a status.
    pub(super) async fn take_status(&mut self, status: Fields) {
        if status != self.kept.status {
            let proxy = self.kept.proxy.clone();
            self.take(Extras { status, proxy }).await;
        }
    }

    /// A build does without what cannot be kept.
    async fn take(&mut self, extras: Extras) {
        let Some(text) = extras.encode() else {
            if !std::mem::replace(&mut self.over, true) {
                tracing::warn!(
                    "a worker says more of its build than {MAX_FIELDS} fields or {MAX_BYTES} bytes; left out"
                );
            }
            return;
        };
        self.over = false;
        match self.write(text.as_bytes()).await {
            Ok(()) => self.kept = extras,
            Err(error) => {
                tracing::error!(%error, "what a worker says of its build cannot be kept");
            }
        }
    }

    /// Replaces the file as a whole, on the disk: once collected, the slot's state depends on it.
    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let beside = self.directory.join("words.xml.new");
        let mut file = File::create(&beside).await?;
        file.write_all(bytes).await?;
        file.sync_all().await?;
        failpoint::before(Point::ExtrasKeep);
        tokio::fs::rename(&beside, self.directory.join(NAME)).await?;
        failpoint::after(Point::ExtrasKeep);
        File::open(&self.directory).await?.sync_all().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: String) -> Fields {
        Fields::from([("revision_id".to_owned(), Value::String(text))])
    }

    #[tokio::test]
    async fn extras_outlive_their_keeper_and_those_over_the_bound_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(Extras::read(path).await, Extras::default());
        let mut deep = Value::Nil;
        for _ in 0..30 {
            deep = Value::Array(vec![deep, Value::Long(1 << 40), Value::Double(0.1)]);
        }
        let mut some = fields("1 2\n".to_owned());
        some.insert("deep".to_owned(), deep);
        let mut keeper = ExtrasKeeper::resume(path).await;
        keeper.take_status(some.clone()).await;
        let mut keeper = ExtrasKeeper::resume(path).await;
        assert_eq!(keeper.kept.status, some);
        keeper.take_status(fields("x".repeat(MAX_BYTES))).await;
        let many = (0..=MAX_FIELDS).map(|n| (n.to_string(), Value::Nil));
        keeper.take_status(many.collect()).await;
        assert_eq!(Extras::read(path).await.status, some);
        keeper.take_status(fields("3".to_owned())).await;
        assert_eq!(Extras::read(path).await.status, fields("3".to_owned()));
        ExtrasKeeper::forget(path).await.unwrap();
        ExtrasKeeper::forget(path).await.unwrap();
        assert_eq!(Extras::read(path).await, Extras::default());
    }

    #[tokio::test]
    async fn half_a_file_is_no_extras() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(NAME), "<?xml version='1.0'?><meth").unwrap();
        assert_eq!(Extras::read(directory.path()).await, Extras::default());
    }
}
