//! The grammar of XML-RPC over [`super::tokens`]: calls, answers and their values. Values nest on a
//! stack of their own, so that no document can overflow the thread's.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dxr::Value;

use super::tokens::{Tag, Token, Tokens};
use super::{Fault, Limits, XmlError, is_xml_blank};

/// `<methodCall><methodName>…</methodName><params><param>…</param>…</params></methodCall>`; the
/// parameters may be missing altogether.
pub(super) fn call(document: &[u8], limits: &Limits) -> Result<(String, Vec<Value>), XmlError> {
    let mut tokens = Tokens::new(document, "call", limits)?;
    tokens.open(Tag::MethodCall)?;
    tokens.open(Tag::MethodName)?;
    let method = tokens.leaf()?;
    let params = match tokens.tag()? {
        Token::Close => Vec::new(),
        Token::Open(Tag::Params) => {
            let params = params(&mut tokens)?;
            tokens.close()?;
            params
        }
        Token::Open(_) | Token::End => return Err(tokens.malformed()),
    };
    tokens.expect(Token::End)?;
    Ok((method, params))
}

/// `<methodResponse>` with `<params>` of exactly one parameter, or with `<fault>`.
pub(super) fn answer(document: &[u8], limits: &Limits) -> Result<Result<Value, Fault>, XmlError> {
    let mut tokens = Tokens::new(document, "answer", limits)?;
    tokens.open(Tag::MethodResponse)?;
    let answer = match tokens.tag()? {
        Token::Open(Tag::Params) => {
            let [value]: [Value; 1] = params(&mut tokens)?
                .try_into()
                .map_err(|_| tokens.malformed())?;
            Ok(value)
        }
        Token::Open(Tag::Fault) => {
            tokens.open(Tag::Value)?;
            let value = value(&mut tokens)?;
            tokens.close()?;
            Err(fault(value)?)
        }
        Token::Open(_) | Token::Close | Token::End => return Err(tokens.malformed()),
    };
    tokens.close()?;
    tokens.expect(Token::End)?;
    Ok(answer)
}

/// What is inside `<params>`, its end included.
fn params(tokens: &mut Tokens<'_>) -> Result<Vec<Value>, XmlError> {
    let mut params = Vec::new();
    loop {
        match tokens.tag()? {
            Token::Close => return Ok(params),
            Token::Open(Tag::Param) => {
                tokens.open(Tag::Value)?;
                params.push(value(tokens)?);
                tokens.close()?;
            }
            Token::Open(_) | Token::End => return Err(tokens.malformed()),
        }
    }
}

/// A fault is a struct of `faultCode` and `faultString`.
fn fault(value: Value) -> Result<Fault, XmlError> {
    if let Value::Struct(mut members) = value
        && let Some(Value::Integer(code)) = members.remove("faultCode")
        && let Some(Value::String(text)) = members.remove("faultString")
    {
        return Ok(Fault { code, text });
    }
    Err(XmlError::Malformed("fault"))
}

/// A struct or an array that is not complete yet.
enum Container {
    Array(Vec<Value>),
    Struct {
        members: BTreeMap<String, Value>,
        name: String,
    },
}

impl Container {
    /// Reads up to the next `<value>` inside, its tag included; false is the container's own end.
    fn advance(&mut self, tokens: &mut Tokens<'_>) -> Result<bool, XmlError> {
        let next = tokens.tag()?;
        match self {
            Self::Array(_) => match next {
                Token::Open(Tag::Value) => return Ok(true),
                Token::Close => tokens.close()?, // </array> after </data>
                Token::Open(_) | Token::End => return Err(tokens.malformed()),
            },
            Self::Struct { members, name } => match next {
                Token::Open(Tag::Member) => {
                    tokens.open(Tag::Name)?;
                    *name = tokens.leaf()?;
                    if members.contains_key(name) {
                        return Err(XmlError::Malformed("struct: a name comes twice"));
                    }
                    tokens.open(Tag::Value)?;
                    return Ok(true);
                }
                Token::Close => {}
                Token::Open(_) | Token::End => return Err(tokens.malformed()),
            },
        }
        Ok(false)
    }

    /// Takes the value whose `</value>` has just been read.
    fn put(&mut self, value: Value, tokens: &mut Tokens<'_>) -> Result<(), XmlError> {
        match self {
            Self::Array(items) => items.push(value),
            Self::Struct { members, name } => {
                tokens.close()?; // </member>
                members.insert(std::mem::take(name), value);
            }
        }
        Ok(())
    }

    fn finish(self) -> Value {
        match self {
            Self::Array(items) => Value::Array(items),
            Self::Struct { members, .. } => Value::Struct(members),
        }
    }
}

/// The value whose `<value>` has just been read, its `</value>` included.
fn value(tokens: &mut Tokens<'_>) -> Result<Value, XmlError> {
    let mut open: Vec<Container> = Vec::new();
    loop {
        let mut complete = begin(tokens, &mut open)?;
        loop {
            let Some(container) = open.last_mut() else {
                return complete.ok_or_else(|| tokens.malformed());
            };
            if let Some(value) = complete.take() {
                container.put(value, tokens)?;
            }
            if container.advance(tokens)? {
                break;
            }
            tokens.close()?; // </value>
            complete = open.pop().map(Container::finish);
        }
    }
}

/// What is inside a `<value>`: a scalar, complete with its `</value>`; or a container, which is
/// pushed on `open`.
fn begin(tokens: &mut Tokens<'_>, open: &mut Vec<Container>) -> Result<Option<Value>, XmlError> {
    let (text, token) = tokens.next()?;
    let tag = match token {
        Token::Close => return Ok(Some(Value::String(text))), // text without a type is a string
        Token::Open(tag) if text.chars().all(is_xml_blank) => tag,
        Token::Open(_) | Token::End => return Err(tokens.malformed()),
    };
    match tag {
        Tag::Array => {
            tokens.open(Tag::Data)?;
            open.push(Container::Array(Vec::new()));
            Ok(None)
        }
        Tag::Struct => {
            open.push(Container::Struct {
                members: BTreeMap::new(),
                name: String::new(),
            });
            Ok(None)
        }
        scalar_tag => {
            let text = tokens.leaf()?;
            let value = scalar(scalar_tag, text)?;
            tokens.close()?;
            Ok(Some(value))
        }
    }
}

/// A scalar of type `tag` from its text. Numbers may have blanks around them.
fn scalar(tag: Tag, text: String) -> Result<Value, XmlError> {
    let word = text.trim_matches(is_xml_blank);
    match tag {
        Tag::String => Ok(Value::String(text)),
        Tag::Int => word
            .parse()
            .map(Value::Integer)
            .map_err(|_| XmlError::Malformed("int")),
        Tag::Long => word
            .parse()
            .map(Value::Long)
            .map_err(|_| XmlError::Malformed("i8")),
        Tag::Boolean => match word {
            "0" => Ok(Value::Boolean(false)),
            "1" => Ok(Value::Boolean(true)),
            _ => Err(XmlError::Malformed("boolean")),
        },
        Tag::Double => match word.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Double(number)),
            _ => Err(XmlError::Malformed("double")),
        },
        // dxr's reader takes signs for digits.
        Tag::DateTime
            if word
                .bytes()
                .all(|b| b.is_ascii_digit() || b == b'T' || b == b':') =>
        {
            word.parse()
                .map(Value::DateTime)
                .map_err(|_| XmlError::Malformed("dateTime.iso8601"))
        }
        Tag::DateTime => Err(XmlError::Malformed("dateTime.iso8601")),
        Tag::Base64 => {
            let packed: Vec<u8> = text
                .bytes()
                .filter(|b| !is_xml_blank(char::from(*b)))
                .collect();
            STANDARD
                .decode(packed)
                .map(Value::Base64)
                .map_err(|_| XmlError::Malformed("base64"))
        }
        Tag::Nil if word.is_empty() => Ok(Value::Nil),
        Tag::Nil
        | Tag::MethodCall
        | Tag::MethodName
        | Tag::MethodResponse
        | Tag::Params
        | Tag::Param
        | Tag::Fault
        | Tag::Value
        | Tag::Array
        | Tag::Data
        | Tag::Struct
        | Tag::Member
        | Tag::Name => Err(XmlError::Malformed("value")),
    }
}
