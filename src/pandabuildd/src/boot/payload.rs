//! What an image holds for a board, as its family takes it: the image's parts, checked while they are read, and this
//! boot's own `boot.toml` in a cpio, made when it is asked for, as it holds the time.

use async_trait::async_trait;
use panda_board::family::{FamilyError, PartFacts, PartStream, Payload};
use panda_protocol::boot_toml::{self, BootToml};
use panda_protocol::manifest::Machine;

use panda_image::{Image, ImageError, PartReader};

/// See the module.
pub(super) struct ImagePayload<'a> {
    pub(super) image: &'a Image,
    pub(super) boot: &'a BootToml,
}

#[async_trait]
impl Payload for ImagePayload<'_> {
    fn machine(&self) -> Machine {
        self.image.manifest().machine
    }

    fn cmdline(&self) -> &str {
        &self.image.manifest().cmdline
    }

    fn page_size(&self) -> u32 {
        self.image.manifest().page_size
    }

    fn part(&self, name: &str) -> Option<PartFacts> {
        self.image.manifest().part(name).map(|part| PartFacts {
            bytes: part.bytes,
            sha256: part.sha256,
        })
    }

    async fn open(&self, name: &str) -> Result<Box<dyn PartStream>, FamilyError> {
        let part = self.image.manifest().part(name);
        let part = part.ok_or_else(|| FamilyError::Unfit(format!("the image has no {name}")))?;
        Ok(Box::new(Opened(
            self.image.open(part).await.map_err(failed)?,
        )))
    }

    fn boot_archive(&self) -> Result<Vec<u8>, FamilyError> {
        let now = BootToml {
            time_unix_ms: crate::clock::now_unix_ms(),
            ..self.boot.clone()
        };
        boot_toml::cpio_with(&now)
            .map_err(|error| FamilyError::Unfit(format!("boot image: {error}")))
    }
}

struct Opened(PartReader);

#[async_trait]
impl PartStream for Opened {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FamilyError> {
        let piece = self.0.next().await.map_err(failed)?;
        Ok(piece.map(<[u8]>::to_vec))
    }
}

fn failed(error: ImageError) -> FamilyError {
    FamilyError::Part(Box::new(error))
}
