//! A file that is hashed while it is written, under a temporary name beside its place, and gets its
//! own name only when its hash is the expected one and its bytes are on the disk. Dropped before
//! that, it leaves nothing. Used by the content store and for the results of a build.

use std::io;
use std::path::Path;

use panda_protocol::digest::Sha1;
use sha1::Digest as _;
use tempfile::NamedTempFile;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use crate::failpoint::{self, Side};

/// What the temporary names begin with, so that a crash's leftovers are known.
pub const PREFIX: &str = ".draft-";

/// A file being written.
#[derive(Debug)]
pub struct Draft {
    temporary: NamedTempFile,
    file: File,
    sha1: sha1::Sha1,
    length: u64,
}

/// A file that is written, on the disk, and has the expected hash; it still has its temporary name.
#[derive(Debug)]
pub struct Finished {
    temporary: NamedTempFile,
    length: u64,
}

/// Why a draft does not become a file.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// Its hash is not the expected one.
    #[error("the file's SHA-1 is not the expected one")]
    Mismatch,
    /// It cannot be written.
    #[error("the file cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl Draft {
    /// A new draft in `directory`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let temporary = failpoint::around(failpoint::DRAFT, || {
            tempfile::Builder::new()
                .prefix(PREFIX)
                .tempfile_in(directory)
        })?;
        let file = File::from_std(temporary.as_file().try_clone()?);
        Ok(Self {
            temporary,
            file,
            sha1: sha1::Sha1::new(),
            length: 0,
        })
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        failpoint::pass(failpoint::PIECE, Side::Before, String::new);
        self.file.write_all(piece).await?;
        failpoint::pass(failpoint::PIECE, Side::After, String::new);
        self.sha1.update(piece);
        self.length += piece.len() as u64;
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Brings it to the disk if its hash is `expected`.
    ///
    /// # Errors
    /// Another hash, or it cannot be written.
    pub async fn finish(mut self, expected: Sha1) -> Result<Finished, DraftError> {
        if Sha1::from_bytes(self.sha1.finalize().into()) != expected {
            return Err(DraftError::Mismatch);
        }
        self.file.flush().await?;
        self.file.sync_all().await?;
        Ok(Finished {
            temporary: self.temporary,
            length: self.length,
        })
    }
}

impl Finished {
    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Gives it its name, in the directory that it was drafted in, in the place of any file of that
    /// name. The name itself is on the disk after the directory's own `sync_all`.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn place(self, path: &Path) -> io::Result<()> {
        failpoint::around(failpoint::PLACE, || self.temporary.persist(path))
            .map_err(|error| error.error)?;
        Ok(())
    }
}
