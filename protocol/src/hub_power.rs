//! Power of a USB hub's ports, by the hub class's own requests. The hub driver of `panda-board` sends them where
//! the kernel offers nothing better; its start asks every hub whether it can switch single ports at all.
//!
//! ```text
//!               type  request            value            index  data
//! off           0x23  1 CLEAR_FEATURE    8 PORT_POWER     port
//! on            0x23  3 SET_FEATURE      8 PORT_POWER     port
//! state         0xA3  0 GET_STATUS       0                port   4 bytes; power is bit 8 (SuperSpeed: bit 9)
//! descriptor    0xA0  6 GET_DESCRIPTOR   0x2900 (0x2A00)  0      length, type, ports, characteristics (2), …
//! ```
//!
//! Bits 1:0 of the characteristics: 00 all ports together, 01 each by itself, 1x not at all.
//! Source: USB 2.0, 11.23 and 11.24; USB 3.2, 10.15; `panda-hardware.md`, "Power".

/// A control request of the hub class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Direction, type and recipient.
    pub request_type: u8,
    /// What is asked.
    pub request: u8,
    /// Of what.
    pub value: u16,
    /// The port, from 1; 0 for the hub.
    pub index: u16,
}

const PORT_OUT: u8 = 0x23;
const PORT_IN: u8 = 0xa3;
const HUB_IN: u8 = 0xa0;
const GET_STATUS: u8 = 0;
const CLEAR_FEATURE: u8 = 1;
const SET_FEATURE: u8 = 3;
const GET_DESCRIPTOR: u8 = 6;
const PORT_POWER: u16 = 8;
const DESCRIPTOR: u8 = 0x29;
const SUPER_DESCRIPTOR: u8 = 0x2a;

/// Bytes of a port's status.
pub const STATUS_BYTES: usize = 4;
/// The most bytes of a hub's descriptor that are asked for; the ports' bit maps at its end are not needed.
pub const DESCRIPTOR_BYTES: usize = 71;

/// The generation of a hub: where bits are differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// USB 2.0 and before.
    Usb2,
    /// SuperSpeed.
    Super,
}

/// Switches a port's power.
#[must_use]
pub const fn switch(port: u8, on: bool) -> Request {
    Request {
        request_type: PORT_OUT,
        request: if on { SET_FEATURE } else { CLEAR_FEATURE },
        value: PORT_POWER,
        index: port as u16,
    }
}

/// Asks for a port's status: [`STATUS_BYTES`].
#[must_use]
pub const fn status(port: u8) -> Request {
    Request {
        request_type: PORT_IN,
        request: GET_STATUS,
        value: 0,
        index: port as u16,
    }
}

/// Asks for the hub's descriptor: at most [`DESCRIPTOR_BYTES`].
#[must_use]
pub const fn descriptor(generation: Generation) -> Request {
    let kind = match generation {
        Generation::Usb2 => DESCRIPTOR,
        Generation::Super => SUPER_DESCRIPTOR,
    };
    Request {
        request_type: HUB_IN,
        request: GET_DESCRIPTOR,
        value: (kind as u16) << 8,
        index: 0,
    }
}

/// Whether a port has power, by its status.
///
/// # Errors
/// An answer of another length.
pub fn parse_status(answer: &[u8], generation: Generation) -> Result<bool, HubError> {
    let status: [u8; STATUS_BYTES] = answer.try_into().map_err(|_| HubError::Status {
        found: answer.len(),
    })?;
    let bit = match generation {
        Generation::Usb2 => 8,
        Generation::Super => 9,
    };
    Ok(u32::from_le_bytes(status) >> bit & 1 == 1)
}

/// How a hub switches its ports' power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switching {
    /// Each port by itself.
    Individual,
    /// All ports together.
    Ganged,
    /// Not at all.
    None,
}

/// What is needed of a hub's descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hub {
    /// Its ports: 1 to this.
    pub ports: u8,
    /// How it switches their power.
    pub switching: Switching,
}

/// Reads a hub's descriptor.
///
/// # Errors
/// It is shorter than it says, or another descriptor.
pub fn parse_descriptor(answer: &[u8], generation: Generation) -> Result<Hub, HubError> {
    let wanted = match generation {
        Generation::Usb2 => DESCRIPTOR,
        Generation::Super => SUPER_DESCRIPTOR,
    };
    let [length, kind, ports, low, _high, ..] = *answer else {
        return Err(HubError::Descriptor);
    };
    let length = usize::from(length);
    if kind != wanted || length < 7 || answer.len() < length.min(DESCRIPTOR_BYTES) {
        return Err(HubError::Descriptor);
    }
    let switching = match low & 3 {
        0 => Switching::Ganged,
        1 => Switching::Individual,
        _ => Switching::None,
    };
    Ok(Hub { ports, switching })
}

/// Why a hub's answer is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// A status of another length.
    #[error("the hub answered a port's status with {found} bytes; there are {STATUS_BYTES}")]
    Status {
        /// Bytes that came.
        found: usize,
    },
    /// A descriptor that is no hub's.
    #[error("the hub's descriptor is cut short, or another")]
    Descriptor,
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;

    fn setup(request: Request) -> [u8; 6] {
        let [value_low, value_high] = request.value.to_le_bytes();
        let [index_low, index_high] = request.index.to_le_bytes();
        [
            request.request_type,
            request.request,
            value_low,
            value_high,
            index_low,
            index_high,
        ]
    }

    #[test]
    fn requests_are_those_of_the_standard() {
        assert_eq!(setup(switch(2, false)), hex!("23 01 0800 0200"));
        assert_eq!(setup(switch(2, true)), hex!("23 03 0800 0200"));
        assert_eq!(setup(status(7)), hex!("a3 00 0000 0700"));
        assert_eq!(setup(descriptor(Generation::Usb2)), hex!("a0 06 0029 0000"));
        assert_eq!(
            setup(descriptor(Generation::Super)),
            hex!("a0 06 002a 0000")
        );
    }

    #[test]
    fn power_is_bit_8_or_bit_9() {
        assert_eq!(
            parse_status(&hex!("03 01 00 00"), Generation::Usb2),
            Ok(true)
        );
        assert_eq!(
            parse_status(&hex!("00 02 00 00"), Generation::Usb2),
            Ok(false)
        );
        assert_eq!(
            parse_status(&hex!("a0 02 00 00"), Generation::Super),
            Ok(true)
        );
        assert_eq!(
            parse_status(&hex!("a0 01 00 00"), Generation::Super),
            Ok(false)
        );
        assert_eq!(
            parse_status(&hex!("00 01"), Generation::Usb2),
            Err(HubError::Status { found: 2 })
        );
    }

    #[test]
    fn only_a_hub_that_says_so_switches_single_ports() {
        // QEMU's hub: eight ports, individual switching.
        let hub = parse_descriptor(&hex!("0b 29 08 a9 00 01 00 00 00 ff ff"), Generation::Usb2);
        assert_eq!(
            hub,
            Ok(Hub {
                ports: 8,
                switching: Switching::Individual
            })
        );
        let ganged = parse_descriptor(&hex!("09 29 04 e0 00 32 64 00 ff"), Generation::Usb2);
        assert_eq!(ganged.unwrap().switching, Switching::Ganged);
        let none = parse_descriptor(&hex!("09 29 04 e2 00 32 64 00 ff"), Generation::Usb2);
        assert_eq!(none.unwrap().switching, Switching::None);
        for wrong in [
            &hex!("09 29 04 e1")[..],
            &hex!("09 2a 04 e1 00 32 64 00 ff"),
            &hex!("03 29 04 e1 00"),
            // Cut short: a hub that went away meanwhile.
            &hex!("09 29 04 e1 00"),
            &[],
        ] {
            assert_eq!(
                parse_descriptor(wrong, Generation::Usb2),
                Err(HubError::Descriptor)
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_a_hub_answers_is_read_or_refused(answer: Vec<u8>) {
            for generation in [Generation::Usb2, Generation::Super] {
                let status = parse_status(&answer, generation);
                prop_assert_eq!(status.is_ok(), answer.len() == STATUS_BYTES);
                if let Ok(hub) = parse_descriptor(&answer, generation) {
                    prop_assert_eq!(hub.ports, answer[2]);
                }
            }
        }
    }
}
