//! What machine a build's programs see in `uname`: that of the architecture they are built for, whatever
//! the kernel is that runs them.

use std::process::Command;

use crate::worker::args::BuildArgs;

/// Processors whose words have 32 bits, and what else makes them so, as dpkg's tables have them.
const BITS_32: &[&str] = &[
    "arc",
    "arm",
    "armeb",
    "armel",
    "armhf",
    "avr32",
    "csky",
    "hppa",
    "i386",
    "loong32",
    "lpia",
    "m32r",
    "m68k",
    "mips",
    "mipsel",
    "mipsn32",
    "mipsn32el",
    "mipsn32r6",
    "mipsn32r6el",
    "mipsr6",
    "mipsr6el",
    "nios2",
    "or1k",
    "powerpc",
    "powerpcel",
    "powerpcspe",
    "riscv32",
    "s390",
    "sh3",
    "sh3eb",
    "sh4",
    "sh4eb",
    "sparc",
    "x32",
    "arm64ilp32",
];
/// Releases whose programs do not understand a kernel's version of 3 or more.
const OLD_KERNELS: &[&str] = &["hardy", "lucid", "maverick"];

/// Whether an architecture's pointers have 32 bits: `armhf`, `hurd-i386`, `uclibc-linux-armel`.
pub(crate) fn is_32_bit(arch: &str) -> bool {
    let processor = arch.rsplit('-').next().unwrap_or(arch);
    BITS_32.contains(&processor)
}

/// The program, under `linux32` for 32-bit architectures and `linux64` for the others.
pub(crate) fn under(program: &str, args: &BuildArgs) -> Command {
    let mut command = Command::new("setarch");
    command.arg(if is_32_bit(&args.arch_tag) {
        "linux32"
    } else {
        "linux64"
    });
    if OLD_KERNELS.contains(&args.series.as_str()) {
        command.arg("--uname-2.6");
    }
    command.arg(program);
    command
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn words(arch: &str, series: &str) -> String {
        let text = |text: &str| dxr::Value::String(text.to_owned());
        let args = BTreeMap::from([
            ("suite".to_owned(), text(series)),
            ("arch_tag".to_owned(), text(arch)),
        ]);
        let command = under("sbuild", &BuildArgs::from_call(&args, "armhf").unwrap());
        let words = command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned());
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_architecture_has_the_personality_of_its_words() {
        for arch in [
            "armhf",
            "armel",
            "i386",
            "powerpc",
            "mipsel",
            "hurd-i386",
            "x32",
            "hppa",
            "sparc",
            "lpia",
        ] {
            assert_eq!(words(arch, "bookworm"), "linux32 sbuild", "{arch}");
        }
        for arch in [
            "amd64",
            "arm64",
            "riscv64",
            "ppc64el",
            "s390x",
            "mips64el",
            "sparc64",
            "ia64",
            "kfreebsd-amd64",
        ] {
            assert_eq!(words(arch, "bookworm"), "linux64 sbuild", "{arch}");
        }
    }

    #[test]
    fn releases_that_know_no_later_kernel_are_shown_an_old_one() {
        assert_eq!(words("i386", "lucid"), "linux32 --uname-2.6 sbuild");
    }
}
