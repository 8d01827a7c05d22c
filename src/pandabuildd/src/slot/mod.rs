//! Runs a slot: one task owns its state; everyone else sends it messages. Every event is stepped through
//! the pure machine, the new state is committed to the ledger, and only then effects start and callers
//! are answered.

pub mod hands;
