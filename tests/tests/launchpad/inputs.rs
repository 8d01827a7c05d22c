//! `ensurepresent` under trouble, on a whole rack: servers that die and flap, a cache too small for everything, a disk
//! that is full. A ready slot says IDLE only when a dispatch could have its inputs.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::getuid;
use panda_http::ClientError;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{
    BuildCall, Dialect, EnsurePresent, FileName, Status, StatusReport, Sum,
};
use panda_tests::programs::run_ok;
use panda_tests::rack::Rack;
use tokio::runtime::Runtime;

use crate::builder::{Builder, INPUT, build_id, call, give, package_args, serve_input};
use crate::racks::Served;

const SLOTS: usize = 6;
/// Bytes of one input of the test with a small cache.
const PIECE: usize = 1 << 20;

/// A server of pieces: `/N` is a megabyte of the digit N. Of the connections made to it, the first `bad` break off.
fn pieces(bad: usize) -> Result<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let number = count.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    std::io::Read::read_exact(&mut stream, &mut byte)?;
                    head.extend(byte);
                }
                let digit = head.get(5).copied().unwrap_or(b'0');
                let body = vec![digit; PIECE];
                let sent = if number < bad { PIECE / 2 } else { PIECE };
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {PIECE}\r\n\r\n")?;
                stream.write_all(&body[..sent])
            });
        }
    });
    Ok((address, asked))
}

fn piece(address: SocketAddr, digit: u8) -> EnsurePresent {
    EnsurePresent {
        sum: Sha1::of(&vec![digit; PIECE]).into(),
        url: Some(format!("http://{address}/{}", char::from(digit))),
        username: String::new(),
        password: String::new(),
    }
}

#[test]
fn what_a_slot_was_promised_is_there_for_its_build_however_much_the_others_ask_for() -> Result<()> {
    let runtime = Runtime::new()?;
    // Room for one input of each slot and two more.
    let room = (SLOTS + 2) * PIECE;
    let tables = format!(
        "\n[filecache]\nmax_bytes = {room}\nfile_max_bytes = {PIECE}\nretry_first_ms = 20\n"
    );
    let rack = Served::start(SLOTS, "exit 2", Dialect::Current, &tables)?;
    let (server, asked) = pieces(3)?;
    let builders: Vec<_> = rack
        .slots()
        .iter()
        .map(Builder::new)
        .collect::<Result<_>>()?;
    let ended = runtime.block_on(async {
        // All at once, against a server that breaks off.
        let mut calls = tokio::task::JoinSet::new();
        for (builder, digit) in builders.iter().cloned().zip(b'0'..) {
            calls.spawn(async move { builder.client.ensure_present(piece(server, digit)).await });
        }
        while let Some(answer) = calls.join_next().await {
            let answer = answer??;
            ensure!(answer.present, "{answer:?}");
        }
        // Many more through the last slot's builds: only what nobody waits for may go.
        let last = builders.last().context("no slot")?;
        for round in 0..3 {
            for digit in b'7'..=b'9' {
                let answer = last.client.ensure_present(piece(server, digit)).await?;
                // Its own are pinned as well: the third finds no room until its build has ended.
                ensure!(answer.present || digit == b'9', "{round}: {answer:?}");
                if digit == b'8' {
                    break;
                }
            }
        }
        for (builder, digit) in builders.iter().zip(b'0'..) {
            let sum = Sum::from(Sha1::of(&vec![digit; PIECE]));
            let build = BuildCall {
                chroot: sum.clone(),
                filemap: [(FileName::try_from("x_1.dsc".to_owned())?, sum)].into(),
                ..call("binarypackage", package_args())?
            };
            let answer = builder.client.build(build).await?;
            ensure!(answer.is_building(), "{}: {answer:?}", builder.name);
        }
        for builder in &builders {
            builder.ended().await?;
            builder.clean().await?;
        }
        // Let go with the builds: now the others find room.
        for digit in b'0'..=b'9' {
            let answer = last.client.ensure_present(piece(server, digit)).await;
            ensure!(answer.is_ok(), "{answer:?}");
            run_ok(&mut rack.control(&["slots"])?)?;
            if digit == b'5' {
                break;
            }
        }
        Ok(())
    });
    ended.with_context(|| rack.log())?;
    ensure!(
        asked.load(Ordering::SeqCst) >= SLOTS + 3,
        "nothing broke off"
    );
    rack.stop()
}

/// What a status that is not IDLE is between boots, in each dialect.
fn not_ready(dialect: Dialect, status: &Result<StatusReport, ClientError>) -> bool {
    match (dialect, status) {
        (Dialect::Current, Err(ClientError::Fault { .. })) => true,
        (Dialect::Y2011, Ok(report)) => report.status == Status::Aborting { build_id: None },
        _ => false,
    }
}

/// Looks until a slot is or is not ready.
async fn until_ready(builder: &Builder, dialect: Dialect, ready: bool) -> Result<()> {
    if ready {
        return builder.idle().await;
    }
    let deadline = tokio::time::Instant::now() + crate::builder::LIMIT;
    loop {
        let status = builder.client.status().await;
        if not_ready(dialect, &status) {
            return Ok(());
        }
        ensure!(
            matches!(&status, Ok(report) if report.status == Status::Idle),
            "another status: {status:?}"
        );
        ensure!(
            tokio::time::Instant::now() < deadline,
            "{} stays IDLE",
            builder.name
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[test]
fn while_the_inputs_server_is_dead_no_slot_says_idle_and_no_call_is_lost() -> Result<()> {
    let runtime = Runtime::new()?;
    for dialect in [Dialect::Current, Dialect::Y2011] {
        let tables = "\n[filecache]\nretry_first_ms = 50\nretry_most_ms = 500\nlook_ms = 200\n";
        let rack = Served::start(2, "true", dialect, tables)?;
        let [asks, waits] = [
            Builder::new(&rack.slots()[0])?,
            Builder::new(&rack.slots()[1])?,
        ];
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let ended = runtime.block_on(async {
            asks.idle().await?;
            let url = format!("http://{address}/input");
            let asking = tokio::spawn({
                let asks = asks.clone();
                async move { asks.fetch(&url).await }
            });
            until_ready(&waits, dialect, false).await?;
            // Who has just reset a builder asks for an echo, and believes it clean.
            waits.client.echo(Vec::new()).await?;
            let listener = TcpListener::bind(address)?;
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    give(stream, "200 OK", INPUT).ok();
                }
            });
            asking.await??;
            until_ready(&waits, dialect, true).await
        });
        ended.with_context(|| format!("{dialect:?}:\n{}", rack.log()))?;
        rack.stop()?;
    }
    Ok(())
}

#[test]
fn on_a_full_disk_no_slot_says_idle_until_there_is_room_again() -> Result<()> {
    if !getuid().is_root() {
        println!("skipped: it takes root to make a small disk");
        return Ok(());
    }
    let runtime = Runtime::new()?;
    let mut rack = Rack::start(1, "exit 2")?;
    rack.wait_fresh()?;
    rack.kill()?;
    // The daemon's own state on a small disk; the boards' sockets stay where they are.
    let small = rack.scratch("small")?;
    run_ok(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"])
            .arg(&small),
    )?;
    let tested = on_a_small_disk(&mut rack, &runtime);
    let log = rack.log();
    // Whoever still runs there is on its way out.
    rack.kill().ok();
    run_ok(Command::new("umount").arg("-l").arg(&small))?;
    tested.with_context(|| log)?;
    fs::remove_file(rack.state().join("control.sock")).ok();
    rack.twin()?;
    rack.stop()
}

fn on_a_small_disk(rack: &mut Rack, runtime: &Runtime) -> Result<()> {
    let small = rack.scratch("small")?;
    let config = rack.state().join("rack.toml");
    let text = fs::read_to_string(&config)?;
    let (known, own) = ("state_dir = \".\"", format!("state_dir = {small:?}"));
    ensure!(text.contains(known), "rack.toml: {text}");
    let tables =
        "\n[filecache]\nfree_min_bytes = 8000000\nretry_first_ms = 50\nretry_most_ms = 200\n";
    fs::write(&config, text.replace(known, &own) + tables)?;
    rack.serve()?;
    rack.wait_fresh()?;
    let builder = Builder::new(&rack.slots()[0])?;
    let input = serve_input()?;
    runtime.block_on(async {
        builder.idle().await?;
        let filler = small.join("filler");
        let mut file = fs::File::create(&filler)?;
        let chunk = vec![0; 1 << 20];
        while file.write_all(&chunk).is_ok() {}
        drop(file);
        until_ready(&builder, Dialect::Current, false).await?;
        let told = Builder::fault(builder.client.status().await)?;
        ensure!(told.contains("disk is full"), "{told}");
        // A dispatch that was under way waits for room rather than failing.
        let asking = tokio::spawn({
            let (builder, input) = (builder.clone(), input.clone());
            async move { builder.fetch(&input).await }
        });
        fs::remove_file(&filler)?;
        asking.await??;
        until_ready(&builder, Dialect::Current, true).await?;
        builder.dispatch(&input, "binarypackage", package_args()).await?;
        builder.ended().await?;
        let id = build_id()?;
        ensure!(
            matches!(builder.client.status().await?.status, Status::Waiting { build_id, .. } if build_id == id),
            "another cookie"
        );
        builder.clean().await
    })
}
