//! Makes, checks and describes known-good images, and makes chroots. The daemon reads images with it
//! ([`Image`]) and makes none; `pandabuildd image`, `chroot`, `twin` and `demo` make them.
//!
//! # Layout
//! - [`Image`]: an image in its directory: loaded, checked whole, and read for a boot
//! - [`build`]: an image for QEMU out of Debian packages, with a cache
//! - [`process`]: an image for the process machine; [`qemu`]: one for QEMU, of parts that are there
//! - `draft`: an image in the making; `ramdisk`, `kernel`, `modules`, `agent`: what is in it
//! - [`chroot`]: chroot tarballs for builders
//! - [`steps`]: programs that are run, with their limits, their last words and what interrupts them
//! - [`programs`]: finding them

mod agent;
pub mod build;
pub mod chroot;
mod draft;
mod image;
mod kernel;
mod modules;
pub mod process;
pub mod programs;
pub mod qemu;
mod ramdisk;
pub mod steps;

pub use self::image::{Image, ImageError, PartReader};
pub use self::kernel::KernelError;
