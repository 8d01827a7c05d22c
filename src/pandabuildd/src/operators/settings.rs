//! `[operators]` of `rack.toml`, and where the daemon is found without it.

use std::path::{Path, PathBuf};

use panda_board::settings::Mistakes;
use serde::Deserialize;

/// The socket's name, in whatever directory it is.
pub(crate) const SOCKET: &str = "control.sock";
/// Where the unit has the daemon listen (its `RuntimeDirectory=`), and where the command line asks.
pub(crate) const DEFAULT: &str = "/run/pandabuildd/control.sock";
/// Where both did before.
pub(crate) const FORMER: &str = "/var/lib/pandabuildd/control.sock";
/// The longest path of a Unix socket: 108 bytes with its NUL.
const LONGEST_PATH: usize = 107;

/// Where operators find the daemon, and who of them may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OperatorsSettings {
    /// The socket. Where it is left out: [`DEFAULT`], and [`SOCKET`] in the state directory, where it used to be.
    pub(crate) socket: Option<PathBuf>,
    /// A group whose members may ask too; else only the daemon's own user and root.
    pub(crate) group: Option<String>,
}

impl OperatorsSettings {
    /// What is wrong with these settings; the configuration's check.
    ///
    /// # Errors
    /// Each setting that is out of its range.
    pub(crate) fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        if let Some(socket) = &self.socket {
            let expected = format!("expected a path such as {DEFAULT}");
            mistakes.unless(socket.file_name().is_some(), "socket", expected);
            let hint = long_hint(socket);
            mistakes.unless(hint.is_empty(), "socket", format!("too long{hint}"));
        }
        let named = self.group.as_deref() != Some("");
        mistakes.unless(
            named,
            "group",
            "expected the name of a group of this machine",
        );
        mistakes.end()
    }

    /// Where programs of this machine find the daemon of the state directory `state`.
    #[must_use]
    pub(crate) fn socket_of(&self, state: &Path) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| state.join(SOCKET))
    }
}

/// What the system's own words for it do not say.
pub(super) fn long_hint(path: &Path) -> &'static str {
    if path.as_os_str().len() > LONGEST_PATH {
        "; Linux takes at most 107 bytes for a socket's path: use a shorter directory"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_cannot_be_one_is_refused_with_its_key() {
        let settings = |text: &str| toml::from_str::<OperatorsSettings>(text).unwrap();
        assert!(settings("").check().is_ok());
        let good = settings("socket = \"/run/x/s\"\ngroup = \"sbuild\"");
        assert!(good.check().is_ok());
        for (text, said) in [
            ("socket = \"/\"", "a path such as"),
            (&*format!("socket = \"/{}\"", "x".repeat(110)), "107 bytes"),
            ("group = \"\"", "a group of this machine"),
        ] {
            let refused = format!("{:?}", settings(text).check().unwrap_err());
            assert!(refused.contains(said), "{refused}");
        }
    }
}
