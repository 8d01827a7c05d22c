//! How long `ensurepresent` goes on trying: what may pass by itself is tried again after growing pauses, up to
//! the manager's own patience, because an answer of *not present* counts at once against builder and job. What
//! will not pass is answered at once.

use std::time::Duration;

use panda_http::{DownloadError, StoreError};
use tokio::time::Instant;

use super::settings::FilecacheSettings;

/// Tries at a file whose content is another one's: a mirror that is out of step may mend, a wrong sum will not.
const MISMATCHES: u32 = 3;

/// What a failure means for the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The other side is not there, or not well.
    Server,
    /// Other bytes came than were promised or wanted.
    Content,
    /// There is no room here, for now.
    Room,
    /// Another try would end the same.
    Final,
}

impl Failure {
    pub(super) fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Mismatch => Self::Content,
            StoreError::Full { .. } | StoreError::Disk { .. } | StoreError::Io(_) => Self::Room,
            StoreError::Waited(_) => Self::Server,
            StoreError::Directory { .. } | StoreError::Interrupted => Self::Final,
            StoreError::Download(error) => match error {
                DownloadError::Transport { .. } | DownloadError::TooSlow { .. } => Self::Server,
                // Too early, too many: they ask for another try.
                DownloadError::Status {
                    status: 408 | 425 | 429 | 500..,
                    ..
                } => Self::Server,
                DownloadError::Length { .. } => Self::Content,
                DownloadError::Sink(_) => Self::Room,
                DownloadError::Url
                | DownloadError::Status { .. }
                | DownloadError::Redirect { .. }
                | DownloadError::TooLong { .. } => Self::Final,
            },
        }
    }
}

/// The tries of one call.
#[derive(Debug)]
pub(super) struct Patience {
    until: Instant,
    pause: Duration,
    most: Duration,
    mismatches: u32,
    /// Failures of the other side in a row.
    pub(super) server_failures: u32,
}

impl Patience {
    pub(super) fn new(settings: &FilecacheSettings) -> Self {
        Self {
            until: Instant::now() + settings.wait(),
            pause: Duration::from_millis(settings.retry_first_ms),
            most: Duration::from_millis(settings.retry_most_ms),
            mismatches: 0,
            server_failures: 0,
        }
    }

    /// The end of all tries.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// The pause before the next try, if there is to be one after this error.
    pub(super) fn next(&mut self, error: &StoreError) -> Option<Duration> {
        let failure = Failure::of(error);
        self.server_failures = match failure {
            Failure::Server => self.server_failures + 1,
            Failure::Content | Failure::Room | Failure::Final => 0,
        };
        if matches!(error, StoreError::Mismatch) {
            self.mismatches += 1;
        }
        if failure == Failure::Final || self.mismatches >= MISMATCHES {
            return None;
        }
        let pause = self.pause;
        self.pause = (self.pause * 2).min(self.most);
        // A try that could not end is none.
        (Instant::now() + pause < self.until).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> StoreError {
        StoreError::Download(DownloadError::Status {
            place: String::new(),
            status,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_before_the_managers_patience() {
        let settings = FilecacheSettings::default();
        let mut patience = Patience::new(&settings);
        let began = Instant::now();
        let mut pauses = Vec::new();
        while let Some(pause) = patience.next(&status(503)) {
            pauses.push(pause.as_millis());
            tokio::time::sleep(pause).await;
        }
        assert_eq!(pauses[..6], [1000, 2000, 4000, 8000, 15_000, 15_000]);
        let waited = began.elapsed();
        assert!(waited < settings.wait() && waited > settings.wait() - Duration::from_secs(16));
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_pass_is_not_tried_again_and_a_wrong_content_twice_more() {
        let patience = || Patience::new(&FilecacheSettings::default());
        for error in [
            status(401),
            status(404),
            StoreError::Download(DownloadError::Url),
            StoreError::Interrupted,
        ] {
            assert_eq!(patience().next(&error), None, "{error}");
        }
        for error in [status(500), status(429), StoreError::Waited(Duration::ZERO)] {
            assert!(patience().next(&error).is_some(), "{error}");
        }
        let mut patience = patience();
        let tries = (0..9)
            .take_while(|_| patience.next(&StoreError::Mismatch).is_some())
            .count();
        assert_eq!(tries, 2);
    }
}
