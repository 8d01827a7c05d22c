//! `panda-agent`: the program on the board.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use panda_agent::init::{self, Machine, machine};
use panda_agent::worker::{Settings, Worker, inner};
use panda_http::{ServerSettings, ServiceLimits, respond, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The board's side of pandabuildd: boots a board for one build, or is a builder on its own.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boots: reads boot.toml, wipes the scratch disk, proves the boot to the master and works for it.
    Init(InitArgs),
    /// Is a Launchpad builder on plain HTTP, without a rack. Prints its URL when it listens.
    Worker(WorkerArgs),
    /// Runs one build; the worker starts this itself.
    #[command(hide = true)]
    RunBuild,
    /// Runs a program of another root; a boot starts this itself.
    #[command(hide = true, name = machine::IN_ROOT)]
    InRoot {
        root: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
struct InitArgs {
    /// What kind of machine this is.
    #[arg(long)]
    machine: Machine,
    /// The directory with boot.toml and agent.toml.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The scratch disk's directory; everything in it is removed.
    #[arg(long, value_name = "DIR")]
    scratch: PathBuf,
    /// Set by the first process of the machine on the one that does the work.
    #[arg(long, hide = true)]
    supervised: bool,
}

#[derive(Debug, Args)]
struct WorkerArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// A directory of its own for inputs, builds and results.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// The Debian architecture to announce [default: this machine's].
    #[arg(long)]
    arch: Option<String>,
    /// A shell command that takes the place of chroot and sbuild.
    #[arg(long, value_name = "CMD")]
    executor: Option<String>,
    /// A proxy for apt in the chroot.
    #[arg(long, value_name = "URL")]
    apt_proxy: Option<String>,
    /// The most bytes of input files that are kept.
    #[arg(long, value_name = "BYTES")]
    cache_bytes: Option<u64>,
    /// The most bytes of one build's log; a build that prints more is killed.
    #[arg(long, value_name = "BYTES")]
    log_bytes: Option<u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if machine::is_ramdisk_init(&arguments) {
        log_to_stderr();
        boot_ramdisk();
    }
    let result = match Cli::parse_from(arguments).command {
        // Neither a runtime nor a log: what it prints is the build's log.
        Command::RunBuild => {
            expose();
            inner::run().map_err(anyhow::Error::from)
        }
        Command::InRoot { root, words } => Err(machine::become_in_root(&root, &words).into()),
        Command::Init(args) => {
            log_to_stderr();
            boot(&args)
        }
        Command::Worker(args) => {
            log_to_stderr();
            runtime().and_then(|runtime| runtime.block_on(work_alone(args)))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("panda-agent: {}", said(&error));
            ExitCode::FAILURE
        }
    }
}

/// The whole chain of an error, each cause once: many say their cause themselves.
fn said(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match text.as_str() {
            "" => cause,
            known if known.contains(&cause) => text,
            known => format!("{known}: {cause}"),
        }
    })
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .with_ansi(false)
        .init();
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")
}

/// The first process of a machine with a kernel, from its ramdisk: it ends only with the machine.
fn boot_ramdisk() -> ! {
    // One thread: it becomes another program.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let failed = runtime.block_on(machine::boot_ramdisk());
            tracing::error!("the boot has FAILED: {failed}");
        }
        Err(error) => tracing::error!("the boot has FAILED: no runtime: {error}"),
    }
    machine::power_off()
}

/// A build is what goes first when memory is short, and the agent never. More than this may be asked for by
/// anybody, so it cannot fail where it matters.
fn expose() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "500") {
        eprintln!("the build is not marked as the first to go when memory is short: {error}");
    }
}

fn boot(args: &InitArgs) -> anyhow::Result<()> {
    if std::process::id() == 1 && !args.supervised {
        if !args.machine.has_kernel() {
            return Ok(init::supervise(false)?);
        }
        if let Err(error) = machine::protect() {
            tracing::warn!(%error, "the agent is not protected from builds that eat the memory");
        }
        let ended = init::supervise(true).err().map(|error| error.to_string());
        tracing::error!("{}", ended.unwrap_or_default());
        machine::power_off();
    }
    let own_names = args.supervised;
    let work = init::boot(args.machine, &args.root, &args.scratch, own_names);
    runtime()?.block_on(work).context("boot")
}

async fn work_alone(args: WorkerArgs) -> anyhow::Result<()> {
    let arch = match args.arch {
        Some(arch) => arch,
        None => init::native_arch().context("give --arch")?,
    };
    let mut settings = Settings::new(args.state, arch);
    settings.executor = args.executor;
    settings.apt_proxy = args.apt_proxy;
    settings.cache_bytes = args.cache_bytes.unwrap_or(settings.cache_bytes);
    settings.log_bytes = args.log_bytes.unwrap_or(settings.log_bytes);
    let worker = Worker::start_up(settings, None).await?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}; is the port in use?", args.listen))?;
    let address = listener.local_addr()?;
    tracing::info!(%address, arch = worker.arch(), "the worker listens");
    println!("http://{address}");
    let stop = CancellationToken::new();
    let (service, limits) = (Arc::new(worker.clone()), ServiceLimits::default());
    let served = serve(
        listener,
        None,
        ServerSettings::default(),
        stop.clone(),
        move |request, _| {
            let service = service.clone();
            async move { respond(&*service, &limits, request).await }
        },
    );
    let mut terminate = signal(SignalKind::terminate())?;
    let mut served = std::pin::pin!(served);
    tokio::select! {
        () = &mut served => {}
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    tracing::info!("stopping");
    stop.cancel();
    worker.shut_down().await;
    served.await;
    Ok(())
}
