//! The steps of a build in a chroot, in their order, and whose fault each one's failure is: all that
//! comes before sbuild is the chroot's, and sbuild itself speaks through its status and log.

use std::fs;
use std::io;
use std::path::Path;

use super::apt::{self, AptError};
use super::command::{log, log_step};
use super::mounts::{MountError, cover, mount_all};
use super::personality::is_32_bit;
use super::root::Root;
use super::sbuild::{self, SbuildError};
use super::unpack::{UnpackError, unpack};
use super::users::{self, UsersError};
use super::{available, simple_verdict};
use crate::worker::deb822::{self, Paragraph};
use crate::worker::outcome::{Reading, Unmet};
use crate::worker::plan::{Plan, Stage, Verdict};

/// Services must not start in a chroot.
const POLICY: &str = "usr/sbin/policy-rc.d";

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// Unpacking.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Mounting.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The build's user.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// Sources, keys, update.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A small file in the chroot.
    #[error("cannot write {file} in the chroot: {source}")]
    Write {
        /// The file.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// sbuild.
    #[error(transparent)]
    Sbuild(#[from] SbuildError),
    /// How far the build is cannot be noted.
    #[error("the build's directory: {0}")]
    Stage(#[from] io::Error),
}

impl StepError {
    /// How the build ends.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            // A disk that the chroot has filled.
            Self::Sbuild(SbuildError::Write { source, .. })
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                Verdict::ChrootFail
            }
            Self::Sbuild(_) | Self::Stage(_) => Verdict::BuilderFail,
            Self::Unpack(_)
            | Self::Mount(_)
            | Self::Users(_)
            | Self::Apt(_)
            | Self::Write { .. } => Verdict::ChrootFail,
        }
    }
}

/// Builds in the plan's chroot.
pub(crate) fn build(plan: &Plan) -> Result<Verdict, StepError> {
    let private = plan.work.private();
    fs::create_dir(&private).map_err(|source| SbuildError::Write {
        path: private.clone(),
        source,
    })?;
    let root = unpack(&plan.chroot, &plan.work.root())?;
    mount_all(&root)?;
    users::set_up(&root, &private)?;
    copy_identity(&root, &private)?;
    apt::configure(&root, &plan.args, plan.apt_proxy.as_deref())?;
    apt::update(&root, &plan.args)?;
    write(&root, "CurrentlyBuilding", currently_building(plan), 0o644)?;
    sbuild::configure(&root, &private)?;
    plan.work.begin(Stage::Package)?;
    let mut reading = build_once(plan)?;
    if reading == Reading::Unfetched {
        apt::wait();
        apt::refresh(&root, &plan.args)?;
        reading = build_once(plan)?;
    }
    Ok(match reading {
        Reading::Unmet(unmet) => compare(&root, plan, &unmet),
        reading => simple_verdict(&reading),
    })
}

fn build_once(plan: &Plan) -> Result<Reading, StepError> {
    let (exit, scan) = sbuild::build(plan)?;
    let conversions = scan.conversions().to_vec();
    let reading = scan.finish(exit);
    if is_32_bit(&plan.args.arch_tag) || conversions.is_empty() {
        return Ok(reading);
    }
    for conversion in &conversions {
        log(conversion);
    }
    log(
        "E: the compiler has taken the pointers above for integers, since the functions were never declared: half of \
         each is lost where pointers have 64 bits, and the program would crash. Include the header that declares them.",
    );
    Ok(match reading {
        Reading::Ok => Reading::PackageFail,
        reading => reading,
    })
}

/// What apt does not say: whether what it misses could be waited for.
fn compare(root: &Root, plan: &Plan, unmet: &Unmet) -> Verdict {
    log_step("compare build dependencies with the chroot's archives");
    available::verdict(root, plan, unmet).unwrap_or_else(|error| {
        log(&format!("E: {error}"));
        simple_verdict(&Reading::Unmet(unmet.clone()))
    })
}

/// The host's names and name servers, so that the chroot reaches what the host reaches.
fn copy_identity(root: &Root, private: &Path) -> Result<(), StepError> {
    let hostname = nix::unistd::gethostname().map_or_else(
        |_| "localhost".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    // Bytes: their comments may be in any encoding.
    let mut hosts = fs::read("/etc/hosts").unwrap_or_default();
    let mut words = hosts.split(u8::is_ascii_whitespace);
    if !words.any(|word| word == hostname.as_bytes()) {
        hosts.extend_from_slice(format!("\n127.0.1.1\t{hostname}\n").as_bytes());
        // sbuild asks for the host's whole name, which a board may not know either.
        let own = private.join("hosts");
        fs::write(&own, &hosts).map_err(|source| SbuildError::Write {
            path: own.clone(),
            source,
        })?;
        cover(&own, Path::new("/etc/hosts"))?;
    }
    write(root, "etc/hosts", &hosts, 0o644)?;
    write(root, "etc/hostname", format!("{hostname}\n"), 0o644)?;
    let resolv = fs::read("/etc/resolv.conf").unwrap_or_default();
    write(root, "etc/resolv.conf", &resolv, 0o644)?;
    if root.exists(POLICY) {
        return Ok(());
    }
    write(root, POLICY, "#!/bin/sh\nexit 101\n", 0o755)
}

fn write(
    root: &Root,
    file: &'static str,
    bytes: impl AsRef<[u8]>,
    mode: u32,
) -> Result<(), StepError> {
    root.write(file, bytes.as_ref(), mode)
        .map_err(|source| StepError::Write { file, source })
}

/// `/CurrentlyBuilding`: what Ubuntu's packaging tools look at to see that they are on a builder.
fn currently_building(plan: &Plan) -> String {
    let package = fs::read(plan.work.files().join(plan.dsc.as_str()))
        .ok()
        .filter(|bytes| bytes.len() as u64 <= deb822::MAX_BYTES)
        .and_then(|bytes| Paragraph::parse(&bytes).ok())
        .and_then(|dsc| dsc.get("Source").map(str::to_owned))
        .unwrap_or_else(|| {
            plan.dsc
                .as_str()
                .split('_')
                .next()
                .unwrap_or_default()
                .to_owned()
        });
    let args = &plan.args;
    let mut text = format!(
        "Package: {package}\nComponent: {}\nSuite: {}\nPurpose: {}\n",
        args.component, args.suite, args.archive_purpose
    );
    if args.debug_symbols {
        text += "Build-Debug-Symbols: yes\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use panda_protocol::launchpad::FileName;

    use super::*;
    use crate::worker::args::BuildArgs;
    use crate::worker::plan::WorkDir;

    fn plan(directory: &std::path::Path, debug_symbols: bool) -> Plan {
        let text = |text: &str| dxr::Value::String(text.to_owned());
        let args: BTreeMap<_, _> = [
            ("suite", text("noble-proposed")),
            ("archive_purpose", text("PPA")),
            ("ogrecomponent", text("universe")),
            ("build_debug_symbols", dxr::Value::Boolean(debug_symbols)),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
        Plan {
            build_id: "PACKAGEBUILD-1".to_owned(),
            work: WorkDir::new(directory.to_owned()),
            chroot: directory.join("chroot"),
            dsc: FileName::try_from("hello_1.0.dsc".to_owned()).unwrap(),
            inputs: BTreeMap::new(),
            args: BuildArgs::from_call(&args, "armhf").unwrap(),
            args_json: "{}".to_owned(),
            apt_proxy: None,
            executor: None,
        }
    }

    #[test]
    fn currently_building_tells_package_component_suite_and_purpose() {
        let directory = tempfile::tempdir().unwrap();
        let files = directory.path().join("files");
        fs::create_dir(&files).unwrap();
        let told = |symbols| currently_building(&plan(directory.path(), symbols));
        let rest = "Component: universe\nSuite: noble-proposed\nPurpose: PPA\n";
        assert_eq!(told(false), format!("Package: hello\n{rest}"));
        fs::write(files.join("hello_1.0.dsc"), "Source: greeting\n").unwrap();
        assert_eq!(told(false), format!("Package: greeting\n{rest}"));
        assert_eq!(
            told(true),
            format!("Package: greeting\n{rest}Build-Debug-Symbols: yes\n")
        );
    }

    #[test]
    fn a_failing_step_before_sbuild_is_the_chroots_fault_and_a_full_disk_too() {
        let write = |kind: io::ErrorKind| {
            StepError::from(SbuildError::Write {
                path: "sbuildrc".into(),
                source: kind.into(),
            })
        };
        for (error, verdict) in [
            (StepError::from(UnpackError::NoChroot), Verdict::ChrootFail),
            (
                UnpackError::Program("lzop", "lzop").into(),
                Verdict::ChrootFail,
            ),
            (AptError::Unfetched.into(), Verdict::ChrootFail),
            (write(io::ErrorKind::StorageFull), Verdict::ChrootFail),
            (write(io::ErrorKind::PermissionDenied), Verdict::BuilderFail),
        ] {
            assert_eq!(error.verdict(), verdict, "{error}");
        }
    }
}
