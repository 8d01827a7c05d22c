//! The ledger's file: how it is made, known as ours, and brought up to date.
//!
//! `application_id` says that a file is ours, `user_version` which schema it has. Each migration brings a
//! file from one schema to the next, in a transaction of its own; the list only ever grows.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::LedgerError;
use crate::failpoint::{self, Point};

/// `PANd`: what SQLite's header says of our files.
const APPLICATION_ID: i32 = 0x5041_4e64;

/// Schema N+1 from schema N.
const MIGRATIONS: [&str; 2] = [FIRST, DUTIES];

/// Builders that Launchpad is to be told of when they are clean.
const DUTIES: &str = "CREATE TABLE duty (
         slot    TEXT PRIMARY KEY,
         attempt INTEGER NOT NULL
     ) STRICT;";

const FIRST: &str = "CREATE TABLE slot (
         name  TEXT PRIMARY KEY,
         state TEXT NOT NULL
     ) STRICT;
     CREATE TABLE boot (
         slot          TEXT NOT NULL,
         boot          INTEGER NOT NULL,
         id            TEXT NOT NULL UNIQUE,
         image         TEXT NOT NULL,
         began_unix_ms INTEGER NOT NULL,
         certificate   TEXT,
         key           TEXT,
         PRIMARY KEY (slot, boot)
     ) STRICT;
     CREATE TABLE step (
         number     INTEGER PRIMARY KEY,
         slot       TEXT NOT NULL,
         boot       INTEGER NOT NULL,
         name       TEXT NOT NULL,
         at_unix_ms INTEGER NOT NULL,
         elapsed_ms INTEGER NOT NULL,
         detail     TEXT NOT NULL,
         grade      TEXT,
         error      TEXT,
         FOREIGN KEY (slot, boot) REFERENCES boot (slot, boot) ON DELETE CASCADE
     ) STRICT;
     CREATE INDEX step_of_boot ON step (slot, boot);
     CREATE TABLE attempt (
         slot    TEXT NOT NULL,
         attempt INTEGER NOT NULL,
         boot    INTEGER NOT NULL,
         call    TEXT,
         PRIMARY KEY (slot, attempt)
     ) STRICT;
     CREATE INDEX attempt_of_boot ON attempt (slot, boot);
     CREATE TABLE pin (
         slot TEXT NOT NULL,
         sha1 TEXT NOT NULL,
         PRIMARY KEY (slot, sha1)
     ) STRICT;";

/// Opens the file, making it where there is none.
pub(super) fn open(path: &Path) -> Result<Connection, LedgerError> {
    make_private(path).map_err(|source| LedgerError::File {
        path: path.to_owned(),
        source,
    })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(|source| failed(path, source))?;
    check_ours(&db, path)?;
    let found = check_known(&db, path)?;
    prepare(&db).map_err(|source| failed(path, source))?;
    migrate(&mut db, found)?;
    Ok(db)
}

/// Opens the file, which is ours, for reading alone.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, LedgerError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(Duration::from_secs(5))?;
        Ok(db)
    };
    open().map_err(|source| failed(path, source))
}

/// Makes the file where there is none; in any case its owner alone may read it, and SQLite gives its
/// companions (`-wal`, `-shm`) the same rights.
fn make_private(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

/// Refuses a file that another program has made, before anything is written to it.
fn check_ours(db: &Connection, path: &Path) -> Result<(), LedgerError> {
    let facts = db
        .query_row(
            "SELECT (SELECT application_id FROM pragma_application_id),
                    (SELECT count(*) FROM sqlite_schema)",
            [],
            |row| Ok((row.get::<_, i32>(0)?, row.get::<_, i64>(1)?)),
        )
        .map_err(|source| failed(path, source))?;
    match facts {
        (APPLICATION_ID, _) | (0, 0) => Ok(()),
        _ => Err(LedgerError::Foreign {
            path: path.to_owned(),
        }),
    }
}

fn prepare(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    // Keys and passwords that are forgotten are overwritten, not only unlinked.
    db.pragma_update(None, "secure_delete", true)
}

/// The file's schema. One that this version does not know is refused before anything is written to it.
fn check_known(db: &Connection, path: &Path) -> Result<u32, LedgerError> {
    let found: u32 = db
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| failed(path, source))?;
    let known = known();
    if found > known {
        return Err(LedgerError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }
    Ok(found)
}

/// The newest schema that this version knows.
fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

fn migrate(db: &mut Connection, found: u32) -> Result<(), LedgerError> {
    for (from, sql) in (0..known()).zip(MIGRATIONS) {
        if from >= found {
            let to = from + 1;
            let detail = || format!("{to}");
            let made = failpoint::around(Point::CommitSchema, detail, || step(db, to, sql));
            made.map_err(|source| LedgerError::Sqlite {
                doing: "update",
                source,
            })?;
        }
    }
    Ok(())
}

fn step(db: &mut Connection, to: u32, sql: &str) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(sql)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", to)?;
    transaction.commit()
}

fn failed(path: &Path, source: rusqlite::Error) -> LedgerError {
    if source.sqlite_error_code() == Some(ErrorCode::NotADatabase) {
        return LedgerError::Foreign {
            path: path.to_owned(),
        };
    }
    LedgerError::Sqlite {
        doing: "open",
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_readable_by_its_owner_only_with_its_companions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        let _db = open(&path).unwrap();
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(
                entry.metadata().unwrap().permissions().mode() & 0o777,
                0o600
            );
            names.push(entry.file_name().into_string().unwrap());
        }
        names.sort();
        assert_eq!(
            names,
            ["ledger.sqlite", "ledger.sqlite-shm", "ledger.sqlite-wal"]
        );
    }

    #[test]
    fn a_file_that_others_could_read_is_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        drop(open(&path).unwrap());
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        drop(open(&path).unwrap());
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn commits_reach_the_disk_before_they_return() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir.path().join("ledger.sqlite")).unwrap();
        let mode: String = db
            .pragma_query_value(None, "journal_mode", |r| r.get(0))
            .unwrap();
        let sync: i32 = db
            .pragma_query_value(None, "synchronous", |r| r.get(0))
            .unwrap();
        assert_eq!((mode.as_str(), sync), ("wal", 2));
    }

    #[test]
    fn a_text_file_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        let text = "these are my notes, not a database\n".repeat(100);
        std::fs::write(&path, &text).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, LedgerError::Foreign { .. }), "{error:?}");
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn another_programs_database_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE music (title TEXT); INSERT INTO music VALUES ('x')")
            .unwrap();
        drop(db);
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(&path), Err(LedgerError::Foreign { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_newer_ledger_is_refused_untouched_with_both_schemas_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        let db = open(&path).unwrap();
        // A newer version may keep its journal otherwise: not even that is changed.
        db.pragma_update(None, "journal_mode", "DELETE").unwrap();
        db.pragma_update(None, "user_version", 1000).unwrap();
        drop(db);
        let before = std::fs::read(&path).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(
            error.contains("schema 1000") && error.contains("knows 2"),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_ledger_of_the_first_schema_is_brought_up_to_date_with_all_that_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.sqlite");
        let mut db = Connection::open(&path).unwrap();
        step(&mut db, 1, FIRST).unwrap();
        db.execute("INSERT INTO slot VALUES ('panda01', '{}')", [])
            .unwrap();
        drop(db);
        let db = open(&path).unwrap();
        let read = |sql| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(read("SELECT count(*) FROM slot"), 1);
        assert_eq!(read("SELECT count(*) FROM duty"), 0);
        assert_eq!(read("SELECT user_version FROM pragma_user_version"), 2);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = open(Path::new("/nonexistent/state/ledger.sqlite"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nonexistent/state/ledger.sqlite"),
            "{error}"
        );
    }
}
