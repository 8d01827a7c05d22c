//! Launchpad's side of a slot: the builder protocol's methods and files, answered from the slot's committed
//! state and the master's own disk. It knows a slot's handle and never a board. A listener chooses the slot
//! ([`routes`]) and `panda_http` reads the call; see `launchpad-protocol` in the documentation.
//!
//! | method | answered from |
//! | --- | --- |
//! | `status`, `status_dict` | what the slot's view tells a manager; the log tail, and further fields of the worker's own, from its results |
//! | `echo`, `info` | faults when `status` does, so that a slot between boots looks like no builder |
//! | `ensurepresent` | the file cache, for this slot |
//! | `build` | its type, the file cache, its files' names, then the slot |
//! | `abort`, `clean` | the slot |
//! | `proxy_info` | what the worker said of its build's proxy |
//! | `filecache/buildlog` | the log of the build that runs or is kept |
//! | `filecache/<sha1>` | a result of the build that is kept; never an input |

pub(crate) mod routes;
mod settings;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use panda_http::service::fault;
use panda_http::{BuilderService, FileError, ServedFile};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::xml::Fault;
use panda_protocol::launchpad::{
    Abort, Aborting, Answered, BuildCall, BuildReply, Clean, Cleaned, Dialect, Echo, Echoed,
    EnsurePresent, FileName, GetInfo, GetProxyInfo, GetStatus, Info, Needed, Status, StatusReply,
    StatusReport, Sum,
};
use panda_slot::{Answer, ManagerStatus};

pub(crate) use self::settings::FrontSettings;
use crate::filecache::Filecache;
use crate::guest::{Extras, LOG_NAME, Results};
use crate::slot::{SlotClosed, SlotHandle};

/// What `builder_version` says.
const VERSION: &str = concat!("pandabuildd ", env!("CARGO_PKG_VERSION"));
/// How long a call waits for a board to prove itself again after the daemon's start: less than any manager waits
/// for an answer.
const REJOIN_LIMIT: Duration = Duration::from_secs(10);
/// The most characters of a caller's text that an answer repeats.
const MAX_REPEATED: usize = 100;

/// The build types that the worker of the last proven boot has announced; none before one has.
pub(crate) type Announced = Arc<dyn Fn() -> Option<Vec<String>> + Send + Sync>;

/// What a slot says of itself.
#[derive(Clone)]
pub(crate) struct Face {
    /// Which manager the rack speaks to.
    pub(crate) dialect: Dialect,
    /// Whether that manager knows the builders as virtualised.
    pub(crate) virtualized: bool,
    /// The architecture tag.
    pub(crate) arch: String,
    /// The build types to announce until the worker has.
    pub(crate) build_types: Vec<String>,
    /// Those that the worker has announced.
    pub(crate) announced: Announced,
}

impl Face {
    fn build_types(&self) -> Vec<String> {
        (self.announced)().unwrap_or_else(|| self.build_types.clone())
    }
}

impl fmt::Debug for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Face")
            .field("arch", &self.arch)
            .finish_non_exhaustive()
    }
}

/// One slot, as Launchpad sees it.
#[derive(Debug, Clone)]
pub(crate) struct SlotFront {
    slot: SlotHandle,
    face: Face,
    results: Results,
    filecache: Filecache,
}

impl SlotFront {
    /// The front of `slot`.
    #[must_use]
    pub(crate) fn new(
        slot: SlotHandle,
        face: Face,
        results: Results,
        filecache: Filecache,
    ) -> Self {
        Self {
            slot,
            face,
            results,
            filecache,
        }
    }

    fn manager_status(&self) -> ManagerStatus {
        self.slot
            .view()
            .manager_status(self.face.dialect, self.face.virtualized)
    }

    /// What `status` tells. IDLE invites a dispatch, and one without inputs would count against builder and
    /// job; `echo` and `info` still answer, because a manager that has just reset the builder asks no more.
    async fn status_for_dispatch(&self) -> ManagerStatus {
        match self.manager_status() {
            ManagerStatus::Idle => match self.filecache.trouble().await {
                Some(reason) => panda_slot::between_boots(self.face.dialect, reason),
                None => ManagerStatus::Idle,
            },
            said => said,
        }
    }

    /// Faults when `status` does for want of a board.
    fn awake(&self) -> Result<(), Fault> {
        match self.manager_status() {
            ManagerStatus::Fault { reason } => Err(fault(reason)),
            _ => Ok(()),
        }
    }

    async fn report(&self) -> Result<StatusReport, Fault> {
        let status = match self.status_for_dispatch().await {
            ManagerStatus::Idle => Status::Idle,
            ManagerStatus::Building { build_id, attempt } => Status::Building {
                build_id,
                logtail: self.results.tail(attempt).await,
            },
            ManagerStatus::Aborting { build_id } => Status::Aborting { build_id },
            ManagerStatus::Aborted { build_id, .. } => Status::Aborted { build_id },
            ManagerStatus::Waiting {
                build_id, outcome, ..
            } => Status::Waiting { build_id, outcome },
            ManagerStatus::Fault { reason } => return Err(fault(reason)),
        };
        Ok(StatusReport {
            version: Some(VERSION.to_owned()),
            status,
            extra: self.extras().await.unwrap_or_default().status,
        })
    }

    /// What the build needs and the cache has not; what it has stays for this slot.
    async fn missing(&self, call: &BuildCall) -> Result<Vec<(Needed, Sum)>, Fault> {
        let mut missing = Vec::new();
        let wanted = std::iter::once((Needed::Chroot, &call.chroot))
            .chain(call.filemap.values().map(|sum| (Needed::File, sum)));
        for (needed, sum) in wanted {
            let held = match sum.sha1() {
                Some(sha1) => self
                    .filecache
                    .hold(self.slot.name(), sha1)
                    .await
                    .map_err(fault)?,
                None => false,
            };
            if !held {
                missing.push((needed, sum.clone()));
            }
        }
        Ok(missing)
    }

    /// What the worker of the build that runs or is kept has said of it; none where there is no build.
    async fn extras(&self) -> Option<Extras> {
        let view = self.slot.view();
        let live = view.slot.live().map(|build| build.attempt);
        let attempt = live.or(view.slot.kept.as_ref().map(|kept| kept.attempt))?;
        Some(self.results.extras(attempt).await)
    }
}

impl BuilderService for SlotFront {
    /// A dispatch that the daemon's restart has come between goes on.
    async fn admit(&self, _method: &'static str) -> Result<(), Fault> {
        self.slot.rejoined(REJOIN_LIMIT).await;
        Ok(())
    }

    async fn echo(&self, request: Echo) -> Answered<Echo> {
        self.awake().map(|()| Echoed(request.0))
    }

    async fn info(&self) -> Answered<GetInfo> {
        self.awake()?;
        Ok(Info::new(&self.face.arch, self.face.build_types()))
    }

    async fn status(&self) -> Answered<GetStatus> {
        Ok(StatusReply {
            dialect: self.face.dialect,
            report: self.report().await?,
        })
    }

    async fn ensure_present(&self, request: EnsurePresent) -> Answered<EnsurePresent> {
        let slot = self.slot.name();
        Ok(self.filecache.ensure_present(slot, request).await)
    }

    /// In the reference's order: the type, the sums, and only then what the files are.
    async fn build(&self, call: BuildCall) -> Answered<BuildCall> {
        let types = self.face.build_types();
        if !types.contains(&call.build_type) {
            return Ok(BuildReply::unknown_builder(&call.build_type, &types));
        }
        let missing = self.missing(&call).await?;
        if !missing.is_empty() {
            return Ok(BuildReply::unknown_sums(&missing));
        }
        if call.build_type == "binarypackage"
            && !call
                .filemap
                .keys()
                .any(|name| name.as_str().ends_with(".dsc"))
        {
            return Err(fault("build: the filemap has no .dsc"));
        }
        let build_id = call.build_id.clone();
        match self.slot.build(call).await.map_err(stopping)? {
            Answer::Building { .. } => Ok(BuildReply::Building { build_id }),
            other => Err(refusal(&other)),
        }
    }

    async fn abort(&self) -> Answered<Abort> {
        match self.slot.abort().await.map_err(stopping)? {
            Answer::Aborting => Ok(Aborting),
            other => Err(refusal(&other)),
        }
    }

    async fn clean(&self) -> Answered<Clean> {
        match self.slot.clean().await.map_err(stopping)? {
            Answer::Idle => Ok(Cleaned),
            other => Err(refusal(&other)),
        }
    }

    /// Launchpad asks when the build has ended, to close the proxy's session.
    async fn proxy_info(&self) -> Answered<GetProxyInfo> {
        let proxy = self.extras().await.and_then(|extras| extras.proxy);
        proxy.ok_or_else(|| fault("there is no build with a proxy"))
    }

    async fn file(&self, name: &FileName) -> Result<Option<ServedFile>, FileError> {
        let view = self.slot.view();
        let kept = view.slot.kept.as_ref();
        let live = view.slot.live();
        let file = if name.as_str() == LOG_NAME {
            match live
                .map(|build| build.attempt)
                .or(kept.map(|kept| kept.attempt))
            {
                Some(attempt) => self.results.open_log(attempt).await?,
                None => None,
            }
        } else {
            let sha1 = name.as_str().parse::<Sha1>().ok();
            let result = kept
                .zip(sha1)
                .filter(|(kept, sha1)| kept.outcome.filemap.values().any(|result| result == sha1));
            match result {
                Some((kept, sha1)) => self.results.open(kept.attempt, sha1).await?,
                None => None,
            }
        };
        match file {
            Some(file) => Ok(Some(ServedFile::new(file).await?)),
            None => Ok(None),
        }
    }
}

/// A caller's text, as a page may repeat it.
fn repeated(given: &str) -> String {
    given
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_REPEATED)
        .collect()
}

fn stopping(closed: SlotClosed) -> Fault {
    fault(closed.to_string())
}

fn refusal(answer: &Answer) -> Fault {
    match answer {
        Answer::Refused(refusal) => fault(refusal.to_string()),
        // The machine answers each call with its own answer or a refusal.
        Answer::Building { .. }
        | Answer::Aborting
        | Answer::Idle
        | Answer::Ready
        | Answer::Joined
        | Answer::Done => fault("error"),
    }
}

#[cfg(test)]
mod tests;
