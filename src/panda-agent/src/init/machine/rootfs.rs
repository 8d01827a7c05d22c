//! The root file system: fetched from the depot into a RAM disk, hashed while it comes, and used only when it is the
//! one that `boot.toml` names. A connection that breaks is taken up where it broke.
//!
//! It is needed before the scratch disk is, whose tools it holds; [`super::root`] moves it to the scratch disk and
//! gives the RAM back. A RAM disk (`brd`), because a file would need a loop device.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use nix::mount::MsFlags;
use panda_http::ClientError;
use panda_protocol::boot_toml::RootFs;
use panda_protocol::digest::Sha256;
use sha2::Digest as _;
use tokio::time::{Instant, sleep};

use super::modules;
use super::mounts::{self, MountError};
use crate::link::DepotClient;

/// The RAM disk.
pub(crate) const RAM_DISK: &str = "/dev/ram0";
/// Where it is mounted while its programs are used.
pub(crate) const AT: &str = "/early";
/// How much is asked for at once.
const PIECE: u64 = 4 << 20;
/// How long nothing at all may come.
const STALL_LIMIT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why there is no root file system.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootFsError {
    /// The image has none.
    #[error(
        "the image has no root file system, and a machine needs one; add rootfs to its manifest"
    )]
    Unnamed,
    /// Too large for the RAM.
    #[error(
        "it has {bytes} bytes, and at most half of the {ram} bytes of RAM can be used; make it smaller"
    )]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The machine's RAM.
        ram: u64,
    },
    /// No RAM disk.
    #[error("no RAM disk: {0}")]
    RamDisk(#[source] io::Error),
    /// The ramdisk has no module for it.
    #[error("the ramdisk has no module brd, which the root file system is kept in at first")]
    NoModule,
    /// The depot has none.
    #[error("the depot answers {0}")]
    Depot(StatusCode),
    /// The depot is gone.
    #[error("{at} of {bytes} bytes came, then nothing for {} s: {problem}", STALL_LIMIT.as_secs())]
    Stalled {
        /// How much had come.
        at: u64,
        /// How much it is.
        bytes: u64,
        /// Why.
        problem: ClientError,
    },
    /// It is another one.
    #[error(
        "what the depot sent has the digest {found}, and boot.toml says {expected}; it is not used"
    )]
    Digest {
        /// What came.
        found: Sha256,
        /// What should have come.
        expected: Sha256,
    },
    /// It cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
}

/// Where pieces come from: the depot.
pub(crate) trait Depot {
    /// At most `most` bytes from `from` on.
    fn piece(&self, from: u64, most: u64) -> impl Future<Output = Result<Bytes, ClientError>>;
}

impl Depot for DepotClient {
    async fn piece(&self, from: u64, most: u64) -> Result<Bytes, ClientError> {
        self.rootfs(from, most).await
    }
}

/// Fetches it into a RAM disk and mounts that; `module` is the RAM disk's.
pub(crate) async fn bring(
    depot: &impl Depot,
    wanted: Option<&RootFs>,
    module: Option<&Path>,
) -> Result<(RootFs, PathBuf), RootFsError> {
    let wanted = wanted.ok_or(RootFsError::Unnamed)?;
    fits(wanted.bytes, ram())?;
    let module = module.ok_or(RootFsError::NoModule)?;
    // No parameter has a zero byte in it.
    let parameters = CString::new(parameters(wanted.bytes)).unwrap_or_default();
    modules::load(module, &parameters).map_err(RootFsError::RamDisk)?;
    let mut file = OpenOptions::new()
        .write(true)
        .open(RAM_DISK)
        .map_err(RootFsError::RamDisk)?;
    fetch(depot, wanted, &mut file).await?;
    file.sync_all().map_err(RootFsError::RamDisk)?;
    drop(file);
    let at = PathBuf::from(AT);
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mounts::device(Path::new(RAM_DISK), "squashfs", &at, flags, None)?;
    for own in ["dev", "proc", "sys"] {
        mounts::bind(&Path::new("/").join(own), &at.join(own))?;
    }
    Ok((wanted.clone(), at))
}

/// Fetches it and checks it, for a machine that runs in its host's.
pub(crate) async fn check(depot: &impl Depot, wanted: &RootFs) -> Result<(), RootFsError> {
    fetch(depot, wanted, &mut io::sink()).await
}

/// One RAM disk, without partitions, of so many KiB.
fn parameters(bytes: u64) -> String {
    format!("rd_nr=1 max_part=0 rd_size={}", bytes.div_ceil(4096) * 4)
}

fn fits(bytes: u64, ram: u64) -> Result<(), RootFsError> {
    if bytes > ram / 2 {
        return Err(RootFsError::TooLarge { bytes, ram });
    }
    Ok(())
}

fn ram() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total())
}

async fn fetch(
    depot: &impl Depot,
    wanted: &RootFs,
    to: &mut impl Write,
) -> Result<(), RootFsError> {
    let mut hasher = sha2::Sha256::new();
    let (mut at, mut pause) = (0, FIRST_PAUSE);
    let mut progress = Instant::now();
    while at < wanted.bytes {
        let most = PIECE.min(wanted.bytes - at);
        let problem = match depot.piece(at, most).await {
            Ok(piece) if !piece.is_empty() && piece.len() as u64 <= most => {
                hasher.update(&piece);
                to.write_all(&piece).map_err(RootFsError::RamDisk)?;
                at += piece.len() as u64;
                (progress, pause) = (Instant::now(), FIRST_PAUSE);
                continue;
            }
            Ok(_) => ClientError::Malformed("rootfs"),
            Err(ClientError::Status(status)) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                return Err(RootFsError::Depot(status));
            }
            Err(problem) => problem,
        };
        if progress.elapsed() >= STALL_LIMIT {
            let bytes = wanted.bytes;
            return Err(RootFsError::Stalled { at, bytes, problem });
        }
        tracing::warn!(
            "the root file system broke off after {at} bytes: {problem}; going on from there"
        );
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let found = Sha256::from_bytes(hasher.finalize().into());
    if found != wanted.sha256 {
        let expected = wanted.sha256;
        return Err(RootFsError::Digest { found, expected });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A depot that serves `bytes`, and first, for each answer of the list, does that.
    struct Toy {
        bytes: Vec<u8>,
        answers: RefCell<Vec<Result<usize, ClientError>>>,
        asked: RefCell<Vec<u64>>,
    }

    impl Depot for Toy {
        async fn piece(&self, from: u64, most: u64) -> Result<Bytes, ClientError> {
            self.asked.borrow_mut().push(from);
            let (from, most) = (
                usize::try_from(from).unwrap(),
                usize::try_from(most).unwrap(),
            );
            let most = match self.answers.borrow_mut().pop() {
                Some(Ok(fewer)) => fewer,
                Some(Err(error)) => return Err(error),
                None => most,
            };
            Ok(Bytes::copy_from_slice(&self.bytes[from..from + most]))
        }
    }

    fn toy(answers: Vec<Result<usize, ClientError>>) -> (Toy, RootFs) {
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let wanted = RootFs {
            sha256: Sha256::of(&bytes),
            bytes: bytes.len() as u64,
        };
        let (answers, asked) = (RefCell::new(answers), RefCell::default());
        (
            Toy {
                bytes,
                answers,
                asked,
            },
            wanted,
        )
    }

    fn broken() -> Result<usize, ClientError> {
        Err(ClientError::Transport("broken".to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_where_it_broke_off() {
        let (toy, wanted) = toy(vec![broken(), broken(), Ok(1000), broken(), Ok(7)]);
        let mut to = Vec::new();
        fetch(&toy, &wanted, &mut to).await.unwrap();
        assert!(to == toy.bytes);
        let asked = toy.asked.into_inner();
        assert_eq!(asked, [0, 7, 7, 1007, 1007, 1007, 1007 + PIECE]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_one_is_not_used() {
        let (toy, mut wanted) = toy(Vec::new());
        wanted.sha256 = Sha256::of(b"another");
        let said = fetch(&toy, &wanted, &mut Vec::new())
            .await
            .unwrap_err()
            .to_string();
        assert!(said.contains(&Sha256::of(&toy.bytes).to_string()), "{said}");
        assert!(said.contains(&Sha256::of(b"another").to_string()), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_depot_that_is_gone_is_given_up() {
        let (toy, wanted) = toy((0..1000).map(|_| broken()).collect());
        let error = fetch(&toy, &wanted, &mut Vec::new()).await.unwrap_err();
        assert!(
            matches!(error, RootFsError::Stalled { at: 0, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("broken"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_final_and_a_piece_too_long_is_none() {
        let (refusing, wanted) = toy(vec![Err(ClientError::Status(404))]);
        let error = fetch(&refusing, &wanted, &mut Vec::new())
            .await
            .unwrap_err();
        assert!(
            matches!(error, RootFsError::Depot(StatusCode::NOT_FOUND)),
            "{error}"
        );
        let (generous, mut wanted) = toy(vec![Ok(2000), Ok(0)]);
        wanted.bytes = 1000;
        wanted.sha256 = Sha256::of(&generous.bytes[..1000]);
        let mut to = Vec::new();
        fetch(&generous, &wanted, &mut to).await.unwrap();
        assert_eq!(to.len(), 1000);
    }

    #[test]
    fn no_more_than_half_of_the_ram_is_taken() {
        assert!(fits(512 << 20, 1 << 30).is_ok());
        let said = fits((512 << 20) + 1, 1 << 30).unwrap_err().to_string();
        assert!(
            said.contains("536870913") && said.contains("1073741824"),
            "{said}"
        );
        assert_eq!(parameters(62_205_953), "rd_nr=1 max_part=0 rd_size=60752");
        assert!(ram() > 0);
    }
}
