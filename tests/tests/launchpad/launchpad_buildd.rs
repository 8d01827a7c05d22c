//! Launchpad's own worker behind the agent, where one is at hand: the real program with stubs for the steps that need
//! a chroot. By hand, because it is no part of Debian:
//!
//! ```sh
//! PANDA_BUILDD_PYTHON=…/bin/python cargo test -p panda-tests --test launchpad -- --ignored launchpads_own_worker
//! ```
//!
//! `PANDA_BUILDD_PYTHON` is a Python that imports `lpbuildd`, Twisted and `apt` (with `PYTHONPATH`, if need be).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use dxr::Value;
use panda_protocol::launchpad::{BuildStatus, Dialect};
use panda_tests::source::arch;
use tokio::runtime::Runtime;

use crate::builder::{Builder, package_args, serve_input};
use crate::racks::{QUICK, Served};

/// Starts it as a board's start script does.
const START: &str = r#"#!/bin/sh
set -eu
mkdir -p home cache
cat >conf <<CONF
[builder]
architecturetag = ARCH
filecache = $PWD/cache
bindhost = 127.0.0.1
bindport = ${PANDA_WORKER_ADDRESS#*:}:interface=127.0.0.1
ntphost = 127.0.0.1
sharepath = SHARE
proxyport = 1
[translationtemplatesmanager]
resultarchive = translation-templates.tar.gz
CONF
export PATH="SHARE/bin:$PATH" HOME="$PWD/home" PYTHONPATH="PATHS" BUILDD_CONFIG="$PWD/conf" BUILDD_SLAVE_CONFIG="$PWD/conf"
where=$(PYTHON -c 'import lpbuildd, os; print(os.path.dirname(lpbuildd.__file__))')
exec PYTHON -c 'from twisted.scripts.twistd import run; run()' \
    --nodaemon --pidfile= --logfile="$PWD/log" --python "$(ls "$where"/buildd*.tac)"
"#;

/// Its last step: a package, or a build that goes on.
const SBUILD: &str = r#"#!/bin/sh
set -eu
cd "$HOME/build-$1"
echo "stub of sbuild for $*"
if [ -e SHARE/slow ]; then echo goes on; while :; do sleep 1; done; fi
echo a package >"x_1_$2.deb"
cat >"x_1_$2.changes" <<CHANGES
Format: 1.8
Files:
 $(md5sum "x_1_$2.deb" | cut -d' ' -f1) 10 misc optional x_1_$2.deb
CHANGES
"#;

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

#[test]
#[ignore = "needs launchpad-buildd, which Debian does not have: PANDA_BUILDD_PYTHON names a Python that has it"]
fn launchpads_own_worker_builds_aborts_and_has_no_proxy() -> Result<()> {
    let python = std::env::var("PANDA_BUILDD_PYTHON").context("PANDA_BUILDD_PYTHON")?;
    let paths = std::env::var("PYTHONPATH").unwrap_or_default();
    let share = tempfile::TempDir::with_prefix_in("buildd-", "/tmp")?;
    let at = |text: &str| -> Result<String> {
        let text = text.replace("SHARE", &share.path().display().to_string());
        let text = text
            .replace("PATHS", &paths)
            .replace("PYTHON ", &format!("{python} "));
        Ok(text.replace("ARCH", &arch()?))
    };
    let start = share.path().join("start");
    script(&start, &at(START)?)?;
    let bin = share.path().join("bin");
    fs::create_dir(&bin)?;
    // `sudo` too: what it would do is done to a chroot that is not there.
    for step in ["builder-prep", "in-target", "sudo"] {
        script(&bin.join(step), "#!/bin/sh\necho stub of \"$0\" \"$@\"\n")?;
    }
    script(&bin.join("sbuild-package"), &at(SBUILD)?)?;
    let worker = format!("command = [{start:?}]\naddress = \"127.0.0.1:0\"\n");
    let types = "build_types = [\"binarypackage\", \"snap\", \"sourcepackagerecipe\"]\n";
    let rack = Served::start_worker(1, Dialect::Current, QUICK, &(worker + types))?;

    let builder = Builder::new(&rack.slots()[0])?;
    let input = serve_input()?;
    let mut args = package_args();
    // The last is for versions of some years ago.
    let more = [
        ("arch_tag", Value::String(arch()?)),
        ("distribution", Value::String("debian".to_owned())),
    ];
    args.extend(more.map(|(name, value)| (name.to_owned(), value)));
    let tested = Runtime::new()?.block_on(async {
        let info = builder.client.info().await?;
        ensure!(
            info.build_types == ["binarypackage", "snap", "sourcepackagerecipe"],
            "{info:?}"
        );
        builder
            .dispatch(&input, "binarypackage", args.clone())
            .await?;
        let (outcome, _) = builder.ended().await?;
        let log = builder.log().await?;
        println!("{log}");
        ensure!(
            outcome.build_status == BuildStatus::Ok,
            "{outcome:?}\n{log}"
        );
        ensure!(outcome.filemap.len() == 2, "{outcome:?}");
        for sha1 in outcome.filemap.values() {
            builder.file(&sha1.to_string()).await?;
        }
        // What the program itself says depends on its version: 206 knows no such call.
        println!("proxy_info: {:?}", builder.client.proxy_info().await?);
        builder.clean().await?;
        fs::write(share.path().join("slow"), "")?;
        builder.dispatch(&input, "binarypackage", args).await?;
        builder.logged("goes on\n").await?;
        builder.client.abort().await?;
        let (outcome, _) = builder.ended().await?;
        ensure!(outcome.build_status == BuildStatus::Aborted, "{outcome:?}");
        ensure!(builder.log().await?.contains("goes on"), "no log");
        builder.clean().await
    });
    tested.with_context(|| rack.log())?;
    rack.stop()
}
