use hex_literal::hex;

use super::*;

/// QEMU's hello: its name, and that it can all that we can.
fn qemu_hello() -> Vec<u8> {
    let mut bytes = hex!("00000000 44000000 00000000").to_vec();
    bytes.extend([b'q'; VERSION]);
    bytes.extend(hex!("ff000000"));
    bytes
}

async fn read(bytes: &[u8]) -> io::Result<Vec<FromGuest>> {
    let mut reader = PacketReader::new(bytes);
    reader.hello().await?;
    let mut found = Vec::new();
    while let Some(packet) = reader.next().await? {
        found.push(packet);
    }
    Ok(found)
}

fn wide() -> Dialect {
    Dialect::agreed(u32::MAX)
}

#[test]
fn a_hello_has_a_narrow_id_a_name_and_our_capabilities() {
    let hello = hello();
    assert_eq!(hello[..12], hex!("00000000 44000000 00000000"));
    assert!(hello[12..].starts_with(b"panda-twin "));
    assert_eq!(hello[76..], hex!("72000000"));
}

#[tokio::test]
async fn after_the_hellos_ids_are_wide_and_packets_are_read_one_by_one() {
    let mut bytes = qemu_hello();
    bytes.extend(hex!("03000000 00000000 0000000000000000"));
    bytes.extend(hex!("06000000 01000000 0100000000000000 01"));
    // Get descriptor: device, 64 bytes.
    bytes.extend(hex!(
        "64000000 0a000000 0200000000000000 80 06 80 00 0001 0000 4000"
    ));
    // Four bytes to endpoint 1, and a read of 65,616.
    bytes.extend(hex!(
        "65000000 0e000000 0300000000000000 01 00 0400 00000000 0000 030003f0"
    ));
    bytes.extend(hex!(
        "65000000 0a000000 0400000000000000 81 00 5000 00000000 0100"
    ));
    bytes.extend(hex!("15000000 00000000 0400000000000000"));
    let setup = Setup {
        kind: 0x80,
        request: 6,
        value: 0x0100,
        index: 0,
        length: 64,
    };
    let expected = [
        FromGuest::Reset,
        FromGuest::SetConfiguration {
            id: 1,
            configuration: 1,
        },
        FromGuest::Control {
            id: 2,
            endpoint: 0x80,
            setup,
            data: Bytes::new(),
        },
        FromGuest::Bulk {
            id: 3,
            endpoint: 1,
            length: 4,
            data: Bytes::from_static(&hex!("030003f0")),
        },
        FromGuest::Bulk {
            id: 4,
            endpoint: 0x81,
            length: 0x1_0050,
            data: Bytes::new(),
        },
        FromGuest::Cancel { id: 4 },
    ];
    assert_eq!(read(&bytes).await.unwrap(), expected);
}

#[tokio::test]
async fn a_guest_that_can_less_is_spoken_to_as_it_can() {
    let mut bytes = qemu_hello();
    let end = bytes.len() - 4;
    bytes[end..].fill(0);
    bytes.extend(hex!("65000000 08000000 07000000 81 00 5100 00000000"));
    let mut reader = PacketReader::new(&bytes[..]);
    let dialect = reader.hello().await.unwrap();
    let read = FromGuest::Bulk {
        id: 7,
        endpoint: 0x81,
        length: 81,
        data: Bytes::new(),
    };
    assert_eq!(reader.next().await.unwrap(), Some(read));
    let answer = ToGuest::Bulk {
        id: 7,
        endpoint: 0x81,
        status: Status::Done,
        length: 2,
        data: Bytes::from_static(b"ab"),
    };
    let expected = hex!("65000000 0a000000 07000000 81 00 0200 00000000 6162");
    assert_eq!(dialect.encode(&answer), expected[..]);
}

#[test]
fn a_device_is_told_by_its_interfaces_its_endpoints_and_then_itself() {
    let interfaces = wide().encode(&ToGuest::Interfaces(vec![[0xff, 1, 2]]));
    assert_eq!(
        interfaces[..20],
        hex!("04000000 84000000 0000000000000000 01000000")
    );
    let column = |n: usize| &interfaces[20 + 32 * n..][..2];
    assert_eq!(
        [column(0), column(1), column(2), column(3)],
        [[0, 0], [0xff, 0], [1, 0], [2, 0]]
    );
    let endpoints = wide().encode(&ToGuest::Endpoints(vec![(0x01, 0, 64), (0x81, 0, 64)]));
    assert_eq!(endpoints.len(), 16 + 3 * 32 + 64);
    let kinds = &endpoints[16..48];
    assert_eq!(kinds[..3], [0, 2, 255]);
    assert_eq!(kinds[16..19], [0, 2, 255]);
    let connect = ToGuest::Connect {
        vendor: 0x0451,
        product: 0xd00f,
        version: 0,
        class: [0xff; 3],
    };
    let expected = hex!("01000000 0a000000 0000000000000000 01 ffffff 5104 0fd0 0000");
    assert_eq!(wide().encode(&connect), expected[..]);
}

#[test]
fn a_long_transfer_is_answered_with_both_halves_of_its_length() {
    let answer = ToGuest::Bulk {
        id: 1 << 40,
        endpoint: 1,
        status: Status::Stalled,
        length: 0x1_0050,
        data: Bytes::new(),
    };
    let expected = hex!("65000000 0a000000 0000000000010000 01 04 5000 00000000 0100");
    assert_eq!(wide().encode(&answer), expected[..]);
}

#[tokio::test]
async fn what_is_no_usbredir_is_refused() {
    let hello = qemu_hello();
    let after = |bytes: &[u8]| [&hello[..], bytes].concat();
    let lengthy = after(&hex!("65000000 ffffffff 0000000000000000"));
    let short = after(&hex!("64000000 02000000 0000000000000000 8006"));
    // Announces five bytes and has four.
    let torn = after(&hex!(
        "65000000 0e000000 0300000000000000 01 00 0500 00000000 0000 030003f0"
    ));
    let endless = after(&hex!(
        "65000000 0a000000 0400000000000000 81 00 0000 00000000 ffff"
    ));
    let cut = after(&hex!("6500"));
    for bad in [&lengthy, &short, &torn, &endless, &cut] {
        assert!(read(bad).await.is_err());
    }
    let no_hello = hex!("03000000 00000000 00000000");
    assert!(read(&no_hello).await.is_err());
    assert!(read(&hello).await.unwrap().is_empty());
}
