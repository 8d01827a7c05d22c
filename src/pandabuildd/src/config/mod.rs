//! `rack.toml`: assembled from the rooms' own settings types and checked whole, before anything starts.
//! Each room says what its settings may be; here is only what no room can see alone: that slots share no
//! name, host name, address or socket. Every error names the file, the line and the key, and what is
//! allowed. Used by `serve` and `twin`; `rack.example.toml` is the commented example.
//!
//! Relative paths are taken from the file's own directory.

mod check;
mod driver;
mod error;
mod shared;
mod slot;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use panda_protocol::launchpad::Dialect;
use serde::Deserialize;
use toml::Spanned;

pub use self::driver::{ConsoleSettings, PipeSettings, PowerSettings, SenseSettings, TwinSettings};
pub use self::error::ConfigError;
use self::slot::FileSlot;
pub use self::slot::{NetworkSettings, SlotSettings};
use crate::boot::BootSettings;
use crate::filecache::FilecacheSettings;
use crate::front::FrontSettings;
use crate::guest::GuestSettings;
use crate::webservice::WebServiceSettings;

/// The most bytes of a `rack.toml`.
const MAX_BYTES: u64 = 1 << 20;

/// A checked `rack.toml`.
#[derive(Debug, Clone)]
pub struct Config {
    /// What holds for the whole rack.
    pub rack: RackSettings,
    /// Launchpad's side.
    pub front: FrontSettings,
    /// The boards' side.
    pub depot: DepotSettings,
    /// The inputs.
    pub filecache: FilecacheSettings,
    /// Limits of a boot.
    pub boot: BootSettings,
    /// Limits of a build.
    pub guest: GuestSettings,
    /// How often a slot tries things.
    pub slot_task: crate::slot::Settings,
    /// Launchpad's web service, where it is used.
    pub webservice: Option<WebServiceSettings>,
    /// The slots, at least one.
    pub slots: Vec<SlotSettings>,
}

/// `[rack]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RackSettings {
    /// A name for people.
    pub name: String,
    /// Where the daemon keeps everything.
    pub state_dir: PathBuf,
    /// The directory of the known-good image that boards boot.
    pub image: PathBuf,
    /// Which manager the rack speaks to.
    #[serde(default)]
    pub dialect: Dialect,
    /// Whether that manager knows the builders as virtualised.
    #[serde(default = "yes")]
    pub virtualized: bool,
    /// The build types to announce until a board has said what its worker knows.
    #[serde(default = "build_types")]
    pub build_types: Vec<String>,
    /// How fast the master's network port is: what all boards share. For [`crate::budget`] alone.
    #[serde(default = "link_mbit_per_s")]
    pub link_mbit_per_s: u32,
    /// How fast the USB host is that the boards are at, in practice. For [`crate::budget`] alone.
    #[serde(default = "usb_mbit_per_s")]
    pub usb_mbit_per_s: u32,
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
pub struct DepotSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where boards reach it, when that is another address.
    #[serde(default)]
    pub advertise: Option<SocketAddr>,
}

impl DepotSettings {
    /// Where boards reach it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.advertise.unwrap_or(self.listen)
    }
}

/// The file as it is written: parts keep their place for the checks' errors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rack: Spanned<RackSettings>,
    front: Option<Spanned<FrontSettings>>,
    depot: Spanned<DepotSettings>,
    filecache: Option<Spanned<FilecacheSettings>>,
    boot: Option<Spanned<BootSettings>>,
    guest: Option<Spanned<GuestSettings>>,
    slot_task: Option<Spanned<crate::slot::Settings>>,
    webservice: Option<Spanned<WebServiceSettings>>,
    #[serde(default)]
    slot: Vec<Spanned<FileSlot>>,
}

impl Config {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
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
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text, path)
    }

    /// Checks the text of a `rack.toml` that is, or would be, at `path`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| ConfigError::Shape {
            path: path.to_owned(),
            error: Box::new(error),
        })?;
        let located = |problem: error::Problem| problem.located(text, path);
        check::check(&file).map_err(located)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let mut rack = file.rack.into_inner();
        rack.state_dir = from(base, &rack.state_dir);
        rack.image = from(base, &rack.image);
        let mut slot_task = file.slot_task.map(Spanned::into_inner).unwrap_or_default();
        slot_task.dialect = rack.dialect;
        let mut filecache = file.filecache.map(Spanned::into_inner).unwrap_or_default();
        filecache.dialect = rack.dialect;
        let slots = file
            .slot
            .into_iter()
            .map(|slot| slot.into_inner().settings(base).map_err(located))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            rack,
            front: file.front.map(Spanned::into_inner).unwrap_or_default(),
            depot: file.depot.into_inner(),
            filecache,
            boot: file.boot.map(Spanned::into_inner).unwrap_or_default(),
            guest: file.guest.map(Spanned::into_inner).unwrap_or_default(),
            slot_task,
            webservice: file.webservice.map(|webservice| {
                let mut webservice = webservice.into_inner();
                webservice.credentials = from(base, &webservice.credentials);
                webservice
            }),
            slots,
        })
    }
}

fn rebase(base: &Path, path: &mut PathBuf) {
    *path = from(base, path);
}

/// `path`, from `base` where it is relative, and without a `.` in it.
fn from(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().collect()
}

#[cfg(test)]
mod tests;
