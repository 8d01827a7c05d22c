//! The daemon ends, in every way and at every place, and the next one goes on where it was: kept results are served
//! under the same id with the same bytes, running builds are rejoined with their whole log, resets begin again, and
//! nothing is left over.
//!
//! `scripts/systemd-restart` does the same to a daemon of systemd's. `scripts/failpoints` prints what became of each failpoint; `PANDA_KILLS` says how often the random test kills.

mod activation;
mod failpoints;
mod inputs;
mod job;
mod keeper;
mod random;
mod settings;
mod sources;
mod systemd;

/// A number that the environment sets.
fn number(name: &str, default: usize) -> anyhow::Result<usize> {
    use anyhow::Context as _;
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name}={text:?}: expected a number")),
        Err(_) => Ok(default),
    }
}
