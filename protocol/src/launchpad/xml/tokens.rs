//! An XML document as tags and text: where its bytes, depth and items are bounded, its references
//! resolved, and everything refused that XML-RPC has no use for. Used by [`super::decode`] only.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesDecl, BytesRef, Event};

use super::{DEEPEST, Limits, XmlError, is_xml_blank, is_xml_char};

/// The elements of XML-RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    MethodCall,
    MethodName,
    MethodResponse,
    Params,
    Param,
    Fault,
    Value,
    Array,
    Data,
    Struct,
    Member,
    Name,
    Int,
    Long,
    Boolean,
    String,
    Double,
    DateTime,
    Base64,
    Nil,
}

impl Tag {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "methodCall" => Self::MethodCall,
            "methodName" => Self::MethodName,
            "methodResponse" => Self::MethodResponse,
            "params" => Self::Params,
            "param" => Self::Param,
            "fault" => Self::Fault,
            "value" => Self::Value,
            "array" => Self::Array,
            "data" => Self::Data,
            "struct" => Self::Struct,
            "member" => Self::Member,
            "name" => Self::Name,
            "i4" | "int" => Self::Int,
            "i8" => Self::Long,
            "boolean" => Self::Boolean,
            "string" => Self::String,
            "double" => Self::Double,
            "dateTime.iso8601" => Self::DateTime,
            "base64" => Self::Base64,
            "nil" => Self::Nil,
            _ => return None,
        })
    }
}

/// What ends a run of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// An element opens.
    Open(Tag),
    /// The innermost element closes.
    Close,
    /// The document ends.
    End,
}

/// The tokens of one document.
pub(super) struct Tokens<'d> {
    reader: Reader<&'d [u8]>,
    /// What the document should be, for [`XmlError::Malformed`].
    what: &'static str,
    limits: Limits,
    depth: usize,
    items: usize,
    at_start: bool,
}

impl<'d> Tokens<'d> {
    pub(super) fn new(
        document: &'d [u8],
        what: &'static str,
        limits: &Limits,
    ) -> Result<Self, XmlError> {
        if document.len() > limits.bytes {
            return Err(XmlError::TooLong(limits.bytes));
        }
        let text = str::from_utf8(document).map_err(|_| XmlError::NotUtf8)?;
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        let limits = Limits {
            depth: limits.depth.min(DEEPEST),
            ..*limits
        };
        Ok(Self {
            reader,
            what,
            limits,
            depth: 0,
            items: 0,
            at_start: true,
        })
    }

    /// That the document is not what it should be.
    pub(super) fn malformed(&self) -> XmlError {
        XmlError::Malformed(self.what)
    }

    /// The text up to the next tag or the end, and what ends it.
    pub(super) fn next(&mut self) -> Result<(String, Token), XmlError> {
        let mut text = String::new();
        loop {
            // The reader's own errors quote the document.
            let event = self.reader.read_event().map_err(|_| self.malformed())?;
            let at_start = std::mem::replace(&mut self.at_start, false);
            match event {
                Event::Text(piece) => self.push(&mut text, &piece.xml10_content())?,
                Event::CData(piece) => self.push(&mut text, &piece.xml10_content())?,
                Event::GeneralRef(reference) => {
                    let c = self.resolve(&reference)?;
                    self.push(&mut text, c.encode_utf8(&mut [0; 4]))?;
                }
                Event::Start(start) => {
                    if !start.attributes_raw().chars().all(is_xml_blank) {
                        return Err(self.malformed());
                    }
                    let tag = Tag::named(start.name().as_ref()).ok_or_else(|| self.malformed())?;
                    self.descend()?;
                    return Ok((text, Token::Open(tag)));
                }
                Event::End(_) => {
                    self.depth = self.depth.saturating_sub(1);
                    return Ok((text, Token::Close));
                }
                Event::Eof => return Ok((text, Token::End)),
                Event::Decl(declaration) if at_start => is_utf8(&declaration)?,
                Event::Comment(_) | Event::PI(_) => {}
                // With `expand_empty_elements` the reader makes no `Empty`. A DTD could define
                // entities.
                Event::Decl(_) | Event::DocType(_) | Event::Empty(_) => {
                    return Err(self.malformed());
                }
            }
        }
    }

    /// The next tag or the end, with nothing but white space before it.
    pub(super) fn tag(&mut self) -> Result<Token, XmlError> {
        let (text, token) = self.next()?;
        if text.chars().all(is_xml_blank) {
            Ok(token)
        } else {
            Err(self.malformed())
        }
    }

    /// That `tag` opens next.
    pub(super) fn open(&mut self, tag: Tag) -> Result<(), XmlError> {
        self.expect(Token::Open(tag))
    }

    /// That the innermost element closes next.
    pub(super) fn close(&mut self) -> Result<(), XmlError> {
        self.expect(Token::Close)
    }

    /// That `wanted` comes next.
    pub(super) fn expect(&mut self, wanted: Token) -> Result<(), XmlError> {
        if self.tag()? == wanted {
            Ok(())
        } else {
            Err(self.malformed())
        }
    }

    /// The text of the element that has just been opened, up to its end.
    pub(super) fn leaf(&mut self) -> Result<String, XmlError> {
        match self.next()? {
            (text, Token::Close) => Ok(text),
            _ => Err(self.malformed()),
        }
    }

    fn push(&self, text: &mut String, piece: &str) -> Result<(), XmlError> {
        if !piece.chars().all(is_xml_char) {
            return Err(self.malformed());
        }
        text.push_str(piece);
        Ok(())
    }

    fn resolve(&self, reference: &BytesRef<'_>) -> Result<char, XmlError> {
        let c = match reference.resolve_char_ref() {
            Ok(Some(c)) => Some(c),
            Ok(None) => resolve_predefined_entity(reference).and_then(|text| text.chars().next()),
            Err(_) => None,
        };
        c.ok_or_else(|| self.malformed())
    }

    fn descend(&mut self) -> Result<(), XmlError> {
        self.depth += 1;
        self.items += 1;
        if self.depth > self.limits.depth {
            return Err(XmlError::TooDeep(self.limits.depth));
        }
        if self.items > self.limits.items {
            return Err(XmlError::TooMany(self.limits.items));
        }
        Ok(())
    }
}

/// Whether the XML declaration names UTF-8, or its part ASCII, or nothing.
fn is_utf8(declaration: &BytesDecl<'_>) -> Result<(), XmlError> {
    let plain = match declaration.encoding() {
        None => true,
        Some(Ok(name)) => ["utf-8", "utf8", "us-ascii"]
            .iter()
            .any(|own| own.eq_ignore_ascii_case(&name)),
        Some(Err(_)) => false,
    };
    if plain {
        Ok(())
    } else {
        Err(XmlError::NotUtf8)
    }
}
