//! The logs of a slot's console: one for each boot, in parts, all of it bounded.
//!
//! ```text
//! STATE/slots/panda01/console/boot-12.0.log      the first part of boot 12
//!                             boot-12.1.log      the next; of each boot the last two parts stay
//!                             boot-13.0.log      the last ten boots stay
//! ```
//!
//! One [`Writer`] appends; any number of [`ConsoleLog`]s read, from a [`Place`] on.

use panda_slot::BootNo;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use panda_protocol::operators::Place;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// The directory's name in the slot's.
pub(crate) const DIRECTORY: &str = "console";
/// A part is full with so many bytes.
const PART_BYTES: u64 = 1 << 20;
/// The parts of a boot that stay.
const KEPT_PARTS: usize = 2;
/// The boots that stay.
const KEPT_BOOTS: usize = 10;
/// The most bytes that one look gives.
const LOOK: u64 = 64 * 1024;

/// The part of a log that a place is in.
trait Part: Sized {
    /// Its file.
    fn file_name(self) -> String;
    /// The beginning of the part with this name.
    fn of(name: &str) -> Option<Self>;
}

impl Part for Place {
    fn file_name(self) -> String {
        format!("boot-{}.{}.log", self.boot, self.part)
    }

    fn of(name: &str) -> Option<Self> {
        let (boot, part) = name
            .strip_prefix("boot-")?
            .strip_suffix(".log")?
            .split_once('.')?;
        let place = Self {
            boot: boot.parse().ok()?,
            part: part.parse().ok()?,
            offset: 0,
        };
        (place.file_name() == name).then_some(place)
    }
}

/// A slot's console logs, to read. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ConsoleLog {
    directory: PathBuf,
    grown: watch::Receiver<()>,
    keys: mpsc::Sender<Keys>,
}

/// What an operator types, and where it is told whether the console took it.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) bytes: Vec<u8>,
    pub(super) taken: oneshot::Sender<Result<(), String>>,
}

/// Keys that may wait for the console.
const KEYS_WAIT: usize = 16;
/// The console must have taken them within this.
const TAKEN: Duration = Duration::from_secs(10);

impl ConsoleLog {
    /// Types `bytes` on the console.
    ///
    /// # Errors
    /// It is not open, or does not take them, in words.
    pub(crate) async fn type_keys(&self, bytes: Vec<u8>) -> Result<(), String> {
        let (taken, answer) = oneshot::channel();
        let typed = async {
            let keys = Keys { bytes, taken };
            self.keys.send(keys).await.ok()?;
            answer.await.ok()
        };
        match timeout(TAKEN, typed).await {
            Ok(Some(taken)) => taken,
            Ok(None) => Err("nobody records the console any more".to_owned()),
            Err(_) => Err("the console takes nothing".to_owned()),
        }
    }

    /// The boots whose logs are there, the oldest first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(crate) async fn boots(&self) -> io::Result<Vec<BootNo>> {
        let mut boots: Vec<_> = self.files().await?.iter().map(|part| part.boot).collect();
        boots.dedup();
        Ok(boots)
    }

    /// Some of the log from `place` on, across parts and, unless `one_boot`, boots; and where to go on. Nothing at
    /// its end.
    ///
    /// # Errors
    /// A part cannot be read.
    pub(crate) async fn read(&self, place: Place, one_boot: bool) -> io::Result<(String, Place)> {
        let log = self.clone();
        blocking(move || log.look(place, one_boot)).await
    }

    /// Waits until the log has grown since this reader was made, or last waited. Pends when nobody writes it.
    pub(crate) async fn grown(&mut self) {
        if self.grown.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn files(&self) -> io::Result<Vec<Place>> {
        let directory = self.directory.clone();
        blocking(move || parts(&directory)).await
    }

    fn look(&self, mut place: Place, one_boot: bool) -> io::Result<(String, Place)> {
        for part in parts(&self.directory)? {
            if one_boot && part.boot != place.boot {
                continue;
            }
            if (part.boot, part.part) < (place.boot, place.part) {
                continue;
            }
            if (part.boot, part.part) > (place.boot, place.part) {
                place = part;
            }
            let mut file = match std::fs::File::open(self.directory.join(part.file_name())) {
                Ok(file) => file,
                // It has just been removed: the next part goes on.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            file.seek(SeekFrom::Start(place.offset))?;
            let mut bytes = Vec::new();
            file.take(LOOK).read_to_end(&mut bytes)?;
            // Not in the midst of a character; the rest comes with the next look.
            let whole = match std::str::from_utf8(&bytes) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => bytes.len(),
            };
            bytes.truncate(whole);
            if !bytes.is_empty() {
                place.offset += bytes.len() as u64;
                return Ok((String::from_utf8_lossy(&bytes).into_owned(), place));
            }
        }
        Ok((String::new(), place))
    }
}

/// The one that appends.
#[derive(Debug)]
pub(super) struct Writer {
    directory: PathBuf,
    grown: watch::Sender<()>,
    open: Option<(Place, File)>,
}

/// The logs in `directory`, which is made where it is not there.
///
/// # Errors
/// It cannot be made or read.
pub(super) fn open(directory: &Path) -> io::Result<(Writer, ConsoleLog, mpsc::Receiver<Keys>)> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    parts(directory)?;
    let (grown, watch) = watch::channel(());
    let (keys, typed) = mpsc::channel(KEYS_WAIT);
    let log = ConsoleLog {
        directory: directory.to_owned(),
        grown: watch,
        keys,
    };
    let writer = Writer {
        directory: directory.to_owned(),
        grown,
        open: None,
    };
    Ok((writer, log, typed))
}

impl Writer {
    /// Appends to the log of `boot`.
    pub(super) async fn append(&mut self, boot: BootNo, text: &str) -> io::Result<()> {
        let (place, file) = match self.open.take() {
            Some(open) if open.0.boot == boot && open.0.offset < PART_BYTES => {
                self.open.insert(open)
            }
            _ => {
                let next = self.next(boot).await?;
                self.open.insert(next)
            }
        };
        file.write_all(text.as_bytes()).await?;
        file.flush().await?;
        place.offset += text.len() as u64;
        self.grown.send_replace(());
        Ok(())
    }

    /// The last part of this boot's log where it has room, else a new one; what is too old goes.
    async fn next(&self, boot: BootNo) -> io::Result<(Place, File)> {
        let directory = self.directory.clone();
        let (place, file) = blocking(move || {
            let last = parts(&directory)?
                .into_iter()
                .rfind(|part| part.boot == boot);
            let mut place = last.unwrap_or(Place {
                boot,
                part: 0,
                offset: 0,
            });
            place.offset = match std::fs::metadata(directory.join(place.file_name())) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error),
            };
            if place.offset >= PART_BYTES {
                place.part += 1;
                place.offset = 0;
            }
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(directory.join(place.file_name()))?;
            prune(&directory)?;
            Ok((place, file))
        })
        .await?;
        Ok((place, File::from_std(file)))
    }
}

/// Every part, the oldest first.
fn parts(directory: &Path) -> io::Result<Vec<Place>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        found.extend(entry?.file_name().to_str().and_then(Place::of));
    }
    found.sort();
    Ok(found)
}

fn prune(directory: &Path) -> io::Result<()> {
    let mut boots: Vec<BootNo> = Vec::new();
    let mut of_this_boot = 0;
    for part in parts(directory)?.into_iter().rev() {
        if boots.last() != Some(&part.boot) {
            boots.push(part.boot);
            of_this_boot = 0;
        }
        of_this_boot += 1;
        if boots.len() > KEPT_BOOTS || of_this_boot > KEPT_PARTS {
            std::fs::remove_file(directory.join(part.file_name()))?;
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Place = Place {
        boot: BootNo::new(1),
        part: 0,
        offset: 0,
    };

    #[tokio::test]
    async fn a_reader_goes_on_where_it_was_across_parts_boots_and_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, log, _) = open(directory.path()).unwrap();
        writer.append(BootNo::new(1), "one ä\n").await.unwrap();
        let (text, place) = log.read(START, false).await.unwrap();
        assert_eq!(text, "one ä\n");
        assert_eq!(
            log.read(place, false).await.unwrap(),
            (String::new(), place)
        );
        drop(writer);
        let (mut writer, log, _) = open(directory.path()).unwrap();
        writer.append(BootNo::new(1), "two\n").await.unwrap();
        writer.append(BootNo::new(3), "three\n").await.unwrap();
        let (text, place) = log.read(place, false).await.unwrap();
        assert_eq!(text, "two\n");
        assert_eq!(log.read(place, true).await.unwrap().0, "");
        let (text, place) = log.read(place, false).await.unwrap();
        assert_eq!((text.as_str(), place.boot), ("three\n", BootNo::new(3)));
        assert_eq!(log.boots().await.unwrap(), [1, 3].map(BootNo::new));
    }

    #[tokio::test]
    async fn logs_are_bounded_in_parts_and_boots_and_readers_of_what_went_go_on_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, log, _) = open(directory.path()).unwrap();
        let much = "x".repeat(usize::try_from(PART_BYTES).unwrap());
        for _ in 0..5 {
            writer.append(BootNo::new(1), &much).await.unwrap();
        }
        let names = |boot| {
            let parts = parts(directory.path()).unwrap();
            let of_boot = parts.into_iter().filter(|part| part.boot == boot);
            of_boot.map(|part| part.part).collect::<Vec<_>>()
        };
        assert_eq!(names(BootNo::new(1)), [3, 4]);
        assert_eq!(log.read(START, true).await.unwrap().1.part, 3);
        for boot in 2..=30 {
            writer.append(BootNo::new(boot), "x").await.unwrap();
        }
        assert_eq!(
            log.boots().await.unwrap(),
            (21..=30).map(BootNo::new).collect::<Vec<_>>()
        );
    }

    #[tokio::test]
    async fn a_reader_that_waits_hears_of_growth() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, mut log, _) = open(directory.path()).unwrap();
        writer.append(BootNo::new(1), "x").await.unwrap();
        log.grown().await;
        let (grown, ()) = tokio::join!(
            async {
                log.grown().await;
                true
            },
            async {
                writer.append(BootNo::new(1), "y").await.unwrap();
            }
        );
        assert!(grown);
    }

    #[test]
    fn only_names_of_parts_are_parts() {
        assert_eq!(Place::of("boot-1.0.log"), Some(START));
        for name in [
            "boot-01.0.log",
            "boot-1.log",
            "boot-1.0.log~",
            "x",
            "boot--1.0.log",
        ] {
            assert_eq!(Place::of(name), None, "{name}");
        }
    }
}
