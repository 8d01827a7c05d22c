//! Whether a program can be the first process of a board of an architecture: an ELF program of that machine that
//! needs no dynamic linker, as a ramdisk has no libraries.

use object::elf::{
    EM_386, EM_AARCH64, EM_ARM, EM_X86_64, ET_DYN, ET_EXEC, FileHeader32, FileHeader64, PT_INTERP,
};
use object::read::elf::{FileHeader, ProgramHeader as _};
use object::{Endianness, FileKind};

/// A program that no ramdisk can start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AgentError {
    /// It is no program at all, or a broken one.
    #[error("is no ELF program; `scripts/static panda-agent` builds the agent as one")]
    NoProgram,
    /// It needs libraries.
    #[error(
        "is linked dynamically, and a ramdisk has no libraries; build it with `scripts/static panda-agent`, and \
         name it with --agent"
    )]
    Dynamic,
    /// It is for another processor.
    #[error(
        "is a program for {found}, and the image is for {arch}; build it for {arch} (`scripts/static \
         panda-agent` does for this machine, `scripts/cross` for armhf), and name it with --agent"
    )]
    Architecture {
        /// The image's architecture.
        arch: String,
        /// The program's machine.
        found: String,
    },
}

/// Checks that `program` is a static program for Debian architecture `arch`.
///
/// # Errors
/// [`AgentError`].
pub(crate) fn check(arch: &str, program: &[u8]) -> Result<(), AgentError> {
    let (class, machine, interpreter) = match FileKind::parse(program) {
        Ok(FileKind::Elf32) => read::<FileHeader32<Endianness>>(32, program),
        Ok(FileKind::Elf64) => read::<FileHeader64<Endianness>>(64, program),
        _ => None,
    }
    .ok_or(AgentError::NoProgram)?;
    let expected = match arch {
        "amd64" => Some((64, EM_X86_64)),
        "i386" => Some((32, EM_386)),
        "arm64" => Some((64, EM_AARCH64)),
        "armhf" | "armel" => Some((32, EM_ARM)),
        _ => None,
    };
    if expected != Some((class, machine)) {
        return Err(AgentError::Architecture {
            arch: arch.to_owned(),
            found: name(class, machine),
        });
    }
    if interpreter {
        return Err(AgentError::Dynamic);
    }
    Ok(())
}

/// Class, machine and whether it names a dynamic linker; none for what is no program.
fn read<Elf: FileHeader<Endian = Endianness>>(
    class: u8,
    program: &[u8],
) -> Option<(u8, u16, bool)> {
    let header = Elf::parse(program).ok()?;
    let endian = header.endian().ok()?;
    if !matches!(header.e_type(endian), ET_EXEC | ET_DYN) {
        return None;
    }
    let mut segments = header.program_headers(endian, program).ok()?.iter();
    let interpreter = segments.any(|segment| segment.p_type(endian) == PT_INTERP);
    Some((class, header.e_machine(endian), interpreter))
}

fn name(class: u8, machine: u16) -> String {
    match machine {
        EM_X86_64 => "amd64".to_owned(),
        EM_386 => "i386".to_owned(),
        EM_AARCH64 => "arm64".to_owned(),
        EM_ARM => "32-bit ARM".to_owned(),
        other => format!("the {class}-bit ELF machine {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest ELF file of that class and machine, with one segment of `kind`.
    fn elf(class: u8, machine: u16, kind: u32) -> Vec<u8> {
        let mut file = b"\x7fELF".to_vec();
        file.extend([if class == 64 { 2 } else { 1 }, 1, 1, 0]);
        file.resize(16, 0);
        file.extend(ET_EXEC.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        let (header, segment): (u16, u16) = if class == 64 { (64, 56) } else { (52, 32) };
        let word = |file: &mut Vec<u8>, value: u64| {
            let bytes = value.to_le_bytes();
            file.extend(&bytes[..if class == 64 { 8 } else { 4 }]);
        };
        word(&mut file, 0);
        word(&mut file, header.into());
        word(&mut file, 0);
        file.extend(0_u32.to_le_bytes());
        for value in [header, segment, 1, 0, 0, 0] {
            file.extend(value.to_le_bytes());
        }
        assert_eq!(file.len(), usize::from(header));
        file.extend(kind.to_le_bytes());
        file.resize(usize::from(header + segment), 0);
        file
    }

    #[test]
    fn a_static_program_of_the_architecture_is_taken_and_no_other() {
        check("amd64", &elf(64, EM_X86_64, 1)).unwrap();
        check("armhf", &elf(32, EM_ARM, 1)).unwrap();
        check("arm64", &elf(64, EM_AARCH64, 1)).unwrap();
        assert_eq!(
            check("amd64", &elf(64, EM_X86_64, PT_INTERP)),
            Err(AgentError::Dynamic)
        );
        let error = check("armhf", &elf(64, EM_X86_64, 1)).unwrap_err();
        assert!(error.to_string().contains("a program for amd64"), "{error}");
        // x32 has amd64's machine in files of the other class.
        assert!(check("amd64", &elf(32, EM_X86_64, 1)).is_err());
    }

    #[test]
    fn this_very_program_needs_libraries_and_a_text_is_none() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let dynamic = ["amd64", "i386", "arm64", "armhf"]
            .iter()
            .filter(|arch| check(arch, &own) == Err(AgentError::Dynamic));
        assert_eq!(dynamic.count(), 1);
        assert_eq!(check("amd64", b"#!/bin/sh\n"), Err(AgentError::NoProgram));
        let cut = &elf(64, EM_X86_64, 1)[..70];
        assert_eq!(check("amd64", cut), Err(AgentError::NoProgram));
    }
}
