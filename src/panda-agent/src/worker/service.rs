//! The builder protocol's methods, answered by a [`Worker`]: the link and the plain listener of a
//! lone worker both ask here.

use std::collections::BTreeMap;

use dxr::Value;
use panda_http::download::Source;
use panda_http::service::{BuilderService, FileError, fault};
use panda_http::{Fetched, ServedFile};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::status::builder_status;
use panda_protocol::launchpad::xml::Fault;
use panda_protocol::launchpad::{
    BuildCall, Call, Dialect, EnsurePresent, FileName, Status, StatusReport, Sum,
};

use super::args::{BuildArgs, to_json};
use super::plan::Plan;
use super::state::State;
use super::{BUILD_TYPE, OWNER, Worker};

/// The name of the log in `/filecache/`.
const BUILDLOG: &str = "buildlog";

impl BuilderService for Worker {
    async fn call(&self, call: Call) -> Result<Value, Fault> {
        match call {
            Call::Echo(values) => Ok(Value::Array(values)),
            Call::Info => Ok(Value::Array(vec![
                text("1.0"),
                text(self.arch()),
                Value::Array(self.build_types().iter().map(|name| text(name)).collect()),
            ])),
            Call::Status | Call::StatusDict => Ok(self.report().to_value(Dialect::Current)),
            Call::EnsurePresent(call) => Ok(self.ensure_present(&call).await),
            Call::Build(call) => self.build(*call),
            Call::Abort => {
                let run = self
                    .state()
                    .abort()
                    .map_err(|refusal| fault(refusal.to_string()))?;
                run.abort.cancel();
                Ok(text(builder_status::ABORTING))
            }
            Call::Clean => {
                let run = self
                    .state()
                    .clean()
                    .map_err(|refusal| fault(refusal.to_string()))?;
                self.forget(&run);
                Ok(text(builder_status::IDLE))
            }
            Call::ProxyInfo => Err(fault("proxy_info: this build type has no proxy")),
        }
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

    async fn ensure_present(&self, call: &EnsurePresent) -> Value {
        let (present, info) = self.have(call).await;
        Value::Array(vec![Value::Boolean(present), text(&info)])
    }

    async fn have(&self, call: &EnsurePresent) -> (bool, String) {
        let cached = call.sum.sha1().filter(|sha1| self.cache().contains(*sha1));
        let Some(url) = &call.url else {
            return (cached.is_some(), "No URL".to_owned());
        };
        let Some(sha1) = call.sum.sha1() else {
            return (false, "Digests did not match, removing again!".to_owned());
        };
        let source = match Source::new(url, &call.username, &call.password) {
            Ok(source) => source,
            Err(error) => return (false, format!("Error accessing Librarian: {error}")),
        };
        let downloader = match self.downloader(url) {
            Ok(downloader) => downloader,
            Err(error) => return (false, format!("Error accessing Librarian: {error}")),
        };
        match self.cache().fetch(sha1, downloader, &source).await {
            Ok(Fetched::Cached) => (true, "Cache".to_owned()),
            Ok(Fetched::Downloaded) => (true, "Download".to_owned()),
            Err(error) => (false, error.told()),
        }
    }

    fn build(&self, call: BuildCall) -> Result<Value, Fault> {
        let mut state = self.state();
        state
            .may_begin()
            .map_err(|refusal| fault(refusal.to_string()))?;
        if call.build_type != BUILD_TYPE {
            let info = format!("{} not in ['{BUILD_TYPE}']", shown(&call.build_type));
            return Ok(Value::Array(vec![
                text(builder_status::UNKNOWNBUILDER),
                text(&info),
            ]));
        }
        let args = BuildArgs::from_call(&call.args, self.arch())
            .map_err(|error| fault(error.to_string()))?;
        let mut sources = call
            .filemap
            .keys()
            .filter(|name| name.as_str().ends_with(".dsc"));
        let (Some(dsc), None) = (sources.next().cloned(), sources.next()) else {
            return Err(fault("build: the filemap must hold exactly one .dsc"));
        };
        // Pinned first, so that nothing is evicted between the look and the build.
        let pinned = [&call.chroot].into_iter().chain(call.filemap.values());
        pinned
            .filter_map(Sum::sha1)
            .for_each(|sha1| self.cache().pin(OWNER, sha1));
        let path = |sum: &Sum| sum.sha1().and_then(|sha1| self.cache().path(sha1));
        let unknown = |what: &str, sum: &Sum| {
            self.cache().unpin(OWNER);
            let info = format!("{what} -> {}", shown(&sum.0));
            Ok(Value::Array(vec![
                text(builder_status::UNKNOWNSUM),
                text(&info),
            ]))
        };
        let Some(chroot) = path(&call.chroot) else {
            return unknown("CHROOTSUM", &call.chroot);
        };
        let mut inputs = BTreeMap::new();
        for (name, sum) in &call.filemap {
            let Some(path) = path(sum) else {
                return unknown("FILESUM", sum);
            };
            inputs.insert(name.clone(), path);
        }
        let run = self.prepare().map_err(|error| {
            self.cache().unpin(OWNER);
            fault(format!("build: the builder's disk: {error}"))
        })?;
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
        begun.map_err(|refusal| fault(refusal.to_string()))?;
        drop(state);
        self.start(run, plan);
        Ok(Value::Array(vec![
            text(builder_status::BUILDING),
            text(call.build_id.as_str()),
        ]))
    }
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// A caller's own word, said back to it.
fn shown(word: &str) -> String {
    word.chars().filter(|c| !c.is_control()).take(100).collect()
}
