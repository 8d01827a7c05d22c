//! Whether a file is a kernel that a machine of an architecture can start, by its first bytes:
//!
//! ```text
//! amd64, i386   bzImage   0xAA55 at 510, "HdrS" at 514 (Documentation/arch/x86/boot.rst)
//! armhf         zImage    0x016F2818 at 36 (Documentation/arch/arm/booting.rst and its decompressor)
//! arm64         Image     "ARM\x64" at 56 (Documentation/arch/arm64/booting.rst)
//! ```
//! What an image for QEMU or a PandaBoard calls its kernel is looked at when the image is made and whenever it is
//! loaded: anything else would only be seen as a board that never answers.

/// How many bytes of a file tell what it is.
pub(crate) const HEAD: usize = 1024;

/// What a file's first bytes say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    BzImage,
    ZImage,
    Arm64Image,
    Gzip,
    Elf,
    Script,
    Empty,
    Unknown,
}

/// A file that is no kernel for its architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// It is something else.
    #[error(
        "is no kernel for {arch}: expected {expected}, and it is {found}; build the image again"
    )]
    Format {
        /// The image's architecture.
        arch: String,
        /// What its kernels are.
        expected: &'static str,
        /// What this is.
        found: &'static str,
    },
    /// Nothing is known about that architecture's kernels.
    #[error("architecture {0} has no kernel format that is known here: amd64, i386, armhf, arm64")]
    Architecture(String),
}

/// Checks that a file that begins with `head` is a kernel of Debian architecture `arch`.
///
/// # Errors
/// [`KernelError`].
pub(crate) fn check(arch: &str, head: &[u8]) -> Result<(), KernelError> {
    let expected = match arch {
        "amd64" | "i386" => Kind::BzImage,
        "armhf" => Kind::ZImage,
        "arm64" => Kind::Arm64Image,
        other => return Err(KernelError::Architecture(other.to_owned())),
    };
    let found = Kind::of(head);
    if found == expected {
        Ok(())
    } else {
        Err(KernelError::Format {
            arch: arch.to_owned(),
            expected: expected.name(),
            found: found.name(),
        })
    }
}

impl Kind {
    fn of(head: &[u8]) -> Self {
        let at = |offset: usize, magic: &[u8]| {
            head.get(offset..offset + magic.len())
                .is_some_and(|bytes| bytes == magic)
        };
        if head.is_empty() {
            Self::Empty
        } else if at(510, &[0x55, 0xaa]) && at(514, b"HdrS") {
            Self::BzImage
        } else if at(36, &0x016f_2818_u32.to_le_bytes()) {
            Self::ZImage
        } else if at(56, b"ARM\x64") {
            Self::Arm64Image
        } else if at(0, &[0x1f, 0x8b]) {
            Self::Gzip
        } else if at(0, b"\x7fELF") {
            Self::Elf
        } else if at(0, b"#!") {
            Self::Script
        } else {
            Self::Unknown
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::BzImage => "an x86 bzImage",
            Self::ZImage => "a 32-bit ARM zImage",
            Self::Arm64Image => "an ARM64 Image",
            Self::Gzip => "a file compressed with gzip",
            Self::Elf => "an ELF file",
            Self::Script => "a script",
            Self::Empty => "empty",
            Self::Unknown => "something unknown",
        }
    }
}

#[cfg(test)]
pub(crate) fn example(arch: &str) -> Vec<u8> {
    let mut head = vec![0; HEAD];
    let (at, magic): (usize, &[u8]) = match arch {
        "amd64" => {
            head[510..512].copy_from_slice(&[0x55, 0xaa]);
            (514, b"HdrS")
        }
        "armhf" => (36, &[0x18, 0x28, 0x6f, 0x01]),
        _ => (56, b"ARM\x64"),
    };
    head[at..at + 4].copy_from_slice(magic);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_one_for_its_own_architecture_only() {
        for arch in ["amd64", "armhf", "arm64"] {
            for other in ["amd64", "armhf", "arm64"] {
                assert_eq!(check(arch, &example(other)).is_ok(), arch == other);
            }
        }
        check("i386", &example("amd64")).unwrap();
        let error = check("amd64", &example("armhf")).unwrap_err().to_string();
        assert!(
            error.contains("expected an x86 bzImage, and it is a 32-bit ARM zImage"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_kernel_is_called_by_its_name() {
        for (head, name) in [
            (&b""[..], "empty"),
            (b"\x7fELF\x02", "an ELF file"),
            (b"#!/bin/sh\n", "a script"),
            (b"\x1f\x8b\x08", "gzip"),
            (&[7; 2000], "something unknown"),
        ] {
            let error = check("amd64", head).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(matches!(
            check("riscv64", &example("amd64")),
            Err(KernelError::Architecture(_))
        ));
    }
}
