//! What is handed to a board without an image: files, read and checked whole before any board is waited for.

use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use panda_protocol::manifest::Machine;
use panda_protocol::omap4::bootimg::{self, PageSize};
use panda_protocol::omap4::{aboot, rom};
use panda_protocol::zimage;

use super::image::RAW;
use crate::family::MemoryPayload;

/// The page size of an image that is made of files.
const PAGE_SIZE: u32 = 2048;

/// The files.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The second stage.
    pub second_stage: &'a Path,
    /// The kernel, a zImage.
    pub kernel: Option<&'a Path>,
    /// A device tree, to be appended to it.
    pub dtb: Option<&'a Path>,
    /// A ramdisk.
    pub ramdisk: Option<&'a Path>,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// In their place: any file, sent as it is.
    pub raw: Option<&'a Path>,
}

/// A file, or another argument, that no board could take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct FilesError {
    what: String,
    problem: String,
}

fn unfit(what: impl Display, problem: impl Display) -> FilesError {
    FilesError {
        what: what.to_string(),
        problem: problem.to_string(),
    }
}

/// Reads and checks all of it. Blocking.
///
/// # Errors
/// What cannot be read, or no board could take, with its file.
pub fn load(files: &Files<'_>) -> Result<MemoryPayload, FilesError> {
    let mut payload = MemoryPayload::new(Machine::Panda, files.cmdline, PAGE_SIZE);
    let second_stage = read(files.second_stage, rom::MAX_SECOND_STAGE)?;
    rom::second_stage_size(second_stage.len())
        .map_err(|error| unfit(files.second_stage.display(), error))?;
    payload.add("second_stage", second_stage);
    match (files.kernel, files.raw) {
        (Some(kernel), _) => compose(files, kernel, &mut payload)?,
        (None, Some(raw)) => {
            let image = read(raw, aboot::MAX_IMAGE as usize)?;
            aboot::size_word(image.len()).map_err(|error| unfit(raw.display(), error))?;
            payload.add(RAW, image);
        }
        (None, None) => return Err(unfit("kernel", "give --kernel or --raw")),
    }
    Ok(payload)
}

fn compose(
    files: &Files<'_>,
    kernel_file: &Path,
    payload: &mut MemoryPayload,
) -> Result<(), FilesError> {
    bootimg::check_cmdline(files.cmdline).map_err(|error| unfit("--cmdline", error))?;
    let kernel = read(kernel_file, aboot::MAX_KERNEL as usize)?;
    let tree = files.dtb.map(|file| read(file, zimage::MAX_DTB));
    let kernel = zimage::with_dtb(kernel, tree.transpose()?.as_deref()).map_err(|error| {
        let tree = files.dtb;
        let tree = tree.map_or(String::new(), |tree| format!(" with {}", tree.display()));
        unfit(format!("{}{tree}", kernel_file.display()), error)
    })?;
    aboot::check_unpacked(&kernel).map_err(|error| unfit(kernel_file.display(), error))?;
    let ramdisk = files
        .ramdisk
        .map(|file| read(file, aboot::MAX_IMAGE as usize));
    let ramdisk = ramdisk.transpose()?.unwrap_or_default();
    let page_size = PageSize::try_from(PAGE_SIZE).map_err(|error| unfit("page size", error))?;
    let (kernel_bytes, ramdisk_bytes) = (kernel.len() as u64, ramdisk.len() as u64);
    bootimg::image_bytes(Machine::Panda, page_size, kernel_bytes, ramdisk_bytes)
        .map_err(|error| unfit("boot image", error))?;
    payload.add("kernel", kernel);
    payload.add("ramdisk", ramdisk);
    Ok(())
}

/// A file of at most `most` bytes.
fn read(path: &Path, most: usize) -> Result<Vec<u8>, FilesError> {
    let failed = |error: std::io::Error| unfit(path.display(), error);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(unfit(path.display(), "expected a file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(most as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > most {
        let text = format!("has {} bytes; at most {most} can be taken", metadata.len());
        return Err(unfit(path.display(), text));
    }
    Ok(bytes)
}
