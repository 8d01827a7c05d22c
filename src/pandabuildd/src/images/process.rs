//! Makes an image for the process machine: its kernel *is* the agent's program, its ramdisk holds
//! `agent.toml`. Used by `pandabuildd twin` and by tests; what is made is an image like any other, loaded
//! and checked as one.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::cpio::{ArchivePath, Writer};
use panda_protocol::digest::Sha256;
use panda_protocol::launchpad::FileName;
use panda_protocol::worker::ForeignWorker;
use panda_protocol::manifest::{self, Machine, Manifest, Part};
use sha2::Digest as _;

use super::{Image, ImageError};

/// What the twin's boot ROM is given to load. The twin's second stage is software of its own, so these
/// bytes only have to be some.
const SECOND_STAGE: &[u8] = b"pandabuildd: second stage of the process machine\n";
const PAGE_SIZE: u32 = 4096;

/// Makes the image in `directory`, in the place of any that is there, and loads it.
///
/// # Errors
/// Files that cannot be read or written, or an agent that no image can hold.
pub fn make(directory: &Path, agent: &Path, settings: &AgentToml) -> Result<Image, ImageError> {
    make_with(directory, agent, settings, None)
}

/// As [`make`], with another `worker` than the agent's own.
///
/// # Errors
/// As [`make`].
pub fn make_with(
    directory: &Path,
    agent: &Path,
    settings: &AgentToml,
    worker: Option<ForeignWorker>,
) -> Result<Image, ImageError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| ImageError::File { path, source }
    };
    let parent = directory.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(fail(parent))?;
    // Made beside and renamed, so that a half-made image is never taken for one.
    let beside = tempfile::Builder::new()
        .prefix(".image-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(fail(parent))?;

    let manifest = Manifest {
        version: manifest::VERSION,
        name: "process machine".to_owned(),
        arch: settings.arch.clone(),
        machine: Machine::Process,
        cmdline: String::new(),
        page_size: PAGE_SIZE,
        second_stage: write(beside.path(), "second-stage", SECOND_STAGE)?,
        kernel: copy(beside.path(), "kernel", agent)?,
        ramdisk: write(beside.path(), "ramdisk", &ramdisk(settings)?)?,
        rootfs: None,
        worker,
    };
    let text =
        manifest::encode(&manifest).map_err(|error| ImageError::Process(error.to_string()))?;
    write(beside.path(), manifest::NAME, text.as_bytes())?;

    match fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(directory)(error)),
    }
    fs::rename(beside.path(), directory).map_err(fail(directory))?;
    // Its content has moved; what is left to remove is not there.
    drop(beside.keep());
    Image::load(directory)
}

fn ramdisk(settings: &AgentToml) -> Result<Vec<u8>, ImageError> {
    let text =
        agent_toml::encode(settings).map_err(|error| ImageError::Process(error.to_string()))?;
    let path = ArchivePath::from(file_name(agent_toml::NAME)?);
    let mut archive = Writer::new();
    archive
        .file(&path, 0o644, text.as_bytes())
        .map_err(|error| ImageError::Process(error.to_string()))?;
    Ok(archive.finish())
}

fn file_name(name: &str) -> Result<FileName, ImageError> {
    FileName::try_from(name.to_owned()).map_err(|error| ImageError::Process(error.to_string()))
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> Result<Part, ImageError> {
    stream(directory, name, bytes, Path::new(name))
}

fn copy(directory: &Path, name: &str, from: &Path) -> Result<Part, ImageError> {
    let file = fs::File::open(from).map_err(|source| ImageError::File {
        path: from.to_owned(),
        source,
    })?;
    stream(directory, name, file, from)
}

/// Writes a file of the image, and describes it as the manifest does.
fn stream(
    directory: &Path,
    name: &str,
    mut from: impl io::Read,
    from_path: &Path,
) -> Result<Part, ImageError> {
    let path = directory.join(name);
    let on_write = |source| ImageError::File {
        path: path.clone(),
        source,
    };
    let on_read = |source| ImageError::File {
        path: from_path.to_owned(),
        source,
    };
    let mut file = fs::File::create(&path).map_err(on_write)?;
    let mut hasher = sha2::Sha256::new();
    let mut bytes = 0;
    let mut buffer = vec![0; super::PIECE];
    loop {
        let read = from.read(&mut buffer).map_err(on_read)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(on_write)?;
        bytes += read as u64;
    }
    file.sync_all().map_err(on_write)?;
    Ok(Part {
        file: file_name(name)?,
        sha256: Sha256::from_bytes(hasher.finalize().into()),
        bytes,
    })
}
