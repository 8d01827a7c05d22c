//! Boots of a real kernel under QEMU, with the real program as its first process, and a master that this test plays.
//! Run by `scripts/test qemu`, which makes the image: minutes, and no acceleration is needed.
//!
//! - `PANDA_TEST_QEMU_IMAGE`: an image's directory (`pandabuildd image build`), its agent the one under test
//! - `master`: depot, certificates, client of the link; `machine`: QEMU
//! - `proof`: a boot that goes well; `faults`: boots that do not; `marks`: what one build leaves for the next

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod machine;
mod marks;
mod master;
mod proof;
