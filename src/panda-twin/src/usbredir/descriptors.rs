//! The descriptors of what is on the port, as the boot ROM of an OMAP4 shows them: one configuration, one
//! vendor-specific interface, a bulk endpoint each way. `front` answers a kernel's questions from them.

use bytes::Bytes;
use panda_board::Device;
use panda_protocol::omap4::rom;

use super::wire::{Setup, ToGuest};

/// Bulk OUT and IN carry at most this much in a packet, as full speed has it.
pub const PACKET_SIZE: u16 = 64;

const GET_DESCRIPTOR: u8 = 6;
const GET_STATUS: u8 = 0;
const CLEAR_FEATURE: u8 = 1;
const SET_FEATURE: u8 = 3;
const DEVICE: u8 = 1;
const CONFIGURATION: u8 = 2;
const STRING: u8 = 3;

/// What is said of a device before it is connected, and that it is.
#[must_use]
pub fn connect(device: &Device) -> [ToGuest; 3] {
    [
        ToGuest::Interfaces(vec![[device.interface_class, 0xff, 0xff]]),
        ToGuest::Endpoints(vec![
            (rom::ENDPOINT_OUT, 0, PACKET_SIZE),
            (rom::ENDPOINT_IN, 0, PACKET_SIZE),
        ]),
        ToGuest::Connect {
            vendor: device.vendor,
            product: device.product,
            version: 0,
            class: [0xff; 3],
        },
    ]
}

/// Answers a standard request; `None` is a stall.
#[must_use]
pub fn answer(device: &Device, setup: &Setup) -> Option<Bytes> {
    let [descriptor, index] = setup.value.to_be_bytes();
    let bytes = match (setup.kind, setup.request) {
        (0x80, GET_DESCRIPTOR) => match (descriptor, index) {
            (DEVICE, 0) => device_descriptor(device),
            (CONFIGURATION, 0) => configuration(device),
            (STRING, 0) => vec![4, STRING, 0x09, 0x04],
            (STRING, 1) => text("Texas Instruments"),
            (STRING, 2) => text(product(device)),
            _ => return None,
        },
        (0x80..=0x82, GET_STATUS) => vec![0, 0],
        (0x00..=0x02, CLEAR_FEATURE | SET_FEATURE) => Vec::new(),
        _ => return None,
    };
    let mut bytes = Bytes::from(bytes);
    bytes.truncate(usize::from(setup.length));
    Some(bytes)
}

fn device_descriptor(device: &Device) -> Vec<u8> {
    let [vendor, product] = [device.vendor, device.product].map(u16::to_le_bytes);
    let mut bytes = vec![18, DEVICE, 0x00, 0x02, 0xff, 0xff, 0xff, 64];
    bytes.extend(vendor);
    bytes.extend(product);
    // Version 0, strings 1 and 2, no serial number, one configuration.
    bytes.extend([0, 0, 1, 2, 0, 1]);
    bytes
}

fn configuration(device: &Device) -> Vec<u8> {
    let [low, high] = PACKET_SIZE.to_le_bytes();
    let endpoint = |address: u8| [7, 5, address, 2, low, high, 0];
    let mut bytes = vec![9, CONFIGURATION, 32, 0, 1, 1, 0, 0xc0, 50];
    bytes.extend([9, 4, 0, 0, 2, device.interface_class, 0xff, 0xff, 0]);
    bytes.extend(endpoint(rom::ENDPOINT_IN));
    bytes.extend(endpoint(rom::ENDPOINT_OUT));
    bytes
}

fn product(device: &Device) -> &'static str {
    match device.product {
        0xd010 => "OMAP4460",
        _ => "OMAP4430",
    }
}

/// A string descriptor.
fn text(text: &str) -> Vec<u8> {
    let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let length = u8::try_from(units.len() + 2).unwrap_or(u8::MAX);
    let mut bytes = vec![length, STRING];
    bytes.extend(units);
    bytes
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    const ROM: Device = Device {
        vendor: 0x0451,
        product: 0xd00f,
        interface_class: 0xff,
        arrival: 1,
    };

    fn get(value: u16, length: u16) -> Option<Bytes> {
        let setup = Setup {
            kind: 0x80,
            request: GET_DESCRIPTOR,
            value,
            index: 0,
            length,
        };
        answer(&ROM, &setup)
    }

    #[test]
    fn the_device_is_the_boot_rom_of_an_omap4430() {
        let device = hex!("12 01 0002 ffffff 40 5104 0fd0 0000 01 02 00 01");
        assert_eq!(get(0x0100, 64).unwrap(), &device[..]);
        assert_eq!(get(0x0100, 8).unwrap(), &device[..8]);
    }

    #[test]
    fn the_configuration_has_one_vendor_interface_and_its_own_length() {
        let configuration = get(0x0200, 255).unwrap();
        assert_eq!(usize::from(configuration[2]), configuration.len());
        let interface = hex!("09 04 00 00 02 ffffff 00 07 05 81 02 4000 00 07 05 01 02 4000 00");
        assert_eq!(configuration[9..], interface);
    }

    #[test]
    fn what_the_rom_does_not_know_stalls() {
        for unknown in [0x0101, 0x0201, 0x0303, 0x0600, 0x0f00] {
            assert_eq!(get(unknown, 64), None, "{unknown:#x}");
        }
        assert_eq!(get(0x0302, 255).unwrap()[2..4], *b"O\0");
    }
}
