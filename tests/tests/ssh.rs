//! The manager's command over a real OpenSSH, as operations do it: a key with a forced command.
//!
//! `scripts/transcripts` prints what is said, for docs/launchpad.md.
//!
//! A login's start-up files write to what ssh brings back, so a home of whoever runs the tests must play no part: the
//! sessions have a home of their own ([`Sshd`]), and where this process may have a mount namespace of its own, an
//! account with a plain shell.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::{User, getuid};
use panda_tests::programs::{program, run, run_ok};
use panda_tests::rack::Rack;
use panda_tests::source::executor;

const SSHD: &str = "/usr/sbin/sshd";
/// A shell that reads a start-up file when sshd starts it.
const BASH: &str = "/bin/bash";
/// Where sshd locks itself up; Debian's package makes it only when its service starts.
const PRIVSEP: &str = "/run/sshd";
/// Calls at once.
const CALLS: usize = 20;

#[test]
fn twenty_resets_at_once_succeed_over_ssh_and_nothing_else_does() -> Result<()> {
    if !Path::new(SSHD).exists() || run(Command::new("ssh").arg("-V")).is_err() {
        eprintln!("skipped: no {SSHD} or ssh: scripts/setup --tests installs them");
        return Ok(());
    }
    let rack = Rack::start(2, &executor("hello.sh", &[]))?;
    let server = Sshd::start(&rack, "ssh", &Login::quiet())?;

    // No board is ready yet: each call waits, and calls of one slot share its reset.
    let calls: Vec<Child> = (0..CALLS)
        .map(|n| {
            let name = if n % 2 == 0 { "panda01" } else { "panda02" };
            let mut call = server.call("resets", &["ppa-reset", name]);
            Ok(call.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
        })
        .collect::<Result<_>>()?;
    for call in calls {
        let output = call.wait_with_output()?;
        ensure!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}\n{}\n{}",
            server.log(),
            rack.log()
        );
    }
    show(
        "resets",
        "ppa-reset panda01",
        &run(&mut server.call("resets", &["ppa-reset panda01"]))?,
    );
    for slot in rack.slots() {
        assert_eq!(rack.boots(&slot.name)?.len(), 1, "one boot for all calls");
    }

    for command in [
        "",
        "id",
        "ppa-reset",
        "ppa-reset panda01; id",
        "ppa-reset 'panda01'",
        "ppa-reset \"panda01\"",
        "ppa-reset --no-wait panda01",
        "ppa-reset  panda01",
        "ppa-reset panda01 ",
        "ppa-reset $(id)",
        "slots",
        "serve --config /etc/passwd",
    ] {
        let output = run(&mut server.call("resets", &[command]))?;
        refused(&output).with_context(|| format!("{command:?}: {output:?}"))?;
        show("resets", command, &output);
        let recorded = "refused over SSH from=\"127.0.0.1 ";
        ensure!(rack.log().contains(recorded), "{}", rack.log());
        ensure!(
            rack.log().contains(&format!("command={command:?}")),
            "{command:?} is not recorded:\n{}",
            rack.log()
        );
    }

    // A role that the key's line adds.
    let slots = run(&mut server.call("roles", &["slots"]))?;
    show("roles", "slots", &slots);
    let shown = String::from_utf8(slots.stdout)?;
    ensure!(shown.contains("panda02  fresh"), "{shown}");
    refused(&run(&mut server.call("roles", &["slots --json"]))?)?;
    let beyond = run(&mut server.call("roles", &["boots panda01"]))?;
    refused(&beyond)?;
    show("roles", "boots panda01", &beyond);
    // One that only triggers.
    let triggered = run(&mut server.call("triggers", &["ppa-reset panda02"]))?;
    ensure!(triggered.status.success(), "{triggered:?}");
    show("triggers", "ppa-reset panda02", &triggered);
    // A slot that is not there is the program's own refusal.
    let unknown = run(&mut server.call("resets", &["ppa-reset panda99"]))?;
    let error = String::from_utf8_lossy(&unknown.stderr);
    ensure!(
        unknown.status.code() == Some(1) && error.lines().count() == 1 && error.contains("panda99"),
        "{unknown:?}"
    );
    show("resets", "ppa-reset panda99", &unknown);
    println!("transcript:");
    for line in rack.log().lines().filter(|line| line.contains("over SSH")) {
        // Without its time and the port of the other side, which are others each time.
        let told = line.split_once(" WARN ").map_or(line, |(_, told)| told);
        println!("transcript: {}", without_port(told));
    }
    drop(server);
    rack.stop()
}

/// A shell that reads its start-up files at each login and prints in them: with the home that sessions have here it
/// is not heard, with its own it is.
#[test]
fn what_a_login_shell_prints_does_not_reach_these_tests() -> Result<()> {
    let has_all = [SSHD, BASH].iter().all(|path| Path::new(path).exists());
    if !has_all || !own_namespace() {
        eprintln!(
            "skipped: no {SSHD}, no {BASH}, or no mount namespace of our own (it takes root)"
        );
        return Ok(());
    }
    let rack = Rack::start(1, &executor("hello.sh", &[]))?;
    rack.wait_fresh()?;
    let noisy = Login {
        shell: BASH,
        prints: true,
        home_of_its_own: false,
    };
    for (name, login, heard) in [
        ("noisy", noisy, true),
        (
            "hushed",
            Login {
                home_of_its_own: true,
                ..noisy
            },
            false,
        ),
    ] {
        let server = Sshd::start(&rack, name, &login)?;
        let output = run(&mut server.call("resets", &["ppa-reset panda01"]))?;
        ensure!(
            output.status.success(),
            "{name}: {output:?}\n{}",
            server.log()
        );
        let said = String::from_utf8_lossy(&output.stderr).contains("a start-up file speaks");
        ensure!(said == heard, "{name}: {output:?}");
    }
    rack.stop()
}

/// Whether programs can be started with mounts of their own.
fn own_namespace() -> bool {
    let tried = run(Command::new("unshare").args(["--mount", "true"]));
    getuid().is_root() && tried.is_ok_and(|output| output.status.success())
}

/// A call and what came of it, as people read it.
fn show(key: &str, command: &str, output: &Output) {
    println!("transcript:");
    println!("transcript: $ ssh -i {key} pandabuildd@rack1.example {command}");
    for said in [&output.stdout, &output.stderr] {
        for line in String::from_utf8_lossy(said).lines() {
            println!("transcript: {line}");
        }
    }
    println!("transcript: [exit {}]", output.status.code().unwrap_or(-1));
}

/// `from="ADDRESS PORT …"` with its address alone.
fn without_port(line: &str) -> String {
    let Some((before, after)) = line.split_once("from=\"") else {
        return line.to_owned();
    };
    let (from, rest) = after.split_once('"').unwrap_or((after, ""));
    let address = from.split(' ').next().unwrap_or_default();
    format!("{before}from=\"{address} ...\"{rest}")
}

fn refused(output: &Output) -> Result<()> {
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(output.stdout.is_empty(), "it said something");
    ensure!(
        error.lines().count() == 1 && error.contains("refused") && error.contains("(recorded)"),
        "{error}"
    );
    Ok(())
}

/// What a session finds of its account.
#[derive(Debug, Clone, Copy)]
struct Login {
    shell: &'static str,
    /// The start-up files in the account's home print.
    prints: bool,
    /// Sessions have another home than the account's, an empty one.
    home_of_its_own: bool,
}

impl Login {
    fn quiet() -> Self {
        Self {
            shell: "/bin/sh",
            prints: false,
            home_of_its_own: true,
        }
    }

    /// The user database as sshd is to see it: ours, but that `user` has this shell and the home `home`.
    fn passwd(&self, user: &str, home: &Path) -> Result<String> {
        let line = |line: &str| match line.split(':').collect::<Vec<_>>()[..] {
            [name, password, uid, gid, gecos, _, _] if name == user => {
                let home = home.display();
                format!(
                    "{name}:{password}:{uid}:{gid}:{gecos}:{home}:{}\n",
                    self.shell
                )
            }
            _ => format!("{line}\n"),
        };
        Ok(fs::read_to_string("/etc/passwd")?
            .lines()
            .map(line)
            .collect())
    }
}

/// An OpenSSH server of the test's own, with one key for each way that a manager may have.
struct Sshd {
    directory: PathBuf,
    port: u16,
    user: String,
    process: Child,
}

impl Sshd {
    fn start(rack: &Rack, name: &str, login: &Login) -> Result<Self> {
        // Its parent must be nobody else's, and so must its keys.
        let directory = rack.scratch(name)?;
        for key in ["host", "resets", "roles", "triggers"] {
            run_ok(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                    .arg(directory.join(key)),
            )?;
        }
        let socket = rack.state().join("control.sock");
        let program = program("pandabuildd")?;
        let mut authorized = String::new();
        for (key, options) in [
            ("resets", "--timeout 120"),
            ("roles", "--allow slots"),
            ("triggers", "--no-wait"),
        ] {
            let public = fs::read_to_string(directory.join(format!("{key}.pub")))?;
            authorized += &format!(
                "restrict,command=\"{} ssh-command {options} --socket {}\" {public}",
                program.display(),
                socket.display()
            );
        }
        fs::write(directory.join("authorized_keys"), authorized)?;
        if getuid().is_root() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(PRIVSEP)?;
        }
        let user = User::from_uid(getuid())?.context("no such user")?.name;
        let [account, quiet] = ["account", "quiet"].map(|home| directory.join(home));
        for home in [&account, &quiet] {
            fs::create_dir(home)?;
        }
        if login.prints {
            for file in [".bashrc", ".profile", ".zshenv"] {
                fs::write(account.join(file), "echo a start-up file speaks >&2\n")?;
            }
        }
        fs::write(directory.join("passwd"), login.passwd(&user, &account)?)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nMaxStartups 100\n",
            directory.display()
        );
        if login.home_of_its_own {
            config += &format!("SetEnv HOME={}\n", quiet.display());
        }
        fs::write(directory.join("sshd_config"), config)?;
        let log = fs::File::create(directory.join("log"))?;
        let mut command = if own_namespace() {
            let mut unshare = Command::new("unshare");
            let start = "mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"";
            unshare.args(["--mount", "sh", "-c", start, "sh"]);
            unshare.arg(directory.join("passwd")).arg(SSHD);
            unshare
        } else {
            Command::new(SSHD)
        };
        let process = command
            .args(["-D", "-e", "-f"])
            .arg(directory.join("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut server = Self {
            directory,
            port,
            user,
            process,
        };
        server.wait_until_it_listens()?;
        Ok(server)
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("sshd ended with {status}:\n{}", self.log());
            }
            ensure!(
                Instant::now() < deadline,
                "sshd does not listen:\n{}",
                self.log()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A call with a key, as the manager makes it.
    fn call(&self, key: &str, command: &[&str]) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-T", "-p", &self.port.to_string(), "-i"])
            .arg(self.directory.join(key))
            .args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args(["-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60"])
            .arg(format!("{}@127.0.0.1", self.user))
            .args(command.iter().filter(|word| !word.is_empty()))
            .stdin(Stdio::null());
        ssh
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
