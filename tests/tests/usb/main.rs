//! The daemon over a real kernel's USB: inside a QEMU guest, over Debian's kernel, usbfs, libusb and `rusb`, with
//! virtual boards on the ports of a hub that it switches. `scripts/usb-truth-test` runs these and shows what they say;
//! they are too slow for every run of the tests.
//!
//! ```text
//! guest    shell (commands from here) ── pandabuildd serve ── rusb ── kernel ── xHCI ── hub ── ports
//! here     Truth, Drills ── Guest                                                              │ usbredir
//!                  └─ Ports ── Switchboard: the twin's board, or a device that lies  ◀─────────┘
//! ```
//!
//! # Layout
//! - [`guest`]: the guest, and commands in it
//! - [`rack`]: what the daemon is given: image and rack.toml
//! - [`boards`]: the boards outside
//! - [`device`]: devices that do as they like
//! - [`switchboard`]: who is behind a port, and whether it has power
//! - [`qmp`]: what QEMU is told
//! - [`cast`]: who is in the drills
//! - [`truth`], [`drills`]: the two tests

mod boards;
mod cast;
mod device;
mod drills;
mod guest;
mod qmp;
mod rack;
mod switchboard;
mod truth;
