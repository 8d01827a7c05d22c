//! Step 7, `boot image`: kernel and ramdisk of the known-good image, with a small cpio holding this
//! boot's `boot.toml` appended to the ramdisk, as one Android boot image. It is composed while it is sent,
//! in pieces, so that twenty boots at once need no twenty images in memory:
//!
//! ```text
//! header | kernel ─── pad | ramdisk ─── pad to 4 | cpio(boot.toml) | pad
//!          └ hashed while read; a part whose digest is not the manifest's ends here, before its last
//!            piece is sent, so the second stage never has a whole image to start
//! ```
//!
//! The step ends when the second stage has left the port: it closes USB before it starts the kernel.

use panda_board::{PipeError, Presence};
use panda_protocol::boot_toml::{self, BootToml};
use panda_protocol::cpio;
use panda_protocol::digest::Sha256;
use panda_protocol::manifest::Part;
use panda_protocol::omap4::aboot;
use panda_protocol::omap4::bootimg::{self, PageSize, Spec};
use sha2::Digest as _;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::chain::{Chain, Note};
use super::cut::is_gadget;
use super::error::{Failure, StepError, pipe};
use super::handshake::{Awaited, Proof};
use super::paced::Paced;
use super::second_stage::Ready;
use super::settings::ms;
use super::talk;
use panda_image::Image;

/// The board runs what was sent to it, as far as its port tells.
#[derive(Debug)]
pub struct Started {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "tests read it; the ledger has it by the step's note"
        )
    )]
    digest: Sha256,
}

impl Started {
    /// The SHA-256 of the boot image that was sent.
    #[cfg(test)]
    pub(super) fn digest(&self) -> Sha256 {
        self.digest
    }

    /// Waits for the agent's report over this boot's certificate, and asks it back over the link.
    ///
    /// # Errors
    /// No report, one of another boot, a worker that is not idle.
    pub async fn handshake(self, awaited: Awaited) -> Result<Proof, Failure> {
        super::handshake::shake(self, awaited).await
    }
}

pub(super) async fn send(
    ready: Ready,
    image: &Image,
    mut boot: BootToml,
) -> Result<Started, Failure> {
    let Ready {
        chain,
        mut port,
        pipe: mut paced,
    } = ready;
    let limit = ms(chain.settings().boot_image_ms);
    let deadline = Instant::now() + limit;
    let work = async {
        boot.time_unix_ms = crate::clock::now_unix_ms();
        let plan = Plan::new(image, &boot)?;
        talk::announce_image(&mut paced, plan.bytes, deadline).await?;
        let digest = plan.send(image, &mut paced, deadline).await?;
        let sent = format!("{} bytes, SHA-256 {digest}", plan.bytes);
        Ok((digest, Note::from(sent)))
    };
    let digest = chain.step("boot image", limit, work).await?;

    let limit = ms(chain.settings().port_released_ms);
    let released = async {
        // The image's gadget may have come already.
        let gadget = chain.settings().gadget;
        let left = |seen: &Presence| *seen == Presence::Empty || is_gadget(*seen, gadget);
        match timeout(limit, port.wait_for(left)).await {
            Ok(Ok(_)) => Ok((
                (),
                Note::from("the second stage has left the port".to_owned()),
            )),
            Ok(Err(_)) => Err(StepError::PortUnseen),
            Err(_) => Err(StepError::NotReleased { limit }),
        }
    };
    chain.step("started", limit * 2, released).await?;
    // Not sooner: closing a device makes the kernel talk to it, and where it is just leaving, the kernel waits five
    // seconds for an answer before it sees that.
    drop(paced);
    Ok(Started {
        chain,
        port,
        digest,
    })
}

/// What the boot image of one boot is made of.
struct Plan {
    header: Vec<u8>,
    cpio: Vec<u8>,
    page: u64,
    bytes: u64,
}

impl Plan {
    fn new(image: &Image, boot: &BootToml) -> Result<Self, StepError> {
        let manifest = image.manifest();
        let compose = |error: bootimg::BootImageError| StepError::Compose(error.to_string());
        let cpio =
            boot_toml::cpio_with(boot).map_err(|error| StepError::Compose(error.to_string()))?;
        let page_size = PageSize::try_from(manifest.page_size).map_err(compose)?;
        let spec = Spec {
            machine: manifest.machine,
            page_size,
            cmdline: &manifest.cmdline,
        };
        let ramdisk = manifest
            .ramdisk
            .bytes
            .next_multiple_of(cpio::ALIGNMENT as u64)
            + cpio.len() as u64;
        let kernel = manifest.kernel.bytes;
        let bytes =
            bootimg::image_bytes(spec.machine, page_size, kernel, ramdisk).map_err(compose)?;
        let header = bootimg::header(&spec, kernel, ramdisk).map_err(compose)?;
        Ok(Self {
            header,
            cpio,
            page: u64::from(page_size.bytes()),
            bytes,
        })
    }

    /// Sends it all, and returns its digest.
    async fn send(
        &self,
        image: &Image,
        paced: &mut Paced,
        deadline: Instant,
    ) -> Result<Sha256, StepError> {
        let mut out = Outgoing::new(paced, deadline);
        out.push(&self.header)
            .await
            .map_err(pipe("sending the boot image"))?;
        copy(image, &image.manifest().kernel, &mut out).await?;
        out.pad(self.page)
            .await
            .map_err(pipe("sending the kernel"))?;
        copy(image, &image.manifest().ramdisk, &mut out).await?;
        out.pad(cpio::ALIGNMENT as u64)
            .await
            .map_err(pipe("sending the ramdisk"))?;
        out.push(&self.cpio)
            .await
            .map_err(pipe("sending the ramdisk"))?;
        out.pad(self.page)
            .await
            .map_err(pipe("sending the ramdisk"))?;
        out.finish().await.map_err(pipe("sending the boot image"))
    }
}

async fn copy(image: &Image, part: &Part, out: &mut Outgoing<'_>) -> Result<(), StepError> {
    let mut reader = image.open(part).await?;
    while let Some(piece) = reader.next().await? {
        out.push(piece)
            .await
            .map_err(pipe("sending the boot image"))?;
    }
    Ok(())
}

/// Bytes on their way into the pipe, in pieces of its size.
struct Outgoing<'a> {
    paced: &'a mut Paced,
    deadline: Instant,
    piece: Vec<u8>,
    piece_bytes: usize,
    sent: u64,
    digest: sha2::Sha256,
}

impl<'a> Outgoing<'a> {
    fn new(paced: &'a mut Paced, deadline: Instant) -> Self {
        let piece_bytes = paced.transfer_bytes().min(aboot::PIECE);
        let piece = Vec::with_capacity(piece_bytes);
        Self {
            paced,
            deadline,
            piece,
            piece_bytes,
            sent: 0,
            digest: sha2::Sha256::new(),
        }
    }

    async fn push(&mut self, mut bytes: &[u8]) -> Result<(), PipeError> {
        self.digest.update(bytes);
        self.sent += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.piece_bytes - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == self.piece_bytes {
                self.paced.write(&self.piece, self.deadline).await?;
                self.piece.clear();
            }
        }
        Ok(())
    }

    /// NULs up to a multiple of `to` bytes, at most 4096.
    async fn pad(&mut self, to: u64) -> Result<(), PipeError> {
        const NULS: [u8; 4096] = [0; 4096];
        let missing = self.sent.next_multiple_of(to) - self.sent;
        let missing = usize::try_from(missing)
            .unwrap_or(NULS.len())
            .min(NULS.len());
        self.push(&NULS[..missing]).await
    }

    async fn finish(self) -> Result<Sha256, PipeError> {
        if !self.piece.is_empty() {
            self.paced.write(&self.piece, self.deadline).await?;
        }
        Ok(Sha256::from_bytes(self.digest.finalize().into()))
    }
}
