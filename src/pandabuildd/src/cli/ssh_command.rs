//! `pandabuildd ssh-command`: what a key of Launchpad's may do on the master. sshd runs it in the place of
//! whatever the caller wants (`command="…"` in `authorized_keys`), with that in `SSH_ORIGINAL_COMMAND`:
//!
//! ```text
//! ppa-reset NAME     always; NAME of letters, digits, `.` and `-`, not beginning with `-`
//! slots              with --allow slots
//! boots NAME         with --allow boots
//! ```
//!
//! Exactly so: one blank, no option, no quote, nothing after it. No shell ever sees it. All else is refused in
//! one line, and recorded in the daemon's log.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use clap::{Parser as _, ValueEnum};
use panda_protocol::operators::RecordRefusal;

use super::{Cli, Exit, Socket, Subcommands};

/// The variable in which sshd hands on what the caller wants.
const ORIGINAL: &str = "SSH_ORIGINAL_COMMAND";
/// The variable in which sshd says who calls.
const CONNECTION: &str = "SSH_CONNECTION";
/// The longest name of a host.
const MAX_NAME: usize = 253;
/// The most characters of a refused command that are recorded.
const MAX_RECORDED: usize = 300;

/// As a key's forced command in authorized_keys: do what SSH_ORIGINAL_COMMAND says if it is `ppa-reset NAME`,
/// and refuse and record all else
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    socket: Socket,
    /// Reset protocol 2.0: resets are only triggered, and the daemon tells Launchpad's web service of their end
    #[arg(long)]
    no_wait: bool,
    /// How long a reset may take, in seconds; keep it below the manager's own time-out
    #[arg(long, value_name = "S", default_value_t = 25, value_parser = clap::value_parser!(u64).range(2..=3600))]
    timeout: u64,
    /// What this key may do beside resets; may be given more than once
    #[arg(long, value_name = "ROLE")]
    allow: Vec<Role>,
    /// Whose key it is, for the daemon's record of who did what
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Args {
    /// Where the daemon is, asked for whoever calls.
    fn socket(&self) -> Socket {
        let from = std::env::var(CONNECTION).unwrap_or_default();
        let address = from.split(' ').next().filter(|word| !word.is_empty());
        Socket {
            on_behalf_of: caller(self.name.as_deref(), address),
            ..self.socket.clone()
        }
    }
}

/// Who calls, in a few words.
fn caller(name: Option<&str>, address: Option<&str>) -> Option<String> {
    match (name, address) {
        (Some(name), Some(address)) => Some(format!("{name}, over SSH from {address}")),
        (Some(name), None) => Some(name.to_owned()),
        (None, Some(address)) => Some(format!("somebody over SSH from {address}")),
        (None, None) => None,
    }
}

/// What a key may do beside resets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// `slots`: how the slots are
    Slots,
    /// `boots NAME`: a slot's last resets
    Boots,
}

/// What a caller may have.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    PpaReset(&'a str),
    Slots,
    Boots(&'a str),
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let original = std::env::var_os(ORIGINAL).unwrap_or_default();
    let Some(wanted) = wanted(original.as_bytes(), &args.allow) else {
        return refuse(&args, &original).await;
    };
    let words = words(&args, &wanted);
    let socket = args.socket();
    match Cli::try_parse_from(words)?.command {
        Subcommands::PpaReset(args) => super::ppa_reset::run(args.over(socket)).await,
        Subcommands::Slots(args) => super::slots::run(args.over(socket)).await,
        Subcommands::Boots(args) => super::boots::run(args.over(socket)).await,
        _ => anyhow::bail!("{wanted:?} is no command of this program"),
    }
}

/// What is wanted, where it is exactly what may be had.
fn wanted<'a>(original: &'a [u8], allow: &[Role]) -> Option<Wanted<'a>> {
    let text = std::str::from_utf8(original).ok()?;
    match text.split_once(' ') {
        Some(("ppa-reset", slot)) if is_name(slot) => Some(Wanted::PpaReset(slot)),
        Some(("boots", slot)) if is_name(slot) && allow.contains(&Role::Boots) => {
            Some(Wanted::Boots(slot))
        }
        None if text == "slots" && allow.contains(&Role::Slots) => Some(Wanted::Slots),
        _ => None,
    }
}

/// A host name as far as it must be one to be no option and to mean nothing to anybody else.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

/// The command line for what is wanted.
fn words(args: &Args, wanted: &Wanted<'_>) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["pandabuildd".into()];
    match wanted {
        Wanted::PpaReset(slot) => {
            words.extend(["ppa-reset", slot].map(OsString::from));
            if args.no_wait {
                words.push("--no-wait".into());
            }
            words.extend(["--timeout".into(), args.timeout.to_string().into()]);
        }
        Wanted::Slots => words.push("slots".into()),
        Wanted::Boots(slot) => words.extend(["boots", slot].map(OsString::from)),
    }
    words
}

async fn refuse(args: &Args, original: &OsStr) -> anyhow::Result<Exit> {
    let cut =
        |text: &OsStr| -> String { text.to_string_lossy().chars().take(MAX_RECORDED).collect() };
    let request = RecordRefusal {
        from: cut(&std::env::var_os(CONNECTION).unwrap_or_default()),
        command: cut(original),
    };
    let daemon = args.socket().daemon();
    let recorded = match daemon.ask(&request, Duration::ZERO).await {
        Ok(_) => "recorded".to_owned(),
        Err(error) => format!("not recorded: {error}"),
    };
    eprintln!(
        "pandabuildd: refused; this key may only run `ppa-reset NAME`{} ({recorded})",
        roles(&args.allow)
    );
    Ok(Exit::Error)
}

fn roles(allow: &[Role]) -> String {
    let role = |role: &Role| match role {
        Role::Slots => ", `slots`",
        Role::Boots => ", `boots NAME`",
    };
    allow.iter().map(role).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_a_reset_of_a_name_is_allowed() {
        for (command, name) in [
            ("ppa-reset panda01", "panda01"),
            ("ppa-reset Panda01.rack1.example", "Panda01.rack1.example"),
        ] {
            assert_eq!(
                wanted(command.as_bytes(), &[]),
                Some(Wanted::PpaReset(name))
            );
        }
    }

    #[test]
    fn all_else_is_refused_whatever_the_roles() {
        let long = format!("ppa-reset {}", "a".repeat(254));
        for command in [
            "",
            " ",
            "ppa-reset",
            "ppa-reset ",
            "ppa-reset  panda01",
            " ppa-reset panda01",
            "ppa-reset panda01 ",
            "ppa-reset panda01\n",
            "ppa-reset\tpanda01",
            "ppa-reset panda01 panda02",
            "ppa-reset --no-wait",
            "ppa-reset --no-wait panda01",
            "ppa-reset -h",
            "ppa-reset 'panda01'",
            "ppa-reset \"panda01\"",
            "ppa-reset panda01;reboot",
            "ppa-reset panda01; reboot",
            "ppa-reset $(reboot)",
            "ppa-reset `reboot`",
            "ppa-reset panda01|sh",
            "ppa-reset panda01&",
            "ppa-reset ../panda01",
            "ppa-reset pand\u{e4}01",
            "ppa-reset panda01\0",
            "PPA-RESET panda01",
            "/usr/bin/pandabuildd ppa-reset panda01",
            "reset panda01",
            "serve",
            "slots --json",
            "boots",
            "boots --json",
            "scp -t /",
            &long,
        ] {
            let roles = [Role::Slots, Role::Boots];
            assert_eq!(wanted(command.as_bytes(), &roles), None, "{command:?}");
        }
        assert_eq!(wanted(b"ppa-reset panda\xff", &[]), None);
    }

    #[test]
    fn roles_add_what_they_say_and_no_more() {
        let slots = |allow: &[Role]| wanted(b"slots", allow) == Some(Wanted::Slots);
        let boots =
            |allow: &[Role]| wanted(b"boots panda01", allow) == Some(Wanted::Boots("panda01"));
        assert!(slots(&[Role::Slots]) && !slots(&[Role::Boots]) && !slots(&[]));
        assert!(boots(&[Role::Boots]) && !boots(&[Role::Slots]) && !boots(&[]));
    }

    #[test]
    fn what_is_allowed_is_a_command_of_this_program() {
        #[derive(clap::Parser)]
        struct Key {
            #[command(flatten)]
            args: Args,
        }
        let line = "x --no-wait --timeout 7 --socket /s";
        let args = Key::try_parse_from(line.split(' ')).unwrap().args;
        for (wanted, line) in [
            (
                Wanted::PpaReset("p"),
                "pandabuildd ppa-reset p --no-wait --timeout 7",
            ),
            (Wanted::Slots, "pandabuildd slots"),
            (Wanted::Boots("p"), "pandabuildd boots p"),
        ] {
            let words = words(&args, &wanted);
            assert_eq!(words.join(OsStr::new(" ")), line);
            Cli::try_parse_from(words).unwrap();
        }
    }

    #[test]
    fn whoever_calls_is_named_for_the_record() {
        let named = |name, address| caller(name, address).unwrap_or_default();
        let address = Some("192.0.2.7");
        assert_eq!(
            named(Some("launchpad"), address),
            "launchpad, over SSH from 192.0.2.7"
        );
        assert_eq!(named(None, address), "somebody over SSH from 192.0.2.7");
        assert_eq!(named(Some("launchpad"), None), "launchpad");
        assert_eq!(named(None, None), "");
    }
}
