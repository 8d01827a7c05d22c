//! Which builds a run has: most are built, some fail, every tenth is cancelled where the era can, at different moments,
//! and is then built after all, under the same id, as somebody's retry would.

use std::collections::BTreeMap;

use anyhow::Result;
use dxr::Value;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{BuildCall, BuildId, BuildStatus, FileName};
use panda_tests::manager_model::{JobEnd, Mode};
use panda_tests::source::arch;

use crate::inputs::Inputs;

/// What becomes of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Builds,
    Fails,
    /// It never ends by itself, resists SIGTERM, and is cancelled.
    Endless(When),
    /// It is cancelled when its results are there.
    TooLate,
}

/// When an endless build is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// As soon as it was handed over.
    Dispatched,
    /// When its log had begun.
    Building,
}

impl Kind {
    fn of(number: usize, mode: Mode) -> Self {
        match (number % 10, number / 10 % 3) {
            (4, 0) if !mode.is_2011() => Self::Endless(When::Building),
            (4, 1) if !mode.is_2011() => Self::Endless(When::Dispatched),
            (4, _) if !mode.is_2011() => Self::TooLate,
            (7, _) => Self::Fails,
            _ => Self::Builds,
        }
    }

    /// How its job has to end.
    pub(crate) fn end(self) -> JobEnd {
        match self {
            Self::Builds => JobEnd::Collected(BuildStatus::Ok),
            Self::Fails => JobEnd::Collected(BuildStatus::PackageFail),
            Self::Endless(_) | Self::TooLate => JobEnd::Cancelled,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Builds | Self::TooLate => "builds",
            Self::Fails => "fails",
            Self::Endless(_) => "endless",
        }
    }
}

/// One job.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) kind: Kind,
    pub(crate) call: BuildCall,
    /// Where each input is to be had: sum, URL, password.
    pub(crate) files: Vec<(String, String, &'static str)>,
    /// What the job is followed by once it is over: the same id again.
    pub(crate) retried: bool,
}

/// `count` jobs that are all built.
pub(crate) fn builds(
    count: usize,
    mode: Mode,
    chroot_bytes: usize,
    inputs: &mut Inputs,
) -> Result<Vec<Planned>> {
    // More than a tenth more, for those that are left out.
    let mut jobs = jobs(count * 2, mode, chroot_bytes, inputs)?;
    jobs.retain(|job| job.kind == Kind::Builds);
    jobs.truncate(count);
    Ok(jobs)
}

/// `cycles` jobs, those that are retries of a cancelled one in the place after it. Their chroot's size is what a
/// tarball's would be.
pub(crate) fn jobs(
    cycles: usize,
    mode: Mode,
    chroot_bytes: usize,
    inputs: &mut Inputs,
) -> Result<Vec<Planned>> {
    let mut chroot = b"this is no chroot\n".to_vec();
    // Bytes that nothing on the way could shorten would do as well: nothing compresses.
    chroot.resize(chroot.len().max(chroot_bytes), b'.');
    let chroot = inputs.add(chroot, "");
    let arch = arch()?;
    let mut jobs: Vec<Planned> = Vec::new();
    for number in 0..cycles {
        let retry_of = jobs
            .last()
            .filter(|last| last.kind.end() == JobEnd::Cancelled);
        let (kind, id) = match retry_of {
            Some(cancelled) => (Kind::Builds, cancelled.call.build_id.clone()),
            None => (Kind::of(number, mode), build_id(number, mode)?),
        };
        let name = format!("panda-cycle_{number}.dsc");
        let dsc = inputs.add(
            format!("Source: panda-cycle {number}\n").into_bytes(),
            "tok:en/1",
        );
        let call = BuildCall {
            build_id: id,
            build_type: "binarypackage".to_owned(),
            chroot: panda_protocol::launchpad::Sum(chroot.0.clone()),
            filemap: [(
                FileName::try_from(name)?,
                panda_protocol::launchpad::Sum(dsc.0.clone()),
            )]
            .into(),
            args: arguments(kind, &arch, mode),
        };
        jobs.push(Planned {
            kind,
            call,
            files: vec![chroot.clone(), dsc],
            retried: false,
        });
        if let [.., before, last] = &mut jobs[..] {
            before.retried = before.call.build_id == last.call.build_id;
        }
    }
    Ok(jobs)
}

/// As each era writes it: 2011's are 40 hexadecimal digits.
fn build_id(number: usize, mode: Mode) -> Result<BuildId> {
    let name = format!("PACKAGEBUILD-{number}");
    let id = if mode.is_2011() {
        Sha1::of(name.as_bytes()).to_string()
    } else {
        name
    };
    Ok(BuildId::try_from(id)?)
}

fn arguments(kind: Kind, arch: &str, mode: Mode) -> BTreeMap<String, Value> {
    let text = |text: &str| Value::String(text.to_owned());
    let url = format!(
        "https://launchpad.test/~user/+archive/ppa/+build/{}",
        kind.name()
    );
    let mut args: BTreeMap<String, Value> = [
        ("suite", text("noble")),
        ("arch_tag", text(arch)),
        ("arch_indep", Value::Boolean(false)),
        ("archive_purpose", text("PPA")),
        ("ogrecomponent", text("main")),
        ("archives", Value::Array(Vec::new())),
        ("archive_private", Value::Boolean(false)),
        ("build_debug_symbols", Value::Boolean(false)),
        ("build_url", text(&url)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    if !mode.is_2011() {
        args.insert("series".to_owned(), text("noble"));
        args.insert("fast_cleanup".to_owned(), Value::Boolean(true));
        args.insert("abi_tag".to_owned(), text(arch));
        args.insert("isa_tag".to_owned(), text(arch));
    }
    args
}
