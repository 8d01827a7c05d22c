//! What machine a board is, and what a kernel is for. A real board's architecture is its hardware, so a virtual
//! board's is a setting of the twin; a boot image does not say what it is for, but its kernel does: it is looked at
//! before it is started, and one that is for another machine hangs the board, as it would a real one, with the
//! reason on its console.
//!
//! | kernel | is told by | source |
//! | --- | --- | --- |
//! | amd64: bzImage | 0xAA55 at 510, `HdrS` at 514; bit 0 of xloadflags (at 566): it can be entered in 64 bits | Linux, Documentation/arch/x86/boot.rst |
//! | arm64: Image | `ARM\x64` at 56 | Linux, Documentation/arch/arm64/booting.rst |
//! | armhf: zImage | 0x016F2818 at 36 | Linux, arch/arm/boot/compressed/head.S |

use std::fmt;

use super::MachineError;

/// What a board is, by Debian's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// A PC.
    Amd64,
    /// QEMU's `virt` with 64-bit processors.
    Arm64,
    /// QEMU's `virt` with 32-bit processors.
    Armhf,
}

impl Arch {
    /// This host's, where boards can be of it.
    #[must_use]
    pub fn of_host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            "arm" => Some(Self::Armhf),
            _ => None,
        }
    }

    /// Debian's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armhf => "armhf",
        }
    }

    /// The emulator, and the package that has it.
    pub(super) const fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
            Self::Armhf => ("qemu-system-arm", "qemu-system-arm"),
        }
    }

    /// Refuses what is no kernel, or one for another machine.
    pub(super) fn check_kernel(self, kernel: &[u8]) -> Result<(), MachineError> {
        match made_for(kernel) {
            Some(name) if name == self.name() => Ok(()),
            Some(name) => Err(MachineError::WrongArch {
                kernel: name,
                board: self,
            }),
            None => Err(MachineError::NoKernel {
                bytes: kernel.len(),
                head: head(kernel),
            }),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Debian's name of what a kernel is for; none where it is no kernel.
fn made_for(kernel: &[u8]) -> Option<&'static str> {
    let at = |at: usize, bytes: &[u8]| kernel.get(at..at + bytes.len()) == Some(bytes);
    if at(510, &[0x55, 0xaa]) && at(514, b"HdrS") {
        let wide = kernel.get(566).is_some_and(|flags| flags & 1 != 0);
        return Some(if wide { "amd64" } else { "i386" });
    }
    if at(56, b"ARM\x64") {
        return Some("arm64");
    }
    at(36, &0x016f_2818_u32.to_le_bytes()).then_some("armhf")
}

/// The first bytes, for people.
fn head(kernel: &[u8]) -> String {
    let bytes: Vec<String> = kernel
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    bytes.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(marks: &[(usize, &[u8])]) -> Vec<u8> {
        let mut kernel = vec![0; 1024];
        for (at, bytes) in marks {
            kernel[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        kernel
    }

    #[test]
    fn kernels_are_told_apart_by_their_headers() {
        let pc: [(usize, &[u8]); 2] = [(510, &[0x55, 0xaa]), (514, b"HdrS")];
        assert_eq!(made_for(&with(&pc)), Some("i386"));
        assert_eq!(
            made_for(&with(&[pc[0], pc[1], (566, &[0x7f])])),
            Some("amd64")
        );
        assert_eq!(made_for(&with(&[(56, b"ARM\x64")])), Some("arm64"));
        assert_eq!(
            made_for(&with(&[(36, &[0x18, 0x28, 0x6f, 0x01])])),
            Some("armhf")
        );
        assert_eq!(made_for(&with(&[])), None);
        assert_eq!(made_for(b"#!/bin/sh"), None);
    }

    #[test]
    fn what_is_no_kernel_or_for_another_board_is_refused_with_what_to_do() {
        let error = Arch::Amd64.check_kernel(b"\x7fELF\x02").unwrap_err();
        assert!(
            error.to_string().contains("begin with 7f 45 4c 46 02"),
            "{error}"
        );
        let arm = with(&[(36, &[0x18, 0x28, 0x6f, 0x01])]);
        assert!(Arch::Armhf.check_kernel(&arm).is_ok());
        let error = Arch::Amd64.check_kernel(&arm).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("is for armhf, and this board is amd64"),
            "{error}"
        );
    }
}
