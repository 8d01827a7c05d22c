//! The blocks of `docs/foreign-workers.md` for launchpad-buildd, word by word: its configuration and its start script
//! are run with a stand-in for the real one, which takes the same things amiss.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use panda_tests::documents::blocks;
use panda_tests::programs::{root, run, run_ok};

/// What launchpad-buildd 254 does at its start and in its builds, as far as it can go wrong there: one line for each
/// thing that would.
const TWISTD: &str = r#"#!/usr/bin/env python3
import configparser, os, sys
logs = [word.partition("=")[2] for word in sys.argv if word.startswith("--logfile")]
# It opens a file of whatever name is given, "-" too.
log = open(logs[0], "a") if logs else sys.stdout
print("started", file=log)
home = os.environ["HOME"]
# twistd's chdir("."), as buildd.
if not os.stat(".").st_mode & 0o001:
    print("ends: the working directory is closed to buildd")
conf = configparser.ConfigParser()
conf.read(os.environ["BUILDD_CONFIG"])
if conf.get("builder", "ntphost"):
    print("BUILDERFAIL: there is no ntpdate")
if not os.path.exists(os.path.join(home, ".sbuildrc")):
    print("BUILDERFAIL: no .sbuildrc in HOME")
if "lxd" not in os.environ.get("GROUPS_GIVEN", "").split(","):
    print("BUILDERFAIL: no access to LXD")
if not os.path.isdir(conf.get("builder", "filecache")):
    print("ends: no file cache")
"#;

/// Drops nothing, and says which groups it would have kept.
const SETPRIV: &str = r#"#!/bin/sh
while :; do
    case $1 in
    --reuid | --regid) shift 2 ;;
    --groups) export GROUPS_GIVEN="$2"; shift 2 ;;
    --init-groups) shift ;;
    *) exec "$@" ;;
    esac
done
"#;

/// The blocks of the document that set launchpad-buildd up, changed by `change`; what it says when they are followed.
fn said(change: impl Fn(&str) -> String) -> Result<String> {
    let text = fs::read_to_string(root().join("docs/foreign-workers.md"))?;
    let of = |language| {
        let block = blocks(&text, language).into_iter().next();
        block.with_context(|| format!("the document has no block of {language}"))
    };
    let (configuration, script) = (of("ini")?, of("bash")?);
    let directory = tempfile::tempdir()?;
    let place = directory.path();
    // Everything of the board's root file system is below this directory.
    let below = |text: &str| {
        ["/etc/", "/var/", "/home/", "/usr/lib/"]
            .iter()
            .fold(text.to_owned(), |text, top| {
                text.replace(top, &format!("@PLACE@{top}"))
            })
            .replace("@PLACE@", &place.display().to_string())
    };
    for made in ["etc/launchpad-buildd", "home/buildd", "var/cache", "bin"] {
        fs::create_dir_all(place.join(made))?;
    }
    fs::write(place.join("home/buildd/.sbuildrc"), "")?;
    let configuration = below(&change(&configuration));
    fs::write(place.join("etc/launchpad-buildd/default"), configuration)?;
    let program = |name: &str, text: &str| -> Result<()> {
        let path = place.join("bin").join(name);
        fs::write(&path, text)?;
        Ok(fs::set_permissions(
            path,
            fs::Permissions::from_mode(0o755),
        )?)
    };
    program("twistd3", TWISTD)?;
    program("setpriv", SETPRIV)?;
    program("chown", "#!/bin/sh\n")?;
    program("getent", "#!/bin/sh\n[ \"$*\" = 'group lxd' ]\n")?;
    program("board-buildd", &below(&change(&script)))?;
    // As the agent starts it: in a directory of root's own.
    let own = place.join("worker");
    fs::DirBuilder::new().mode(0o700).create(&own)?;
    let path = std::env::var("PATH")?;
    let said = run_ok(
        Command::new(place.join("bin/board-buildd"))
            .current_dir(&own)
            .env("PATH", format!("{}:{path}", place.join("bin").display())),
    )?;
    let strayed = |place: &Path| place.join("-").exists();
    ensure!(
        !strayed(&own) && !strayed(&place.join("home/buildd")) || !said.contains("started"),
        "it logs to two places"
    );
    Ok(said)
}

#[test]
fn the_set_up_of_launchpad_buildd_works_word_by_word() -> Result<()> {
    if run(Command::new("python3").arg("--version")).is_err() {
        eprintln!("skipped: no python3: scripts/setup --tests installs it");
        return Ok(());
    }
    let as_written = said(str::to_owned)?;
    ensure!(as_written == "started\n", "{as_written}");
    // What the document says of its lines is true: each is needed.
    for (line, other, expected) in [
        ("cd \"$HOME\"\n", "", "ends: the working directory"),
        ("ntphost =\n", "ntphost = ntp.example\n", "no ntpdate"),
        ("HOME=/home/buildd", "HOME=/var/cache", "no .sbuildrc"),
        ("groups=$groups,lxd", ":", "no access to LXD"),
        ("--pidfile=", "--pidfile= --logfile=-", ""),
    ] {
        let without = said(|block| block.replace(line, other))?;
        ensure!(
            without != as_written && without.contains(expected),
            "without {line:?} it says {without:?}"
        );
    }
    Ok(())
}

#[test]
fn the_table_names_the_address_and_the_script_that_the_document_has() -> Result<()> {
    let text = fs::read_to_string(root().join("docs/foreign-workers.md"))?;
    let tables = blocks(&text, "toml");
    let table = tables.last().context("no table")?;
    ensure!(table.contains("address = \"127.0.0.1:8221\""), "{table}");
    ensure!(text.contains("bindport = 8221:interface=127.0.0.1\n"));
    let script = "/usr/local/sbin/board-buildd";
    ensure!(table.contains(script) && text.contains(&format!("A start script, `{script}`")));
    Ok(())
}
