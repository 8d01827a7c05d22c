//! Which of a kernel's modules go into a ramdisk, and in which order they are loaded: those that its machine
//! needs to reach its root file system, with all that they need in turn, as depmod has written it down.
//!
//! ```text
//! modules.dep      kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko …
//! modules.softdep  softdep xts pre: ecb
//! modules.alias    alias crypto-crc32c crc32c_generic
//! modules.builtin  kernel/crypto/sha256_generic.ko        (in the kernel itself)
//! ```
//! Names are the kernel's: `-` in a file's name is `_`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::ramdisk::MAX_MODULES;

/// The most bytes of one of depmod's files; `modules.alias` of Debian's kernel has 1.4 MB.
const MAX_LIST: u64 = 64 << 20;

/// Why no list of modules could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModulesError {
    /// One of depmod's files cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel lacks what the machine needs.
    #[error(
        "the kernel has no module {0}, and does not hold it either; a machine cannot boot without"
    )]
    Missing(String),
    /// Something is listed that cannot be.
    #[error("{list} lists {entry:?}, which is no module of this kernel")]
    Entry {
        /// depmod's file.
        list: &'static str,
        /// What it lists.
        entry: String,
    },
    /// More than a ramdisk's names can count.
    #[error("{0} modules would have to be loaded, and a ramdisk holds at most {MAX_MODULES}")]
    TooMany(usize),
}

/// What a machine needs of its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// It does not work without these.
    pub(crate) required: &'static [&'static str],
    /// Faster with them; not every kernel has them.
    pub(crate) better: &'static [&'static str],
}

impl Wanted {
    /// For a virtual machine with virtio devices, a squashfs root and an encrypted scratch disk.
    #[must_use]
    pub(crate) fn virtual_machine(arch: &str) -> Self {
        let required = &[
            "crc32c_generic",
            "virtio_net",
            "virtio_blk",
            "virtio_rng",
            "squashfs",
            "brd",
            "overlay",
            "dm_crypt",
            "xts",
            "ext4",
        ];
        let better: &[_] = match arch {
            "amd64" | "i386" => &["virtio_pci", "aesni_intel", "crc32c_intel"],
            "arm64" => &[
                "virtio_pci",
                "virtio_mmio",
                "pci_host_generic",
                "aes_neon_blk",
                "aes_ce_blk",
            ],
            _ => &[
                "virtio_pci",
                "virtio_mmio",
                "pci_host_generic",
                "aes_arm_bs",
            ],
        };
        Self { required, better }
    }
}

/// What depmod says of a kernel's modules.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    /// By name: the file, and the names of those it needs.
    files: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
    softly: BTreeMap<String, Vec<String>>,
    aliases: BTreeMap<String, Vec<String>>,
}

impl Modules {
    /// Reads what depmod has written into `directory`, `lib/modules/VERSION`.
    ///
    /// # Errors
    /// [`ModulesError::Read`], [`ModulesError::Entry`].
    pub(crate) fn read(directory: &Path) -> Result<Self, ModulesError> {
        let list = |name: &str| {
            let path = directory.join(name);
            let failed = |source| ModulesError::Read {
                path: path.clone(),
                source,
            };
            let bytes = fs::metadata(&path).map_err(failed)?.len();
            if bytes > MAX_LIST {
                return Err(failed(io::ErrorKind::FileTooLarge.into()));
            }
            fs::read_to_string(&path).map_err(failed)
        };
        Self::parse(
            &list("modules.dep")?,
            &list("modules.builtin")?,
            &list("modules.softdep")?,
            &list("modules.alias")?,
        )
    }

    fn parse(dep: &str, builtin: &str, softdep: &str, alias: &str) -> Result<Self, ModulesError> {
        let mut modules = Self::default();
        for line in dep.lines() {
            let entry = || ModulesError::Entry {
                list: "modules.dep",
                entry: line.chars().take(100).collect(),
            };
            let (file, needs) = line.split_once(':').ok_or_else(entry)?;
            let relative = Path::new(file)
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_)));
            if !relative {
                return Err(entry());
            }
            let needs = needs.split_whitespace().map(name_of).collect();
            modules
                .files
                .insert(name_of(file), (file.to_owned(), needs));
        }
        modules.builtin = builtin.lines().map(name_of).collect();
        for line in softdep.lines() {
            let Some((module, rest)) = words_after(line, "softdep") else {
                continue;
            };
            // What comes after "post:" is loaded later, and is never needed to begin with.
            let before = rest.split("post:").next().unwrap_or_default();
            let pre = before.split_whitespace().filter(|word| *word != "pre:");
            modules
                .softly
                .insert(name_of(module), pre.map(str::to_owned).collect());
        }
        for line in alias.lines() {
            if let Some((name, module)) = words_after(line, "alias") {
                let known = modules.aliases.entry(name.to_owned()).or_default();
                known.push(name_of(module));
            }
        }
        Ok(modules)
    }

    /// The files to load, in order, relative to the directory: what is wanted, after what it needs.
    ///
    /// # Errors
    /// [`ModulesError::Missing`], [`ModulesError::Entry`], [`ModulesError::TooMany`].
    pub(crate) fn in_order(&self, wanted: &Wanted) -> Result<Vec<PathBuf>, ModulesError> {
        let mut order = Order {
            modules: self,
            seen: BTreeSet::new(),
            files: Vec::new(),
        };
        for name in wanted.required {
            if !self.has(name) {
                return Err(ModulesError::Missing((*name).to_owned()));
            }
            order.add(name)?;
        }
        for name in wanted.better {
            if self.has(name) {
                order.add(name)?;
            }
        }
        let count = order.files.len();
        if count > MAX_MODULES {
            return Err(ModulesError::TooMany(count));
        }
        Ok(order.files)
    }

    fn has(&self, name: &str) -> bool {
        self.builtin.contains(name) || self.files.contains_key(name)
    }
}

/// A walk through what needs what.
struct Order<'a> {
    modules: &'a Modules,
    /// Those that are listed, or are being looked at: a circle ends here.
    seen: BTreeSet<String>,
    files: Vec<PathBuf>,
}

impl Order<'_> {
    fn add(&mut self, name: &str) -> Result<(), ModulesError> {
        if self.modules.builtin.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let (file, needs) = self
            .modules
            .files
            .get(name)
            .ok_or_else(|| ModulesError::Entry {
                list: "modules.dep",
                entry: name.to_owned(),
            })?;
        // The order that modprobe takes: what is needed most deeply stands last.
        for needed in needs.iter().rev() {
            self.add(needed)?;
        }
        for wish in self.modules.softly.get(name).into_iter().flatten() {
            let module = name_of(wish);
            let alias = self.modules.aliases.get(wish).cloned().unwrap_or_default();
            let wished = if self.modules.has(&module) {
                vec![module]
            } else {
                alias
            };
            for module in wished {
                if self.modules.has(&module) {
                    self.add(&module)?;
                }
            }
        }
        self.files.push(PathBuf::from(file));
        Ok(())
    }
}

/// A module's name, by its file's.
#[must_use]
pub(crate) fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    let stem = name.split(".ko").next().unwrap_or(name);
    stem.replace('-', "_")
}

fn words_after<'a>(line: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(keyword)?
        .trim_start()
        .split_once(char::is_whitespace)
        .map(|(first, rest)| (first, rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/a/base.ko:
kernel/a/mid-dle.ko.xz: kernel/a/base.ko
kernel/a/top.ko.zst: kernel/a/mid-dle.ko.xz kernel/a/base.ko
kernel/a/other.ko: kernel/a/base.ko
kernel/a/fast_sum.ko:
kernel/a/slow_sum.ko:
";
    const TOP: Wanted = Wanted {
        required: &["held", "top"],
        better: &["other", "not_there"],
    };

    fn names(modules: &Modules, wanted: &Wanted) -> Vec<String> {
        let files = modules.in_order(wanted).unwrap();
        files
            .iter()
            .map(|file| name_of(file.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn what_is_needed_comes_first_and_once_and_what_the_kernel_holds_not_at_all() {
        let modules = Modules::parse(DEP, "kernel/b/held.ko\n", "", "").unwrap();
        assert_eq!(names(&modules, &TOP), ["base", "mid_dle", "top", "other"]);
    }

    #[test]
    fn soft_wishes_are_followed_by_name_and_by_alias_where_they_exist() {
        let softdep = "# comment\nsoftdep top pre: crypto-sum nowhere fast_sum post: other\n";
        let alias = "alias crypto-sum slow_sum\nalias crypto-sum fast_sum\nalias x y\n";
        let modules = Modules::parse(DEP, "held.ko\n", softdep, alias).unwrap();
        let wanted = Wanted {
            required: &["top"],
            better: &[],
        };
        assert_eq!(
            names(&modules, &wanted),
            ["base", "mid_dle", "slow_sum", "fast_sum", "top"]
        );
    }

    #[test]
    fn a_circle_comes_to_its_end() {
        let dep = "a.ko: b.ko\nb.ko: a.ko\n";
        let modules = Modules::parse(dep, "", "softdep b pre: b a\n", "").unwrap();
        let wanted = Wanted {
            required: &["a"],
            better: &[],
        };
        assert_eq!(names(&modules, &wanted), ["b", "a"]);
    }

    #[test]
    fn a_kernel_that_lacks_something_is_refused_by_its_name() {
        let modules = Modules::parse(DEP, "", "", "").unwrap();
        let error = modules.in_order(&TOP).unwrap_err().to_string();
        assert!(error.contains("no module held"), "{error}");
    }

    #[test]
    fn lists_that_lead_elsewhere_are_refused() {
        for dep in ["/etc/passwd:\n", "../x.ko:\n", "no colon\n"] {
            assert!(matches!(
                Modules::parse(dep, "", "", ""),
                Err(ModulesError::Entry { .. })
            ));
        }
        let modules = Modules::parse("a.ko: gone.ko\n", "", "", "").unwrap();
        let wanted = Wanted {
            required: &["a"],
            better: &[],
        };
        assert!(modules.in_order(&wanted).is_err());
    }
}
