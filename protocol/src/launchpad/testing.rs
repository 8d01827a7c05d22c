//! What the property tests of this module draw from: any value that XML-RPC can hold, and the names
//! that occur in calls and statuses.

use dxr::Value;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::names::{BuildId, FileMap, FileName, Sum};
use crate::digest::Sha1;

/// Any text that XML can hold, with more of what goes wrong: blanks at the ends, line ends, markup.
pub(crate) fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\r\n".to_owned()),
        Just("\r".to_owned()),
        Just("\n".to_owned()),
        Just("\t ".to_owned()),
        Just("]]>".to_owned()),
        Just("<![CDATA[&amp;".to_owned()),
        Just("</string></value>".to_owned()),
        Just("&#13;\"'".to_owned()),
        Just("\u{feff}\u{85}\u{2028}".to_owned()),
        "[ -~]{0,8}",
        any::<char>()
            .prop_filter("XML cannot hold it", |c| {
                *c == '\t'
                    || *c == '\n'
                    || *c == '\r'
                    || (*c >= ' ' && *c != '\u{fffe}' && *c != '\u{ffff}')
            })
            .prop_map(String::from),
    ];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn scalar() -> impl Strategy<Value = Value> {
    let double = any::<f64>().prop_filter("XML-RPC cannot hold it", |number| number.is_finite());
    let time = (0u16..10_000, 1u8..13, 1u8..29, 0u8..24, 0u8..60, 0u8..60).prop_map(
        |(year, month, day, hour, minute, second)| {
            format!("{year:04}{month:02}{day:02}T{hour:02}:{minute:02}:{second:02}")
                .parse()
                .expect("a time")
        },
    );
    prop_oneof![
        any::<i32>().prop_map(Value::Integer),
        any::<i64>().prop_map(Value::Long),
        any::<bool>().prop_map(Value::Boolean),
        text().prop_map(Value::String),
        double.prop_map(Value::Double),
        time.prop_map(Value::DateTime),
        vec(any::<u8>(), 0..200).prop_map(Value::Base64),
        Just(Value::Nil),
    ]
}

/// Any value, nested some levels deep.
pub(crate) fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Array),
            btree_map(text(), inner, 0..6).prop_map(Value::Struct),
        ]
    })
}

/// A build id.
pub(crate) fn build_id() -> impl Strategy<Value = BuildId> {
    text().prop_filter_map("empty", |text| BuildId::try_from(text).ok())
}

/// A file name.
pub(crate) fn file_name() -> impl Strategy<Value = FileName> {
    prop_oneof!["[a-z0-9+_.~-]{1,30}", text()]
        .prop_filter_map("not a file name", |text| FileName::try_from(text).ok())
}

/// A sum: a digest, or any text.
pub(crate) fn sum() -> impl Strategy<Value = Sum> {
    prop_oneof![
        any::<[u8; 20]>().prop_map(|bytes| Sha1::from_bytes(bytes).into()),
        text().prop_map(Sum)
    ]
}

/// A build's results.
pub(crate) fn file_map() -> impl Strategy<Value = FileMap> {
    btree_map(
        file_name(),
        any::<[u8; 20]>().prop_map(Sha1::from_bytes),
        0..6,
    )
}
