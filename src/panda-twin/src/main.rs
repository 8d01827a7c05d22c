//! `panda-twin`: runs virtual boards until it is told to stop. Prints one JSON line for each board when all are
//! ready; logs go to standard error. Ctrl-C and SIGTERM cut the boards' power and remove what was made; a
//! hang-up is ignored, so that the boards outlive whoever started them. `panda-twin fault` has a board of one that
//! runs do something wrong.

mod order;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use panda_twin::board::Timing;
use panda_twin::machine::Kind;
use panda_twin::machine::qemu::arch::Arch;
use panda_twin::machine::qemu::{self, Accel};
use panda_twin::{Settings, Twin};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

/// Virtual PandaBoards, each with a socket for its supply, its USB port and its console.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "panda-twin fault --help: have a board do something wrong"
)]
struct Arguments {
    /// Directory for sockets, scratch disks and the boards' RAM; made when it is not there.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// How many boards.
    #[arg(long, value_name = "N", default_value_t = 1)]
    boards: u16,
    /// Boards are named this and 01, 02, ...
    #[arg(long, default_value = "panda")]
    prefix: String,
    /// What runs the boot image that arrives.
    #[arg(long, value_enum, default_value = "process")]
    machine: Machine,
    /// QEMU: the boards' architecture; without it, this host's.
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// QEMU: processors of a board.
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// QEMU: a board's memory in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory_mib: u32,
    /// QEMU: the size of a new scratch disk in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 8192)]
    scratch_mib: u64,
    /// QEMU: where a board's link is on this host's loopback. Once for each board, in order.
    #[arg(long, value_name = "ADDR:PORT")]
    link: Vec<SocketAddr>,
    /// QEMU: what runs the boards' processors.
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accel,
    /// Serve the boards' ports to QEMU's usb-redir devices too.
    #[arg(long)]
    usbredir: bool,
    /// Give the boards power as QEMU's hub does, whose trace comes on this named pipe.
    #[arg(long, value_name = "PIPE", requires = "hub_port")]
    hub_trace: Option<PathBuf>,
    /// The path of the hub's port that a board is behind, as QEMU writes it: 1.1. Once for each board, in order.
    #[arg(long, value_name = "PATH", requires = "hub_trace")]
    hub_port: Vec<String>,
}

/// Kinds of machine by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Machine {
    /// A process of this host, in namespaces of its own.
    Process,
    /// QEMU, with a real kernel.
    Qemu,
}

impl Arguments {
    fn kind(&self) -> Kind {
        let defaults = qemu::Settings::default();
        match self.machine {
            Machine::Process => Kind::Process,
            Machine::Qemu => Kind::Qemu(qemu::Settings {
                arch: self.arch.unwrap_or(defaults.arch),
                cpus: self.cpus,
                memory_mib: self.memory_mib,
                disk_bytes: self.scratch_mib.saturating_mul(1 << 20),
                links: self.link.clone(),
                accel: self.accel,
            }),
        }
    }
}

/// The line that is printed for a board.
#[derive(Serialize)]
struct Ready<'a> {
    board: &'a str,
    power: &'a std::path::Path,
    pipe: &'a std::path::Path,
    console: &'a std::path::Path,
    fault: &'a std::path::Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    usbredir: Option<&'a std::path::Path>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next();
    let ended = match words.next() {
        Some(word) if word == "fault" => order::run(&order::Arguments::parse_from(
            program.into_iter().chain(words),
        )),
        _ => run(Arguments::parse()).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a backtrace: whoever started us repeats our last words.
            eprintln!("panda-twin: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    // Whoever started us may be gone, and standard error with it: that must not end us.
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?;

    let machine = arguments.kind();
    let mut twin = Twin::start(Settings {
        state: arguments.state,
        boards: arguments.boards,
        prefix: arguments.prefix,
        machine,
        timing: Timing::default(),
    })
    .await?;
    if arguments.usbredir {
        twin.serve_usbredir()?;
    }
    if let Some(trace) = &arguments.hub_trace {
        twin.follow_hub(trace, arguments.hub_port)?;
    }
    announce(&twin)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => {}
        }
    }
    tracing::info!("stopping: the boards lose power");
    twin.stop().await?;
    Ok(())
}

fn announce(twin: &Twin) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for ((board, paths), usbredir) in twin.boards().zip(twin.usbredir()) {
        let ready = Ready {
            board,
            power: &paths.power,
            pipe: &paths.pipe,
            console: &paths.console,
            fault: &paths.fault,
            usbredir,
        };
        serde_json::to_writer(&mut out, &ready).context("cannot say that the boards are ready")?;
        writeln!(out)?;
    }
    out.flush()?;
    Ok(())
}
