//! The boot ROM and aboot in software: a state machine over transfers, without I/O and without a clock.
//! The board's task feeds it what a driver writes and asks it for what a driver reads.
//!
//! ```text
//!            write GET_ASIC_ID       read (81)          write PERIPHERAL_BOOT     write size
//!  AwaitAsk -----------------> SendId --------> AwaitBoot -----------------> AwaitSize ----+
//!                                                                                          v
//!  Started <------------ Image <------------- AwaitImageSize <---------- Greet <---- SecondStage
//!           write (size)        write size                    read (4)      write (size)
//!
//!  any of them -- a wrong write --> Silent          SendId, Greet -- any write --> Stalled
//! ```
//!
//! # What the twin does where hardware is undocumented
//!
//! | situation | here |
//! | --- | --- |
//! | when the ROM is on the port | 100 ms after power-on ([`crate::board::Timing`]) |
//! | how long it waits for a host | 3 s after power-on; then it leaves, and nothing is on the port until the next power-on. The first right message ends the wait |
//! | first message that is not "get ASIC ID", also "peripheral boot" | taken; it stops answering |
//! | a message of other than four bytes | taken; it stops answering |
//! | a second stage of 0 bytes, over 48 KiB, or of more bytes than announced | taken; it stops answering |
//! | what a second stage does | whatever its bytes are, it is aboot |
//! | aboot: a size of 0 or over what RAM holds, more bytes than announced | taken; it stops answering |
//! | aboot: an image that is none | all bytes taken; it stops answering, and stays on the port |
//! | a write while the board waits to be read | stall; every later transfer stalls too |
//! | a read while the board waits to be written to | not answered until there is something to read |
//! | a read of fewer bytes than there are | gets as many as it asked for; the rest waits |
//! | "stops answering" | it stays on the port, no transfer ends, until power is cut |

use panda_protocol::manifest::Machine;
use panda_protocol::omap4::aboot;
use panda_protocol::omap4::asic_id::AsicId;
use panda_protocol::omap4::bootimg;
use panda_protocol::omap4::rom;

/// A chip that has just got power and has a host on its port.
#[derive(Debug)]
pub struct Rom {
    state: State,
    machine: Machine,
    faults: Faults,
    /// Bytes that have crossed the pipe, both ways.
    crossed: u64,
}

/// What it does wrong, where that is ordered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Its ASIC ID is none.
    pub wrong_id: bool,
    /// The most bytes of a read.
    pub short_reads: Option<usize>,
    /// What it does when this many bytes have crossed the pipe.
    pub breaks: Option<(u64, Break)>,
    /// The second stage leaves the port as soon as it is started.
    pub second_stage_dies: bool,
}

/// How a pipe breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The endpoint stalls.
    Stalls,
    /// It stops answering.
    Hangs,
}

#[derive(Debug)]
enum State {
    AwaitAsk(Vec<u8>),
    SendId { left: Vec<u8> },
    AwaitBoot,
    AwaitSize,
    SecondStage { left: usize },
    Greet { left: Vec<u8> },
    AwaitImageSize,
    Image { size: usize, bytes: Vec<u8> },
    Started,
    Silent,
    Stalled,
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// The board took it.
    Taken,
    /// The board took it: it was the last of this boot image, which is started now.
    Started(Vec<u8>),
    /// The board took it, and has left the port for good.
    Died,
    /// The endpoint stalled.
    Stalled,
    /// The board does not take it, ever.
    Ignored,
}

/// What became of a read.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// These bytes.
    Data(Vec<u8>),
    /// Nothing yet.
    Pending,
    /// The endpoint stalled.
    Stalled,
}

impl Rom {
    /// A ROM that answers with this ASIC ID; aboot takes what `machine` can start.
    #[must_use]
    pub fn new(asic_id: AsicId, machine: Machine) -> Self {
        Self::faulty(asic_id, machine, Faults::default())
    }

    /// The same, with something wrong.
    #[must_use]
    pub fn faulty(asic_id: AsicId, machine: Machine, faults: Faults) -> Self {
        let mut id = asic_id.encode().to_vec();
        if faults.wrong_id
            && let Some(kind) = id.get_mut(1)
        {
            *kind = 0xff;
        }
        Self {
            state: State::AwaitAsk(id),
            machine,
            faults,
            crossed: 0,
        }
    }

    /// Whether a host has talked to it as it must: it then waits for as long as the host takes.
    #[must_use]
    pub fn is_engaged(&self) -> bool {
        !matches!(self.state, State::AwaitAsk(_))
    }

    /// The host writes one transfer.
    pub fn write(&mut self, transfer: &[u8]) -> Written {
        if let Some(broken) = self.cross(transfer.len()) {
            return match broken {
                Break::Stalls => Written::Stalled,
                Break::Hangs => Written::Ignored,
            };
        }
        let (next, written) = match std::mem::replace(&mut self.state, State::Silent) {
            State::AwaitAsk(id) => match rom::parse_word(transfer) {
                Some(rom::GET_ASIC_ID) => taken(State::SendId { left: id }),
                _ => taken(State::Silent),
            },
            State::AwaitBoot => match rom::parse_word(transfer) {
                Some(rom::PERIPHERAL_BOOT) => taken(State::AwaitSize),
                _ => taken(State::Silent),
            },
            State::AwaitSize => {
                match size(transfer).filter(|&size| rom::second_stage_size(size).is_ok()) {
                    Some(left) => taken(State::SecondStage { left }),
                    None => taken(State::Silent),
                }
            }
            State::SecondStage { left } => match left.checked_sub(transfer.len()) {
                Some(0) if self.faults.second_stage_dies => (State::Silent, Written::Died),
                Some(0) => taken(State::Greet {
                    left: aboot::GREETING.to_le_bytes().to_vec(),
                }),
                Some(left) => taken(State::SecondStage { left }),
                None => taken(State::Silent),
            },
            State::AwaitImageSize => {
                match size(transfer).filter(|&size| aboot::size_word(size).is_ok()) {
                    Some(size) => taken(State::Image {
                        size,
                        bytes: Vec::new(),
                    }),
                    None => taken(State::Silent),
                }
            }
            State::Image { size, bytes } => self.image(size, bytes, transfer),
            State::SendId { .. } | State::Greet { .. } | State::Stalled => {
                (State::Stalled, Written::Stalled)
            }
            State::Started => (State::Started, Written::Ignored),
            State::Silent => (State::Silent, Written::Ignored),
        };
        self.state = next;
        written
    }

    fn image(&self, size: usize, mut bytes: Vec<u8>, transfer: &[u8]) -> (State, Written) {
        if transfer.len() > size - bytes.len() {
            return taken(State::Silent);
        }
        bytes.extend_from_slice(transfer);
        if bytes.len() < size {
            return taken(State::Image { size, bytes });
        }
        match bootimg::parse(&bytes, self.machine) {
            Ok(_) => (State::Started, Written::Started(bytes)),
            Err(error) => {
                tracing::warn!(%error, "aboot got an image that it cannot start");
                taken(State::Silent)
            }
        }
    }

    /// The host reads one transfer of at most `max` bytes.
    pub fn read(&mut self, max: usize) -> Read {
        let max = self.faults.short_reads.map_or(max, |most| most.min(max));
        if let State::SendId { left } | State::Greet { left } = &self.state {
            let bytes = left.len().min(max);
            match self.cross(bytes) {
                Some(Break::Stalls) => return Read::Stalled,
                Some(Break::Hangs) => return Read::Pending,
                None => {}
            }
        }
        let (data, next) = match &mut self.state {
            State::SendId { left } => (cut(left, max), left.is_empty().then_some(State::AwaitBoot)),
            State::Greet { left } => (
                cut(left, max),
                left.is_empty().then_some(State::AwaitImageSize),
            ),
            State::Stalled => return Read::Stalled,
            State::AwaitAsk(_)
            | State::AwaitBoot
            | State::AwaitSize
            | State::SecondStage { .. }
            | State::AwaitImageSize
            | State::Image { .. }
            | State::Started
            | State::Silent => return Read::Pending,
        };
        if let Some(next) = next {
            self.state = next;
        }
        Read::Data(data)
    }
}

impl Rom {
    /// So many bytes are about to cross the pipe: how it breaks at them, where it does.
    fn cross(&mut self, bytes: usize) -> Option<Break> {
        self.crossed = self
            .crossed
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        let (at, broken) = self.faults.breaks?;
        if self.crossed <= at {
            return None;
        }
        self.state = match broken {
            Break::Stalls => State::Stalled,
            Break::Hangs => State::Silent,
        };
        Some(broken)
    }
}

fn taken(next: State) -> (State, Written) {
    (next, Written::Taken)
}

fn size(transfer: &[u8]) -> Option<usize> {
    rom::parse_word(transfer).and_then(|size| usize::try_from(size).ok())
}

fn cut(left: &mut Vec<u8>, max: usize) -> Vec<u8> {
    left.drain(..left.len().min(max)).collect()
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use panda_protocol::omap4::asic_id::Chip;
    use panda_protocol::omap4::bootimg::{PageSize, Spec};
    use proptest::prelude::*;

    use super::*;

    const ASK: [u8; 4] = hex!("030003f0");
    const BOOT: [u8; 4] = hex!("020003f0");

    fn id() -> AsicId {
        AsicId {
            chip: Chip::Omap4430,
            ch: 7,
            rom_version: 4,
            block_13: [1, 0],
            public_id: [0; 20],
            mpk_hash: [0; 32],
            crcs: [1, 0],
        }
    }

    fn image() -> Vec<u8> {
        let spec = Spec {
            machine: Machine::Process,
            page_size: PageSize::try_from(1024).unwrap(),
            cmdline: "quiet",
        };
        bootimg::compose(&spec, b"KERNEL", &[b"RAMDISK"]).unwrap()
    }

    /// A ROM to which these were written, each taken; the ID and the greeting read where they come up.
    fn after(writes: &[&[u8]]) -> Rom {
        let mut rom = Rom::new(id(), Machine::Process);
        for write in writes {
            assert_eq!(rom.write(write), Written::Taken);
            assert!(!matches!(rom.read(512), Read::Stalled));
        }
        rom
    }

    fn silent(mut rom: Rom) -> bool {
        rom.read(512) == Read::Pending
            && [&ASK[..], &BOOT, &[0; 1]]
                .iter()
                .all(|write| rom.write(write) == Written::Ignored)
            && rom.read(512) == Read::Pending
    }

    #[test]
    fn a_host_that_does_right_starts_its_image() {
        let mut rom = Rom::new(id(), Machine::Process);
        assert!(!rom.is_engaged());
        assert_eq!(rom.read(81), Read::Pending);
        assert_eq!(rom.write(&ASK), Written::Taken);
        assert!(rom.is_engaged());
        let Read::Data(bytes) = rom.read(81) else {
            panic!("no ASIC ID")
        };
        assert_eq!(bytes[..8], hex!("05 01 05 01 44 30 07 04"));
        assert_eq!(AsicId::parse(&bytes), Ok(id()));
        assert_eq!(rom.read(81), Read::Pending);
        assert_eq!(rom.write(&BOOT), Written::Taken);
        assert_eq!(rom.write(&hex!("05000000")), Written::Taken);
        assert_eq!(rom.write(b"abo"), Written::Taken);
        assert_eq!(rom.read(4), Read::Pending);
        assert_eq!(rom.write(b"ot"), Written::Taken);
        assert_eq!(rom.read(4), Read::Data(hex!("ddccbbaa").to_vec()));
        let image = image();
        assert_eq!(rom.write(&hex!("000c0000")), Written::Taken);
        assert_eq!(rom.write(&image[..1000]), Written::Taken);
        assert_eq!(rom.write(&image[1000..]), Written::Started(image.clone()));
        assert!(silent(rom));
    }

    #[test]
    fn a_wrong_first_message_silences_it() {
        for wrong in [
            &BOOT[..],
            &hex!("f0030003"),
            &hex!("030003f000"),
            &hex!("0300"),
            &[],
        ] {
            assert!(silent(after(&[wrong])), "{wrong:02x?}");
        }
    }

    #[test]
    fn a_wrong_second_message_silences_it() {
        for wrong in [&ASK[..], &hex!("020003f00500"), &hex!("00000000")] {
            assert!(silent(after(&[&ASK, wrong])), "{wrong:02x?}");
        }
    }

    #[test]
    fn a_second_stage_of_a_wrong_size_silences_it() {
        for wrong in [hex!("00000000"), hex!("01c00000"), hex!("ffffffff")] {
            assert!(silent(after(&[&ASK, &BOOT, &wrong])), "{wrong:02x?}");
        }
        assert!(!silent(after(&[&ASK, &BOOT, &hex!("00c00000")])));
        assert!(silent(after(&[&ASK, &BOOT, &hex!("02000000"), b"abc"])));
    }

    #[test]
    fn an_image_of_a_wrong_size_silences_aboot() {
        for wrong in [hex!("00000000"), hex!("0100003e"), hex!("ffffffff")] {
            assert!(
                silent(after(&[&ASK, &BOOT, &hex!("01000000"), b"a", &wrong])),
                "{wrong:02x?}"
            );
        }
        let more = [
            &ASK[..],
            &BOOT,
            &hex!("01000000"),
            b"a",
            &hex!("02000000"),
            b"abc",
        ];
        assert!(silent(after(&more)));
    }

    #[test]
    fn an_image_that_is_none_silences_aboot_after_its_last_byte() {
        let mut image = image();
        image[0] = b'X';
        let mut rom = after(&[&ASK, &BOOT, &hex!("01000000"), b"a", &hex!("000c0000")]);
        assert_eq!(rom.write(&image[..3000]), Written::Taken);
        assert_eq!(rom.write(&image[3000..]), Written::Taken);
        assert!(silent(rom));
    }

    #[test]
    fn a_write_before_the_answer_was_read_stalls_for_good() {
        let mut rom = Rom::new(id(), Machine::Process);
        assert_eq!(rom.write(&ASK), Written::Taken);
        assert_eq!(rom.write(&BOOT), Written::Stalled);
        assert_eq!(rom.read(81), Read::Stalled);
        let mut rom = after(&[&ASK, &BOOT, &hex!("02000000"), b"a"]);
        assert_eq!(rom.write(b"b"), Written::Taken);
        assert_eq!(rom.write(&hex!("000c0000")), Written::Stalled);
        assert_eq!(rom.write(&hex!("000c0000")), Written::Stalled);
        assert_eq!(rom.read(4), Read::Stalled);
    }

    #[test]
    fn a_short_read_leaves_the_rest() {
        let mut rom = Rom::new(id(), Machine::Process);
        assert_eq!(rom.write(&ASK), Written::Taken);
        let mut bytes = Vec::new();
        while let Read::Data(more) = rom.read(20) {
            bytes.extend(more);
        }
        assert_eq!(bytes, id().encode());
        assert_eq!(rom.write(&BOOT), Written::Taken);
    }

    #[test]
    fn it_breaks_at_exactly_the_byte_that_is_ordered_whichever_way_it_goes() {
        let broken = |at, how| {
            let breaks = Some((at, how));
            let faults = Faults {
                breaks,
                ..Faults::default()
            };
            Rom::faulty(id(), Machine::Process, faults)
        };
        // The fourth byte of the first word is let through, a byte later is not.
        let mut rom = broken(4, Break::Stalls);
        assert_eq!(rom.write(&ASK), Written::Taken);
        assert_eq!(rom.read(81), Read::Stalled);
        assert_eq!(broken(3, Break::Stalls).write(&ASK), Written::Stalled);
        let mut rom = broken(85, Break::Hangs);
        assert_eq!(rom.write(&ASK), Written::Taken);
        assert!(matches!(rom.read(81), Read::Data(bytes) if bytes.len() == 81));
        assert_eq!(rom.write(&BOOT), Written::Ignored);
        assert!(silent(rom));
    }

    #[test]
    fn other_faults_do_what_they_are_called() {
        let faulty = |faults| Rom::faulty(id(), Machine::Process, faults);
        let mut rom = faulty(Faults {
            wrong_id: true,
            short_reads: Some(50),
            ..Faults::default()
        });
        assert_eq!(rom.write(&ASK), Written::Taken);
        let Read::Data(mut bytes) = rom.read(81) else {
            panic!("no ASIC ID")
        };
        assert_eq!(bytes.len(), 50);
        let Read::Data(rest) = rom.read(81) else {
            panic!("no rest")
        };
        bytes.extend(rest);
        assert!(AsicId::parse(&bytes).is_err());
        let mut rom = faulty(Faults {
            second_stage_dies: true,
            ..Faults::default()
        });
        assert_eq!(rom.write(&ASK), Written::Taken);
        assert!(matches!(rom.read(81), Read::Data(_)));
        assert_eq!(rom.write(&BOOT), Written::Taken);
        assert_eq!(rom.write(&hex!("02000000")), Written::Taken);
        assert_eq!(rom.write(b"ab"), Written::Died);
    }

    proptest! {
        #[test]
        fn nothing_but_a_whole_good_image_starts_a_machine(
            transfers in prop::collection::vec(
                prop_oneof![
                    Just(ASK.to_vec()), Just(BOOT.to_vec()), Just(hex!("05000000").to_vec()),
                    Just(b"aboot".to_vec()), Just(hex!("000c0000").to_vec()), Just(Vec::new()),
                    prop::collection::vec(any::<u8>(), 0..70),
                ], 0..12),
            reads in prop::collection::vec(prop::option::of(0..100usize), 12),
        ) {
            let mut rom = Rom::new(id(), Machine::Process);
            for (transfer, max) in transfers.iter().zip(reads) {
                prop_assert!(!matches!(rom.write(transfer), Written::Started(_)));
                if let Some(max) = max
                    && let Read::Data(bytes) = rom.read(max)
                {
                    prop_assert!(bytes.len() <= max);
                }
            }
        }
    }
}
