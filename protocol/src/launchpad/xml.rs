//! XML-RPC documents, bounded in bytes, depth and items, to and from [`dxr::Value`].
//!
//! Called by whoever serves the builder protocol (calls in, answers out) and whoever speaks to a
//! builder (calls out, answers in). Both ends may be hostile, and documents hold passwords, so no
//! error quotes anything of a document.
//!
//! The values are dxr's; reading and writing are done here, over quick-xml's tokens, because dxr's
//! own reader recurses with the input and puts the whole document into its errors.
//!
//! ```text
//! bytes ── tokens ──▶ tags and text ── decode ──▶ Value      encode ◀── Value
//!          limits, references,         grammar,               layout of Python's
//!          legal characters            explicit stack         xmlrpc.client
//! ```
//!
//! What is read: `i4`, `int`, `i8`, `boolean`, `string`, untyped text, `double`,
//! `dateTime.iso8601`, `base64` (line breaks allowed), `nil`, `struct`, `array`; comments, CDATA and
//! processing instructions as XML has them. What is refused: a DTD, attributes, references other
//! than the five predefined and numeric ones, another encoding than UTF-8, a member's name that
//! comes twice, numbers that are out of range or not finite.
//! What is read is written again without loss: strings byte for byte, blanks included.

mod decode;
mod encode;
mod tokens;

use dxr::Value;

/// The depth, in elements, that no [`Limits`] can exceed: values are dropped, compared and written
/// by recursion, and this much fits the smallest stack in use.
pub const DEEPEST: usize = 256;

/// What a document from outside may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole document.
    pub bytes: usize,
    /// Depth of nested elements; [`DEEPEST`] at most.
    pub depth: usize,
    /// Elements in all.
    pub items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 8 << 20,
            depth: 96,
            items: 200_000,
        }
    }
}

/// Why a document is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// More bytes than allowed.
    #[error("the document has more than {0} bytes")]
    TooLong(usize),
    /// Nested deeper than allowed.
    #[error("the document is nested deeper than {0} elements")]
    TooDeep(usize),
    /// More elements than allowed.
    #[error("the document has more than {0} elements")]
    TooMany(usize),
    /// Not UTF-8.
    #[error("the document is not UTF-8")]
    NotUtf8,
    /// Not an XML-RPC document of the wanted kind.
    #[error("not a well-formed XML-RPC {0}")]
    Malformed(&'static str),
    /// A value that XML-RPC cannot hold.
    #[error(
        "a value cannot be written as XML-RPC: it holds a control character, a number that is not finite, or too many levels"
    )]
    Unwritable,
}

/// A fault, as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Launchpad's workers use [`Fault::UNKNOWN_METHOD`] and [`Fault::FAILURE`].
    pub code: i32,
    /// For people; it must hold no secret.
    pub text: String,
}

impl Fault {
    /// The code for a method that there is not.
    pub const UNKNOWN_METHOD: i32 = 8001;
    /// The code for an error inside a method, wrong arguments included.
    pub const FAILURE: i32 = 8002;
}

/// A decoded call: method name and arguments.
///
/// # Errors
/// See [`XmlError`].
pub fn decode_call(document: &[u8], limits: &Limits) -> Result<(String, Vec<Value>), XmlError> {
    decode::call(document, limits)
}

/// Writes a call.
///
/// # Errors
/// [`XmlError::Unwritable`].
pub fn encode_call(method: &str, params: &[Value]) -> Result<String, XmlError> {
    encode::call(method, params)
}

/// A decoded answer: the value, or the fault it is.
///
/// # Errors
/// See [`XmlError`].
pub fn decode_answer(document: &[u8], limits: &Limits) -> Result<Result<Value, Fault>, XmlError> {
    decode::answer(document, limits)
}

/// Writes an answer.
///
/// # Errors
/// [`XmlError::Unwritable`].
pub fn encode_answer(answer: &Result<Value, Fault>) -> Result<String, XmlError> {
    encode::answer(answer)
}

/// Whether XML 1.0 can hold `c` at all (<https://www.w3.org/TR/xml/#charsets>).
pub(super) fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Whether `c` is white space to XML.
fn is_xml_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests;
