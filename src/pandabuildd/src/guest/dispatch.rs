//! Gives the worker a build: its inputs, which it fetches from the depot, then `build`. A worker that has
//! the build already (the daemon was killed between the worker's answer and the commit) is not asked twice:
//! one boot has one build, so a build of this id on this boot *is* ours.

use std::collections::BTreeSet;
use std::time::Duration;

use panda_http::ClientError;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{BuildCall, BuildReply, EnsurePresent, Status, Sum};
use panda_protocol::link::INPUT_PATH;
use panda_slot::Lost;
use tokio::time::timeout;

use super::{Guest, disk, lost, wrong_build};
use crate::failpoint::{self, Point};
use crate::guest::extras::ExtrasKeeper;
use crate::guest::log::LogPuller;

/// How a dispatch ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dispatched {
    /// The worker has accepted the build now.
    Begun,
    /// It had it already.
    Joined,
}

/// Gives the worker `call`, with inputs from the depot at `depot` (`ADDRESS:PORT`, as in `boot.toml`).
///
/// # Errors
/// The board is lost.
pub(crate) async fn dispatch(
    guest: &Guest,
    call: &BuildCall,
    depot: &str,
) -> Result<Dispatched, Lost> {
    let limit = Duration::from_millis(guest.settings.dispatch_ms);
    timeout(limit, give(guest, call, depot))
        .await
        .unwrap_or(Err(Lost::OverTime))
}

/// Every input of a build, once; none where a sum is no SHA-1.
pub(crate) fn inputs(call: &BuildCall) -> Option<BTreeSet<Sha1>> {
    let sums = call.filemap.values().chain(std::iter::once(&call.chroot));
    sums.map(Sum::sha1).collect()
}

async fn give(guest: &Guest, call: &BuildCall, depot: &str) -> Result<Dispatched, Lost> {
    let worker = guest.link.worker();
    match worker.status().await.map_err(|error| lost(&error))?.status {
        Status::Idle => {}
        Status::Building { build_id, .. } | Status::Waiting { build_id, .. }
            if build_id == guest.build_id =>
        {
            return Ok(Dispatched::Joined);
        }
        Status::Building { .. }
        | Status::Waiting { .. }
        | Status::Aborting { .. }
        | Status::Aborted { .. } => return Err(wrong_build()),
    }
    let directory = guest
        .results
        .prepare(guest.attempt)
        .map_err(|error| disk("the results", &error))?;
    LogPuller::start(&directory, &guest.settings)
        .await
        .map_err(|error| disk("the build log", &error))?;
    ExtrasKeeper::forget(&directory)
        .await
        .map_err(|error| disk("the results", &error))?;

    let inputs = inputs(call)
        .ok_or_else(|| Lost::Refused("the build names a file that has no SHA-1".into()))?;
    for sha1 in inputs {
        let ensure = EnsurePresent {
            sum: Sum::from(sha1),
            url: Some(format!("https://{depot}{INPUT_PATH}{sha1}")),
            username: String::new(),
            password: String::new(),
        };
        failpoint::before(Point::GuestInput);
        let answer = worker
            .ensure_present(ensure)
            .await
            .map_err(|error| lost(&error))?;
        failpoint::after(Point::GuestInput);
        if !answer.present {
            let text = format!(
                "the worker cannot fetch {sha1} from the depot: {}",
                answer.info
            );
            return Err(Lost::Refused(text));
        }
    }
    failpoint::before(Point::GuestBuild);
    let answer = worker.build(call.clone()).await;
    failpoint::after(Point::GuestBuild);
    match answer {
        Ok(BuildReply::Building { .. }) => Ok(Dispatched::Begun),
        // This board has run nothing yet, so these are the words of our own image, and it never quotes
        // a build's arguments; from the first build on, a board's words are not passed on.
        Ok(BuildReply::UnknownBuilder(text) | BuildReply::UnknownSum(text)) => Err(Lost::Refused(
            format!("the worker refuses the build: {text}"),
        )),
        Err(ClientError::Fault { code, text }) => Err(Lost::Refused(format!(
            "the worker refuses the build: fault {code}: {}",
            text.as_str()
        ))),
        Err(error) => Err(lost(&error)),
    }
}
