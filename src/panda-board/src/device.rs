//! Which device a path names, so that two names of one are told to be one. Asked by whoever opens a serial line, and when
//! claims are compared on a machine ([`crate::driver::Thing::found`]).

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// Which device is at `path`, so that two names of one can be told: its number.
///
/// # Errors
/// There is none, or it is no device.
pub fn identify(path: &Path) -> io::Result<u64> {
    let metadata = std::fs::metadata(path)?;
    if metadata.file_type().is_char_device() {
        return Ok(metadata.rdev());
    }
    let is = if metadata.is_dir() {
        "a directory"
    } else {
        "no device"
    };
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("this is {is}; expected a serial device, such as /dev/serial/by-id/…"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_serial_device_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = identify(directory.path()).unwrap_err().to_string();
        assert!(error.contains("this is a directory"), "{error}");
        let missing = identify(&directory.path().join("x")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
