//! Faults to order: what a board does wrong, for people and tests to see what becomes of it. An order is a line on
//! the board's `fault.sock`, answered by `ok` or `error TEXT`; `panda-twin fault` sends one.
//!
//! | order | what the board does, at every power-on from then on |
//! | --- | --- |
//! | `none` | nothing wrong any more |
//! | `never-appears` | no boot ROM comes to its port |
//! | `late MS` | the boot ROM comes that long after power-on |
//! | `stall-at N` | the endpoint stalls at the Nth byte that crosses the pipe, both ways counted together |
//! | `hang-at N` | it stops answering there |
//! | `short-reads N` | no read gets more than N bytes |
//! | `wrong-asic-id` | the ROM answers with an ASIC ID that is none |
//! | `other-chip` | the ROM is an OMAP4460's |
//! | `wrong-port BOARD` | the boot ROM comes to the port of that board, as if two cables were exchanged |
//! | `second-stage-dies` | the second stage leaves the port where its greeting is awaited |
//! | `kernel-panics` | the kernel finds nothing to start, and panics |
//! | `agent-silent` | the kernel is started, and nothing ever comes from its agent |
//! | `old-certificate` | the boot before this one is started again: its `boot.toml` in the place of this boot's |
//! | `stays-on-port` | a boot ROM is on the port also while power is off: the board is fed through OTG |
//!
//! | order | what the board does, once and now |
//! | --- | --- |
//! | `reboot` | it resets itself: the machine is gone, the boot ROM runs again |
//! | `rom` | a boot ROM shows on its port, while the machine goes on |
//!
//! | order | what its image does, beside any of the above |
//! | --- | --- |
//! | `gadget` | from the next boot on, a USB gadget (1d6b:0104) is on the port while the machine runs |
//! | `no-gadget` | none any more, at once |

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use panda_protocol::manifest::Machine;
use panda_protocol::omap4::bootimg::{self, BootImage, BootImageError, Spec};

/// The most bytes of an order's line.
pub const MAX_LINE: usize = 256;

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Does this wrong from now on; one at a time.
    Set(Fault),
    /// Does nothing wrong any more.
    Clear,
    /// Resets itself now.
    Reboot,
    /// Shows a boot ROM now.
    Rom,
    /// Whether its image keeps a USB gadget up.
    Gadget(bool),
}

/// What a board does wrong; see the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No boot ROM comes.
    NeverAppears,
    /// It comes so long after power-on.
    Late(Duration),
    /// The endpoint stalls at this byte.
    StallAt(u64),
    /// It stops answering at this byte.
    HangAt(u64),
    /// The most bytes of a read.
    ShortReads(usize),
    /// An ASIC ID that is none.
    WrongAsicId,
    /// An OMAP4460.
    OtherChip,
    /// The boot ROM comes to this board's port.
    WrongPort(String),
    /// The second stage leaves the port.
    SecondStageDies,
    /// The kernel panics.
    KernelPanics,
    /// The agent never calls.
    AgentSilent,
    /// The boot before this one again.
    OldCertificate,
    /// A boot ROM is on the port without power.
    StaysOnPort,
}

/// An order that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No such order.
    #[error(
        "{0:?} is no fault; expected none, never-appears, late MS, stall-at N, hang-at N, short-reads N, wrong-asic-id, \
         other-chip, wrong-port BOARD, second-stage-dies, kernel-panics, agent-silent, old-certificate, stays-on-port, \
         reboot, rom, gadget or no-gadget"
    )]
    Unknown(String),
    /// What follows it is not what it needs.
    #[error("{order} needs {needs}")]
    Argument {
        /// The order.
        order: &'static str,
        /// What it needs.
        needs: &'static str,
    },
}

/// Orders without an argument.
const PLAIN: [(&str, Order); 13] = [
    ("none", Order::Clear),
    ("reboot", Order::Reboot),
    ("rom", Order::Rom),
    ("gadget", Order::Gadget(true)),
    ("no-gadget", Order::Gadget(false)),
    ("never-appears", Order::Set(Fault::NeverAppears)),
    ("wrong-asic-id", Order::Set(Fault::WrongAsicId)),
    ("other-chip", Order::Set(Fault::OtherChip)),
    ("second-stage-dies", Order::Set(Fault::SecondStageDies)),
    ("kernel-panics", Order::Set(Fault::KernelPanics)),
    ("agent-silent", Order::Set(Fault::AgentSilent)),
    ("old-certificate", Order::Set(Fault::OldCertificate)),
    ("stays-on-port", Order::Set(Fault::StaysOnPort)),
];

impl FromStr for Order {
    type Err = OrderError;

    fn from_str(line: &str) -> Result<Self, OrderError> {
        let (name, argument) = match line.trim().split_once(' ') {
            Some((name, argument)) => (name, Some(argument.trim())),
            None => (line.trim(), None),
        };
        if argument.is_none()
            && let Some((_, order)) = PLAIN.iter().find(|(plain, _)| *plain == name)
        {
            return Ok(order.clone());
        }
        let number = |order, needs| {
            argument
                .and_then(|text| text.parse::<u32>().ok())
                .ok_or(OrderError::Argument { order, needs })
        };
        let fault = match name {
            "late" => Fault::Late(Duration::from_millis(
                number("late", "a number of milliseconds")?.into(),
            )),
            "stall-at" => Fault::StallAt(number("stall-at", "a number of bytes")?.into()),
            "hang-at" => Fault::HangAt(number("hang-at", "a number of bytes")?.into()),
            "short-reads" => {
                let bytes = number("short-reads", "a number of bytes, at least 1")?;
                match usize::try_from(bytes) {
                    Ok(bytes) if bytes > 0 => Fault::ShortReads(bytes),
                    _ => {
                        return Err(OrderError::Argument {
                            order: "short-reads",
                            needs: "a number of bytes, at least 1",
                        });
                    }
                }
            }
            "wrong-port" => Fault::WrongPort(
                argument
                    .filter(|board| !board.is_empty())
                    .ok_or(OrderError::Argument {
                        order: "wrong-port",
                        needs: "the name of another board",
                    })?
                    .to_owned(),
            ),
            _ => {
                let line = line.chars().filter(|c| !c.is_control()).take(60).collect();
                return Err(OrderError::Unknown(line));
            }
        };
        Ok(Self::Set(fault))
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = PLAIN.iter().find(|(_, order)| order == self) {
            return f.write_str(name);
        }
        match self {
            Self::Set(Fault::Late(after)) => write!(f, "late {}", after.as_millis()),
            Self::Set(Fault::StallAt(byte)) => write!(f, "stall-at {byte}"),
            Self::Set(Fault::HangAt(byte)) => write!(f, "hang-at {byte}"),
            Self::Set(Fault::ShortReads(bytes)) => write!(f, "short-reads {bytes}"),
            Self::Set(Fault::WrongPort(board)) => write!(f, "wrong-port {board}"),
            // All others are plain.
            Self::Set(_) | Self::Clear | Self::Reboot | Self::Rom | Self::Gadget(_) => {
                f.write_str("none")
            }
        }
    }
}

/// The archive that was appended to a ramdisk for its boot: the last one, which begins with `boot.toml`.
#[must_use]
pub fn boot_archive(ramdisk: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"boot.toml\0";
    /// Of an entry's header, before its name.
    const HEADER: usize = 110;
    let at = ramdisk
        .windows(NAME.len())
        .rposition(|window| window == NAME)?
        .checked_sub(HEADER)?;
    let archive = &ramdisk[at..];
    archive.starts_with(b"070701").then_some(archive)
}

/// `image` again, with another archive appended to its ramdisk: a later file of a name wins.
///
/// # Errors
/// When there is no room for it.
pub fn with_archive(
    machine: Machine,
    image: &BootImage<'_>,
    archive: &[u8],
) -> Result<Vec<u8>, BootImageError> {
    bootimg::compose(
        &Spec {
            machine,
            page_size: image.page_size,
            cmdline: image.cmdline,
        },
        image.kernel,
        &[image.ramdisk, archive],
    )
}

/// `image` again, with a command line that gives its kernel nothing to start.
///
/// # Errors
/// When there is no room for it.
pub fn with_panic(machine: Machine, image: &BootImage<'_>) -> Result<Vec<u8>, BootImageError> {
    let cmdline = format!("{} rdinit=/fault init=/fault", image.cmdline);
    bootimg::compose(
        &Spec {
            machine,
            page_size: image.page_size,
            cmdline: &cmdline,
        },
        image.kernel,
        &[image.ramdisk],
    )
}

#[cfg(test)]
mod tests {
    use panda_protocol::cpio::{self, ArchivePath, Node, Writer};
    use panda_protocol::omap4::bootimg::PageSize;

    use super::*;

    #[test]
    fn every_order_of_the_table_is_read_and_written_alike() {
        for line in [
            "none",
            "never-appears",
            "late 9000",
            "stall-at 100",
            "hang-at 0",
            "short-reads 40",
            "wrong-asic-id",
            "other-chip",
            "wrong-port panda02",
            "second-stage-dies",
            "kernel-panics",
            "agent-silent",
            "old-certificate",
            "stays-on-port",
            "reboot",
            "rom",
            "gadget",
            "no-gadget",
        ] {
            assert_eq!(line.parse::<Order>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn what_is_no_order_is_told_what_there_is() {
        let error = |line: &str| line.parse::<Order>().unwrap_err().to_string();
        assert!(error("explode\x1b[2J").starts_with("\"explode[2J\" is no fault; expected none,"));
        assert!(error("none 5").contains("is no fault"));
        assert_eq!(error("late"), "late needs a number of milliseconds");
        assert_eq!(error("stall-at -1"), "stall-at needs a number of bytes");
        assert!(error("short-reads 0").contains("at least 1"));
        assert!(error("wrong-port").contains("the name of another board"));
    }

    fn boot(text: &[u8]) -> Vec<u8> {
        let mut archive = Writer::new();
        let path = ArchivePath::try_from("boot.toml").unwrap();
        archive.file(&path, 0o400, text).unwrap();
        archive.finish()
    }

    #[test]
    fn the_boot_before_is_found_after_whatever_the_ramdisk_is_and_wins_when_it_is_appended() {
        // What comes first may be compressed.
        let old = [&[0x28, 0xb5, 0x2f, 0xfd, 9, 9, 9, 0][..], &boot(b"old")].concat();
        let archive = boot_archive(&old).unwrap();
        assert_eq!(archive, boot(b"old"));
        assert_eq!(
            boot_archive(b"no archive, though it names boot.toml\0"),
            None
        );

        let new = boot(b"new");
        let spec = Spec {
            machine: Machine::Process,
            page_size: PageSize::try_from(1024).unwrap(),
            cmdline: "quiet",
        };
        let image = bootimg::compose(&spec, b"KERNEL", &[&new]).unwrap();
        let parsed = bootimg::parse(&image, Machine::Process).unwrap();
        let again = with_archive(Machine::Process, &parsed, archive).unwrap();
        let again = bootimg::parse(&again, Machine::Process).unwrap();
        let files: Vec<_> = cpio::read(again.ramdisk)
            .unwrap()
            .into_iter()
            .map(|entry| entry.node)
            .collect();
        assert_eq!(files, [Node::File(b"new"), Node::File(b"old")]);
        assert_eq!((again.kernel, again.cmdline), (&b"KERNEL"[..], "quiet"));

        let panics = with_panic(Machine::Process, &parsed).unwrap();
        let panics = bootimg::parse(&panics, Machine::Process).unwrap();
        assert_eq!(panics.cmdline, "quiet rdinit=/fault init=/fault");
    }
}
