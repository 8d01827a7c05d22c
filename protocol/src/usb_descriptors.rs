//! What a USB device says of itself: its device descriptor and the configurations after it, as Linux keeps them in
//! sysfs (`descriptors`), readable without talking to the device, and without trusting it. The USB driver of
//! `panda-board` decides by them whether something on a slot's port may be a boot ROM.
//!
//! ```text
//! device (18 bytes)   12 01 USB(2) class sub proto pkt vendor(2) product(2) version(2) strings(3) configurations
//! configuration       09 02 total(2) interfaces … , then descriptors of its own up to `total`:
//!   interface         09 04 number alternate endpoints class sub proto string
//!   endpoint          07 05 address attributes(transfer type in bits 1:0) size(2) interval
//! ```
//!
//! The bytes are a hostile device's. Everything is bounded; a length that leads out of its configuration, or nowhere,
//! ends the reading. Source: USB 2.0, 9.6.

use crate::family::{self, RomUsb};

/// The most bytes that are looked at: the kernel keeps more only of devices that nobody has on a slot.
pub const MAX_BYTES: usize = 16 * 1024;
/// The most interfaces, with their alternates, that are looked at.
pub const MAX_INTERFACES: usize = 64;

const DEVICE_BYTES: usize = 18;
const DEVICE: u8 = 1;
const CONFIGURATION: u8 = 2;
const INTERFACE: u8 = 4;
const ENDPOINT: u8 = 5;
const BULK: u8 = 2;
/// Class of hubs.
pub const CLASS_HUB: u8 = 9;

/// A device, by its descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The USB version that it says it follows, in BCD: 0x0200.
    pub usb_version: u16,
    /// Its class; 0 where each interface has its own.
    pub class: u8,
    /// Vendor.
    pub vendor: u16,
    /// Product.
    pub product: u16,
    /// How many configurations it announces.
    pub configurations: u8,
    /// The interfaces of all configurations, alternates too.
    pub interfaces: Vec<Interface>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub number: u8,
    /// Which alternate of it this is.
    pub alternate: u8,
    /// Its class.
    pub class: u8,
    /// Addresses of its bulk endpoints.
    pub bulk: Vec<u8>,
}

/// Reads the bytes of sysfs' `descriptors`.
///
/// # Errors
/// No device descriptor, a configuration that does not hold together, or more than anybody has on a slot.
pub fn parse(bytes: &[u8]) -> Result<Device, DescriptorError> {
    if bytes.len() > MAX_BYTES {
        return Err(DescriptorError::TooLong { found: bytes.len() });
    }
    let Some((head, mut rest)) = bytes.split_first_chunk::<DEVICE_BYTES>() else {
        return Err(DescriptorError::Device);
    };
    if usize::from(head[0]) != DEVICE_BYTES || head[1] != DEVICE {
        return Err(DescriptorError::Device);
    }
    let mut device = Device {
        usb_version: u16::from_le_bytes([head[2], head[3]]),
        class: head[4],
        vendor: u16::from_le_bytes([head[8], head[9]]),
        product: u16::from_le_bytes([head[10], head[11]]),
        configurations: head[17],
        interfaces: Vec::new(),
    };
    let mut found = 0;
    while !rest.is_empty() {
        let [9, CONFIGURATION, low, high, ..] = *rest else {
            return Err(DescriptorError::Configuration {
                at: bytes.len() - rest.len(),
            });
        };
        let total = usize::from(u16::from_le_bytes([low, high]));
        if total < 9 || total > rest.len() {
            return Err(DescriptorError::Configuration {
                at: bytes.len() - rest.len(),
            });
        }
        let (configuration, after) = rest.split_at(total);
        let at = bytes.len() - rest.len();
        interfaces(configuration, at, &mut device.interfaces)?;
        rest = after;
        found += 1;
    }
    if found != usize::from(device.configurations) {
        return Err(DescriptorError::Count {
            announced: device.configurations,
            found,
        });
    }
    Ok(device)
}

fn interfaces(
    configuration: &[u8],
    at: usize,
    found: &mut Vec<Interface>,
) -> Result<(), DescriptorError> {
    let mut rest = &configuration[9..];
    let mut own = 0_usize;
    while let [length, kind, ..] = *rest {
        let here = at + configuration.len() - rest.len();
        let length = usize::from(length);
        if length < 2 || length > rest.len() {
            return Err(DescriptorError::Length { at: here });
        }
        let (descriptor, after) = rest.split_at(length);
        match (kind, descriptor) {
            (INTERFACE, [_, _, number, alternate, _, class, ..]) => {
                if found.len() == MAX_INTERFACES {
                    return Err(DescriptorError::Interfaces);
                }
                own += 1;
                found.push(Interface {
                    number: *number,
                    alternate: *alternate,
                    class: *class,
                    bulk: Vec::new(),
                });
            }
            (ENDPOINT, [_, _, address, attributes, ..]) if own > 0 => {
                if attributes & 3 == BULK
                    && let Some(interface) = found.last_mut()
                    && interface.bulk.len() < 32
                {
                    interface.bulk.push(*address);
                }
            }
            (INTERFACE | ENDPOINT, _) => return Err(DescriptorError::Length { at: here }),
            _ => {}
        }
        rest = after;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(DescriptorError::Length {
            at: at + configuration.len() - 1,
        })
    }
}

impl Device {
    /// The boot ROM that this is, in every descriptor: its numbers a family's, one configuration, and nothing in it
    /// but interfaces of the ROM's class, so that no driver of the kernel takes any of it.
    ///
    /// # Errors
    /// What is different.
    pub fn as_rom(&self) -> Result<&'static RomUsb, NotRom> {
        let Some((_, rom)) = family::rom_of(self.vendor, self.product) else {
            return Err(NotRom::Product {
                vendor: self.vendor,
                product: self.product,
            });
        };
        if ![0, rom.interface_class].contains(&self.class) {
            return Err(NotRom::Class { class: self.class });
        }
        if self.configurations != 1 {
            return Err(NotRom::Configurations {
                found: self.configurations,
            });
        }
        for interface in &self.interfaces {
            if interface.class != rom.interface_class {
                return Err(NotRom::Interface {
                    number: interface.number,
                    class: interface.class,
                });
            }
        }
        let pipe = |interface: &Interface| {
            interface.number == 0
                && interface.alternate == 0
                && interface.bulk.contains(&rom.endpoint_out)
                && interface.bulk.contains(&rom.endpoint_in)
        };
        if self.interfaces.iter().any(pipe) {
            Ok(rom)
        } else {
            Err(NotRom::Pipe {
                endpoint_out: rom.endpoint_out,
                endpoint_in: rom.endpoint_in,
            })
        }
    }

    /// Whether it is a hub and nothing else.
    #[must_use]
    pub fn is_hub(&self) -> bool {
        self.class == CLASS_HUB
            && !self.interfaces.is_empty()
            && self
                .interfaces
                .iter()
                .all(|interface| interface.class == CLASS_HUB)
    }

    /// Class of interface 0; the device's own where it shows none.
    #[must_use]
    pub fn first_class(&self) -> u8 {
        self.interfaces
            .iter()
            .find(|interface| interface.number == 0)
            .map_or(self.class, |interface| interface.class)
    }
}

/// Why a device is no boot ROM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRom {
    /// Another vendor or product.
    #[error("it is {vendor:04x}:{product:04x}; a ROM is {}", family::rom_numbers())]
    Product {
        /// Vendor.
        vendor: u16,
        /// Product.
        product: u16,
    },
    /// A device of some class.
    #[error("the device is of class {class:02x}; a ROM is vendor-specific")]
    Class {
        /// The class.
        class: u8,
    },
    /// More than one configuration, or none.
    #[error("it has {found} configurations; a ROM has 1")]
    Configurations {
        /// How many.
        found: u8,
    },
    /// Something besides vendor-specific interfaces.
    #[error("its interface {number} is of class {class:02x}; a ROM's are all vendor-specific")]
    Interface {
        /// The interface.
        number: u8,
        /// Its class.
        class: u8,
    },
    /// No bulk pipe where the ROM has it.
    #[error(
        "its interface 0 lacks bulk endpoints {endpoint_out:02x} and {endpoint_in:02x}, which a ROM has"
    )]
    Pipe {
        /// From the host.
        endpoint_out: u8,
        /// To the host.
        endpoint_in: u8,
    },
}

/// Why bytes are no descriptors of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// More than anybody needs.
    #[error("the descriptors have {found} bytes or more; at most {MAX_BYTES} are read")]
    TooLong {
        /// Bytes that are there.
        found: usize,
    },
    /// The first is not a device's.
    #[error("there is no device descriptor")]
    Device,
    /// What should be a configuration is none.
    #[error("there is no whole configuration descriptor at byte {at}")]
    Configuration {
        /// Where.
        at: usize,
    },
    /// A descriptor leads out of its configuration.
    #[error("the descriptor at byte {at} has a length that cannot be")]
    Length {
        /// Where.
        at: usize,
    },
    /// More interfaces than are looked at.
    #[error("there are more than {MAX_INTERFACES} interfaces")]
    Interfaces,
    /// Another number of configurations than announced.
    #[error("the device announces {announced} configurations and shows {found}")]
    Count {
        /// Announced.
        announced: u8,
        /// Found.
        found: usize,
    },
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;

    /// A boot ROM as it was seen.
    const ROM: [u8; 50] = hex!(
        "12 01 1002 ff ff ff 40 5104 0fd0 0000 21 25 00 01"
        "09 02 2000 01 01 00 c0 32"
        "09 04 00 00 02 ff ff ff 00"
        "07 05 81 02 4000 00"
        "07 05 01 02 4000 00"
    );

    fn with(at: usize, value: u8) -> Vec<u8> {
        let mut bytes = ROM.to_vec();
        bytes[at] = value;
        bytes
    }

    /// The ROM with another interface after its own.
    fn and_interface(class: u8) -> Vec<u8> {
        let mut bytes = ROM.to_vec();
        bytes.extend([9, 4, 1, 0, 0, class, 1, 1, 0]);
        bytes[20] += 9;
        bytes[22] += 1;
        bytes
    }

    #[test]
    fn a_boot_rom_is_read_and_known() {
        let device = parse(&ROM).unwrap();
        assert_eq!((device.vendor, device.product), (0x0451, 0xd00f));
        assert_eq!(device.first_class(), 0xff);
        assert_eq!(device.interfaces[0].bulk, [0x81, 0x01]);
        assert_eq!(device.as_rom().unwrap().endpoint_in, 0x81);
        assert!(!device.is_hub());
        assert!(parse(&with(10, 0x10)).unwrap().as_rom().is_ok());
    }

    #[test]
    fn what_differs_from_a_rom_in_any_descriptor_is_none() {
        let judged = |bytes: &[u8]| parse(bytes).unwrap().as_rom();
        assert!(matches!(
            judged(&with(8, 0x52)),
            Err(NotRom::Product { .. })
        ));
        assert!(matches!(
            judged(&with(10, 0x0e)),
            Err(NotRom::Product { .. })
        ));
        assert_eq!(judged(&with(4, 9)), Err(NotRom::Class { class: 9 }));
        // A keyboard that calls itself a ROM; and a ROM that brings a keyboard along.
        let keyboard = NotRom::Interface {
            number: 0,
            class: 3,
        };
        assert_eq!(judged(&with(32, 3)), Err(keyboard));
        let second = NotRom::Interface {
            number: 1,
            class: 3,
        };
        assert_eq!(judged(&and_interface(3)), Err(second));
        assert!(judged(&and_interface(0xff)).is_ok());
        // No bulk OUT.
        let pipe = NotRom::Pipe {
            endpoint_out: 0x01,
            endpoint_in: 0x81,
        };
        assert_eq!(judged(&with(46, 3)), Err(pipe));
        let mut twice = with(17, 2);
        twice.extend_from_slice(&ROM[18..]);
        assert_eq!(judged(&twice), Err(NotRom::Configurations { found: 2 }));
    }

    #[test]
    fn lengths_that_lead_nowhere_or_out_are_refused() {
        assert_eq!(parse(&ROM[..17]), Err(DescriptorError::Device));
        assert_eq!(parse(&with(1, 2)), Err(DescriptorError::Device));
        let none = parse(&ROM[..18]).unwrap_err();
        assert_eq!(
            none,
            DescriptorError::Count {
                announced: 1,
                found: 0
            }
        );
        assert_eq!(
            parse(&ROM[..40]),
            Err(DescriptorError::Configuration { at: 18 })
        );
        // A descriptor of no length, and one that leads out.
        assert_eq!(parse(&with(36, 0)), Err(DescriptorError::Length { at: 36 }));
        assert_eq!(parse(&with(43, 9)), Err(DescriptorError::Length { at: 43 }));
        assert_eq!(parse(&with(27, 3)), Err(DescriptorError::Length { at: 27 }));
        let endless = vec![0; MAX_BYTES + 1];
        assert!(matches!(
            parse(&endless),
            Err(DescriptorError::TooLong { .. })
        ));
    }

    #[test]
    fn more_interfaces_than_anybody_has_are_refused() {
        let mut bytes = ROM[..18].to_vec();
        let total = u16::try_from(9 + 9 * (MAX_INTERFACES + 1)).unwrap();
        bytes.extend([
            9,
            2,
            total.to_le_bytes()[0],
            total.to_le_bytes()[1],
            1,
            1,
            0,
            0,
            0,
        ]);
        for number in 0..=MAX_INTERFACES {
            bytes.extend([9, 4, u8::try_from(number).unwrap(), 0, 0, 0xff, 0, 0, 0]);
        }
        assert_eq!(parse(&bytes), Err(DescriptorError::Interfaces));
    }

    #[test]
    fn a_hub_is_a_hub_only_with_hub_interfaces() {
        let mut bytes = with(4, 9);
        bytes[32] = 9;
        assert!(parse(&bytes).unwrap().is_hub());
        assert!(!parse(&with(4, 9)).unwrap().is_hub());
    }

    proptest! {
        #[test]
        fn whatever_a_device_says_is_read_within_its_bounds(bytes: Vec<u8>) {
            let whole = [&ROM[..18], &bytes].concat();
            if let Ok(device) = parse(&whole) {
                prop_assert!(device.interfaces.len() <= MAX_INTERFACES);
            }
        }

        #[test]
        fn one_changed_byte_never_breaks_the_reading(at in 0..50_usize, value: u8) {
            if let Ok(device) = parse(&with(at, value)) {
                prop_assert!(device.interfaces.len() <= 1);
            }
        }
    }
}
