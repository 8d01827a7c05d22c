//! Every wire format that pandabuildd speaks, as pure encoders and decoders.
//!
//! Nothing here touches a socket, a file, a clock or a random source: time and randomness are
//! passed in. Input is bounded in bytes, depth and items; decoders return owned types that cannot
//! be wrong, and their errors never quote the input (it may hold passwords).
//!
//! # Layout
//! - [`launchpad`]: Launchpad's builder protocol: statuses, calls, both dialects, log sanitising
//! - [`family`]: families of boards, in one table; one folder each ([`omap4`]) for what its ROM and second stage say
//! - [`cpio`], [`boot_toml`]: what every boot carries
//! - [`agent_toml`]: what an image's ramdisk tells the agent
//! - [`link`]: what agent and master say to each other beside the builder protocol
//! - [`manifest`]: a known-good image's description; [`worker`]: a worker in it that is not ours
//! - [`proxr`]: relay boards; [`hub_power`]: USB hubs that switch their ports
//! - [`usb_descriptors`]: what a USB device says of itself; [`zimage`]: an ARM kernel and its device tree
//! - [`word`]: what a suite or an architecture may be called
//! - [`digest`]: SHA-1 and SHA-256 values as types
//! - [`ids`]: numbers and names of slots, boots and attempts as types
//! - [`operators`]: what the daemon records of its boards and builds, and tells those who run it

pub mod agent_toml;
pub mod boot_toml;
mod checks;
pub mod cpio;
pub mod digest;
pub mod family;
pub mod hub_power;
pub mod ids;
pub mod launchpad;
pub mod link;
pub mod manifest;
pub mod omap4;
pub mod operators;
pub mod proxr;
pub mod usb_descriptors;
pub mod word;
pub mod worker;
pub mod zimage;
