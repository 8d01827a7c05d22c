//! Writes calls and answers in the layout of Python's `xmlrpc.client`, which every known manager
//! and worker reads, 2011's included.

use std::fmt::{Display, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dxr::Value;

use super::{DEEPEST, Fault, XmlError, is_xml_char};

/// Base64 in lines of this many bytes of data, as MIME has it.
const BASE64_LINE: usize = 57;

/// A call.
pub(super) fn call(method: &str, params: &[Value]) -> Result<String, XmlError> {
    let mut document = Document::new("methodCall");
    document
        .raw("<methodName>")
        .text(method)?
        .raw("</methodName>\n");
    document.params(params)?;
    Ok(document.end("methodCall"))
}

/// An answer.
pub(super) fn answer(answer: &Result<Value, Fault>) -> Result<String, XmlError> {
    let mut document = Document::new("methodResponse");
    match answer {
        Ok(value) => document.params(std::slice::from_ref(value))?,
        Err(Fault { code, text }) => {
            let members = [
                ("faultCode".to_owned(), Value::Integer(*code)),
                ("faultString".to_owned(), Value::String(text.clone())),
            ];
            document
                .raw("<fault>\n")
                .value(&Value::Struct(members.into()), 0)?;
            document.raw("</fault>\n");
        }
    }
    Ok(document.end("methodResponse"))
}

/// A document that is being written.
struct Document(String);

impl Document {
    fn new(root: &str) -> Self {
        Self(format!("<?xml version='1.0'?>\n<{root}>\n"))
    }

    fn end(mut self, root: &str) -> String {
        self.raw("</").raw(root).raw(">\n");
        self.0
    }

    fn raw(&mut self, markup: &str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    fn params(&mut self, params: &[Value]) -> Result<(), XmlError> {
        self.raw("<params>\n");
        for value in params {
            self.raw("<param>\n").value(value, 0)?;
            self.raw("</param>\n");
        }
        self.raw("</params>\n");
        Ok(())
    }

    /// Character data. A carriage return must be a reference, or readers make a newline of it; `>`
    /// is one because `]]>` may not stand in text.
    fn text(&mut self, text: &str) -> Result<&mut Self, XmlError> {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '\r' => self.0.push_str("&#13;"),
                c if is_xml_char(c) => self.0.push(c),
                _ => return Err(XmlError::Unwritable),
            }
        }
        Ok(self)
    }

    fn scalar(&mut self, kind: &str, text: impl Display) -> Result<(), XmlError> {
        writeln!(self.0, "<value><{kind}>{text}</{kind}></value>").map_err(|_| XmlError::Unwritable)
    }

    /// `level` is how many values this one is inside of.
    fn value(&mut self, value: &Value, level: usize) -> Result<(), XmlError> {
        if level >= DEEPEST {
            return Err(XmlError::Unwritable);
        }
        match value {
            Value::Integer(number) => self.scalar("int", number)?,
            Value::Long(number) => self.scalar("i8", number)?,
            Value::Boolean(truth) => self.scalar("boolean", u8::from(*truth))?,
            // `Debug` writes the shortest text that reads back the same, with an exponent where
            // that is shorter, as Python's `repr` does.
            Value::Double(number) if number.is_finite() => {
                self.scalar("double", format_args!("{number:?}"))?;
            }
            Value::DateTime(time) => self.scalar("dateTime.iso8601", time)?,
            Value::String(text) => {
                self.raw("<value><string>")
                    .text(text)?
                    .raw("</string></value>\n");
            }
            Value::Base64(bytes) => {
                self.raw("<value><base64>\n");
                for line in bytes.chunks(BASE64_LINE) {
                    STANDARD.encode_string(line, &mut self.0);
                    self.0.push('\n');
                }
                self.raw("</base64></value>\n");
            }
            Value::Nil => {
                self.raw("<value><nil/></value>");
            }
            Value::Array(items) => {
                self.raw("<value><array><data>\n");
                for item in items {
                    self.value(item, level + 1)?;
                }
                self.raw("</data></array></value>\n");
            }
            Value::Struct(members) => {
                self.raw("<value><struct>\n");
                for (name, member) in members {
                    self.raw("<member>\n<name>").text(name)?.raw("</name>\n");
                    self.value(member, level + 1)?;
                    self.raw("</member>\n");
                }
                self.raw("</struct></value>\n");
            }
            // A number that is not finite; and `Value` may grow variants that this page does not
            // know.
            _ => return Err(XmlError::Unwritable),
        }
        Ok(())
    }
}
