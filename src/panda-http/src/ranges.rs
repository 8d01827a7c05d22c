//! Answers that are files: `GET` and `HEAD`, whole or one range, streamed. Used for `/filecache/NAME`
//! on both sides, for the depot's inputs and for what `submit` serves.
//!
//! | asked | answer |
//! | --- | --- |
//! | no `Range`; one that is malformed, has several ranges, another unit, or comes with `If-Range` | 200, whole |
//! | `bytes=a-b`, `bytes=a-`, `bytes=-n` that touches the file | 206 with `Content-Range` |
//! | a range that does not | 416 with `Content-Range: bytes */length` |
//!
//! The length is fixed when the file is opened: of a log that grows meanwhile exactly the promised
//! bytes are sent, and a follower asks on with `bytes=N-` (416: nothing new). Of a file that shrinks
//! the connection breaks, so that nobody takes the part for the whole.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, ReadBuf, SeekFrom};

use crate::body::{Body, empty_response, text_response};

/// The most bytes that are read from a file at once.
const PIECE: usize = 64 * 1024;

/// A regular file that is open and ready to be sent.
#[derive(Debug)]
pub struct ServedFile {
    file: File,
    length: u64,
    modified: SystemTime,
}

impl ServedFile {
    /// From an open file; its length now is the length that is served.
    ///
    /// # Errors
    /// It cannot be examined, or is not a regular file.
    pub async fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata().await?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        Ok(Self {
            file,
            length: metadata.len(),
            modified: metadata.modified()?,
        })
    }

    /// Opens `path`; none where there is no such file.
    ///
    /// # Errors
    /// It cannot be opened, or is not a regular file.
    pub async fn open(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path).await {
            Ok(file) => Self::new(file).await.map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The length in bytes that is served.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// The answer to a `GET` or `HEAD` (the caller has checked that it is one) for `served`.
pub async fn file_response(
    method: &Method,
    headers: &HeaderMap,
    mut served: ServedFile,
) -> Response<Body> {
    let length = served.length;
    let range = match asked(headers) {
        Some(range) if !headers.contains_key(IF_RANGE) => range.within(length),
        _ => Selection::Whole,
    };
    let (first, count) = match range {
        Selection::Whole => (0, length),
        Selection::Part { first, count } => (first, count),
        Selection::None => {
            let mut response = text_response(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "the file has nothing in this range",
            );
            set(&mut response, CONTENT_RANGE, &format!("bytes */{length}"));
            return response;
        }
    };
    let mut response = empty_response(StatusCode::OK);
    if matches!(range, Selection::Part { .. }) {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let last = first + count - 1;
        set(
            &mut response,
            CONTENT_RANGE,
            &format!("bytes {first}-{last}/{length}"),
        );
    }
    set(&mut response, CONTENT_LENGTH, &count.to_string());
    set(&mut response, CONTENT_TYPE, "application/octet-stream");
    set(&mut response, ACCEPT_RANGES, "bytes");
    if let Some(date) = http_date(served.modified) {
        set(&mut response, LAST_MODIFIED, &date);
    }
    if method != Method::HEAD {
        if first > 0 && served.file.seek(SeekFrom::Start(first)).await.is_err() {
            return text_response(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read");
        }
        *response.body_mut() = FileBody {
            file: served.file,
            left: count,
        }
        .boxed();
    }
    response
}

fn set(response: &mut Response<Body>, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// The time as HTTP writes it, from 1970 to 9999. A build may leave files with any time at all.
fn http_date(time: SystemTime) -> Option<String> {
    const YEAR_10000: u64 = 253_402_300_800;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    (since.as_secs() < YEAR_10000).then(|| httpdate::fmt_http_date(time))
}

/// One range as it was asked for, before the file's length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    From { first: u64, last: Option<u64> },
    Last { count: u64 },
}

/// What of a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Selection {
    Whole,
    Part { first: u64, count: u64 },
    None,
}

fn asked(headers: &HeaderMap) -> Option<Range> {
    let mut values = headers.get_all(RANGE).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        None
    } else {
        Range::parse(value)
    }
}

impl Range {
    /// None for everything that is not exactly one well-formed range of bytes.
    fn parse(value: &str) -> Option<Self> {
        let (unit, range) = value.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = range.trim().split_once('-')?;
        match (first, last) {
            ("", count) => Some(Self::Last {
                count: number(count)?,
            }),
            (first, "") => Some(Self::From {
                first: number(first)?,
                last: None,
            }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From {
                    first,
                    last: Some(last),
                })
            }
        }
    }

    fn within(self, length: u64) -> Selection {
        match self {
            Self::From { first, .. } if first >= length => Selection::None,
            Self::From { first, last } => {
                let end = last.map_or(length, |last| last.saturating_add(1).min(length));
                Selection::Part {
                    first,
                    count: end - first,
                }
            }
            Self::Last { count } => match count.min(length) {
                0 => Selection::None,
                count => Selection::Part {
                    first: length - count,
                    count,
                },
            },
        }
    }
}

/// A decimal number; one too large for any file is as good as the largest.
fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Streams exactly `left` bytes.
struct FileBody {
    file: File,
    left: u64,
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let want = usize::try_from(self.left).map_or(PIECE, |left| left.min(PIECE));
        let mut piece = BytesMut::zeroed(want);
        let mut buffer = ReadBuf::new(&mut piece);
        ready!(tokio::io::AsyncRead::poll_read(
            Pin::new(&mut self.file),
            cx,
            &mut buffer
        ))?;
        let read = buffer.filled().len();
        if read == 0 {
            self.left = 0;
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter");
            return Poll::Ready(Some(Err(error)));
        }
        piece.truncate(read);
        self.left -= read as u64;
        Poll::Ready(Some(Ok(Frame::data(piece.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_ten(range: &str) -> Selection {
        Range::parse(range).map_or(Selection::Whole, |range| range.within(10))
    }

    fn part(first: u64, count: u64) -> Selection {
        Selection::Part { first, count }
    }

    #[test]
    fn ranges_that_touch_the_file_select_a_part() {
        assert_eq!(of_ten("bytes=0-0"), part(0, 1));
        assert_eq!(of_ten("bytes=2-5"), part(2, 4));
        assert_eq!(of_ten("bytes=9-9"), part(9, 1));
        assert_eq!(of_ten("bytes=0-9"), part(0, 10));
        assert_eq!(of_ten("bytes=4-1000"), part(4, 6));
        assert_eq!(of_ten("bytes=4-18446744073709551615"), part(4, 6));
        assert_eq!(of_ten("bytes=4-99999999999999999999999"), part(4, 6));
        assert_eq!(of_ten("bytes=7-"), part(7, 3));
        assert_eq!(of_ten("bytes=-3"), part(7, 3));
        assert_eq!(of_ten("bytes=-10"), part(0, 10));
        assert_eq!(of_ten("bytes=-99999999999999999999999"), part(0, 10));
        assert_eq!(of_ten("Bytes = 1-2"), part(1, 2));
    }

    #[test]
    fn ranges_beyond_the_file_select_nothing() {
        for range in [
            "bytes=10-",
            "bytes=10-12",
            "bytes=-0",
            "bytes=99999999999999999999999-",
        ] {
            assert_eq!(of_ten(range), Selection::None, "{range}");
        }
        assert_eq!(Range::parse("bytes=0-").unwrap().within(0), Selection::None);
        assert_eq!(Range::parse("bytes=-5").unwrap().within(0), Selection::None);
    }

    #[test]
    fn malformed_and_several_ranges_are_ignored() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=1-2,4-5",
            "items=1-2",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0x1-2",
            "bytes=1.0-2",
            "1-2",
            "bytes=1 - 2",
        ] {
            assert_eq!(of_ten(range), Selection::Whole, "{range}");
        }
    }

    #[test]
    fn only_times_that_http_can_write_are_written() {
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let last = "Fri, 31 Dec 9999 23:59:59 GMT".to_owned();
        assert_eq!(http_date(at(253_402_300_799)), Some(last));
        assert_eq!(http_date(at(253_402_300_800)), None);
        assert_eq!(
            http_date(SystemTime::UNIX_EPOCH - std::time::Duration::from_secs(1)),
            None
        );
    }

    proptest! {
        #[test]
        fn any_well_formed_range_selects_what_slicing_does(
            length in 0_u64..300, first in 0_u64..310, extra in 0_u64..310,
        ) {
            let file: Vec<u64> = (0..length).collect();
            let last = first + extra;
            let selected = |range: String| match Range::parse(&range).unwrap().within(length) {
                Selection::Part { first, count } => {
                    (first..first + count).inspect(|at| assert!(*at < length)).collect()
                }
                Selection::None => Vec::new(),
                Selection::Whole => panic!("a well-formed range was ignored"),
            };
            let inside = |low: u64, high: u64| -> Vec<u64> {
                file.iter().copied().filter(|at| (low..=high).contains(at)).collect()
            };
            prop_assert_eq!(selected(format!("bytes={first}-{last}")), inside(first, last));
            prop_assert_eq!(selected(format!("bytes={first}-")), inside(first, u64::MAX));
            let start = length.saturating_sub(extra);
            prop_assert_eq!(selected(format!("bytes=-{extra}")), inside(start, u64::MAX));
        }

        #[test]
        fn no_header_panics(value in ".{0,40}") {
            if let Some(range) = Range::parse(&value) {
                range.within(10);
            }
        }
    }
}
