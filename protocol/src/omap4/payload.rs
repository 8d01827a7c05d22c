//! What an image holds for boards of this family: a second stage that the ROM has room for, and kernel, ramdisk and
//! command line that make one Android boot image. Called by the manifest's check, for what makes images and for
//! what boots them.

use super::bootimg::{self, PageSize};
use super::rom;
use crate::family::PayloadProblem;
use crate::manifest::Manifest;

/// Checks a manifest's part of a boot.
///
/// # Errors
/// The first key whose value no board could take.
pub fn check(manifest: &Manifest) -> Result<(), PayloadProblem> {
    let problem = |key, problem: String| PayloadProblem { key, problem };
    bootimg::check_cmdline(&manifest.cmdline)
        .map_err(|error| problem("cmdline", error.to_string()))?;
    let page_size = PageSize::try_from(manifest.page_size)
        .map_err(|error| problem("page_size", error.to_string()))?;
    let second_stage = usize::try_from(manifest.second_stage.bytes).unwrap_or(usize::MAX);
    rom::second_stage_size(second_stage)
        .map_err(|error| problem("second_stage.bytes", error.to_string()))?;
    bootimg::image_bytes(
        manifest.machine,
        page_size,
        manifest.kernel.bytes,
        manifest.ramdisk.bytes,
    )
    .map_err(|error| problem("kernel, ramdisk", error.to_string()))?;
    if let Some(name) = manifest.parts.keys().next() {
        let name: String = name.chars().take(40).collect();
        return Err(problem(
            "parts",
            format!("this family has no part {name:?}"),
        ));
    }
    Ok(())
}
