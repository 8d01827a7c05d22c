//! QEMU's side of a board's USB socket: the packets do not depend on where the socket's pieces end, and what is held for
//! one is bounded. The first byte says how long the pieces are.
#![no_main]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};

#[path = "../../../src/panda-twin/src/usbredir/wire.rs"]
#[expect(dead_code, unreachable_pub, reason = "a file of another crate")]
mod wire;

use wire::{FromGuest, MAX_DATA, PacketReader};

/// A socket that hands its bytes out in pieces.
struct Pieces<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (piece, rest) = self.bytes.split_at(self.size.min(self.bytes.len()).min(to.remaining()));
        to.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

/// All that was understood, and how it ended.
fn packets(bytes: &[u8], size: usize) -> (Vec<FromGuest>, Option<io::ErrorKind>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut reader = PacketReader::new(Pieces { bytes, size });
        let mut found = Vec::new();
        if let Err(error) = reader.hello().await {
            return (found, Some(error.kind()));
        }
        loop {
            match reader.next().await {
                Ok(Some(packet)) => found.push(packet),
                Ok(None) => return (found, None),
                Err(error) => return (found, Some(error.kind())),
            }
        }
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((size, bytes)) = input.split_first() else { return };
    let whole = packets(bytes, bytes.len().max(1));
    assert_eq!(packets(bytes, usize::from(*size).max(1)), whole);
    for packet in whole.0 {
        if let FromGuest::Bulk { endpoint, length, data, .. } = packet {
            assert!(length <= MAX_DATA);
            assert!(endpoint & 0x80 != 0 || data.len() == length);
        }
    }
});
