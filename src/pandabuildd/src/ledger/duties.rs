//! Statements on duties: builders that Launchpad waits for until it is told that they are clean.

use panda_slot::AttemptNo;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{LedgerError, attempt_number, attempt_of, reading, writing};

pub(super) fn begin(db: &Connection, slot: &str, attempt: AttemptNo) -> Result<(), LedgerError> {
    db.execute(
        "INSERT INTO duty (slot, attempt) VALUES (?1, ?2)
         ON CONFLICT (slot) DO UPDATE SET attempt = excluded.attempt",
        params![slot, attempt_number(attempt)],
    )
    .map(|_| ())
    .map_err(writing)
}

pub(super) fn load(db: &Connection, slot: &str) -> Result<Option<AttemptNo>, LedgerError> {
    let attempt: Option<i64> = db
        .query_row("SELECT attempt FROM duty WHERE slot = ?1", [slot], |row| {
            row.get(0)
        })
        .optional()
        .map_err(reading)?;
    attempt
        .map(|attempt| {
            attempt_of(attempt).ok_or_else(|| LedgerError::Damaged {
                what: format!("the duty of slot {slot}"),
            })
        })
        .transpose()
}

pub(super) fn end(db: &Connection, slot: &str) -> Result<(), LedgerError> {
    db.execute("DELETE FROM duty WHERE slot = ?1", [slot])
        .map(|_| ())
        .map_err(writing)
}
