//! The credentials file, as launchpadlib writes it. Read anew for every call, so that new credentials need
//! no restart.
//!
//! ```text
//! [1]
//! consumer_key = rack1
//! consumer_secret =
//! access_token = …
//! access_secret = …
//! ```

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The most bytes of a credentials file.
const MAX_BYTES: u64 = 64 * 1024;
/// The section that holds them: the format's version.
const SECTION: &str = "[1]";

/// Who we are to Launchpad. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) consumer_key: String,
    pub(super) consumer_secret: String,
    pub(super) token: String,
    pub(super) token_secret: String,
}

/// Why there are no credentials. No message holds any of the file's text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    /// It cannot be read.
    #[error("{}: {source}; [webservice] credentials names the file that launchpadlib's Credentials.save_to_path wrote", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no file, or too long.
    #[error("{}: not a file of at most 64 KiB", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// Others may read it.
    #[error("{}: others than its owner may read or write it (mode {mode:04o}): chmod 600, and make new credentials if it was so for long", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not what launchpadlib writes.
    #[error("{}: {problem}; expected what launchpadlib's Credentials.save_to_path writes", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Reads `path`, which its owner alone may read.
    ///
    /// # Errors
    /// See [`CredentialsError`].
    pub(super) fn load(path: &Path) -> Result<Self, CredentialsError> {
        let unreadable = |source| CredentialsError::Read {
            path: path.to_owned(),
            source,
        };
        // A named pipe must not make the daemon wait.
        let file = File::options()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path)
            .map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let path = path.to_owned();
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return Err(CredentialsError::Kind { path });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(CredentialsError::Open { path, mode });
        }
        let mut text = String::new();
        if let Err(source) = file.take(MAX_BYTES).read_to_string(&mut text) {
            return Err(CredentialsError::Read { path, source });
        }
        Self::parse(&text).map_err(|problem| CredentialsError::Malformed { path, problem })
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut ours = false;
        let mut found = [const { None }; 4];
        const KEYS: [&str; 4] = [
            "consumer_key",
            "consumer_secret",
            "access_token",
            "access_secret",
        ];
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if line.starts_with('[') {
                ours = line == SECTION;
                continue;
            }
            if !ours {
                continue;
            }
            let (key, value) = line
                .split_once(['=', ':'])
                .ok_or("a line without `key = value`")?;
            let key = key.trim_end().to_ascii_lowercase();
            if let Some(at) = KEYS.iter().position(|known| *known == key) {
                // Python's parser writes a percent sign twice.
                found[at] = Some(value.trim_start().replace("%%", "%"));
            }
        }
        let [consumer_key, consumer_secret, token, token_secret] = found;
        let consumer_key = consumer_key.ok_or("no consumer_key in section [1]")?;
        let token = token.ok_or("no access_token in section [1]")?;
        let token_secret = token_secret.ok_or("no access_secret in section [1]")?;
        if consumer_key.is_empty() || token.is_empty() || token_secret.is_empty() {
            return Err("an empty consumer_key, access_token or access_secret");
        }
        Ok(Self {
            consumer_key,
            consumer_secret: consumer_secret.unwrap_or_default(),
            token,
            token_secret,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const FILE: &str = "[1]\nconsumer_key = rack 1\nconsumer_secret = \naccess_token = tok%%en\naccess_secret: sec=ret\n\n";

    fn load(text: &str, mode: u32) -> Result<Credentials, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        Credentials::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn what_launchpadlib_writes_is_read() {
        let read = load(FILE, 0o600).unwrap();
        assert_eq!(
            (&*read.consumer_key, &*read.consumer_secret),
            ("rack 1", "")
        );
        assert_eq!((&*read.token, &*read.token_secret), ("tok%en", "sec=ret"));
        assert_eq!(format!("{read:?}"), "Credentials");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_what_to_do() {
        for mode in [0o640, 0o604, 0o620] {
            let error = load(FILE, mode).unwrap_err();
            assert!(error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn malformed_files_are_refused_and_none_of_their_text_is_told() {
        for (text, problem) in [
            ("", "no consumer_key"),
            ("consumer_key = a\n", "no consumer_key"),
            (
                "[2]\nconsumer_key = a\naccess_token = hush\naccess_secret = hush\n",
                "no consumer_key",
            ),
            ("[1]\nhush hush\n", "without `key = value`"),
            (
                "[1]\nconsumer_key = a\naccess_token = hush\n",
                "no access_secret",
            ),
            (
                "[1]\nconsumer_key = a\naccess_token = hush\naccess_secret =\n",
                "empty",
            ),
        ] {
            let error = load(text, 0o600).unwrap_err();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains("launchpadlib"), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn what_is_no_file_of_a_sane_size_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = Credentials::load(directory.path()).unwrap_err();
        assert!(matches!(error, CredentialsError::Kind { .. }), "{error}");
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let error = Credentials::load(&pipe).unwrap_err();
        assert!(matches!(error, CredentialsError::Kind { .. }), "{error}");
        let error = load(&"x".repeat(65 * 1024), 0o600).unwrap_err();
        assert!(error.contains("64 KiB"), "{error}");
        let error = Credentials::load(&directory.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("save_to_path"), "{error}");
    }
}
