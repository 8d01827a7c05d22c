//! Boards over their usbredir sockets, with a guest of our own in QEMU's place: what a kernel's USB core would ask, byte
//! for byte, and the boot that a host would do.
#![expect(clippy::unwrap_used, reason = "a test's step fails by panicking")]

mod support;

use std::path::Path;
use std::time::Duration;

use hex_literal::hex;
use panda_board::twin::TwinPower;
use panda_board::{Power as _, PowerState};
use panda_protocol::digest::Sha256;
use panda_twin::usbredir::wire::hello;
use panda_twin::{Twin, TwinError};
use support::{LIMIT, image, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

const CONNECT: u32 = 1;
const DISCONNECT: u32 = 2;
const CONFIGURATION_STATUS: u32 = 8;
const CONTROL: u32 = 100;
const BULK: u32 = 101;

/// The guest's end: packets in, packets out.
struct Guest {
    stream: UnixStream,
    next: u64,
}

impl Guest {
    async fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        // A hello is the same from both ends.
        stream.write_all(&hello()).await.unwrap();
        let mut theirs = vec![0; hello().len()];
        stream.read_exact(&mut theirs).await.unwrap();
        assert_eq!(theirs, hello());
        Self { stream, next: 1 }
    }

    /// Sends a packet; its id.
    async fn send(&mut self, kind: u32, body: &[u8]) -> u64 {
        let id = self.next;
        self.next += 1;
        let mut packet = kind.to_le_bytes().to_vec();
        packet.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        packet.extend(id.to_le_bytes());
        packet.extend(body);
        self.stream.write_all(&packet).await.unwrap();
        id
    }

    /// The next packet: kind, id, body.
    async fn packet(&mut self) -> (u32, u64, Vec<u8>) {
        let read = async {
            let kind = self.stream.read_u32_le().await.unwrap();
            let length = self.stream.read_u32_le().await.unwrap();
            let id = self.stream.read_u64_le().await.unwrap();
            let mut body = vec![0; length as usize];
            self.stream.read_exact(&mut body).await.unwrap();
            (kind, id, body)
        };
        timeout(LIMIT, read).await.unwrap()
    }

    /// Passes over packets until one of this kind.
    async fn until(&mut self, wanted: u32) -> Vec<u8> {
        loop {
            let (kind, _, body) = self.packet().await;
            if kind == wanted {
                return body;
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> u64 {
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let mut body = vec![
            0x01, 0, length[0], length[1], 0, 0, 0, 0, length[2], length[3],
        ];
        body.extend(bytes);
        self.send(BULK, &body).await
    }

    /// Writes, and sees it taken.
    async fn write_all(&mut self, bytes: &[u8]) {
        let id = self.write(bytes).await;
        let (kind, answered, body) = self.packet().await;
        assert_eq!((kind, answered), (BULK, id));
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        assert_eq!(body[..4], [0x01, 0, length[0], length[1]]);
    }

    async fn read(&mut self, most: u16) -> u64 {
        let [low, high] = most.to_le_bytes();
        self.send(BULK, &[0x81, 0, low, high, 0, 0, 0, 0, 0, 0])
            .await
    }

    /// Reads a whole transfer.
    async fn read_all(&mut self, most: u16) -> Vec<u8> {
        let id = self.read(most).await;
        let (kind, answered, body) = self.packet().await;
        assert_eq!((kind, answered, &body[..2]), (BULK, id, &[0x81, 0][..]));
        body[10..].to_vec()
    }
}

/// A twin of one board with a usbredir socket, and its power.
async fn twin(state: &Path) -> (Twin, Guest, TwinPower) {
    let mut twin = Twin::start(settings(state, 1)).await.unwrap();
    twin.serve_usbredir().unwrap();
    let socket = twin.usbredir().next().unwrap().unwrap().to_owned();
    let power = TwinPower::new(&twin.boards().next().unwrap().1.power);
    let guest = Guest::connect(&socket).await;
    (twin, guest, power)
}

#[tokio::test]
async fn a_guest_enumerates_the_rom_boots_it_and_sees_it_leave_the_port() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut guest, power) = twin(state.path()).await;
    power.on().await.unwrap();
    let connect = guest.until(CONNECT).await;
    assert_eq!(connect, hex!("01 ffffff 5104 0fd0 0000"));
    // The device's descriptor, and configuration 1.
    guest
        .send(CONTROL, &hex!("80 06 80 00 0001 0000 1200"))
        .await;
    let (_, _, device) = guest.packet().await;
    assert_eq!(
        device[10..],
        hex!("1201 0002 ffffff 40 5104 0fd0 0000 01 02 00 01")
    );
    let id = guest.send(6, &[1]).await;
    assert_eq!(guest.packet().await, (CONFIGURATION_STATUS, id, vec![0, 1]));

    guest.write_all(&hex!("030003f0")).await;
    let asic_id = guest.read_all(512).await;
    assert_eq!(asic_id.len(), 81);
    assert_eq!(asic_id[4..6], hex!("4430"));
    guest.write_all(&hex!("020003f0")).await;
    let second_stage = [0x5a; 16_000];
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    guest.write_all(&size(&second_stage)).await;
    guest.write_all(&second_stage).await;
    assert_eq!(guest.read_all(4).await, hex!("ddccbbaa"));
    // Larger than what the board takes at once.
    let image = image(
        "sha256sum < \"$root/big\"; exec sleep 1000",
        &[("big", &[7; 200_000])],
    );
    guest.write_all(&size(&image)).await;
    guest.write_all(&image).await;
    assert_eq!(guest.packet().await.0, DISCONNECT);
    assert_eq!(power.read().await.unwrap(), Some(PowerState::On));
    let big = state.path().join("boards/panda01/ram/root/big");
    while std::fs::read(&big).map_or(true, |bytes| {
        Sha256::of(&bytes) != Sha256::of(&[7; 200_000])
    }) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_withdrawn_read_is_answered_and_takes_nothing_from_the_next() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut guest, power) = twin(state.path()).await;
    power.on().await.unwrap();
    guest.until(CONNECT).await;
    let withdrawn = guest.read(81).await;
    guest.next = withdrawn;
    guest.send(21, &[]).await;
    let (kind, id, body) = guest.packet().await;
    assert_eq!((kind, id, body[1]), (BULK, withdrawn, 1));
    guest.write_all(&hex!("030003f0")).await;
    assert_eq!(guest.read_all(81).await.len(), 81);
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn what_the_rom_does_not_take_stalls_and_power_off_takes_it_off_the_port() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut guest, power) = twin(state.path()).await;
    power.on().await.unwrap();
    guest.until(CONNECT).await;
    guest.write_all(&hex!("030003f0")).await;
    // Its ID waits to be read.
    guest.write(&hex!("020003f0")).await;
    assert_eq!(guest.packet().await.2[1], 4);
    let id = guest
        .send(CONTROL, &hex!("80 06 80 00 0006 0000 0a00"))
        .await;
    let (_, answered, body) = guest.packet().await;
    assert_eq!((answered, body[3]), (id, 4));
    power.off().await.unwrap();
    assert_eq!(guest.packet().await.0, DISCONNECT);
    power.on().await.unwrap();
    guest.until(CONNECT).await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_board_has_power_as_the_hubs_trace_says() {
    let state = tempfile::tempdir().unwrap();
    let (mut twin, mut guest, power) = twin(state.path()).await;
    let trace = state.path().join("trace");
    nix::unistd::mkfifo(&trace, nix::sys::stat::Mode::S_IRWXU).unwrap();
    twin.follow_hub(&trace, vec!["1.2".to_owned()]).unwrap();
    let mut qemu = tokio::net::unix::pipe::OpenOptions::new()
        .open_sender(&trace)
        .unwrap();
    qemu.write_all(
        b"usb_xhci_slot_address slotid 1, port 1\n\
          usb_hub_set_port_feature dev 1, port 1, feature power\n\
          usb_hub_set_port_feature dev 1, port 2, feature power\n",
    )
    .await
    .unwrap();
    guest.until(CONNECT).await;
    assert_eq!(power.read().await.unwrap(), Some(PowerState::On));
    qemu.write_all(b"usb_hub_clear_port_feature dev 1, port 2, feature power\n")
        .await
        .unwrap();
    assert_eq!(guest.packet().await.0, DISCONNECT);
    assert_eq!(power.read().await.unwrap(), Some(PowerState::Off));
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_trace_that_is_no_pipe_and_a_port_without_a_board_are_refused() {
    let state = tempfile::tempdir().unwrap();
    let (mut twin, _guest, _power) = twin(state.path()).await;
    let trace = state.path().join("none");
    let missing = twin.follow_hub(&trace, vec!["1.1".to_owned()]).unwrap_err();
    assert!(missing.to_string().contains("mkfifo"), "{missing}");
    let ports = vec!["1.1".to_owned(), "1.2".to_owned()];
    let ports = twin.follow_hub(&trace, ports).unwrap_err();
    assert!(matches!(ports, TwinError::Ports { .. }), "{ports}");
    twin.stop().await.unwrap();
}
