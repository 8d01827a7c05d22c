//! Statements on slots, their build attempts and their pins.

use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{BuildCall, Call, xml};
use panda_slot::{AttemptNo, Board, Slot};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::records::{AttemptRecord, NewAttempt};
use super::{
    KEPT_BOOTS, LedgerError, attempt_number, boot_number, boot_of, number, reading, writing,
};

/// What a build's arguments may be when they are read back: more than the front ever lets in.
const CALL_LIMITS: xml::Limits = xml::Limits {
    bytes: 256 << 20,
    depth: 1000,
    items: 10_000_000,
};

pub(super) fn load(db: &Connection, name: &str) -> Result<Option<Slot>, LedgerError> {
    let state: Option<String> = db
        .query_row("SELECT state FROM slot WHERE name = ?1", [name], |row| {
            row.get(0)
        })
        .optional()
        .map_err(reading)?;
    let damaged = || LedgerError::Damaged {
        what: format!("slot {name}"),
    };
    state
        .map(|json| serde_json::from_str(&json).map_err(|_| damaged()))
        .transpose()
}

pub(super) fn commit(
    db: &mut Connection,
    name: &str,
    slot: &Slot,
    accepted: Option<&NewAttempt>,
) -> Result<(), LedgerError> {
    let state = serde_json::to_string(slot).map_err(|_| LedgerError::Damaged {
        what: format!("slot {name}"),
    })?;
    let call = accepted.map(|new| encode(&new.call)).transpose()?;
    let write = |transaction: Transaction<'_>| {
        transaction.execute(
            "INSERT INTO slot (name, state) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET state = excluded.state",
            params![name, state],
        )?;
        if let (Some(new), Some(call)) = (accepted, &call) {
            transaction.execute(
                "INSERT INTO attempt (slot, attempt, boot, call) VALUES (?1, ?2, ?3, ?4)",
                params![
                    name,
                    attempt_number(new.attempt),
                    boot_number(slot.boot),
                    call
                ],
            )?;
        }
        forget(&transaction, name, slot)?;
        transaction.commit()
    };
    db.transaction_with_behavior(TransactionBehavior::Immediate)
        .and_then(write)
        .map_err(writing)
}

/// Keeps in step with the state what hangs on it: the boot of the build that the slot has; no arguments
/// of any other build; no keys of boots that are over; not too many attempts.
fn forget(transaction: &Transaction<'_>, name: &str, slot: &Slot) -> rusqlite::Result<()> {
    let live = slot.live().map(|build| attempt_number(build.attempt));
    if let Some(attempt) = live {
        transaction.execute(
            "UPDATE attempt SET boot = ?3 WHERE slot = ?1 AND attempt = ?2",
            params![name, attempt, boot_number(slot.boot)],
        )?;
    }
    transaction.execute(
        "UPDATE attempt SET call = NULL
         WHERE slot = ?1 AND call IS NOT NULL AND attempt IS NOT ?2",
        params![name, live],
    )?;
    transaction.execute(
        "DELETE FROM attempt WHERE slot = ?1 AND attempt <= ?2",
        params![
            name,
            number(slot.attempt.get().saturating_sub(u64::from(KEPT_BOOTS)))
        ],
    )?;
    let powered = match &slot.board {
        Board::Failed { .. } | Board::Off => None,
        Board::Cutting { .. }
        | Board::Preparing { .. }
        | Board::Booting { .. }
        | Board::Trial { .. }
        | Board::Fresh { .. }
        | Board::Used { .. }
        | Board::Rejoining(_) => Some(boot_number(slot.boot)),
    };
    transaction.execute(
        "UPDATE boot SET key = NULL, certificate = NULL
         WHERE slot = ?1 AND key IS NOT NULL AND boot IS NOT ?2",
        params![name, powered],
    )?;
    Ok(())
}

pub(super) fn attempt(
    db: &Connection,
    slot: &str,
    attempt: AttemptNo,
) -> Result<Option<AttemptRecord>, LedgerError> {
    let row: Option<(i64, Option<String>)> = db
        .query_row(
            "SELECT boot, call FROM attempt WHERE slot = ?1 AND attempt = ?2",
            params![slot, attempt_number(attempt)],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
        .map_err(reading)?;
    let damaged = || LedgerError::Damaged {
        what: format!("attempt {attempt} of slot {slot}"),
    };
    let Some((boot, call)) = row else {
        return Ok(None);
    };
    Ok(Some(AttemptRecord {
        attempt,
        boot: boot_of(boot).ok_or_else(damaged)?,
        call: call
            .map(|text| decode(&text).ok_or_else(damaged))
            .transpose()?,
    }))
}

pub(super) fn end_attempt(
    db: &Connection,
    slot: &str,
    attempt: AttemptNo,
) -> Result<(), LedgerError> {
    db.execute(
        "UPDATE attempt SET call = NULL WHERE slot = ?1 AND attempt = ?2",
        params![slot, attempt_number(attempt)],
    )
    .map(|_| ())
    .map_err(writing)
}

pub(super) fn pin(db: &Connection, slot: &str, sha1: Sha1) -> Result<(), LedgerError> {
    db.execute(
        "INSERT OR IGNORE INTO pin (slot, sha1) VALUES (?1, ?2)",
        params![slot, sha1.to_string()],
    )
    .map(|_| ())
    .map_err(writing)
}

pub(super) fn unpin(db: &Connection, slot: &str) -> Result<(), LedgerError> {
    db.execute("DELETE FROM pin WHERE slot = ?1", [slot])
        .map(|_| ())
        .map_err(writing)
}

pub(super) fn pins(db: &Connection) -> Result<Vec<(String, Sha1)>, LedgerError> {
    let mut statement = db
        .prepare("SELECT slot, sha1 FROM pin ORDER BY slot, sha1")
        .map_err(reading)?;
    let rows = statement
        .query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })
        .map_err(reading)?;
    rows.map(|row| {
        let (slot, text) = row.map_err(reading)?;
        let damaged = |_| LedgerError::Damaged {
            what: format!("a pin of slot {slot}"),
        };
        let sha1 = text.parse().map_err(damaged)?;
        Ok((slot, sha1))
    })
    .collect()
}

/// A build's arguments as the XML text of the call, so that every value survives as it came.
fn encode(call: &BuildCall) -> Result<String, LedgerError> {
    let (method, params) = Call::Build(Box::new(call.clone())).encode();
    xml::encode_call(method, &params).map_err(LedgerError::Unwritable)
}

fn decode(text: &str) -> Option<BuildCall> {
    let (method, params) = xml::decode_call(text.as_bytes(), &CALL_LIMITS).ok()?;
    match Call::decode(&method, params).ok()? {
        Call::Build(call) => Some(*call),
        _ => None,
    }
}
