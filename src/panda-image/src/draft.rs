//! An image in the making: its files are written into a directory beside the place where it will be, and get
//! that place only when all of them are there. Whoever is interrupted leaves no half-made image.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use panda_protocol::digest::Sha256;
use panda_protocol::launchpad::FileName;
use panda_protocol::manifest::{self, Manifest, Part};
use sha2::Digest as _;

use crate::{Image, ImageError};

/// An image in the making. Dropped before [`Draft::publish`], it leaves nothing.
#[derive(Debug)]
pub(crate) struct Draft {
    target: PathBuf,
    beside: tempfile::TempDir,
}

impl Draft {
    /// Begins the image that will be at `target`.
    ///
    /// # Errors
    /// The directory above it cannot be made or written to.
    pub(crate) fn begin(target: &Path) -> Result<Self, ImageError> {
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(failed(parent))?;
        let beside = tempfile::Builder::new()
            .prefix(".image-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(failed(parent))?;
        Ok(Self {
            target: target.to_owned(),
            beside,
        })
    }

    /// Where a file of the image is written.
    #[must_use]
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.beside.path().join(name)
    }

    /// Writes a file, and describes it as the manifest does.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<Part, ImageError> {
        self.stream(name, bytes, Path::new(name))
    }

    /// Copies a file into the image.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub(crate) fn copy(&self, name: &str, from: &Path) -> Result<Part, ImageError> {
        let file = fs::File::open(from).map_err(failed(from))?;
        self.stream(name, file, from)
    }

    /// Describes a file that somebody else has written at [`Draft::path`].
    ///
    /// # Errors
    /// It cannot be read, or not be made to last.
    pub(crate) fn part(&self, name: &str) -> Result<Part, ImageError> {
        let path = self.path(name);
        let file = fs::File::open(&path).map_err(failed(&path))?;
        let (sha256, bytes) = copy(&file, io::sink(), &path, &path)?;
        file.sync_all().map_err(failed(&path))?;
        Ok(Part {
            file: file_name(name)?,
            sha256,
            bytes,
        })
    }

    /// Writes the manifest and gives the image its place, which that of any earlier image was.
    ///
    /// # Errors
    /// A manifest that cannot be, or a directory that cannot be replaced.
    pub(crate) fn publish(self, manifest: &Manifest) -> Result<Image, ImageError> {
        let text = manifest::encode(manifest).map_err(|source| ImageError::Manifest {
            path: self.target.join(manifest::NAME),
            source,
        })?;
        self.write(manifest::NAME, text.as_bytes())?;
        let Self { target, beside } = self;
        match fs::remove_dir_all(&target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&target)(error)),
        }
        fs::rename(beside.path(), &target).map_err(failed(&target))?;
        // Its content has moved; what is left to remove is not there.
        drop(beside.keep());
        Image::load(&target)
    }

    fn stream(
        &self,
        name: &str,
        from: impl io::Read,
        from_path: &Path,
    ) -> Result<Part, ImageError> {
        let path = self.path(name);
        let file = fs::File::create(&path).map_err(failed(&path))?;
        let (sha256, bytes) = copy(from, &file, from_path, &path)?;
        file.sync_all().map_err(failed(&path))?;
        Ok(Part {
            file: file_name(name)?,
            sha256,
            bytes,
        })
    }
}

/// Copies while it hashes and counts.
fn copy(
    mut from: impl io::Read,
    mut to: impl io::Write,
    from_path: &Path,
    to_path: &Path,
) -> Result<(Sha256, u64), ImageError> {
    let mut hasher = sha2::Sha256::new();
    let mut bytes = 0;
    let mut buffer = vec![0; crate::image::PIECE];
    loop {
        let read = from.read(&mut buffer).map_err(failed(from_path))?;
        if read == 0 {
            return Ok((Sha256::from_bytes(hasher.finalize().into()), bytes));
        }
        hasher.update(&buffer[..read]);
        to.write_all(&buffer[..read]).map_err(failed(to_path))?;
        bytes += read as u64;
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ImageError + use<> {
    let path = path.to_owned();
    move |source| ImageError::File {
        path: path.clone(),
        source,
    }
}

fn file_name(name: &str) -> Result<FileName, ImageError> {
    FileName::try_from(name.to_owned()).map_err(|error| ImageError::Unmakeable(error.to_string()))
}
