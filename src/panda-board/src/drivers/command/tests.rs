//! Real small scripts, run by the driver.

use std::os::unix::fs::OpenOptionsExt as _;

use super::*;
use crate::Sense as _;

struct Script {
    directory: tempfile::TempDir,
    settings: CommandSettings,
}

impl Script {
    fn new(body: &str) -> Self {
        use std::io::Write as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("power");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&path)
            .unwrap();
        writeln!(file, "#!/bin/sh\ncd \"${{0%/*}}\" || exit 9\n{body}").unwrap();
        let settings = CommandSettings {
            // Through sh: a file that was just written may be busy while another test forks.
            argv: vec![
                "/bin/sh".into(),
                path.to_str().unwrap().into(),
                "--password=sesame".into(),
                "outlet 3; touch hacked".into(),
                "to-{state}".into(),
            ],
            reads: true,
            limit_ms: 20_000,
        };
        Self {
            directory,
            settings,
        }
    }

    fn power(&self) -> CommandPower {
        CommandPower::new(self.settings.clone())
    }

    fn file(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.directory.path().join(name)).ok()
    }
}

#[tokio::test]
async fn arguments_reach_the_program_as_they_are_and_no_shell_reads_them() {
    let script = Script::new("printf '[%s]' \"$@\" >>got");
    script.power().off().await.unwrap();
    script.power().on().await.unwrap();
    assert_eq!(
        script.file("got").unwrap(),
        "[--password=sesame][outlet 3; touch hacked][to-off]\
         [--password=sesame][outlet 3; touch hacked][to-on]"
    );
    assert_eq!(script.file("hacked"), None);
}

#[tokio::test]
async fn what_it_prints_for_read_is_the_state_and_nothing_else_is() {
    let said = |what: &str| Script::new(&format!("[ \"$3\" = to-read ] || exit 8; {what}"));
    let off = said("echo off").power().read().await.unwrap();
    assert_eq!(off, Some(PowerState::Off));
    let on = said("printf on").power().read().await.unwrap();
    assert_eq!(on, Some(PowerState::On));
    for other in ["true", "echo offline", "echo 'on off'"] {
        let error = said(other).power().read().await.unwrap_err().to_string();
        assert!(error.contains("expected it to print"), "{error}");
    }
    let mut silent = said("echo off");
    silent.settings.reads = false;
    assert_eq!(silent.power().read().await.unwrap(), None);
}

#[tokio::test]
async fn a_failure_tells_program_status_and_last_words_but_no_argument() {
    let script = Script::new(
        "printf 'no outlet \\033[2J for %s at http://admin:hush@pdu/\\n' \"$*\" >&2; exit 3",
    );
    let error = script.power().off().await.unwrap_err().to_string();
    assert!(
        error.contains("`/bin/sh` with \"off\"") && error.contains("exit status: 3"),
        "{error}"
    );
    assert!(error.contains("no outlet [2J for"), "{error}");
    for secret in ["sesame", "hush", "\u{1b}"] {
        assert!(!error.contains(secret), "{error}");
    }
    assert!(!format!("{:?}", script.settings).contains("sesame"));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error_that_names_it() {
    let mut script = Script::new("");
    script.settings.argv[0] = "/nonexistent/pdu-tool".into();
    let error = script.power().on().await.unwrap_err().to_string();
    assert!(error.contains("/nonexistent/pdu-tool"), "{error}");
    let machine = Machine::default();
    let error = script.settings.find(&machine).unwrap_err().to_string();
    assert!(error.starts_with("argv: no program"), "{error}");
    script.settings.argv[0] = "sh".into();
    script.settings.find(&machine).unwrap();
}

/// A named pipe that the command and all its children hold open: it ends when the last of them is dead.
struct Alive {
    read: std::fs::File,
    /// Keeps it from ending before the command has opened it.
    both: std::fs::File,
}

impl Alive {
    fn new(script: &Script) -> Self {
        let path = script.directory.path().join("alive");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Both ways: nobody waits for the other end to open it.
        let both = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let read = std::fs::File::open(&path).unwrap();
        Self { read, both }
    }

    /// Waits for this text.
    async fn says(self, text: &'static str) -> Self {
        let Self { mut read, both } = self;
        let reading = tokio::task::spawn_blocking(move || {
            let mut said = vec![0; text.len()];
            std::io::Read::read_exact(&mut read, &mut said).unwrap();
            assert_eq!(said, text.as_bytes());
            read
        });
        let read = reading.await.unwrap();
        Self { read, both }
    }

    /// Waits until nobody holds it.
    async fn ends(self) {
        let Self { mut read, both } = self;
        drop(both);
        let reading = tokio::task::spawn_blocking(move || {
            std::io::Read::read_to_end(&mut read, &mut Vec::new()).unwrap()
        });
        reading.await.unwrap();
    }
}

#[tokio::test]
async fn one_that_takes_too_long_is_killed_with_its_children() {
    let mut script = Script::new("exec 3>alive\nsleep 1000 &\nwait");
    let alive = Alive::new(&script);
    script.settings.limit_ms = 500;
    let error = script.power().off().await.unwrap_err();
    assert!(matches!(error, PowerError::TimedOut { .. }), "{error}");
    alive.ends().await;
}

#[tokio::test]
async fn one_that_nobody_waits_for_is_killed_with_its_children() {
    let script = Script::new("exec 3>alive\nsleep 1000 &\nprintf started >&3\nwait");
    let alive = Alive::new(&script);
    let power = script.power();
    let off = tokio::spawn(async move { power.off().await });
    let alive = alive.says("started").await;
    off.abort();
    assert!(off.await.unwrap_err().is_cancelled());
    alive.ends().await;
}

#[tokio::test]
async fn endless_output_and_a_process_left_behind_stop_nothing() {
    let script = Script::new(
        "head -c 3000000 /dev/zero\necho bad >&2\nsleep 2 >&1 2>&1 &\necho $! >left\nexit 4",
    );
    let error = script.power().off().await.unwrap_err().to_string();
    assert!(
        error.contains("exit status: 4") && error.contains("bad"),
        "{error}"
    );
    assert!(error.len() < 500, "{}", error.len());
}

#[test]
fn settings_that_cannot_be_name_their_key() {
    let settings = |text: &str| toml::from_str::<CommandSettings>(text).unwrap().check();
    assert_eq!(settings("argv = [\"pdu\", \"{state}\"]"), Ok(()));
    for (text, key) in [
        ("argv = []", "argv: "),
        ("argv = [\"pdu\", \"off\"]", "argv: expected {state}"),
        ("argv = [\"{state}\", \"{state}\"]", "argv: "),
        ("argv = [\"pdu\", \"{state}\"]\nlimit_ms = 0", "limit_ms: "),
    ] {
        assert!(
            settings(text).unwrap_err().to_string().starts_with(key),
            "{text}"
        );
    }
    toml::from_str::<CommandSettings>("argv = []\nshell = true").unwrap_err();
}

fn sense(script: &str) -> CommandSense {
    CommandSense::new(&CommandSenseSettings {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        limit_ms: 20_000,
    })
}

#[tokio::test]
async fn a_sense_is_dark_or_live_and_nothing_else() {
    assert!(sense("echo dark").dark().await.unwrap());
    assert!(!sense("echo live").dark().await.unwrap());
    for (script, says) in [
        (
            "echo off",
            "expected it to print \"dark\" or \"live\", got \"off\"",
        ),
        ("true", "got \"\""),
        ("echo dark; exit 3", "exit status: 3"),
    ] {
        let error = sense(script).dark().await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let settings = CommandSenseSettings {
        argv: Vec::new(),
        limit_ms: 1,
    };
    assert!(
        settings
            .check()
            .unwrap_err()
            .to_string()
            .starts_with("argv: ")
    );
}
