//! Failpoints: named places, before and after everything that must survive a `kill -9`, at which a test has the
//! program die. Called wherever something is written down or done to the world; a program that is built for use
//! (without debug assertions) holds none of it.
//!
//! ```text
//! PANDABUILDD_FAILPOINTS=DIR   every pass is appended to DIR/passed, a line each:  NAME before|after DETAIL
//!                              a pass whose line is what DIR/armed holds ends the process at once (SIGABRT)
//! ```
//!
//! Without that variable a pass costs one look at a static. The file is read at each pass, so that a test arms a
//! program that runs.

/// The failpoints of this crate, which the daemon lists with its own: a file that is hashed while it is written, each
/// piece of it, its name; what leaves a store.
pub const POINTS: [&str; 5] = [DRAFT, PIECE, PLACE, EVICT, SWEEP];
/// A draft is made.
pub const DRAFT: &str = "file.draft";
/// A piece is appended to a draft.
pub const PIECE: &str = "file.piece";
/// A finished draft gets its name.
pub const PLACE: &str = "file.place";
/// A file leaves a store.
pub const EVICT: &str = "store.evict";
/// A draft that a crash has left is removed.
pub const SWEEP: &str = "store.sweep";

/// The side of what a failpoint stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It has not been done.
    Before,
    /// It has been done, and nobody has heard of it.
    After,
}

impl Side {
    /// `before`, `after`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Passes `point`, of which `detail` tells what is under way: one word or a few.
#[inline]
pub fn pass(point: &'static str, side: Side, detail: impl FnOnce() -> String) {
    #[cfg(debug_assertions)]
    armed::pass(point, side, detail);
    #[cfg(not(debug_assertions))]
    let _: (&str, Side, _) = (point, side, detail);
}

/// Passes `point` on both sides of `work`.
#[inline]
pub fn around<T>(point: &'static str, work: impl FnOnce() -> T) -> T {
    pass(point, Side::Before, String::new);
    let done = work();
    pass(point, Side::After, String::new);
    done
}

#[cfg(debug_assertions)]
mod armed {
    use std::fs;
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::OnceLock;

    use super::Side;

    /// Where tests arm failpoints; none in every ordinary run.
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();

    pub(super) fn pass(point: &'static str, side: Side, detail: impl FnOnce() -> String) {
        let directory =
            DIRECTORY.get_or_init(|| std::env::var_os("PANDABUILDD_FAILPOINTS").map(PathBuf::from));
        let Some(directory) = directory else { return };
        let line = format!("{point} {} {}", side.name(), detail());
        let line = line.trim_end();
        let noted = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join("passed"))
            .and_then(|mut passed| passed.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = noted {
            tracing::error!(%error, "a failpoint's pass cannot be noted");
        }
        let armed = fs::read_to_string(directory.join("armed")).unwrap_or_default();
        if armed.trim() == line {
            std::process::abort();
        }
    }
}
