//! `rack.toml`: assembled from the rooms' own settings types and checked whole, before anything starts.
//! Each room and each driver says what its settings may be; here is only what none can see alone: that slots share no
//! name, host name or address, and that no two drivers claim what only one can have. Everything that is wrong is told at
//! once, with file, line and key, and what is allowed. `rack.example.toml` is the commented example.
//!
//! ```text
//! text ─▶ TOML with places ─▶ file: each table as its room's settings; slot, drivers: a slot's ─▶ check ─▶ Config
//!              └ problem: what is wrong, from each of them ──────────────────────────────────────┴──────▶ Problems
//! ```
//!
//! Relative paths are taken from the file's own directory.

mod check;
mod drivers;
mod file;
mod problem;
mod slot;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use panda_protocol::launchpad::Dialect;
use serde::Deserialize;
use toml::de::DeTable;

use self::file::File;
use self::problem::Found;
pub(crate) use self::problem::Places;
pub(crate) use self::problem::{ConfigError, Problem, Problems};
pub(crate) use self::slot::SlotSettings;
use crate::boot::BootSettings;
use crate::filecache::FilecacheSettings;
use crate::front::FrontSettings;
use crate::guest::GuestSettings;
use crate::operators::OperatorsSettings;
use crate::webservice::WebServiceSettings;

/// The most bytes of a `rack.toml`.
const MAX_BYTES: u64 = 1 << 20;

/// A checked `rack.toml`.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// What holds for the whole rack.
    pub(crate) rack: RackSettings,
    /// Launchpad's side.
    pub(crate) front: FrontSettings,
    /// The boards' side.
    pub(crate) depot: DepotSettings,
    /// The inputs.
    pub(crate) filecache: FilecacheSettings,
    /// Limits of a boot.
    pub(crate) boot: BootSettings,
    /// Limits of a build.
    pub(crate) guest: GuestSettings,
    /// How often a slot tries things.
    pub(crate) slot_task: crate::slot::Settings,
    /// Where operators find the daemon.
    pub(crate) operators: OperatorsSettings,
    /// Launchpad's web service, where it is used.
    pub(crate) webservice: Option<WebServiceSettings>,
    /// The slots, at least one.
    pub(crate) slots: Vec<SlotSettings>,
}

/// `[rack]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RackSettings {
    /// A name for people.
    pub(crate) name: String,
    /// Where the daemon keeps everything.
    pub(crate) state_dir: PathBuf,
    /// The directory of the known-good image that boards boot.
    pub(crate) image: PathBuf,
    /// Which manager the rack speaks to.
    #[serde(default)]
    pub(crate) dialect: Dialect,
    /// Whether that manager knows the builders as virtualised.
    #[serde(default = "yes")]
    pub(crate) virtualized: bool,
    /// The build types to announce until a board has said what its worker knows.
    #[serde(default = "build_types")]
    pub(crate) build_types: Vec<String>,
    /// How fast the master's network port is: what all boards share. For [`crate::budget`] alone.
    #[serde(default = "link_mbit_per_s")]
    pub(crate) link_mbit_per_s: u32,
    /// How fast the USB host is that the boards are at, in practice. For [`crate::budget`] alone.
    #[serde(default = "usb_mbit_per_s")]
    pub(crate) usb_mbit_per_s: u32,
}

/// A Panda's own Ethernet, and that of a master that is one.
fn link_mbit_per_s() -> u32 {
    100
}

/// A third of high speed's 480 Mb/s: a guess until it is measured on boards.
fn usb_mbit_per_s() -> u32 {
    160
}

fn yes() -> bool {
    true
}

fn build_types() -> Vec<String> {
    vec!["binarypackage".to_owned()]
}

/// `[depot]`: where boards report and fetch their inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DepotSettings {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Where boards reach it, when that is another address.
    #[serde(default)]
    pub(crate) advertise: Option<SocketAddr>,
}

impl DepotSettings {
    /// Where boards reach it.
    #[must_use]
    pub(crate) fn address(&self) -> SocketAddr {
        self.advertise.unwrap_or(self.listen)
    }
}

impl Config {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// See [`ConfigError`]: everything that is wrong.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&text_of(path)?, path)
    }

    /// Checks the text of a `rack.toml` that is, or would be, at `path`.
    ///
    /// # Errors
    /// See [`ConfigError`]: everything that is wrong.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Examined::of(text, path).config
    }
}

/// A file as far as it can be read, for whoever looks beyond its first mistakes.
#[derive(Debug)]
pub(crate) struct Examined {
    /// The configuration, or everything that is wrong with it.
    pub(crate) config: Result<Config, ConfigError>,
    /// The image's directory, where that much can be read.
    pub(crate) image: Option<PathBuf>,
    /// Where each key is written.
    pub(crate) places: Places,
}

impl Examined {
    /// Reads and checks `path`.
    pub(crate) fn load(path: &Path) -> Self {
        match text_of(path) {
            Ok(text) => Self::of(&text, path),
            Err(error) => Self {
                config: Err(error),
                image: None,
                places: Places::default(),
            },
        }
    }

    fn of(text: &str, path: &Path) -> Self {
        let (document, errors) = DeTable::parse_recoverable(text);
        let places = Places::of(document.get_ref(), text, path);
        let mut found = Found::new(text, path);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            found.add(at, "", error.message().replace('\n', " "));
        }
        // What a line that is no TOML was meant to say is not known, so nothing else is missed.
        if let Some(problems) = found.end() {
            return Self {
                config: Err(problems.into()),
                image: None,
                places,
            };
        }
        let base = path.parent().unwrap_or(Path::new(""));
        let mut found = Found::new(text, path);
        let file = File::read(document.get_ref(), &mut found);
        check::check(&file, &mut found);
        let image = file.rack.settings.as_ref();
        let image = image.map(|rack| from(base, &rack.image));
        let assembled = assemble(file, base);
        let config = match (assembled, found.end()) {
            (Some(config), None) => Ok(config),
            (_, Some(problems)) => Err(problems.into()),
            (None, None) => {
                // Whoever could not read a table has said so; this is for the day when one has not.
                let problem = places.problem("", "", "a table of this file cannot be read");
                Err(ConfigError::Wrong(problem.into()))
            }
        };
        Self {
            config,
            image,
            places,
        }
    }
}

fn text_of(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.len() > MAX_BYTES {
        return Err(ConfigError::TooLong {
            path: path.to_owned(),
            max: MAX_BYTES,
        });
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// The rooms' settings as one, with relative paths taken from `base`; none where a table could not be read.
fn assemble(file: File<'_>, base: &Path) -> Option<Config> {
    let mut rack = file.rack.settings?;
    rack.state_dir = from(base, &rack.state_dir);
    rack.image = from(base, &rack.image);
    let mut slot_task = file.slot_task.settings?;
    slot_task.dialect = rack.dialect;
    let mut filecache = file.filecache.settings?;
    filecache.dialect = rack.dialect;
    let mut operators = file.operators.settings?;
    operators.socket = operators.socket.map(|socket| from(base, &socket));
    let webservice = match file.webservice {
        Some(room) => {
            let mut webservice = room.settings?;
            webservice.credentials = from(base, &webservice.credentials);
            Some(webservice)
        }
        None => None,
    };
    let slots = file.slots.into_iter().map(|slot| slot.settings(base));
    Some(Config {
        rack,
        front: file.front.settings?,
        depot: file.depot.settings?,
        filecache,
        boot: file.boot.settings?,
        guest: file.guest.settings?,
        slot_task,
        operators,
        webservice,
        slots: slots.collect::<Option<_>>()?,
    })
}

/// `path`, from `base` where it is relative, and without a `.` in it.
fn from(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().collect()
}

#[cfg(test)]
mod tests;
