//! What the kernel says when a USB device arrives or leaves, over a netlink socket: no privilege is needed, and
//! nothing that happens between two looks at sysfs is missed. Read by the watcher alone.
//!
//! ```text
//! add@/devices/pci0000:00/0000:00:04.0/usb1/1-2/1-2.3 NUL ACTION=add NUL DEVPATH=… NUL SUBSYSTEM=usb NUL
//! DEVTYPE=usb_device NUL PRODUCT=451/d00f/0 NUL BUSNUM=001 NUL DEVNUM=005 NUL …
//! ```

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::port_path::PortPath;

/// The group that the kernel itself speaks to.
const KERNEL: u32 = 1;
/// The kernel's own messages are shorter.
const MOST_BYTES: usize = 8 * 1024;
/// Room for the messages of a whole rack that gets power at once.
const BUFFER: usize = 1 << 20;

/// A device arrived or left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) port: PortPath,
    pub(super) arrived: bool,
    /// Its number on the bus, which another arrival does not have.
    pub(super) devnum: u32,
    pub(super) vendor: u16,
    pub(super) product: u16,
}

/// What one look at the socket gave.
#[derive(Debug)]
pub(super) enum Heard {
    /// A change of a USB device.
    Change(Change),
    /// Something else.
    Other,
    /// Nothing within the time.
    Nothing,
    /// Messages were lost: anything may have happened.
    Lost,
}

/// The socket.
#[derive(Debug)]
pub(super) struct Ear {
    socket: OwnedFd,
}

impl Ear {
    /// Listens; a look waits for at most `wait`.
    pub(super) fn open(wait: Duration) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        // Without privilege the kernel gives as much of it as it may.
        setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
        let seconds = i64::try_from(wait.as_secs()).unwrap_or(1);
        let wait = TimeVal::new(seconds as _, i64::from(wait.subsec_micros()) as _);
        setsockopt(&socket, sockopt::ReceiveTimeout, &wait)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
        Ok(Self { socket })
    }

    /// The next message, or nothing within the time.
    pub(super) fn next(&self) -> io::Result<Heard> {
        let mut bytes = [0; MOST_BYTES];
        match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut bytes) {
            // Anybody may send here; only the kernel has port 0.
            Ok((count, Some(from))) if from.pid() == 0 => Ok(bytes
                .get(..count)
                .and_then(parse)
                .map_or(Heard::Other, Heard::Change)),
            Ok(_) => Ok(Heard::Other),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Heard::Nothing),
            Err(Errno::ENOBUFS) => Ok(Heard::Lost),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The next message that is there already.
    pub(super) fn more(&self) -> io::Result<Heard> {
        let mut bytes = [0; 0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match nix::sys::socket::recv(self.socket.as_raw_fd(), &mut bytes, flags) {
            Ok(_) => self.next(),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Heard::Nothing),
            Err(Errno::ENOBUFS) => Ok(Heard::Lost),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// A USB device's arrival or departure; none where the message is of something else.
fn parse(message: &[u8]) -> Option<Change> {
    let text = std::str::from_utf8(message).ok()?;
    let value = |key: &str| {
        text.split('\0')
            .skip(1)
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    };
    if value("SUBSYSTEM")? != "usb" || value("DEVTYPE")? != "usb_device" {
        return None;
    }
    let arrived = match value("ACTION")? {
        "add" => true,
        "remove" => false,
        _ => return None,
    };
    let port = value("DEVPATH")?.rsplit('/').next()?.parse().ok()?;
    let mut product = value("PRODUCT")?.split('/');
    let mut id = || u16::from_str_radix(product.next()?, 16).ok();
    Some(Change {
        port,
        arrived,
        devnum: value("DEVNUM")?.parse().ok()?,
        vendor: id()?,
        product: id()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRIVAL: &str = "add@/devices/pci0000:00/0000:00:04.0/usb1/1-2/1-2.3\0ACTION=add\0\
        DEVPATH=/devices/pci0000:00/0000:00:04.0/usb1/1-2/1-2.3\0SUBSYSTEM=usb\0MAJOR=189\0MINOR=4\0\
        DEVNAME=bus/usb/001/005\0DEVTYPE=usb_device\0PRODUCT=451/d00f/0\0TYPE=255/255/255\0BUSNUM=001\0\
        DEVNUM=005\0SEQNUM=1410\0";

    #[test]
    fn arrivals_and_departures_are_read() {
        let change = Change {
            port: "1-2.3".parse().unwrap(),
            arrived: true,
            devnum: 5,
            vendor: 0x0451,
            product: 0xd00f,
        };
        assert_eq!(parse(ARRIVAL.as_bytes()), Some(change.clone()));
        let left = ARRIVAL.replace("ACTION=add", "ACTION=remove");
        let gone = Change {
            arrived: false,
            ..change
        };
        assert_eq!(parse(left.as_bytes()), Some(gone));
    }

    #[test]
    fn what_is_no_devices_arrival_is_left_alone() {
        for (from, to) in [
            ("ACTION=add", "ACTION=bind"),
            ("DEVTYPE=usb_device", "DEVTYPE=usb_interface"),
            ("SUBSYSTEM=usb", "SUBSYSTEM=net"),
            ("1-2.3\0SUBSYSTEM", "usb1\0SUBSYSTEM"),
            ("DEVNUM=005", "DEVNUM=x"),
            ("PRODUCT=451/d00f/0", "PRODUCT=451"),
        ] {
            assert_eq!(parse(ARRIVAL.replace(from, to).as_bytes()), None, "{to}");
        }
        assert_eq!(parse(b""), None);
        assert_eq!(parse(&[0xff; 40]), None);
    }

    #[test]
    fn the_kernel_can_be_listened_to_without_waiting_for_ever() {
        let ear = Ear::open(Duration::from_millis(1)).unwrap();
        // Other devices may speak meanwhile; it always comes back.
        ear.next().unwrap();
        ear.more().unwrap();
    }
}
