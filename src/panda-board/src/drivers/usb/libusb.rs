//! Devices through libusb, which is built in: the only file that knows it. What blocks is called from threads of its
//! own (`pipe`, `hub`).

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use panda_protocol::hub_power::Request;
use rusb::UsbContext as _;

use super::sysfs::Identity;

/// What lets a user who is not root talk to boot ROMs; for messages and the documentation.
pub const UDEV_RULE: &str = "SUBSYSTEM==\"usb\", ATTR{idVendor}==\"0451\", ATTR{idProduct}==\"d00f|d010\", \
                             MODE=\"0660\", GROUP=\"plugdev\", TAG+=\"uaccess\"";
/// A hub answers a control request within this.
const CONTROL: Duration = Duration::from_secs(2);

/// Why a transfer did not happen.
#[derive(Debug)]
pub(super) enum TransferError {
    /// Not in this time; more may do.
    TimedOut,
    Stalled,
    Gone,
    Io(io::Error),
}

/// An opened device, as far as the pipe needs it. Blocking.
pub(super) trait Transfers: Send + Sync {
    /// Writes some of `bytes`, at least one.
    fn write(&self, endpoint: u8, bytes: &[u8], wait: Duration) -> Result<usize, TransferError>;
    /// Reads one transfer.
    fn read(&self, endpoint: u8, into: &mut [u8], wait: Duration) -> Result<usize, TransferError>;
}

/// Opens devices. Blocking.
pub(super) trait Opener: Send + Sync {
    /// The device of this number on its bus, with its interface 0 for ourselves.
    fn open(&self, bus: u16, identity: Identity) -> io::Result<Box<dyn Transfers>>;
}

/// The system's libusb.
#[derive(Debug, Clone, Copy)]
pub(super) struct Libusb;

impl Opener for Libusb {
    fn open(&self, bus: u16, identity: Identity) -> io::Result<Box<dyn Transfers>> {
        let handle = open(bus, identity.devnum)?;
        handle.claim_interface(0).map_err(error)?;
        Ok(Box::new(Opened(handle)))
    }
}

struct Opened(rusb::DeviceHandle<rusb::Context>);

impl Transfers for Opened {
    fn write(&self, endpoint: u8, bytes: &[u8], wait: Duration) -> Result<usize, TransferError> {
        self.0.write_bulk(endpoint, bytes, wait).map_err(transfer)
    }

    fn read(&self, endpoint: u8, into: &mut [u8], wait: Duration) -> Result<usize, TransferError> {
        self.0.read_bulk(endpoint, into, wait).map_err(transfer)
    }
}

/// Asks a hub; the answer has at most `most` bytes.
pub(super) fn ask(bus: u16, devnum: u32, request: Request, most: usize) -> io::Result<Vec<u8>> {
    let handle = open(bus, devnum)?;
    let mut answer = vec![0; most];
    let count = handle
        .read_control(
            request.request_type,
            request.request,
            request.value,
            request.index,
            &mut answer,
            CONTROL,
        )
        .map_err(error)?;
    answer.truncate(count);
    Ok(answer)
}

/// Tells a hub.
pub(super) fn tell(bus: u16, devnum: u32, request: Request) -> io::Result<()> {
    let handle = open(bus, devnum)?;
    let sent = handle.write_control(
        request.request_type,
        request.request,
        request.value,
        request.index,
        &[],
        CONTROL,
    );
    sent.map(drop).map_err(error)
}

fn open(bus: u16, devnum: u32) -> io::Result<rusb::DeviceHandle<rusb::Context>> {
    let devices = context()?.devices().map_err(error)?;
    let device = devices
        .iter()
        .find(|device| {
            u16::from(device.bus_number()) == bus && u32::from(device.address()) == devnum
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "libusb does not see the device"))?;
    device.open().map_err(error)
}

fn context() -> io::Result<&'static rusb::Context> {
    static CONTEXT: OnceLock<rusb::Context> = OnceLock::new();
    if let Some(context) = CONTEXT.get() {
        return Ok(context);
    }
    let made = rusb::Context::new().map_err(error)?;
    Ok(CONTEXT.get_or_init(|| made))
}

fn transfer(error: rusb::Error) -> TransferError {
    match error {
        rusb::Error::Timeout | rusb::Error::Interrupted => TransferError::TimedOut,
        rusb::Error::Pipe => TransferError::Stalled,
        rusb::Error::NoDevice => TransferError::Gone,
        other => TransferError::Io(self::error(other)),
    }
}

fn error(error: rusb::Error) -> io::Error {
    use io::ErrorKind;
    let (kind, text) = match error {
        rusb::Error::Access => (
            ErrorKind::PermissionDenied,
            format!(
                "permission denied; be root, or put this line into /etc/udev/rules.d/70-pandaboard.rules and plug the \
                 board in again: {UDEV_RULE}"
            ),
        ),
        rusb::Error::Busy => (
            ErrorKind::ResourceBusy,
            "another program has it open".to_owned(),
        ),
        rusb::Error::NoDevice => (ErrorKind::NotFound, "it has left".to_owned()),
        rusb::Error::NotFound => (
            ErrorKind::NotFound,
            "no such device or interface".to_owned(),
        ),
        rusb::Error::Pipe => (ErrorKind::BrokenPipe, "it refuses the request".to_owned()),
        rusb::Error::Timeout => (ErrorKind::TimedOut, "no answer".to_owned()),
        other => (ErrorKind::Other, format!("libusb: {other}")),
    };
    io::Error::new(kind, text)
}
