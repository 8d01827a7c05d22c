//! XML-RPC documents from outside, bounded in bytes, depth and items, to and from [`dxr::Value`].
//! Errors never quote the document: it holds passwords.

use dxr::Value;

/// What a document from outside may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole document.
    pub bytes: usize,
    /// Depth of nested elements.
    pub depth: usize,
    /// Elements in all.
    pub items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 8 << 20, depth: 96, items: 200_000 }
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
    /// A value that XML cannot hold, such as a control character.
    #[error("a value cannot be written as XML")]
    Unwritable,
}

/// A fault, as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Launchpad's workers use 8001 (unknown method) and 8002 (an error inside a method).
    pub code: i32,
    /// For people; it must hold no secret.
    pub text: String,
}

/// A decoded call: method name and arguments.
///
/// # Errors
/// See [`XmlError`].
pub fn decode_call(document: &[u8], limits: &Limits) -> Result<(String, Vec<Value>), XmlError> {
    let _ = (document, limits);
    Err(XmlError::Malformed("call"))
}

/// Writes a call.
///
/// # Errors
/// [`XmlError::Unwritable`].
pub fn encode_call(method: &str, params: &[Value]) -> Result<String, XmlError> {
    let _ = (method, params);
    Err(XmlError::Unwritable)
}

/// A decoded answer: the value, or the fault it is.
///
/// # Errors
/// See [`XmlError`].
pub fn decode_answer(document: &[u8], limits: &Limits) -> Result<Result<Value, Fault>, XmlError> {
    let _ = (document, limits);
    Err(XmlError::Malformed("answer"))
}

/// Writes an answer.
///
/// # Errors
/// [`XmlError::Unwritable`].
pub fn encode_answer(answer: &Result<Value, Fault>) -> Result<String, XmlError> {
    let _ = answer;
    Err(XmlError::Unwritable)
}
