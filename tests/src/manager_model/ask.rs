//! The calls that the manager asks for, and what it is told of them. Called by whoever runs the model: a test's
//! trace, or the driver that speaks to a rack.

use std::time::Duration;

use panda_protocol::launchpad::{FileMap, Status};

use super::pool::JobNo;

/// One thing to do at a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// `status`; answered by [`Answer::Status`].
    Status,
    /// `echo("ping")`.
    Echo,
    /// `abort`.
    Abort,
    /// `clean`.
    Clean,
    /// The reset command.
    Reset,
    /// `ensurepresent` for the chroot and each source file of a job, all at once.
    Files(JobNo),
    /// `build`; whatever it answers is [`Answer::Done`], but for a fault.
    Build(JobNo),
    /// `GET filecache/…`: the build log, and each file of the map by its sum.
    Fetch {
        /// The job whose results they are.
        job: JobNo,
        /// The files beside the log.
        files: FileMap,
        /// How often each file is tried.
        tries: u32,
    },
}

/// What is asked, and within which time it has to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub ask: Ask,
    /// The longest that the manager waits.
    pub limit: Duration,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What `status` said.
    Status(Status),
    /// It went well.
    Done,
    /// It did not.
    Failed(Failure),
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The builder answered with a fault.
    Fault,
    /// No connection, or it broke.
    Refused,
    /// No answer in time.
    TimedOut,
    /// An answer that is none: no XML-RPC, a wrong type, a file name that leaves its directory, a wrong file.
    Malformed,
    /// `ensurepresent` said that it has not got the file.
    Absent,
    /// The reset command ended with another status than 0.
    Command,
}
