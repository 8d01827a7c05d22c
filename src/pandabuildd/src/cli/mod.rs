//! The command line: one file a subcommand. Everything that a subcommand prints for a program to read
//! goes to standard output; everything for people goes to standard error.

mod boot;
mod boots;
mod check;
mod chroot;
mod console;
mod demo;
mod hold;
mod image;
mod ppa_reset;
mod reset;
mod serve;
mod slots;
mod ssh_command;
mod submit;
mod twin;
mod usb;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use panda_image::steps::Steps;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::operators::client::Daemon;

/// Makes a rack of bare boards look, to Launchpad, like virtualised builders.
#[derive(Debug, Parser)]
#[command(name = "pandabuildd", version, about, after_help = Exit::HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Run the daemon for a rack
    Serve(serve::Args),
    /// Check a rack's configuration and image, and show what booting it costs
    Check(check::Args),
    /// Run the daemon over virtual boards on this machine
    Twin(twin::Args),
    /// Show, on two virtual boards, that nothing of one build reaches the next
    Demo(demo::Args),
    /// Have a source package built by any Launchpad builder
    Submit(submit::Args),
    /// Show how the slots are
    Slots(slots::Args),
    /// Reset a slot: cut its power and boot it from the known-good image
    Reset(reset::Args),
    /// Take a slot out of service: its board loses power, once its build has ended
    Hold(hold::HoldArgs),
    /// As hold, and wait for the end of its build if asked to
    Drain(hold::DrainArgs),
    /// Put a held or failed slot back into service
    Release(hold::ReleaseArgs),
    /// Show the last resets: each step of the chain, with its time and the evidence of the cut
    Boots(boots::Args),
    /// Reset a slot as Launchpad's manager does, whatever it has
    PpaReset(ppa_reset::Args),
    /// What a key of Launchpad's may do over SSH, as its forced command
    SshCommand(ssh_command::Args),
    /// Show what a slot's board says on its serial console
    Console(console::Args),
    /// Make chroot tarballs
    Chroot(chroot::Args),
    /// Look at this machine's USB, and learn which board is on a slot's port
    Usb(usb::Args),
    /// Boot a board over USB, without a daemon
    Boot(boot::Args),
    /// Make known-good images
    Image(image::Args),
}

/// How a subcommand ends, beside success and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done,
    /// Something could not be done; a line on standard error says what.
    Error,
    /// What was waited for did not come in time.
    TimeOut,
    /// BuildStatus.PACKAGEFAIL
    PackageFail,
    /// BuildStatus.DEPFAIL
    DepFail,
    /// BuildStatus.CHROOTFAIL
    ChrootFail,
    /// BuildStatus.BUILDERFAIL
    BuilderFail,
    /// BuildStatus.GIVENBACK
    GivenBack,
    /// BuildStatus.ABORTED, by somebody else
    Aborted,
    /// Ctrl-C or SIGTERM.
    Interrupted,
}

impl Exit {
    const HELP: &'static str = "\
Exit codes:
  0    done; for submit: BuildStatus.OK
  1    not done; standard error says why
  2    the command line is not understood
  4    what was waited for did not come in time
  10   submit: BuildStatus.PACKAGEFAIL     13   submit: BuildStatus.BUILDERFAIL
  11   submit: BuildStatus.DEPFAIL         14   submit: BuildStatus.GIVENBACK
  12   submit: BuildStatus.CHROOTFAIL      15   submit: BuildStatus.ABORTED
  130  interrupted";

    /// The number that the process ends with.
    #[must_use]
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Error => 1,
            Self::TimeOut => 4,
            Self::PackageFail => 10,
            Self::DepFail => 11,
            Self::ChrootFail => 12,
            Self::BuilderFail => 13,
            Self::GivenBack => 14,
            Self::Aborted => 15,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Runs what the command line asks for; errors are told here.
pub(crate) async fn run(cli: Cli) -> Exit {
    let ended = match cli.command {
        Subcommands::Serve(args) => serve::run(args).await,
        Subcommands::Check(args) => check::run(args).await,
        Subcommands::Twin(args) => twin::run(args).await,
        Subcommands::Demo(args) => demo::run(args).await,
        Subcommands::Submit(args) => submit::run(args).await,
        Subcommands::Slots(args) => slots::run(args).await,
        Subcommands::Reset(args) => reset::run(args).await,
        Subcommands::Hold(args) => hold::hold(args).await,
        Subcommands::Drain(args) => hold::drain(args).await,
        Subcommands::Release(args) => hold::release(args).await,
        Subcommands::Boots(args) => boots::run(args).await,
        Subcommands::PpaReset(args) => ppa_reset::run(args).await,
        Subcommands::SshCommand(args) => ssh_command::run(args).await,
        Subcommands::Console(args) => console::run(args).await,
        Subcommands::Chroot(args) => chroot::run(args).await,
        Subcommands::Usb(args) => usb::run(args).await,
        Subcommands::Boot(args) => boot::run(args).await,
        Subcommands::Image(args) => image::run(args).await,
    };
    ended.unwrap_or_else(|error| {
        eprintln!("pandabuildd: {}", told(&error));
        Exit::Error
    })
}

/// An error with its causes, less those that it tells itself.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Where the daemon listens for operators.
#[derive(Debug, Clone, Default, clap::Args)]
struct Socket {
    /// The daemon's socket for operators, `[operators] socket` of its rack.toml; /run/pandabuildd/control.sock where it is
    /// left out
    #[arg(long, value_name = "PATH", env = "PANDABUILDD_SOCKET")]
    socket: Option<PathBuf>,
    /// For whom the daemon is asked, for its record
    #[arg(skip)]
    on_behalf_of: Option<String>,
}

impl Socket {
    /// The daemon that listens there.
    fn daemon(&self) -> Daemon {
        let daemon = match &self.socket {
            Some(socket) => Daemon::at(socket.clone()),
            None => Daemon::usual(),
        };
        daemon.on_behalf_of(self.on_behalf_of.clone())
    }
}

/// Ends with Ctrl-C or SIGTERM. From the call on, not only while it is awaited, they no longer end the process
/// by themselves.
fn interrupted() -> impl Future<Output = ()> + Send + use<> {
    let signals = signal(SignalKind::interrupt()).and_then(|interrupt| {
        let terminate = signal(SignalKind::terminate())?;
        Ok((interrupt, terminate))
    });
    async move {
        match signals {
            Ok((mut interrupt, mut terminate)) => tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            },
            // Without handlers the signals end the process as ever.
            Err(error) => {
                tracing::warn!(%error, "signals cannot be caught");
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The steps of making something, which Ctrl-C and SIGTERM end.
fn steps_until_interrupted() -> Steps {
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    let interrupted = interrupted();
    tokio::spawn(async move {
        interrupted.await;
        cancel.cancel();
    });
    Steps::until(stop)
}

/// Makes a directory, and those above it, where there is none.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path);
    match made {
        // The system's words would be "File exists", which is not what is wrong.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(nix::errno::Errno::ENOTDIR.into())
        }
        made => made,
    }
}

/// Writes a line to standard output. A reader who has gone is no error of ours.
fn say(line: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_form_that_is_documented_is_understood() {
        for line in [
            "serve --config rack.toml",
            "check --config rack.toml --inputs-mb 250 --json",
            "twin",
            "twin --slots 2 --machine process --listen 127.0.0.1:8221 --state /tmp/x --executor true",
            "submit hello_1.0.dsc --builder http://127.0.0.1:8221 --chroot c.tar.zst",
            "submit hello_1.0.dsc --builder http://127.0.0.1:8221 --chroot c.tar.zst --suite bookworm --series \
             bookworm --arch armhf --archive L --archive M --output out --serve 127.0.0.1",
            "slots --json --wait fresh --timeout 60 --socket /run/x",
            "reset panda01 --no-wait --force",
            "hold panda01 --reason cable",
            "drain panda01 --reason cable --wait --timeout 60 --socket /run/x",
            "release panda01",
            "boots",
            "boots panda01 --json",
            "console panda01 --follow",
            "console panda01 --boot 12 --socket /run/x",
            "console panda01 --interactive",
            "usb list --json",
            "usb learn panda01 --config rack.toml --replace",
            "boot --port 1-2.3 --second-stage a --kernel k --dtb d --ramdisk r --cmdline console=ttyS2",
            "boot --second-stage a --raw r --monitor --write-pause-ms 2 --read-pause-ms 0 --transfer-bytes 4096",
            "ppa-reset panda01.rack1.example --no-wait --timeout 20",
            "ssh-command --allow slots --allow boots --no-wait --timeout 20 --name launchpad --socket /run/x",
            "chroot build --suite bookworm --arch armhf --output c.tar.zst --mirror http://mirror.example/debian",
            "demo",
            "demo --suite bookworm --mirror http://mirror.example/debian --agent a --scratch-mib 4096 --keep",
            "image build",
            "image build --output image --arch armhf --suite bookworm --mirror http://mirror.example/debian --agent a \
             --no-cache",
        ] {
            let words = std::iter::once("pandabuildd").chain(line.split_whitespace());
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "serve",
            "slots --wait idle",
            "twin --machine qemu9",
            "twin --slots 0",
            "reset",
            "hold panda01",
            "drain panda01 --reason x --timeout 5",
            "release",
            "boot --second-stage a --kernel k",
            "boot --port 1:2 --second-stage a --kernel k",
            "boot --port 1-2 --second-stage a --kernel k --raw r",
            "boot --port 1-2 --second-stage a --raw r --dtb d",
        ] {
            let words = std::iter::once("pandabuildd").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn an_error_tells_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("port 1: {source}; choose another")]
        struct Port {
            source: std::io::Error,
        }
        let source = std::io::Error::other("in use");
        let error = anyhow::Error::from(Port { source }).context("the front");
        assert_eq!(told(&error), "the front: port 1: in use; choose another");
    }

    #[test]
    fn no_two_exits_share_a_code_and_help_names_each() {
        let exits = [
            Exit::Done,
            Exit::Error,
            Exit::TimeOut,
            Exit::PackageFail,
            Exit::DepFail,
            Exit::ChrootFail,
            Exit::BuilderFail,
            Exit::GivenBack,
            Exit::Aborted,
            Exit::Interrupted,
        ];
        let mut codes: Vec<u8> = exits.iter().map(|exit| exit.code()).collect();
        for code in &codes {
            assert!(
                Exit::HELP
                    .split_whitespace()
                    .any(|word| word == code.to_string()),
                "{code}"
            );
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), exits.len());
    }
}
