//! The builder protocol's methods, answered by a [`Worker`]: the link and the plain listener of a
//! lone worker both ask here.

use std::collections::BTreeMap;
use std::fmt;

use dxr::Value;
use panda_http::ServedFile;
use panda_http::download::Source;
use panda_http::service::{BuilderService, FileError, fault};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::xml::Fault;
use panda_protocol::launchpad::{
    Abort, Aborting, Answered, BuildCall, BuildReply, Clean, Cleaned, Dialect, EnsurePresent,
    FileName, GetInfo, GetStatus, Info, Needed, Presence, Status, StatusReply, StatusReport, Sum,
};

use super::args::{BuildArgs, to_json};
use super::plan::Plan;
use super::state::State;
use super::{BUILD_TYPE, OWNER, Worker};

/// The name of the log in `/filecache/`.
const BUILDLOG: &str = "buildlog";

impl BuilderService for Worker {
    async fn info(&self) -> Answered<GetInfo> {
        let types = self.build_types().iter().map(ToString::to_string);
        Ok(Info::new(self.arch(), types.collect()))
    }

    async fn status(&self) -> Answered<GetStatus> {
        Ok(StatusReply {
            dialect: Dialect::Current,
            report: self.report(),
        })
    }

    async fn ensure_present(&self, request: EnsurePresent) -> Answered<EnsurePresent> {
        Ok(self.have(&request).await)
    }

    async fn build(&self, call: BuildCall) -> Answered<BuildCall> {
        self.begin(call)
    }

    async fn abort(&self) -> Answered<Abort> {
        let run = self.state().abort().map_err(refused)?;
        run.abort.cancel();
        Ok(Aborting)
    }

    async fn clean(&self) -> Answered<Clean> {
        let run = self.state().clean().map_err(refused)?;
        self.forget(&run);
        Ok(Cleaned)
    }

    async fn file(&self, name: &FileName) -> Result<Option<ServedFile>, FileError> {
        let path = {
            let state = self.state();
            let Some(run) = state.run() else {
                return Ok(None);
            };
            if name.as_str() == BUILDLOG {
                run.log.path().to_owned()
            } else {
                let State::Waiting { outcome, .. } = &*state else {
                    return Ok(None);
                };
                let Ok(sha1) = name.as_str().parse::<Sha1>() else {
                    return Ok(None);
                };
                if !outcome.filemap.values().any(|known| *known == sha1) {
                    return Ok(None);
                }
                run.results.join(sha1.to_string())
            }
        };
        Ok(ServedFile::open(&path).await?)
    }
}

impl Worker {
    fn report(&self) -> StatusReport {
        let status = match &*self.state() {
            State::Idle => Status::Idle,
            State::Building { build_id, run } => Status::Building {
                build_id: build_id.clone(),
                logtail: run.log.tail(),
            },
            State::Aborting { build_id, .. } => Status::Aborting {
                build_id: Some(build_id.clone()),
            },
            State::Waiting {
                build_id, outcome, ..
            } => Status::Waiting {
                build_id: build_id.clone(),
                outcome: outcome.clone(),
            },
        };
        StatusReport {
            version: Some(crate::VERSION.to_owned()),
            status,
            extra: BTreeMap::new(),
        }
    }

    async fn have(&self, call: &EnsurePresent) -> Presence {
        let sha1 = call.sum.sha1();
        let Some(url) = &call.url else {
            return Presence {
                present: sha1.is_some_and(|sha1| self.cache().contains(sha1)),
                info: Presence::NO_URL.to_owned(),
            };
        };
        let Some(sha1) = sha1 else {
            return Presence::no(Presence::MISMATCH);
        };
        let unreachable =
            |error: &dyn fmt::Display| Presence::no(format!("{}{error}", Presence::UNREACHABLE));
        let source = match Source::new(url, &call.username, &call.password) {
            Ok(source) => source,
            Err(error) => return unreachable(&error),
        };
        let downloader = match self.downloader(url) {
            Ok(downloader) => downloader,
            Err(error) => return unreachable(&error),
        };
        match self.cache().fetch(sha1, downloader, &source).await {
            Ok(fetched) => fetched.into(),
            Err(error) => Presence::no(error.told()),
        }
    }

    /// In the reference's order: the type, the sums, and only then what the files and arguments are.
    fn begin(&self, call: BuildCall) -> Answered<BuildCall> {
        let mut state = self.state();
        state.may_begin().map_err(refused)?;
        if call.build_type != BUILD_TYPE {
            let known = [BUILD_TYPE.to_owned()];
            return Ok(BuildReply::unknown_builder(&call.build_type, &known));
        }
        // Pinned first, so that nothing is evicted between the look and the build.
        let pinned = [&call.chroot].into_iter().chain(call.filemap.values());
        pinned
            .filter_map(Sum::sha1)
            .for_each(|sha1| self.cache().pin(OWNER, sha1));
        let path = |sum: &Sum| sum.sha1().and_then(|sha1| self.cache().path(sha1));
        let unknown = |needed, sum: &Sum| {
            self.cache().unpin(OWNER);
            Ok(BuildReply::unknown_sums(&[(needed, sum.clone())]))
        };
        let Some(chroot) = path(&call.chroot) else {
            return unknown(Needed::Chroot, &call.chroot);
        };
        let mut inputs = BTreeMap::new();
        for (name, sum) in &call.filemap {
            let Some(path) = path(sum) else {
                return unknown(Needed::File, sum);
            };
            inputs.insert(name.clone(), path);
        }
        let unpinned = |text: String| {
            self.cache().unpin(OWNER);
            fault(text)
        };
        let args = BuildArgs::from_call(&call.args, self.arch())
            .map_err(|error| unpinned(error.to_string()))?;
        let mut sources = call
            .filemap
            .keys()
            .filter(|name| name.as_str().ends_with(".dsc"));
        let (Some(dsc), None) = (sources.next().cloned(), sources.next()) else {
            return Err(unpinned(
                "build: the filemap must hold exactly one .dsc".to_owned(),
            ));
        };
        let run = self
            .prepare()
            .map_err(|error| unpinned(format!("build: the builder's disk: {error}")))?;
        let plan = Plan {
            build_id: call.build_id.to_string(),
            work: run.work.clone(),
            chroot,
            dsc,
            inputs,
            args,
            args_json: to_json(&Value::Struct(call.args)).to_string(),
            apt_proxy: self.apt_proxy().map(str::to_owned),
            executor: self.executor().map(str::to_owned),
        };
        let begun = state.begin(call.build_id.clone(), run.clone());
        begun.map_err(refused)?;
        drop(state);
        self.start(run, plan);
        Ok(BuildReply::Building {
            build_id: call.build_id,
        })
    }
}

fn refused(refusal: impl fmt::Display) -> Fault {
    fault(refusal.to_string())
}
