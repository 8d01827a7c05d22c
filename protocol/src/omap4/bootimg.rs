//! Android boot image, header version 0: the form in which aboot takes kernel, ramdisk and command line.
//! The daemon composes one for every boot; the twin's aboot parses it.
//!
//! ```text
//! page 0            header: 608 bytes, NULs to the end of the page
//!   0 "ANDROID!"   8 kernel size  12 address  16 ramdisk size  20 address  24 second size  28 address
//!  32 tags address  36 page size  40 version (0)  44 OS version  48 name (16)  64 command line (512)
//! 576 id (32: SHA-1 of the parts and their sizes, then NULs)
//! page 1            kernel, NULs to the end of its last page
//! then              ramdisk, NULs to the end of its last page
//! ```
//!
//! Numbers are little-endian `u32`. aboot ignores the header's addresses, its name, its id and any second
//! file; so does [`parse`]. A kernel on a real board is bounded by where aboot copies it, an image by the
//! board's RAM: see [`super::aboot`].

use super::aboot;
use crate::manifest::Machine;

/// The bytes that an image starts with.
pub const MAGIC: &[u8; 8] = b"ANDROID!";
/// Bytes of the header that mean something; the rest of its page is NUL.
pub const HEADER_BYTES: usize = 608;
/// The most bytes of a command line; a NUL follows them.
pub const MAX_CMDLINE: usize = CMDLINE_FIELD - 1;

const CMDLINE_AT: usize = 64;
const CMDLINE_FIELD: usize = 512;
const ID_AT: usize = CMDLINE_AT + CMDLINE_FIELD;
const RAMDISK_ADDRESS: u32 = 0x8100_0000;
const SECOND_ADDRESS: u32 = 0x80f0_0000;
const TAGS_ADDRESS: u32 = 0x8000_0100;

/// An image's page size: 1024, 2048 or 4096 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(u32);

impl PageSize {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// `bytes` and the padding to the end of their last page.
    const fn padded(self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.0 as u64)
    }
}

impl TryFrom<u32> for PageSize {
    type Error = BootImageError;

    fn try_from(bytes: u32) -> Result<Self, BootImageError> {
        match bytes {
            1024 | 2048 | 4096 => Ok(Self(bytes)),
            _ => Err(BootImageError::PageSize(bytes)),
        }
    }
}

/// What [`compose`] makes an image for.
#[derive(Debug, Clone, Copy)]
pub struct Spec<'a> {
    /// What it will run on; decides how large the kernel may be.
    pub machine: Machine,
    /// The page size.
    pub page_size: PageSize,
    /// The kernel's command line.
    pub cmdline: &'a str,
}

/// Makes an image. The ramdisk is its parts one after the other (archives of a cpio), each begun on a
/// boundary of four bytes, as the kernel's reader wants it.
///
/// # Errors
/// When the command line does not fit, or kernel or image are too large for the board.
pub fn compose(
    spec: &Spec<'_>,
    kernel: &[u8],
    ramdisk: &[&[u8]],
) -> Result<Vec<u8>, BootImageError> {
    check_cmdline(spec.cmdline)?;
    let ramdisk_bytes = ramdisk.iter().fold(0_u64, |total, part| {
        total.next_multiple_of(4) + part.len() as u64
    });
    let total = image_bytes(
        spec.machine,
        spec.page_size,
        kernel.len() as u64,
        ramdisk_bytes,
    )?;

    let mut image = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    image.resize(spec.page_size.0 as usize, 0);
    image.extend_from_slice(kernel);
    pad(&mut image, spec.page_size.0 as usize);
    let ramdisk_at = image.len();
    for part in ramdisk {
        pad(&mut image, 4);
        image.extend_from_slice(part);
    }
    let ramdisk_end = image.len();
    pad(&mut image, spec.page_size.0 as usize);

    let id = id(kernel, &image[ramdisk_at..ramdisk_end]);
    write_header(
        &mut image,
        spec,
        word_size(kernel.len()),
        word_size(ramdisk_end - ramdisk_at),
        id,
    );
    Ok(image)
}

/// The header page of an image whose kernel and ramdisk have these sizes, for who composes an image while
/// sending it and never holds it whole. Its id is NULs, since the parts are not known yet; aboot does not
/// look at it.
///
/// # Errors
/// As [`compose`].
pub fn header(spec: &Spec<'_>, kernel: u64, ramdisk: u64) -> Result<Vec<u8>, BootImageError> {
    check_cmdline(spec.cmdline)?;
    let bytes = image_bytes(spec.machine, spec.page_size, kernel, ramdisk)?;
    let too_large = |_| BootImageError::TooLarge { bytes };
    let kernel = u32::try_from(kernel).map_err(too_large)?;
    let ramdisk = u32::try_from(ramdisk).map_err(too_large)?;
    let mut page = vec![0; spec.page_size.0 as usize];
    write_header(&mut page, spec, kernel, ramdisk, [0; 20]);
    Ok(page)
}

/// The size that an image of these parts will have.
///
/// # Errors
/// When kernel or image are too large for the board, or there is no kernel.
pub fn image_bytes(
    machine: Machine,
    page_size: PageSize,
    kernel: u64,
    ramdisk: u64,
) -> Result<u64, BootImageError> {
    let max_kernel = match machine {
        Machine::Panda | Machine::Qemu => u64::from(aboot::MAX_KERNEL),
        Machine::Process => u64::from(aboot::MAX_IMAGE),
    };
    if kernel == 0 {
        return Err(BootImageError::NoKernel);
    }
    if kernel > max_kernel {
        return Err(BootImageError::Kernel {
            bytes: kernel,
            max: max_kernel,
        });
    }
    let total = u64::from(page_size.0)
        .saturating_add(page_size.padded(kernel))
        .saturating_add(page_size.padded(ramdisk.min(u64::from(u32::MAX))));
    if total > u64::from(aboot::MAX_IMAGE) {
        return Err(BootImageError::TooLarge { bytes: total });
    }
    Ok(total)
}

/// Checks a command line: at most [`MAX_CMDLINE`] bytes of printable ASCII.
///
/// # Errors
/// When it is longer, or holds anything else.
pub fn check_cmdline(cmdline: &str) -> Result<(), BootImageError> {
    if cmdline.len() > MAX_CMDLINE {
        return Err(BootImageError::CmdlineLength {
            bytes: cmdline.len(),
        });
    }
    if !cmdline.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(BootImageError::CmdlineText);
    }
    Ok(())
}

/// A parsed image, borrowing the bytes it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootImage<'a> {
    /// The page size.
    pub page_size: PageSize,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// The kernel.
    pub kernel: &'a [u8],
    /// The ramdisk; may be empty.
    pub ramdisk: &'a [u8],
}

/// Takes an image apart, as aboot does. Bytes after the ramdisk are not looked at.
///
/// # Errors
/// When it is no image of version 0, or its parts do not lie within its bytes or the board's RAM.
pub fn parse(image: &[u8], machine: Machine) -> Result<BootImage<'_>, BootImageError> {
    let header: &[u8; HEADER_BYTES] = image
        .first_chunk()
        .ok_or(BootImageError::Cut { what: "header" })?;
    if header[..MAGIC.len()] != MAGIC[..] {
        return Err(BootImageError::Magic);
    }
    let version = word(header, 40);
    if version != 0 {
        return Err(BootImageError::Version(version));
    }
    let page_size = PageSize::try_from(word(header, 36))?;
    let field = &header[CMDLINE_AT..ID_AT];
    let end = field
        .iter()
        .position(|&byte| byte == 0)
        .ok_or(BootImageError::CmdlineNul)?;
    let cmdline = std::str::from_utf8(&field[..end]).map_err(|_| BootImageError::CmdlineText)?;
    check_cmdline(cmdline)?;

    let (kernel_bytes, ramdisk_bytes) = (word(header, 8), word(header, 16));
    image_bytes(
        machine,
        page_size,
        u64::from(kernel_bytes),
        u64::from(ramdisk_bytes),
    )?;
    let kernel_at = u64::from(page_size.0);
    let ramdisk_at = kernel_at + page_size.padded(u64::from(kernel_bytes));
    let part = |at: u64, bytes: u32, what| {
        let at = usize::try_from(at).map_err(|_| BootImageError::Cut { what })?;
        at.checked_add(bytes as usize)
            .and_then(|end| image.get(at..end))
            .ok_or(BootImageError::Cut { what })
    };
    Ok(BootImage {
        page_size,
        cmdline,
        kernel: part(kernel_at, kernel_bytes, "kernel")?,
        ramdisk: if ramdisk_bytes == 0 {
            &[]
        } else {
            part(ramdisk_at, ramdisk_bytes, "ramdisk")?
        },
    })
}

fn write_header(image: &mut [u8], spec: &Spec<'_>, kernel: u32, ramdisk: u32, id: [u8; 20]) {
    let words = [
        kernel,
        aboot::KERNEL_ADDRESS,
        ramdisk,
        RAMDISK_ADDRESS,
        0,
        SECOND_ADDRESS,
        TAGS_ADDRESS,
        spec.page_size.0,
        0,
        0,
    ];
    image[..MAGIC.len()].copy_from_slice(MAGIC);
    for (at, word) in (MAGIC.len()..).step_by(4).zip(words) {
        image[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    image[CMDLINE_AT..CMDLINE_AT + spec.cmdline.len()].copy_from_slice(spec.cmdline.as_bytes());
    image[ID_AT..ID_AT + id.len()].copy_from_slice(&id);
}

/// The id that Android's own tools write: each part, then its size; the second file is empty.
fn id(kernel: &[u8], ramdisk: &[u8]) -> [u8; 20] {
    use sha1::Digest as _;
    let mut sha1 = sha1::Sha1::new();
    for part in [kernel, ramdisk, &[]] {
        sha1.update(part);
        sha1.update(word_size(part.len()).to_le_bytes());
    }
    sha1.finalize().into()
}

/// A size as the header says it; `image_bytes` has bounded it before.
fn word_size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn pad(image: &mut Vec<u8>, to: usize) {
    image.resize(image.len().next_multiple_of(to), 0);
}

fn word(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&header[at..at + 4]);
    u32::from_le_bytes(bytes)
}

/// Why an image cannot be made, or is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BootImageError {
    /// Not one of the three.
    #[error("page size {0}: must be 1024, 2048 or 4096")]
    PageSize(u32),
    /// Does not fit into aboot's field.
    #[error(
        "the kernel command line has {bytes} bytes; aboot takes at most {MAX_CMDLINE}. Shorten it, or move settings into the ramdisk"
    )]
    CmdlineLength {
        /// Its length.
        bytes: usize,
    },
    /// Cannot be said on a command line.
    #[error("the kernel command line holds something other than printable ASCII")]
    CmdlineText,
    /// The field has no end.
    #[error("the kernel command line has no NUL at its end")]
    CmdlineNul,
    /// The kernel is empty.
    #[error("the boot image has no kernel")]
    NoKernel,
    /// The kernel would overwrite the image, or leave the RAM.
    #[error("the kernel has {bytes} bytes; this machine takes at most {max}")]
    Kernel {
        /// Its size.
        bytes: u64,
        /// The most.
        max: u64,
    },
    /// The image does not fit into the board's RAM.
    #[error(
        "the boot image has {bytes} bytes; the board has room for {max}",
        max = aboot::MAX_IMAGE
    )]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// It does not begin as it must.
    #[error("the boot image does not start with ANDROID!")]
    Magic,
    /// A later format.
    #[error("the boot image has header version {0}; aboot knows version 0")]
    Version(u32),
    /// Something reaches over its end.
    #[error("the boot image ends before its {what} does")]
    Cut {
        /// Which part.
        what: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;

    fn spec(page_size: u32, cmdline: &str) -> Spec<'_> {
        Spec {
            machine: Machine::Panda,
            page_size: PageSize::try_from(page_size).unwrap(),
            cmdline,
        }
    }

    #[test]
    fn an_image_is_these_bytes() {
        let image = compose(&spec(1024, "console=ttyO2"), b"KERNEL", &[b"RAM", b"DISK"]).unwrap();
        assert_eq!(image.len(), 3 * 1024);
        assert_eq!(
            image[..64],
            hex!(
                "414e44524f494421" "06000000 00800080" "08000000 00000081" "00000000 0000f080"
                "00010080" "00040000" "00000000" "00000000" "00000000000000000000000000000000"
            )
        );
        assert_eq!(&image[64..78], b"console=ttyO2\0");
        assert!(image[78..576].iter().all(|&byte| byte == 0));
        // SHA-1 of "KERNEL" 06000000 "RAM\0DISK" 08000000 00000000.
        let mut parts = b"KERNEL\x06\0\0\0RAM\0DISK\x08\0\0\0".to_vec();
        parts.extend([0; 4]);
        assert_eq!(image[576..596], *crate::digest::Sha1::of(&parts).as_bytes());
        assert!(image[596..1024].iter().all(|&byte| byte == 0));
        assert_eq!(&image[1024..1031], b"KERNEL\0");
        assert_eq!(&image[2048..2057], b"RAM\0DISK\0");
    }

    #[test]
    fn the_command_line_has_511_bytes_and_its_nul() {
        let longest = "x".repeat(511);
        let image = compose(&spec(2048, &longest), b"K", &[]).unwrap();
        assert_eq!(parse(&image, Machine::Panda).unwrap().cmdline, longest);
        assert_eq!(image[575], 0);
        assert_eq!(
            compose(&spec(2048, &"x".repeat(512)), b"K", &[]),
            Err(BootImageError::CmdlineLength { bytes: 512 })
        );
        for bad in ["a\0b", "a\nb", "ä"] {
            assert_eq!(
                compose(&spec(2048, bad), b"K", &[]),
                Err(BootImageError::CmdlineText)
            );
        }
    }

    #[test]
    fn a_command_line_without_nul_is_refused() {
        let mut image = compose(&spec(2048, ""), b"K", &[]).unwrap();
        image[64..576].fill(b'x');
        assert_eq!(
            parse(&image, Machine::Panda),
            Err(BootImageError::CmdlineNul)
        );
    }

    #[test]
    fn hostile_headers_are_refused() {
        let good = compose(&spec(2048, ""), b"KERNEL", &[b"RAMDISK"]).unwrap();
        let changed = |at: usize, value: u32| {
            let mut image = good.clone();
            image[at..at + 4].copy_from_slice(&value.to_le_bytes());
            parse(&image, Machine::Process).map(|_| ())
        };
        assert_eq!(changed(0, 0), Err(BootImageError::Magic));
        assert_eq!(changed(8, 0), Err(BootImageError::NoKernel));
        assert_eq!(
            changed(8, 5000),
            Err(BootImageError::Cut { what: "kernel" })
        );
        assert_eq!(
            changed(8, u32::MAX),
            Err(BootImageError::Kernel {
                bytes: 0xffff_ffff,
                max: 0x3e00_0000
            })
        );
        assert_eq!(
            changed(16, 2049),
            Err(BootImageError::Cut { what: "ramdisk" })
        );
        assert!(matches!(
            changed(16, u32::MAX),
            Err(BootImageError::TooLarge { .. })
        ));
        assert_eq!(changed(36, 0), Err(BootImageError::PageSize(0)));
        assert_eq!(changed(36, 8192), Err(BootImageError::PageSize(8192)));
        assert_eq!(changed(40, 1), Err(BootImageError::Version(1)));
        assert_eq!(
            parse(&good[..607], Machine::Panda),
            Err(BootImageError::Cut { what: "header" })
        );
    }

    #[test]
    fn a_pandas_kernel_stays_below_the_image() {
        let page = PageSize::try_from(2048).unwrap();
        let max = 0x01ff_8000;
        assert!(image_bytes(Machine::Panda, page, max, 0).is_ok());
        assert_eq!(
            image_bytes(Machine::Panda, page, max + 1, 0),
            Err(BootImageError::Kernel {
                bytes: max + 1,
                max
            })
        );
        assert!(image_bytes(Machine::Process, page, max + 1, 0).is_ok());
        assert!(matches!(
            image_bytes(Machine::Process, page, 0x3e00_0000, 0),
            Err(BootImageError::TooLarge { .. })
        ));
        assert!(matches!(
            image_bytes(Machine::Process, page, 1, u64::MAX),
            Err(BootImageError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_header_alone_is_the_composed_ones_without_its_id() {
        let spec = spec(2048, "console=ttyO2");
        let mut composed = compose(&spec, b"KERNEL", &[b"RAM", b"DISK"]).unwrap();
        composed.truncate(2048);
        composed[ID_AT..ID_AT + 20].fill(0);
        assert_eq!(header(&spec, 6, 8), Ok(composed));
        assert_eq!(header(&spec, 0, 8), Err(BootImageError::NoKernel));
        assert!(matches!(
            header(&spec, 6, u64::MAX),
            Err(BootImageError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn what_is_composed_is_parsed_back(
            page in prop::sample::select(vec![1024_u32, 2048, 4096]),
            cmdline in "[ -~]{0,511}",
            kernel in prop::collection::vec(any::<u8>(), 1..6000),
            ramdisk in prop::collection::vec(any::<u8>(), 0..6000),
        ) {
            let image = compose(&spec(page, &cmdline), &kernel, &[&ramdisk]).unwrap();
            prop_assert_eq!(image.len() % page as usize, 0);
            let parsed = parse(&image, Machine::Panda).unwrap();
            prop_assert_eq!(parsed.cmdline, cmdline);
            prop_assert_eq!(parsed.kernel, kernel);
            prop_assert_eq!(parsed.ramdisk, ramdisk);
            prop_assert_eq!(parsed.page_size.bytes(), page);
        }

        #[test]
        fn no_bytes_make_parse_panic(
            at in 0..700usize, junk in prop::collection::vec(any::<u8>(), 0..64), cut in 0..9000usize,
        ) {
            let mut image = compose(&spec(1024, "quiet"), &[7; 3000], &[&[8; 3000]]).unwrap();
            image[at..at + junk.len()].copy_from_slice(&junk);
            image.truncate(cut);
            if let Ok(parsed) = parse(&image, Machine::Process) {
                prop_assert!(parsed.kernel.len() + parsed.ramdisk.len() <= image.len());
            }
        }
    }
}
