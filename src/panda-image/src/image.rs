//! Known-good images: a directory with `manifest.toml` and the files it names. An image is checked whole
//! when it is loaded (the daemon's start, `check`), and its files again while they are read for a boot: a
//! disk that has changed under us must not boot anything. Files are read as files, never mapped, so that
//! one that is cut while it is read is an error and no signal.

#[cfg(test)]
mod tests;

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use panda_protocol::digest::Sha256;
use panda_protocol::family::PayloadProblem;
use panda_protocol::manifest::{self, Machine, Manifest, ManifestError, Part};
use sha2::Digest as _;
use tokio::io::AsyncReadExt as _;

use crate::kernel::{self, KernelError};

/// How much of a file is read at once.
pub(crate) const PIECE: usize = 64 * 1024;
/// The most bytes of a root file system.
const MAX_ROOTFS: u64 = 16 << 30;

/// Why an image is refused. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file cannot be read or written.
    #[error("image file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The manifest is none.
    #[error("image manifest {path}: {source}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A file has another size than the manifest says.
    #[error(
        "image file {path}: has {found} bytes, and its manifest says {expected}; fetch or build \
             the image again"
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// By the manifest.
        expected: u64,
        /// Found.
        found: u64,
    },
    /// A file has another digest than the manifest says.
    #[error(
        "image file {path}: has SHA-256 {found}, and its manifest says {expected}; fetch or \
             build the image again"
    )]
    Digest {
        /// The file.
        path: PathBuf,
        /// By the manifest.
        expected: Sha256,
        /// Found.
        found: Sha256,
    },
    /// A file is larger than the board can take.
    #[error("image file {path}: has {bytes} bytes, and a board takes at most {max}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// By the manifest.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// The family's boards could not take what it holds for them.
    #[error("image {path}: {source}")]
    Parts {
        /// The image's directory.
        path: PathBuf,
        /// Why not.
        source: PayloadProblem,
    },
    /// Its kernel is none.
    #[error("image file {path}: {source}")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// What it is.
        source: KernelError,
    },
    /// Something that an image cannot hold.
    #[error("the image cannot be made: {0}")]
    Unmakeable(String),
}

/// A checked image.
#[derive(Debug, Clone)]
pub struct Image {
    directory: PathBuf,
    manifest: Manifest,
    id: Sha256,
}

impl Image {
    /// Loads the image in `directory`, and checks every file of it against the manifest. It reads
    /// them all: call it where blocking is allowed.
    ///
    /// # Errors
    /// A file that is missing or differs, a manifest that is none, parts that no board could take.
    pub fn load(directory: &Path) -> Result<Self, ImageError> {
        let image = Self::described(directory)?;
        for part in image.parts() {
            image.check(part)?;
        }
        image.check_kernel()?;
        Ok(image)
    }

    /// As [`Image::load`], and goes on after a part that is wrong.
    ///
    /// # Errors
    /// Everything that is wrong, at least one thing.
    pub fn examine(directory: &Path) -> Result<Self, Vec<ImageError>> {
        let image = Self::described(directory).map_err(|error| vec![error])?;
        let parts = image.parts();
        let wrong: Vec<_> = parts.filter_map(|part| image.check(part).err()).collect();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        image.check_kernel().map_err(|error| vec![error])?;
        Ok(image)
    }

    /// As its manifest describes it, with no part looked at yet.
    fn described(directory: &Path) -> Result<Self, ImageError> {
        let path = directory.join(manifest::NAME);
        let bytes = read_bounded(&path, manifest::MAX_BYTES)?;
        let manifest = manifest::parse(&bytes).map_err(|source| ImageError::Manifest {
            path: path.clone(),
            source,
        })?;
        let image = Self {
            directory: directory.to_owned(),
            id: manifest::id(&bytes),
            manifest,
        };
        image.check_bounds()?;
        Ok(image)
    }

    /// The image's id: the digest of its manifest.
    #[must_use]
    pub fn id(&self) -> Sha256 {
        self.id
    }

    /// What it is made of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where a part's file is.
    #[must_use]
    pub fn path(&self, part: &Part) -> PathBuf {
        self.directory.join(part.file.as_str())
    }

    /// Opens a part for a boot; it is hashed while it is read.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub async fn open(&self, part: &Part) -> Result<PartReader, ImageError> {
        let path = self.path(part);
        let file = tokio::fs::File::open(&path)
            .await
            .map_err(|source| ImageError::File {
                path: path.clone(),
                source,
            })?;
        Ok(PartReader {
            file,
            path,
            expected: part.sha256,
            bytes: part.bytes,
            left: part.bytes,
            hasher: Some(sha2::Sha256::new()),
            buffer: vec![0; PIECE],
        })
    }

    /// Reads a part whole, checked; for small ones.
    ///
    /// # Errors
    /// A file that cannot be read or has changed.
    pub async fn read(&self, part: &Part) -> Result<Vec<u8>, ImageError> {
        let mut reader = self.open(part).await?;
        let mut whole = Vec::new();
        while let Some(piece) = reader.next().await? {
            whole.extend_from_slice(piece);
        }
        Ok(whole)
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.manifest.parts().map(|(_, part)| part)
    }

    fn check_bounds(&self) -> Result<(), ImageError> {
        // Room for what is appended to the ramdisk of every boot.
        let mut largest = self.manifest.clone();
        largest.ramdisk.bytes = largest
            .ramdisk
            .bytes
            .saturating_add(2 * panda_protocol::boot_toml::MAX_BYTES as u64);
        if let Some(facts) = largest.family.facts() {
            (facts.check)(&largest).map_err(|source| ImageError::Parts {
                path: self.directory.clone(),
                source,
            })?;
        }
        match &self.manifest.rootfs {
            Some(part) if part.bytes > MAX_ROOTFS => Err(ImageError::TooLarge {
                path: self.path(part),
                bytes: part.bytes,
                max: MAX_ROOTFS,
            }),
            _ => Ok(()),
        }
    }

    /// A process machine's kernel is a program; any other's is a kernel of its architecture.
    fn check_kernel(&self) -> Result<(), ImageError> {
        match self.manifest.machine {
            Machine::Process => return Ok(()),
            Machine::Panda | Machine::Qemu => {}
        }
        let path = self.path(&self.manifest.kernel);
        let mut head = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(kernel::HEAD as u64).read_to_end(&mut head))
            .map_err(|source| ImageError::File {
                path: path.clone(),
                source,
            })?;
        kernel::check(&self.manifest.arch, &head)
            .map_err(|source| ImageError::Kernel { path, source })
    }

    fn check(&self, part: &Part) -> Result<(), ImageError> {
        let path = self.path(part);
        let error = |source| ImageError::File {
            path: path.clone(),
            source,
        };
        let file = std::fs::File::open(&path).map_err(error)?;
        let found = file.metadata().map_err(error)?.len();
        if found != part.bytes {
            return Err(ImageError::Size {
                path,
                expected: part.bytes,
                found,
            });
        }
        let mut hasher = sha2::Sha256::new();
        let mut file = file.take(part.bytes);
        let mut buffer = vec![0; PIECE];
        loop {
            let read = file.read(&mut buffer).map_err(error)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        let found = Sha256::from_bytes(hasher.finalize().into());
        if found != part.sha256 {
            return Err(ImageError::Digest {
                path,
                expected: part.sha256,
                found,
            });
        }
        Ok(())
    }
}

/// A part that is being read for a boot.
#[derive(Debug)]
pub struct PartReader {
    file: tokio::fs::File,
    path: PathBuf,
    expected: Sha256,
    bytes: u64,
    left: u64,
    /// Taken when the end has been checked.
    hasher: Option<sha2::Sha256>,
    buffer: Vec<u8>,
}

impl PartReader {
    /// The next piece; none at the end. The last piece is handed out only when the whole part has the
    /// manifest's digest, so who sends what it gets never sends a whole part that has changed.
    ///
    /// # Errors
    /// A file that cannot be read or has changed.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, ImageError> {
        let Some(hasher) = &mut self.hasher else {
            return Ok(None);
        };
        let wanted = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        let mut read = 0;
        if wanted > 0 {
            read = self
                .file
                .read(&mut self.buffer[..wanted])
                .await
                .map_err(|source| ImageError::File {
                    path: self.path.clone(),
                    source,
                })?;
            if read == 0 {
                let found = self.bytes - self.left;
                let (path, expected) = (self.path.clone(), self.bytes);
                return Err(ImageError::Size {
                    path,
                    expected,
                    found,
                });
            }
        }
        hasher.update(&self.buffer[..read]);
        self.left -= read as u64;
        if self.left == 0
            && let Some(hasher) = self.hasher.take()
        {
            let found = Sha256::from_bytes(hasher.finalize().into());
            if found != self.expected {
                let (path, expected) = (self.path.clone(), self.expected);
                return Err(ImageError::Digest {
                    path,
                    expected,
                    found,
                });
            }
        }
        Ok((read > 0).then_some(&self.buffer[..read]))
    }
}

fn read_bounded(path: &Path, max: usize) -> Result<Vec<u8>, ImageError> {
    let error = |source| ImageError::File {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(error)?;
    let mut bytes = Vec::new();
    file.take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(error)?;
    if bytes.len() > max {
        return Err(ImageError::TooLarge {
            path: path.to_owned(),
            bytes: bytes.len() as u64,
            max: max as u64,
        });
    }
    Ok(bytes)
}
