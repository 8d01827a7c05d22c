//! The boot image of one boot: kernel and ramdisk, with a small cpio holding this boot's `boot.toml` appended to the
//! ramdisk, as one Android boot image. It is composed while it is sent, in pieces, so that twenty boots at once need no
//! twenty images in memory:
//!
//! ```text
//! header | kernel ─── pad | ramdisk ─── pad to 4 | cpio(boot.toml) | pad
//!          └ hashed while read; a part whose digest is not the manifest's ends here, before its last
//!            piece is sent, so the second stage never has a whole image to start
//! ```
//!
//! A payload with a part `raw` is sent as it is in its place, filled up to whole packets.

use panda_protocol::cpio;
use panda_protocol::digest::Sha256;
use panda_protocol::omap4::aboot;
use panda_protocol::omap4::bootimg::{self, PageSize, Spec};
use panda_protocol::operators::Sent;
use sha2::Digest as _;
use tokio::time::Instant;

use crate::family::{FamilyError, Payload, Steps};
use crate::paced::Paced;

/// The part that takes the whole image's place.
pub(super) const RAW: &str = "raw";
/// What the second stage's transfers are whole multiples of.
const PACKET: u64 = 512;

/// What the boot image of one boot is made of.
pub(super) enum Plan {
    Composed {
        header: Vec<u8>,
        cpio: Vec<u8>,
        page: u64,
        bytes: u64,
    },
    Raw {
        bytes: u64,
    },
}

fn unfit(error: impl std::fmt::Display) -> FamilyError {
    FamilyError::Unfit(format!("boot image: {error}"))
}

fn bytes_of(payload: &dyn Payload, name: &str) -> Result<u64, FamilyError> {
    let part = payload.part(name);
    part.map(|part| part.bytes)
        .ok_or_else(|| unfit(format!("the image has no {name}")))
}

impl Plan {
    pub(super) fn new(payload: &dyn Payload) -> Result<Self, FamilyError> {
        if let Some(raw) = payload.part(RAW) {
            let bytes = raw.bytes.next_multiple_of(PACKET);
            return Ok(Self::Raw { bytes });
        }
        let cpio = payload.boot_archive()?;
        let page_size = PageSize::try_from(payload.page_size()).map_err(unfit)?;
        let spec = Spec {
            machine: payload.machine(),
            page_size,
            cmdline: payload.cmdline(),
        };
        let kernel = bytes_of(payload, "kernel")?;
        let mut ramdisk = payload.part("ramdisk").map_or(0, |part| part.bytes);
        if !cpio.is_empty() {
            ramdisk = ramdisk.next_multiple_of(cpio::ALIGNMENT as u64) + cpio.len() as u64;
        }
        let bytes =
            bootimg::image_bytes(spec.machine, page_size, kernel, ramdisk).map_err(unfit)?;
        Ok(Self::Composed {
            header: bootimg::header(&spec, kernel, ramdisk).map_err(unfit)?,
            cpio,
            page: u64::from(page_size.bytes()),
            bytes,
        })
    }

    pub(super) const fn bytes(&self) -> u64 {
        match self {
            Self::Composed { bytes, .. } | Self::Raw { bytes } => *bytes,
        }
    }

    /// Sends it all.
    pub(super) async fn send(
        &self,
        payload: &dyn Payload,
        pipe: &mut Paced<'_>,
        steps: &dyn Steps,
        deadline: Instant,
    ) -> Result<Sent, FamilyError> {
        let mut out = Outgoing::new(pipe, steps, self.bytes(), deadline);
        match self {
            Self::Raw { .. } => {
                copy(payload, RAW, &mut out).await?;
                out.pad(PACKET).await?;
            }
            Self::Composed {
                header, cpio, page, ..
            } => {
                out.push(header).await?;
                copy(payload, "kernel", &mut out).await?;
                out.pad(*page).await?;
                if payload.part("ramdisk").is_some() {
                    copy(payload, "ramdisk", &mut out).await?;
                }
                if !cpio.is_empty() {
                    out.pad(cpio::ALIGNMENT as u64).await?;
                    out.push(cpio).await?;
                }
                out.pad(*page).await?;
            }
        }
        out.finish().await
    }
}

async fn copy(
    payload: &dyn Payload,
    name: &str,
    out: &mut Outgoing<'_, '_>,
) -> Result<(), FamilyError> {
    let mut part = payload.open(name).await?;
    while let Some(piece) = part.next().await? {
        out.push(&piece).await?;
    }
    Ok(())
}

/// Bytes on their way into the pipe, in pieces of its size.
struct Outgoing<'a, 'p> {
    pipe: &'a mut Paced<'p>,
    steps: &'a dyn Steps,
    deadline: Instant,
    piece: Vec<u8>,
    piece_bytes: usize,
    sent: u64,
    whole: u64,
    digest: sha2::Sha256,
}

impl<'a, 'p> Outgoing<'a, 'p> {
    fn new(pipe: &'a mut Paced<'p>, steps: &'a dyn Steps, whole: u64, deadline: Instant) -> Self {
        let piece_bytes = pipe.transfer_bytes().min(aboot::PIECE);
        Self {
            pipe,
            steps,
            deadline,
            piece: Vec::with_capacity(piece_bytes),
            piece_bytes,
            sent: 0,
            whole,
            digest: sha2::Sha256::new(),
        }
    }

    async fn push(&mut self, mut bytes: &[u8]) -> Result<(), FamilyError> {
        self.digest.update(bytes);
        self.sent += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.piece_bytes - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == self.piece_bytes {
                self.write().await?;
            }
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), FamilyError> {
        self.pipe
            .write(&self.piece, self.deadline)
            .await
            .map_err(FamilyError::pipe("sending the boot image"))?;
        self.piece.clear();
        self.steps.sent(self.sent, self.whole);
        Ok(())
    }

    /// NULs up to a multiple of `to` bytes, at most 4096.
    async fn pad(&mut self, to: u64) -> Result<(), FamilyError> {
        const NULS: [u8; 4096] = [0; 4096];
        let missing = self.sent.next_multiple_of(to) - self.sent;
        let missing = usize::try_from(missing)
            .unwrap_or(NULS.len())
            .min(NULS.len());
        self.push(&NULS[..missing]).await
    }

    async fn finish(mut self) -> Result<Sent, FamilyError> {
        if !self.piece.is_empty() {
            self.write().await?;
        }
        Ok(Sent {
            bytes: self.sent,
            sha256: Sha256::from_bytes(self.digest.finalize().into()),
        })
    }
}
