//! Calls that come compressed: Python's `xmlrpc.client` sends `Content-Encoding: gzip` when its transport is
//! told to. [`crate::service`] asks here before it reads a call's document.
//!
//! What a document may have at most, it may have once it is unpacked: a few bytes can say a gigabyte.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use crate::body::{Body, BodyError, text_response};

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Gzip,
}

/// A body that is packed in a way that is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnknownEncoding;

impl UnknownEncoding {
    /// The answer that says what is known.
    pub(crate) fn response(self) -> Response<Body> {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let mut response =
            text_response(status, "the call's Content-Encoding must be gzip or none");
        let known = HeaderValue::from_static("gzip");
        response.headers_mut().insert(ACCEPT_ENCODING, known);
        response
    }
}

/// Why a packed body was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// More bytes than allowed, once unpacked.
    #[error(transparent)]
    TooLong(BodyError),
    /// Not gzip.
    #[error("the call says that it is gzip, and is not")]
    Broken,
}

impl Encoding {
    /// How the body is packed that comes with `headers`.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, UnknownEncoding> {
        let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
        let (first, None) = (encodings.next(), encodings.next()) else {
            return Err(UnknownEncoding);
        };
        let Some(encoding) = first else {
            return Ok(Self::Plain);
        };
        match encoding.to_str().map(str::trim).unwrap_or_default() {
            text if text.eq_ignore_ascii_case("gzip") || text.eq_ignore_ascii_case("x-gzip") => {
                Ok(Self::Gzip)
            }
            text if text.eq_ignore_ascii_case("identity") => Ok(Self::Plain),
            _ => Err(UnknownEncoding),
        }
    }

    /// The document that `body` is, of at most `max` bytes.
    pub(crate) async fn unpack(self, body: Bytes, max: usize) -> Result<Bytes, UnpackError> {
        match self {
            Self::Plain => Ok(body),
            Self::Gzip => tokio::task::spawn_blocking(move || gunzip(&body, max))
                .await
                .unwrap_or(Err(UnpackError::Broken)),
        }
    }
}

fn gunzip(packed: &[u8], max: usize) -> Result<Bytes, UnpackError> {
    let mut document = Vec::new();
    MultiGzDecoder::new(packed)
        .take(max as u64 + 1)
        .read_to_end(&mut document)
        .map_err(|_| UnpackError::Broken)?;
    if document.len() > max {
        return Err(UnpackError::TooLong(BodyError::TooLong(max)));
    }
    Ok(document.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap().into()
    }

    fn of(values: &[&'static str]) -> Result<Encoding, UnknownEncoding> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
        }
        Encoding::of(&headers)
    }

    #[test]
    fn gzip_is_known_by_both_its_names_and_nothing_else_is() {
        assert_eq!(of(&[]), Ok(Encoding::Plain));
        assert_eq!(of(&["identity"]), Ok(Encoding::Plain));
        assert_eq!(of(&["GZip"]), Ok(Encoding::Gzip));
        assert_eq!(of(&["x-gzip"]), Ok(Encoding::Gzip));
        for other in [&["deflate"][..], &["gzip, gzip"], &["gzip", "gzip"], &[""]] {
            assert_eq!(of(other), Err(UnknownEncoding), "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_packed_document_is_unpacked_up_to_the_bound_and_not_beyond() {
        let unpack = |body, max| Encoding::Gzip.unpack(body, max);
        assert_eq!(unpack(gzip(b"12345"), 5).await.unwrap(), "12345");
        assert!(matches!(
            unpack(gzip(b"123456"), 5).await,
            Err(UnpackError::TooLong(BodyError::TooLong(5)))
        ));
        // A bomb costs what the bound allows and no more.
        let bomb = gzip(&vec![b' '; 64 << 20]);
        assert!(bomb.len() < 100_000);
        assert!(unpack(bomb, 1000).await.is_err());
        let whole = gzip(b"12345");
        for broken in [
            Bytes::new(),
            Bytes::from_static(b"<?xml"),
            whole.slice(..whole.len() - 3),
        ] {
            assert!(matches!(unpack(broken, 5).await, Err(UnpackError::Broken)));
        }
    }
}
