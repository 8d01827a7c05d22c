//! Statements on boots and their steps.

use std::time::{SystemTime, UNIX_EPOCH};

use panda_protocol::digest::Sha256;
use panda_slot::{AttemptNo, BootNo};
use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, params};

use super::grade::Grade;
use super::records::{BootHistory, BootSecrets, MAX_TEXT, Step};
use super::{
    KEPT_BOOTS, LedgerError, MAX_STEPS, attempt_of, boot_number, boot_of, number, reading, writing,
};

pub(super) fn begin(
    db: &mut Connection,
    slot: &str,
    boot: BootNo,
    secrets: &BootSecrets,
) -> Result<(), LedgerError> {
    let write = |transaction: rusqlite::Transaction<'_>| {
        transaction.execute(
            "INSERT INTO boot (slot, boot, id, image, began_unix_ms, certificate, key)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                slot,
                boot_number(boot),
                secrets.id,
                secrets.image.to_string(),
                now_unix_ms(),
                secrets.certificate_pem,
                secrets.key_pem
            ],
        )?;
        transaction.execute(
            "DELETE FROM boot WHERE slot = ?1 AND boot NOT IN
             (SELECT boot FROM boot WHERE slot = ?1 ORDER BY boot DESC LIMIT ?2)",
            params![slot, KEPT_BOOTS],
        )?;
        transaction.commit()
    };
    db.transaction_with_behavior(TransactionBehavior::Immediate)
        .and_then(write)
        .map_err(writing)
}

pub(super) fn secrets(
    db: &Connection,
    slot: &str,
    boot: BootNo,
) -> Result<Option<BootSecrets>, LedgerError> {
    let row = db
        .query_row(
            "SELECT id, image, certificate, key FROM boot
             WHERE slot = ?1 AND boot = ?2 AND certificate IS NOT NULL AND key IS NOT NULL",
            params![slot, boot_number(boot)],
            |row| {
                let image: String = row.get(1)?;
                Ok((row.get(0)?, image, row.get(2)?, row.get(3)?))
            },
        )
        .optional()
        .map_err(reading)?;
    let Some((id, image, certificate_pem, key_pem)) = row else {
        return Ok(None);
    };
    let image = image.parse().map_err(|_| damaged(slot, boot))?;
    Ok(Some(BootSecrets {
        id,
        image,
        certificate_pem,
        key_pem,
    }))
}

pub(super) fn record_step(
    db: &Connection,
    slot: &str,
    boot: BootNo,
    step: &Step,
) -> Result<(), LedgerError> {
    db.execute(
        "INSERT INTO step (slot, boot, name, at_unix_ms, elapsed_ms, detail, grade, error)
         SELECT slot, boot, ?3, ?4, ?5, ?6, ?7, ?8 FROM boot
         WHERE slot = ?1 AND boot = ?2
           AND (SELECT count(*) FROM step WHERE slot = ?1 AND boot = ?2) < ?9",
        params![
            slot,
            boot_number(boot),
            cut(&step.name),
            step.at_unix_ms,
            number(step.elapsed_ms),
            cut(&step.detail),
            step.grade.map(Grade::as_str),
            step.error.as_deref().map(cut),
            MAX_STEPS
        ],
    )
    .map(|_| ())
    .map_err(writing)
}

pub(super) fn history(
    db: &Connection,
    slot: Option<&str>,
    limit: u32,
) -> Result<Vec<BootHistory>, LedgerError> {
    let mut boots = db
        .prepare(
            "SELECT slot, boot, id, image, began_unix_ms FROM boot
             WHERE slot = ifnull(?1, slot)
             ORDER BY rowid DESC LIMIT ?2",
        )
        .map_err(reading)?;
    let rows = boots
        .query_map(params![slot, limit], boot_row)
        .map_err(reading)?;
    rows.map(|row| {
        let (slot, boot, id, image, began_unix_ms) = row.map_err(reading)?;
        let boot = boot_of(boot).ok_or_else(|| damaged(&slot, BootNo::NONE))?;
        Ok(BootHistory {
            image: image.parse::<Sha256>().map_err(|_| damaged(&slot, boot))?,
            attempts: attempts(db, &slot, boot)?,
            steps: steps(db, &slot, boot)?,
            slot,
            boot,
            id,
            began_unix_ms,
        })
    })
    .collect()
}

type BootRow = (String, i64, String, String, i64);

fn boot_row(row: &Row<'_>) -> rusqlite::Result<BootRow> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
    ))
}

fn attempts(db: &Connection, slot: &str, boot: BootNo) -> Result<Vec<AttemptNo>, LedgerError> {
    let mut statement = db
        .prepare("SELECT attempt FROM attempt WHERE slot = ?1 AND boot = ?2 ORDER BY attempt")
        .map_err(reading)?;
    let rows = statement
        .query_map(params![slot, boot_number(boot)], |row| row.get::<_, i64>(0))
        .map_err(reading)?;
    rows.map(|row| attempt_of(row.map_err(reading)?).ok_or_else(|| damaged(slot, boot)))
        .collect()
}

fn steps(db: &Connection, slot: &str, boot: BootNo) -> Result<Vec<Step>, LedgerError> {
    let mut statement = db
        .prepare(
            "SELECT name, at_unix_ms, elapsed_ms, detail, grade, error FROM step
             WHERE slot = ?1 AND boot = ?2 ORDER BY number",
        )
        .map_err(reading)?;
    let rows = statement
        .query_map(params![slot, boot_number(boot)], |row| {
            let (elapsed, grade): (i64, Option<String>) = (row.get(2)?, row.get(4)?);
            let step = Step {
                name: row.get(0)?,
                at_unix_ms: row.get(1)?,
                elapsed_ms: 0,
                detail: row.get(3)?,
                grade: None,
                error: row.get(5)?,
            };
            Ok((step, elapsed, grade))
        })
        .map_err(reading)?;
    rows.map(|row| {
        let (mut step, elapsed, grade) = row.map_err(reading)?;
        step.elapsed_ms = u64::try_from(elapsed).map_err(|_| damaged(slot, boot))?;
        step.grade = grade
            .map(|text| Grade::from_text(&text).ok_or_else(|| damaged(slot, boot)))
            .transpose()?;
        Ok(step)
    })
    .collect()
}

fn damaged(slot: &str, boot: BootNo) -> LedgerError {
    LedgerError::Damaged {
        what: format!("boot {boot} of slot {slot}"),
    }
}

/// At most [`MAX_TEXT`] bytes of `text`, whole characters.
fn cut(text: &str) -> &str {
    let end = (0..=MAX_TEXT.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

fn now_unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
