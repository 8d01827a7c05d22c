//! Where the parts of images are kept, so that only the first of them takes minutes and a mirror.
//!
//! ```text
//! CACHE/images/qemu-ARCH/            an image, where no other place was asked for
//! CACHE/parts/lock                   held while parts are looked for or made: two builds never meet
//!            /work-…/                parts in the making; left behind by a killed build, removed by the next one
//!            /ARCH-KEY/              parts, by what they were made from (see `Recipe::key`)
//! ```
//! CACHE is `$PANDABUILDD_CACHE`, else `$XDG_CACHE_HOME/pandabuildd`, else `~/.cache/pandabuildd`: what scripts/lib.sh says too.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use panda_protocol::digest::Sha256;
use serde::{Deserialize, Serialize};

use super::parts::Recipe;

/// How long parts are new enough: packages get security updates.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many parts are kept, of all architectures and suites.
const KEPT: usize = 4;
/// What describes parts in their directory; written last.
const DESCRIPTION: &str = "parts.toml";
const LOCK: &str = "lock";
const WORK: &str = "work-";

/// How old the packages may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Of any age: what is there is good enough.
    Any,
    /// Not older than a week.
    Week,
    /// Fetched now.
    New,
}

/// Parts of an image that are in the cache.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// The kernel's file.
    pub(crate) kernel: PathBuf,
    /// Its version.
    pub(crate) kernel_version: String,
    /// The modules' files, in order.
    pub(crate) modules: Vec<PathBuf>,
    /// The root file system, a tar archive.
    pub(crate) root: PathBuf,
    /// The sum of the list of their packages and versions.
    pub(crate) packages: Sha256,
    /// When they were made, in seconds.
    pub(crate) made_unix: u64,
}

/// `parts.toml`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    pub(crate) made_unix: u64,
    pub(crate) kernel_version: String,
    pub(crate) modules: Vec<String>,
}

/// The cache of parts, locked.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Cache {
    /// Opens and locks it, and removes what an earlier build that was killed has left.
    ///
    /// # Errors
    /// It cannot be made or written; another build uses it.
    pub(crate) fn open() -> anyhow::Result<Self> {
        Self::open_in(&cache_directory()?.join("parts"))
    }

    pub(super) fn open_in(directory: &Path) -> anyhow::Result<Self> {
        let what = || {
            let name = directory.display();
            if nix::unistd::geteuid().is_root() {
                name.to_string()
            } else {
                format!("{name}: run this with sudo, as whoever made it did")
            }
        };
        match fs::create_dir_all(directory) {
            // What is there instead of a directory is told by the next step.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(what);
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(LOCK))
            .with_context(what)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "{}: another `pandabuildd image build` or `demo` is using it; wait until that one has ended",
                directory.display()
            ),
            Err((_, error)) => return Err(error).with_context(what),
        };
        let cache = Self {
            directory: directory.to_owned(),
            _lock: lock,
        };
        for left in cache.entries(|name| name.starts_with(WORK))? {
            remove(&left)
                .with_context(|| format!("{}: left by a build that was killed", left.display()))?;
        }
        Ok(cache)
    }

    /// Where it is.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// The parts that were made by `recipe`, where there are any that are new enough.
    #[must_use]
    pub(crate) fn find(&self, recipe: &Recipe, freshness: Freshness) -> Option<Kept> {
        let kept = self.read(&self.place(recipe))?;
        let age =
            SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(kept.made_unix));
        match freshness {
            Freshness::Any => Some(kept),
            // Parts from the future: the clock was wrong, then or now.
            Freshness::Week => age.is_ok_and(|age| age < WEEK).then_some(kept),
            Freshness::New => None,
        }
    }

    /// A directory to make parts in; it is gone with what is returned.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn work(&self) -> anyhow::Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix(WORK)
            .tempdir_in(&self.directory)
            .with_context(|| self.directory.display().to_string())
    }

    /// Keeps the parts in `made`, a directory in a [`Cache::work`], in place of earlier ones by the same recipe.
    ///
    /// # Errors
    /// They cannot be written or moved.
    pub(crate) fn keep(
        &self,
        recipe: &Recipe,
        made: &Path,
        description: &Description,
    ) -> anyhow::Result<Kept> {
        let place = self.place(recipe);
        let what = || place.display().to_string();
        fs::write(made.join(DESCRIPTION), toml::to_string(description)?).with_context(what)?;
        remove(&place).with_context(what)?;
        fs::rename(made, &place).with_context(what)?;
        self.forget_old(&place)?;
        self.read(&place)
            .with_context(|| format!("{}: not what was just written there", place.display()))
    }

    fn place(&self, recipe: &Recipe) -> PathBuf {
        self.directory
            .join(format!("{}-{}", recipe.arch, recipe.key()))
    }

    fn read(&self, place: &Path) -> Option<Kept> {
        let text = fs::read_to_string(place.join(DESCRIPTION)).ok()?;
        let description: Description = toml::from_str(&text).ok()?;
        let file = |name: &str| {
            let path = place.join(name);
            path.is_file().then_some(path)
        };
        let modules = description.modules.iter();
        Some(Kept {
            kernel: file("kernel")?,
            kernel_version: description.kernel_version,
            modules: modules
                .map(|name| file(&format!("modules/{name}")))
                .collect::<Option<_>>()?,
            root: file("root.tar")?,
            packages: Sha256::of(&fs::read(place.join("packages")).ok()?),
            made_unix: description.made_unix,
        })
    }

    /// Removes all but the newest parts, and never those at `place`.
    fn forget_old(&self, place: &Path) -> anyhow::Result<()> {
        let mut dated: Vec<_> = self
            .entries(|name| name != LOCK && !name.starts_with(WORK))?
            .into_iter()
            .filter(|path| path != place)
            .map(|path| (self.read(&path).map_or(0, |kept| kept.made_unix), path))
            .collect();
        dated.sort();
        dated.reverse();
        for (_, path) in dated.into_iter().skip(KEPT - 1) {
            remove(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn entries(&self, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(&wanted) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

/// Where everything is kept that can be made again.
///
/// # Errors
/// Neither of the variables is set, nor a home directory.
pub fn cache_directory() -> anyhow::Result<PathBuf> {
    directory_by(|name| std::env::var_os(name))
        .context("there is no place for a cache: set PANDABUILDD_CACHE to a directory")
}

fn directory_by(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    path("PANDABUILDD_CACHE")
        .or_else(|| Some(path("XDG_CACHE_HOME")?.join("pandabuildd")))
        .or_else(|| Some(path("HOME")?.join(".cache/pandabuildd")))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(suite: &str) -> Recipe {
        Recipe::for_test("amd64", suite)
    }

    fn now() -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs()
    }

    /// Keeps parts that were made so many days ago.
    fn keep(cache: &Cache, suite: &str, days: u64) -> Kept {
        let work = cache.work().unwrap();
        let made = work.path().join("parts");
        fs::create_dir_all(made.join("modules")).unwrap();
        for name in ["kernel", "root.tar", "packages", "modules/a.ko"] {
            fs::write(made.join(name), name).unwrap();
        }
        let description = Description {
            made_unix: now() - days * 24 * 3600,
            kernel_version: "6.1".into(),
            modules: vec!["a.ko".into()],
        };
        cache.keep(&recipe(suite), &made, &description).unwrap()
    }

    #[test]
    fn parts_are_found_by_what_they_were_made_from_while_they_are_new_enough() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open_in(directory.path()).unwrap();
        let kept = keep(&cache, "bookworm", 6);
        assert_eq!(kept.modules.len(), 1);
        assert!(cache.find(&recipe("bookworm"), Freshness::Week).is_some());
        assert!(cache.find(&recipe("bookworm"), Freshness::New).is_none());
        assert!(cache.find(&recipe("trixie"), Freshness::Any).is_none());
        keep(&cache, "trixie", 8);
        assert!(cache.find(&recipe("trixie"), Freshness::Week).is_none());
        assert!(cache.find(&recipe("trixie"), Freshness::Any).is_some());
        fs::remove_file(&kept.modules[0]).unwrap();
        assert!(
            cache.find(&recipe("bookworm"), Freshness::Any).is_none(),
            "parts of which a file is gone"
        );
    }

    #[test]
    fn one_build_at_a_time_and_what_a_killed_one_left_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open_in(directory.path()).unwrap();
        let error = Cache::open_in(directory.path()).unwrap_err().to_string();
        assert!(
            error.contains("another `pandabuildd image build`"),
            "{error}"
        );
        let left = cache.work().unwrap().keep();
        fs::write(left.join("half"), "x").unwrap();
        drop(cache);
        drop(Cache::open_in(directory.path()).unwrap());
        assert!(!left.exists());
    }

    #[test]
    fn the_oldest_parts_go_when_there_are_too_many() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open_in(directory.path()).unwrap();
        for (days, suite) in ["newest", "b", "c", "oldest", "own"].iter().enumerate() {
            keep(&cache, suite, u64::try_from(days).unwrap());
        }
        let there = |suite| cache.find(&recipe(suite), Freshness::Any).is_some();
        assert!(there("own") && there("newest") && there("c"));
        assert!(!there("oldest"));
    }

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let by = |settings: &[(&str, &str)]| {
            directory_by(|name| {
                let found = settings.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).into())
            })
        };
        let all = [
            ("PANDABUILDD_CACHE", "/c"),
            ("XDG_CACHE_HOME", "/x"),
            ("HOME", "/h"),
        ];
        assert_eq!(by(&all), Some("/c".into()));
        assert_eq!(by(&all[1..]), Some("/x/pandabuildd".into()));
        assert_eq!(by(&all[2..]), Some("/h/.cache/pandabuildd".into()));
        assert_eq!(by(&[("HOME", "relative")]), None);
    }
}
