//! Reading and writing documents: literal text in, literal text out, round trips, hostile input.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::launchpad::testing;

fn read(value: &str) -> Result<Value, XmlError> {
    let document =
        format!("<methodResponse><params><param>{value}</param></params></methodResponse>");
    decode_answer(document.as_bytes(), &Limits::default()).map(|answer| answer.expect("no fault"))
}

fn written(value: Value) -> String {
    encode_answer(&Ok(value)).expect("a writable value")
}

fn echoed(value: &Value) -> Value {
    let document = written(value.clone());
    decode_answer(document.as_bytes(), &Limits::default())
        .expect("readable")
        .expect("no fault")
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn structure<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Struct(members.map(|(name, value)| (name.to_owned(), value)).into())
}

/// `levels` arrays, each the only item of the one around it.
fn nested_arrays(levels: usize) -> String {
    format!(
        "<methodCall><methodName>echo</methodName><params><param>{}<value/>{}</param></params></methodCall>",
        "<value><array><data>".repeat(levels),
        "</data></array></value>".repeat(levels),
    )
}

/// On a thread with the stack of a small worker, where deep recursion would be fatal.
#[expect(
    clippy::disallowed_types,
    reason = "a thread is the only way to a small stack"
)]
fn on_small_stack(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(run)
        .expect("a thread");
    thread.join().expect("no panic");
}

#[test]
fn every_type_is_read() {
    let read = |value| read(value).expect(value);
    assert_eq!(read("<value><i4>-7</i4></value>"), Value::Integer(-7));
    assert_eq!(read("<value> <int> 7\n</int> </value>"), Value::Integer(7));
    assert_eq!(
        read("<value><i8>-9223372036854775808</i8></value>"),
        Value::Long(i64::MIN)
    );
    assert_eq!(
        read("<value><boolean>1</boolean></value>"),
        Value::Boolean(true)
    );
    assert_eq!(
        read("<value><boolean>0</boolean></value>"),
        Value::Boolean(false)
    );
    assert_eq!(read("<value><string>a</string></value>"), string("a"));
    assert_eq!(
        read("<value><double>-1.5</double></value>"),
        Value::Double(-1.5)
    );
    assert_eq!(
        read("<value><dateTime.iso8601>20251122T09:53:30</dateTime.iso8601></value>"),
        Value::DateTime("20251122T09:53:30".parse().unwrap())
    );
    assert_eq!(
        read("<value><base64>\nAP8=\n</base64></value>"),
        Value::Base64(vec![0x00, 0xff])
    );
    assert_eq!(
        read("<value><base64>A P\r\n8\t=</base64></value>"),
        Value::Base64(vec![0, 0xff])
    );
    assert_eq!(read("<value><base64/></value>"), Value::Base64(Vec::new()));
    assert_eq!(read("<value><nil/></value>"), Value::Nil);
    assert_eq!(read("<value><nil></nil></value>"), Value::Nil);
    assert_eq!(
        read("<value><array><data></data></array></value>"),
        Value::Array(Vec::new())
    );
    assert_eq!(
        read("<value><array><data/></array></value>"),
        Value::Array(Vec::new())
    );
    assert_eq!(
        read("<value><struct></struct></value>"),
        Value::Struct(BTreeMap::new())
    );
    assert_eq!(
        read("<value><struct/></value>"),
        Value::Struct(BTreeMap::new())
    );
    assert_eq!(
        read(
            "<value><struct> <member>\n<name> a b </name><value><array> <data><value><int>1</int></value>\
             <value><struct/></value> </data></array></value></member><member><name></name>\
             <value>x</value></member></struct></value>"
        ),
        structure([
            (
                " a b ",
                Value::Array(vec![Value::Integer(1), Value::Struct(BTreeMap::new())])
            ),
            ("", string("x")),
        ])
    );
}

#[test]
fn text_without_a_type_is_a_string_with_its_blanks() {
    assert_eq!(read("<value></value>"), Ok(string("")));
    assert_eq!(read("<value/>"), Ok(string("")));
    assert_eq!(read("<value> \n\t</value>"), Ok(string(" \n\t")));
    assert_eq!(read("<value> a b </value>"), Ok(string(" a b ")));
}

#[test]
fn strings_are_read_as_xml_has_them() {
    let read = |text: &str| read(&format!("<value><string>{text}</string></value>"));
    assert_eq!(read(" a\t\n "), Ok(string(" a\t\n ")));
    assert_eq!(read("a\r\nb\rc&#13;&#xA;d"), Ok(string("a\nb\nc\r\nd")));
    assert_eq!(read("&lt;&gt;&amp;&quot;&apos;"), Ok(string("<>&\"'")));
    assert_eq!(read("a<![CDATA[<b>&amp;]]>c"), Ok(string("a<b>&amp;c")));
    assert_eq!(read("a<!-- not here -->b<?nor here?>c"), Ok(string("abc")));
    assert_eq!(read("&#128230;📦"), Ok(string("📦📦")));
}

#[test]
fn strings_survive_an_echo_byte_for_byte() {
    for text in [
        "",
        " ",
        "  a  ",
        "\n",
        "\r\n",
        "\r",
        "a\r\nb\r\n",
        "\ta\t",
        "]]>",
        "<![CDATA[x]]>",
        "\"'",
        "&amp;",
        "📦é",
        "\u{85}\u{2028}",
        "\u{feff}",
        "<value>untyped</value>",
    ] {
        assert_eq!(echoed(&string(text)), string(text));
        let named = structure([(text, Value::Nil)]);
        assert_eq!(echoed(&named), named);
    }
}

#[test]
fn a_call_is_written_as_python_writes_it() {
    let params = [
        Value::Integer(1),
        Value::Boolean(true),
        Value::Nil,
        Value::Double(1.5),
        Value::Base64(vec![0x00, 0xff]),
        structure([("a", Value::Array(vec![string("<&>\r")]))]),
    ];
    assert_eq!(
        encode_call("echo", &params).unwrap(),
        "<?xml version='1.0'?>\n<methodCall>\n<methodName>echo</methodName>\n<params>\n\
         <param>\n<value><int>1</int></value>\n</param>\n\
         <param>\n<value><boolean>1</boolean></value>\n</param>\n\
         <param>\n<value><nil/></value></param>\n\
         <param>\n<value><double>1.5</double></value>\n</param>\n\
         <param>\n<value><base64>\nAP8=\n</base64></value>\n</param>\n\
         <param>\n<value><struct>\n<member>\n<name>a</name>\n<value><array><data>\n\
         <value><string>&lt;&amp;&gt;&#13;</string></value>\n\
         </data></array></value>\n</member>\n</struct></value>\n</param>\n\
         </params>\n</methodCall>\n"
    );
}

#[test]
fn base64_is_written_in_lines() {
    let document = written(Value::Base64(vec![0; 58]));
    let expected = format!("<base64>\n{}\nAA==\n</base64>", "A".repeat(76));
    assert!(document.contains(&expected), "{document}");
}

#[test]
fn doubles_keep_their_value_and_stay_short() {
    for (number, text) in [
        (0.1, "0.1"),
        (-0.0, "-0.0"),
        (1e300, "1e300"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e308"),
        (3.0, "3.0"),
    ] {
        assert!(written(Value::Double(number)).contains(&format!("<double>{text}</double>")));
        let Value::Double(again) = echoed(&Value::Double(number)) else {
            panic!("no double")
        };
        assert_eq!(again.to_bits(), number.to_bits());
    }
    // As Python writes them.
    assert_eq!(
        read("<value><double>1e+16</double></value>"),
        Ok(Value::Double(1e16))
    );
    assert_eq!(
        read("<value><double>1e-07</double></value>"),
        Ok(Value::Double(1e-7))
    );
}

#[test]
fn faults_go_both_ways() {
    let fault = Fault {
        code: Fault::UNKNOWN_METHOD,
        text: "procedure <x> not found".to_owned(),
    };
    let document = encode_answer(&Err(fault.clone())).unwrap();
    assert_eq!(
        document,
        "<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value><struct>\n\
         <member>\n<name>faultCode</name>\n<value><int>8001</int></value>\n</member>\n\
         <member>\n<name>faultString</name>\n<value><string>procedure &lt;x&gt; not found</string></value>\n\
         </member>\n</struct></value>\n</fault>\n</methodResponse>\n"
    );
    assert_eq!(
        decode_answer(document.as_bytes(), &Limits::default()),
        Ok(Err(fault))
    );
}

#[test]
fn what_xml_cannot_hold_is_not_written() {
    for text in ["\0", "\u{1b}[31m", "\u{8}", "\u{fffe}", "\u{ffff}"] {
        assert_eq!(encode_answer(&Ok(string(text))), Err(XmlError::Unwritable));
        assert_eq!(
            encode_answer(&Ok(structure([(text, Value::Nil)]))),
            Err(XmlError::Unwritable)
        );
        assert_eq!(encode_call(text, &[]), Err(XmlError::Unwritable));
    }
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(
            encode_answer(&Ok(Value::Double(number))),
            Err(XmlError::Unwritable)
        );
    }
    let deep = (0..DEEPEST).fold(Value::Nil, |inner, _| Value::Array(vec![inner]));
    assert_eq!(encode_answer(&Ok(deep)), Err(XmlError::Unwritable));
}

#[test]
fn malformed_values_are_refused() {
    for value in [
        "<value><int></int></value>",
        "<value><int>2147483648</int></value>",
        "<value><int>1.0</int></value>",
        "<value><int>0x1</int></value>",
        "<value><i8>9223372036854775808</i8></value>",
        "<value><boolean>2</boolean></value>",
        "<value><boolean>true</boolean></value>",
        "<value><double>nan</double></value>",
        "<value><double>inf</double></value>",
        "<value><double>1e999</double></value>",
        "<value><dateTime.iso8601>yesterday</dateTime.iso8601></value>",
        "<value><dateTime.iso8601>+2251122T09:53:30</dateTime.iso8601></value>",
        "<value><dateTime.iso8601>20251322T09:53:30</dateTime.iso8601></value>",
        "<value><base64>A</base64></value>",
        "<value><base64>!!!!</base64></value>",
        "<value><nil>x</nil></value>",
        "<value><int>1</int>x</value>",
        "<value>x<int>1</int></value>",
        "<value><int>1</int><int>1</int></value>",
        "<value><int><int>1</int></int></value>",
        "<value><int>1</i4></value>",
        "<value><ex:nil/></value>",
        "<value><data/></value>",
        "<value><array/></value>",
        "<value><array><data/><data/></array></value>",
        "<value><array><data>x</data></array></value>",
        "<value><struct><member><name>a</name></member></struct></value>",
        "<value><struct><member><value/><name>a</name></member></struct></value>",
        "<value><struct><name>a</name><value/></struct></value>",
        "<value><string a='b'>x</string></value>",
        "<value>&nbsp;</value>",
        "<value>&#0;</value>",
        "<value>&#27;</value>",
        "<value>&#xd800;</value>",
        "<value>&#xfffe;</value>",
        "<value>&#x110000;</value>",
        "<value>&#99999999999;</value>",
        "<value>\u{1b}</value>",
        "<value><![CDATA[\u{7}]]></value>",
        "<value>a & b</value>",
        "<value>&amp</value>",
        "<value/><value/>",
        "",
    ] {
        assert!(
            matches!(read(value), Err(XmlError::Malformed(_))),
            "{value} is accepted"
        );
    }
    assert_eq!(
        read(
            "<value><struct><member><name>a</name><value/></member>\
             <member><name>a</name><value/></member></struct></value>"
        ),
        Err(XmlError::Malformed("struct: a name comes twice"))
    );
}

#[test]
fn malformed_documents_are_refused() {
    let call = |text: &str| decode_call(text.as_bytes(), &Limits::default());
    let good = "<methodCall><methodName>m</methodName></methodCall>";
    assert_eq!(call(good), Ok(("m".to_owned(), Vec::new())));
    assert_eq!(
        call(&format!(
            "\u{feff}<?xml version='1.0' encoding='UTF-8'?>\n{good}\n\n"
        )),
        call(good)
    );
    for bad in [
        String::new(),
        " ".to_owned(),
        "hello".to_owned(),
        format!("x{good}"),
        format!("{good}x"),
        format!("{good}{good}"),
        format!("{good}<?xml version='1.0'?>"),
        format!("<!DOCTYPE methodCall>{good}"),
        format!("<!DOCTYPE a [<!ENTITY b 'c'>]>{good}"),
        "<methodCall>".to_owned(),
        "<methodCall><methodName>m</methodName>".to_owned(),
        "<methodCall><methodName>m</methodName></methodResponse>".to_owned(),
        "<methodCall><methodName>m<b/></methodName></methodCall>".to_owned(),
        "<methodCall><params/></methodCall>".to_owned(),
        "<methodCall><methodName>m</methodName><params><value/></params></methodCall>".to_owned(),
        "<methodCall><methodName>m</methodName><params><param/></params></methodCall>".to_owned(),
        "<methodCall><methodName>m</methodName><params/><params/></methodCall>".to_owned(),
        "<methodResponse><params><param><value/></param></params></methodResponse>".to_owned(),
        "</methodCall>".to_owned(),
    ] {
        assert_eq!(call(&bad), Err(XmlError::Malformed("call")), "{bad}");
    }
    for odd in [
        "<!-->",
        "<!--->",
        "<!>",
        "<?>",
        "<??>",
        "<>",
        "</>",
        "< >",
        "&",
        "&;",
        "&#;",
        "&#x;",
        "<![CDATA[",
        "<!D>",
    ] {
        assert_eq!(call(odd), Err(XmlError::Malformed("call")), "{odd}");
        assert_eq!(
            call(&format!("<methodCall>{odd}")),
            Err(XmlError::Malformed("call")),
            "{odd}"
        );
    }
    let answer = |text: &str| decode_answer(text.as_bytes(), &Limits::default());
    for bad in [
        "<methodResponse/>",
        "<methodResponse><params/></methodResponse>",
        "<methodResponse><params><param><value/></param><param><value/></param></params></methodResponse>",
    ] {
        assert_eq!(answer(bad), Err(XmlError::Malformed("answer")), "{bad}");
    }
    assert_eq!(
        answer("<methodResponse><fault><value>x</value></fault></methodResponse>"),
        Err(XmlError::Malformed("fault"))
    );
}

#[test]
fn only_utf8_is_read() {
    let limits = Limits::default();
    assert_eq!(
        decode_call(b"<methodCall>\xe9</methodCall>", &limits),
        Err(XmlError::NotUtf8)
    );
    let latin1 = b"<?xml version='1.0' encoding='iso-8859-1'?><methodCall/>";
    assert_eq!(decode_call(latin1, &limits), Err(XmlError::NotUtf8));
}

#[test]
fn documents_over_a_limit_are_refused() {
    let limits = Limits {
        bytes: 100,
        depth: 5,
        items: 7,
    };
    let document =
        |inner: &str| format!("<methodCall><methodName/><params>{inner}</params></methodCall>");
    let read = |inner: &str, limits| decode_call(document(inner).as_bytes(), limits).map(|_| ());
    let roomy = Limits {
        bytes: 10_000,
        ..limits
    };
    let room = limits.bytes - document("").len();
    assert_eq!(read(&" ".repeat(room), &limits), Ok(()));
    assert_eq!(
        read(&" ".repeat(room + 1), &limits),
        Err(XmlError::TooLong(100))
    );
    assert_eq!(
        read("<param><value><int>1</int></value></param>", &roomy),
        Ok(())
    );
    assert_eq!(
        read(
            "<param><value><array><data/></array></value></param>",
            &roomy
        ),
        Err(XmlError::TooDeep(5))
    );
    assert_eq!(
        read("<param><value/></param><param><value/></param>", &roomy),
        Ok(())
    );
    assert_eq!(
        read(
            "<param><value/></param><param><value/></param><param/>",
            &roomy
        ),
        Err(XmlError::TooMany(7))
    );
}

#[test]
fn a_million_nested_arrays_are_refused_on_a_small_stack() {
    on_small_stack(|| {
        let document = nested_arrays(1_000_000);
        let limits = Limits {
            bytes: usize::MAX,
            depth: usize::MAX,
            items: usize::MAX,
        };
        assert_eq!(
            decode_call(document.as_bytes(), &limits),
            Err(XmlError::TooDeep(DEEPEST))
        );
        let limits = Limits {
            bytes: usize::MAX,
            ..Limits::default()
        };
        assert_eq!(
            decode_call(document.as_bytes(), &limits),
            Err(XmlError::TooDeep(96))
        );
        assert_eq!(
            decode_call(document.as_bytes(), &Limits::default()),
            Err(XmlError::TooLong(8 << 20))
        );
    });
}

#[test]
fn the_deepest_document_is_read_written_compared_and_dropped_on_a_small_stack() {
    on_small_stack(|| {
        let limits = Limits {
            depth: usize::MAX,
            ..Limits::default()
        };
        // methodCall, params, param, and the innermost value with the type it is written with.
        let document = nested_arrays((DEEPEST - 5) / 3);
        let (method, params) = decode_call(document.as_bytes(), &limits).unwrap();
        let again = encode_call(&method, &params).unwrap();
        assert_eq!(decode_call(again.as_bytes(), &limits), Ok((method, params)));
    });
}

#[test]
fn a_wide_document_takes_no_more_items_than_allowed() {
    let mut document = String::from("<methodCall><methodName>echo</methodName><params>");
    for number in 0..100_000 {
        write!(document, "<param><value>{number}</value></param>").unwrap();
    }
    document.push_str("</params></methodCall>");
    assert_eq!(
        decode_call(document.as_bytes(), &Limits::default()),
        Err(XmlError::TooMany(200_000))
    );
}

#[test]
fn errors_do_not_quote_the_document() {
    let secret = "hunter2";
    for inner in [
        format!("<int>{secret}</int>"),
        format!("<{secret}/>"),
        format!("<string {secret}='{secret}'/>"),
        format!("&{secret};"),
        format!("</{secret}>"),
        format!("<dateTime.iso8601>{secret}</dateTime.iso8601>"),
        format!("<base64>{secret}!</base64>"),
    ] {
        let error = read(&format!("<value>{inner}</value>")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
    }
}

proptest! {
    #[test]
    fn any_call_survives(method in testing::text(), params in prop::collection::vec(testing::value(), 0..4)) {
        let document = encode_call(&method, &params).unwrap();
        prop_assert_eq!(decode_call(document.as_bytes(), &Limits::default()), Ok((method, params)));
    }

    #[test]
    fn any_answer_survives(value in testing::value()) {
        prop_assert_eq!(echoed(&value), value);
    }

    #[test]
    fn any_fault_survives(code in any::<i32>(), text in testing::text()) {
        let fault = Fault { code, text };
        let document = encode_answer(&Err(fault.clone())).unwrap();
        prop_assert_eq!(decode_answer(document.as_bytes(), &Limits::default()), Ok(Err(fault)));
    }

    #[test]
    fn no_document_makes_the_reader_panic(text in "(<[/!?]?[a-zA-Z0-9 =']{0,8}/?>|&[#x]{0,2}[a-z0-9]{0,4};?|[ -~]{0,4}|-->|]]>|<!--|<!\\[CDATA\\[){0,12}") {
        let limits = Limits::default();
        if let Ok((method, params)) = decode_call(text.as_bytes(), &limits) {
            prop_assert!(encode_call(&method, &params).is_ok());
        }
        let wrapped = format!("<methodResponse><params><param><value>{text}</value></param></params></methodResponse>");
        if let Ok(Ok(value)) = decode_answer(wrapped.as_bytes(), &limits) {
            prop_assert_eq!(echoed(&value), value);
        }
    }
}
