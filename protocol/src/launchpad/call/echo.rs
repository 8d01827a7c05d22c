//! `echo`: the builder says back what it was given.
//!
//! ```text
//! > any values         < the same values, as one array
//! ```

use dxr::Value;

use super::{Call, Reply, ReplyError, Request};

/// `echo`: answers its arguments.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Echo(pub Vec<Value>);

impl Request for Echo {
    const METHOD: &'static str = "echo";
    type Reply = Echoed;
}

impl From<Echo> for Call {
    fn from(request: Echo) -> Self {
        Self::Echo(request.0)
    }
}

/// The reply to `echo`. Whether it is the same is for who asked to see.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Echoed(pub Vec<Value>);

impl Reply for Echoed {
    fn decode(value: Value) -> Result<Self, ReplyError> {
        match value {
            Value::Array(values) => Ok(Self(values)),
            _ => Err(ReplyError("not an array")),
        }
    }

    fn encode(self) -> Value {
        Value::Array(self.0)
    }
}
