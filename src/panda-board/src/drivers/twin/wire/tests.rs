use hex_literal::hex;
use proptest::prelude::*;

use super::*;

fn body(frame: &Bytes) -> Bytes {
    frame.slice(4..)
}

#[test]
fn frames_are_these_bytes() {
    let device = Device {
        vendor: 0x0451,
        product: 0xd00f,
        interface_class: 0xff,
        arrival: 7,
    };
    let from_twin = [
        (
            FromTwin::Arrived(device),
            &hex!("0e000000 01 5104 0fd0 ff 0700000000000000")[..],
        ),
        (FromTwin::Left, &hex!("01000000 02")),
        (
            FromTwin::Written { seq: 1 },
            &hex!("09000000 03 0100000000000000"),
        ),
        (
            FromTwin::Data {
                seq: 2,
                bytes: Bytes::from_static(b"ab"),
            },
            &hex!("0b000000 04 0200000000000000 6162"),
        ),
        (
            FromTwin::Refused {
                seq: 3,
                why: Refused::Gone,
            },
            &hex!("0a000000 05 0300000000000000 01"),
        ),
        (
            FromTwin::Refused {
                seq: 3,
                why: Refused::Stalled,
            },
            &hex!("0a000000 05 0300000000000000 02"),
        ),
    ];
    for (message, bytes) in from_twin {
        let frame = message.encode();
        assert_eq!(frame, bytes);
        assert_eq!(FromTwin::decode(body(&frame)), Ok(message));
    }
    let from_driver = [
        (
            FromDriver::Write {
                seq: 1,
                arrival: 7,
                bytes: Bytes::from_static(b"xyz"),
            },
            &hex!("14000000 11 0100000000000000 0700000000000000 78797a")[..],
        ),
        (
            FromDriver::Read {
                seq: 2,
                arrival: 7,
                max: 81,
            },
            &hex!("15000000 12 0200000000000000 0700000000000000 51000000"),
        ),
        (
            FromDriver::Cancel { seq: 2 },
            &hex!("09000000 13 0200000000000000"),
        ),
    ];
    for (message, bytes) in from_driver {
        let frame = message.encode();
        assert_eq!(frame, bytes);
        assert_eq!(FromDriver::decode(body(&frame)), Ok(message));
    }
}

#[test]
fn frames_cut_short_or_with_more_behind_them_are_refused() {
    let read = FromDriver::Read {
        seq: 2,
        arrival: 7,
        max: 81,
    }
    .encode();
    for end in 4..read.len() {
        assert_eq!(FromDriver::decode(read.slice(4..end)), Err(WireError));
    }
    let longer = [&read[4..], &[0]].concat();
    assert_eq!(FromDriver::decode(longer.into()), Err(WireError));
    assert_eq!(
        FromTwin::decode(Bytes::from_static(&hex!("02 00"))),
        Err(WireError)
    );
    assert_eq!(
        FromTwin::decode(Bytes::from_static(&hex!("05 0300000000000000 03"))),
        Err(WireError)
    );
    let too_much = FromTwin::Data {
        seq: 1,
        bytes: vec![0; MAX_TRANSFER + 1].into(),
    }
    .encode();
    assert_eq!(FromTwin::decode(body(&too_much)), Err(WireError));
}

#[tokio::test]
async fn a_frame_longer_than_the_bound_is_refused_before_it_is_read() {
    for head in [hex!("00000000"), hex!("41000100"), hex!("ffffffff")] {
        let error = FrameReader::new(&head[..]).next().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn an_end_within_a_frame_is_an_error_and_between_frames_is_not() {
    let mut reader = FrameReader::new(&hex!("01000000 02 0100")[..]);
    assert_eq!(reader.next().await.unwrap().unwrap(), hex!("02")[..]);
    assert_eq!(
        reader.next().await.unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof
    );
    let mut reader = FrameReader::new(&hex!("01000000 02")[..]);
    assert!(reader.next().await.unwrap().is_some());
    assert!(reader.next().await.unwrap().is_none());
}

#[tokio::test]
async fn frames_arrive_however_the_bytes_are_split() {
    let bytes = [
        FromTwin::Written { seq: 1 }.encode(),
        FromTwin::Left.encode(),
    ]
    .concat();
    for split in 0..bytes.len() {
        let (first, second) = bytes.split_at(split);
        let mut reader = FrameReader::new(AsyncReadExt::chain(first, second));
        let first = FromTwin::decode(reader.next().await.unwrap().unwrap()).unwrap();
        let second = FromTwin::decode(reader.next().await.unwrap().unwrap()).unwrap();
        assert_eq!(
            (first, second),
            (FromTwin::Written { seq: 1 }, FromTwin::Left)
        );
    }
}

#[test]
fn a_power_answer_is_one_line_whatever_it_holds() {
    let answer = PowerAnswer::Error("no\npower\0".to_owned());
    assert_eq!(answer.line(), "error nopower");
    assert!(PowerAnswer::Error("x".repeat(5000)).line().len() < MAX_LINE);
    for answer in [PowerAnswer::Ok, PowerAnswer::On, PowerAnswer::Off] {
        assert_eq!(PowerAnswer::parse(&answer.line()), Some(answer));
    }
    assert_eq!(PowerAnswer::parse("yes"), None);
    assert_eq!(PowerOrder::parse("off"), Some(PowerOrder::Off));
    assert_eq!(PowerOrder::parse("off "), None);
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(frame in prop::collection::vec(any::<u8>(), 0..80)) {
        let frame = Bytes::from(frame);
        if let Ok(message) = FromTwin::decode(frame.clone()) {
            prop_assert_eq!(&body(&message.encode()), &frame);
        }
        if let Ok(message) = FromDriver::decode(frame.clone()) {
            prop_assert_eq!(&body(&message.encode()), &frame);
        }
    }
}
