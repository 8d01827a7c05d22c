//! A worker that is not ours: the `[worker]` table, by which an image's manifest names another program that
//! runs the builds, Launchpad's own for one. The daemon hands it on in `boot.toml`; the agent starts the program
//! behind its link and passes the builder protocol on to it.
//!
//! ```toml
//! [worker]
//! command = ["/usr/bin/twistd3", "--nodaemon", "--pidfile=", "buildd", "--conffile=/etc/buildd.conf"]
//! address = "127.0.0.1:8221"           # on the board's loopback; port 0: the agent chooses and says which
//! build_types = ["binarypackage", "snap"]
//! ```

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::checks::is_line;
use crate::link::MAX_BUILD_TYPES;

/// The environment variable in which the worker finds where it has to listen, `ADDRESS:PORT`.
pub const ADDRESS_VARIABLE: &str = "PANDA_WORKER_ADDRESS";
/// The most words of a command.
pub const MAX_WORDS: usize = 64;
/// The most bytes of a word of a command.
pub const MAX_WORD: usize = 4096;
/// The most bytes of a build type's name.
pub const MAX_BUILD_TYPE: usize = 64;

/// Another worker than the agent's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignWorker {
    /// The program and its arguments, run as they are, without a shell. It must stay in the foreground: when
    /// it ends, the boot is lost.
    pub command: Vec<String>,
    /// Where it listens: on the board's loopback. With port 0 the agent chooses one, and the program finds it
    /// in [`ADDRESS_VARIABLE`].
    pub address: SocketAddr,
    /// The build types that Launchpad is told of; the worker must announce each of them.
    pub build_types: Vec<String>,
}

/// A value of the table that cannot be: its key and what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerProblem {
    /// The key, with its table's name.
    pub key: &'static str,
    /// What it must be.
    pub expected: &'static str,
}

impl ForeignWorker {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first value that cannot be.
    pub fn check(&self) -> Result<(), WorkerProblem> {
        let problem = |key, expected| Err(WorkerProblem { key, expected });
        let words = (1..=MAX_WORDS).contains(&self.command.len())
            && self.command.iter().all(|word| is_line(word, MAX_WORD));
        if !words || !self.command[0].starts_with('/') {
            return problem(
                "worker.command",
                "1 to 64 words of one line each, the first a program's whole path",
            );
        }
        if !self.address.ip().is_loopback() {
            return problem(
                "worker.address",
                "on the board's loopback, as 127.0.0.1:8221",
            );
        }
        let types = &self.build_types;
        let named = (1..=MAX_BUILD_TYPES).contains(&types.len())
            && types.iter().all(|name| is_line(name, MAX_BUILD_TYPE));
        let distinct = types
            .iter()
            .enumerate()
            .all(|(n, name)| !types[..n].contains(name));
        if !named || !distinct {
            return problem(
                "worker.build_types",
                "1 to 32 different names, as binarypackage",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> ForeignWorker {
        ForeignWorker {
            command: vec!["/usr/bin/worker".to_owned(), "--fore ground".to_owned()],
            address: "127.0.0.1:8221".parse().unwrap(),
            build_types: vec!["snap".to_owned(), "charm".to_owned()],
        }
    }

    fn key(change: impl FnOnce(&mut ForeignWorker)) -> Option<&'static str> {
        let mut worker = worker();
        change(&mut worker);
        worker.check().err().map(|problem| problem.key)
    }

    #[test]
    fn a_worker_is_a_program_on_the_loopback_with_types_of_its_own() {
        assert_eq!(key(|_| ()), None);
        assert_eq!(key(|w| w.address = "[::1]:0".parse().unwrap()), None);
    }

    #[test]
    fn what_cannot_be_names_its_key() {
        let command = Some("worker.command");
        assert_eq!(key(|w| w.command.clear()), command);
        assert_eq!(key(|w| w.command[0] = "worker".to_owned()), command);
        assert_eq!(key(|w| w.command[1] = "a\nb".to_owned()), command);
        assert_eq!(key(|w| w.command[1] = String::new()), command);
        assert_eq!(key(|w| w.command = vec!["/x".to_owned(); 65]), command);
        for outside in ["10.0.0.1:8221", "0.0.0.0:8221", "[::]:8221"] {
            let outside = outside.parse().unwrap();
            assert_eq!(key(|w| w.address = outside), Some("worker.address"));
        }
        let types = Some("worker.build_types");
        assert_eq!(key(|w| w.build_types.clear()), types);
        assert_eq!(key(|w| w.build_types[0] = "charm".to_owned()), types);
        assert_eq!(key(|w| w.build_types[0] = "x".repeat(65)), types);
    }
}
