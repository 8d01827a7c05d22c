//! ProXR relay boards (National Control Devices), as they cut the power of 2011's rack: commands of two
//! or three bytes over a serial line or TCP port 2101, each with an answer of one byte.
//!
//! ```text
//! 254, 107 + N, bank   relay N (1-8) on     -> 85
//! 254,  99 + N, bank   relay N off          -> 85
//! 254, 115 + N, bank   read relay N         -> 1 on, 0 off
//! 254, 33              test of the link     -> 85
//! ```
//!
//! This says what a *relay* does. Boards are usually wired normally-closed: relay on means power off.
//!
//! Source: `panda-hardware.md`, "Power".

/// The TCP port of a relay board's network front.
pub const TCP_PORT: u16 = 2101;
/// The most bytes of a command.
pub const MAX_COMMAND: usize = 3;

const START: u8 = 254;
const TEST: u8 = 33;
const DONE: u8 = 85;
const BASE_OFF: u8 = 99;
const BASE_ON: u8 = 107;
const BASE_READ: u8 = 115;

/// A relay: its bank (1 to 4) and its number there (1 to 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Relay {
    bank: u8,
    number: u8,
}

impl Relay {
    /// The relay `number` of `bank`.
    ///
    /// # Errors
    /// When the bank is not 1 to 4, or the number not 1 to 8.
    pub const fn new(bank: u8, number: u8) -> Result<Self, ProxrError> {
        if bank < 1 || bank > 4 {
            return Err(ProxrError::Bank(bank));
        }
        if number < 1 || number > 8 {
            return Err(ProxrError::Number(number));
        }
        Ok(Self { bank, number })
    }

    /// Its bank, 1 to 4.
    #[must_use]
    pub const fn bank(self) -> u8 {
        self.bank
    }

    /// Its number in the bank, 1 to 8.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.number
    }
}

/// A command to a relay board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Switch the relay on.
    On(Relay),
    /// Switch it off.
    Off(Relay),
    /// Read it.
    Read(Relay),
    /// Test the link.
    Test,
}

/// What a relay board answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Switched, or the link works.
    Done,
    /// The relay is on.
    On,
    /// The relay is off.
    Off,
}

impl Command {
    /// As it goes over the wire.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::On(relay) => vec![START, BASE_ON + relay.number, relay.bank],
            Self::Off(relay) => vec![START, BASE_OFF + relay.number, relay.bank],
            Self::Read(relay) => vec![START, BASE_READ + relay.number, relay.bank],
            Self::Test => vec![START, TEST],
        }
    }

    /// Reads one command, as a relay board does (or a virtual one).
    ///
    /// # Errors
    /// When the bytes are no command of this page.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProxrError> {
        match *bytes {
            [START, TEST] => Ok(Self::Test),
            [START, code @ 100..=107, bank] => Relay::new(bank, code - BASE_OFF).map(Self::Off),
            [START, code @ 108..=115, bank] => Relay::new(bank, code - BASE_ON).map(Self::On),
            [START, code @ 116..=123, bank] => Relay::new(bank, code - BASE_READ).map(Self::Read),
            _ => Err(ProxrError::Command),
        }
    }

    /// Reads the one byte that answers this command.
    ///
    /// # Errors
    /// When it is no answer to this command.
    pub const fn answer(self, byte: u8) -> Result<Answer, ProxrError> {
        match (self, byte) {
            (Self::On(_) | Self::Off(_) | Self::Test, DONE) => Ok(Answer::Done),
            (Self::Read(_), 1) => Ok(Answer::On),
            (Self::Read(_), 0) => Ok(Answer::Off),
            _ => Err(ProxrError::Answer(byte)),
        }
    }
}

impl Answer {
    /// As it goes over the wire.
    #[must_use]
    pub const fn encode(self) -> u8 {
        match self {
            Self::Done => DONE,
            Self::On => 1,
            Self::Off => 0,
        }
    }
}

/// What is wrong with a relay, a command or an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxrError {
    /// No such bank.
    #[error("relay bank {0} does not exist; banks are 1 to 4")]
    Bank(u8),
    /// No such relay.
    #[error("relay {0} does not exist; a bank's relays are 1 to 8")]
    Number(u8),
    /// Not a command.
    #[error("the bytes are no ProXR command")]
    Command,
    /// Not an answer to the command.
    #[error(
        "the relay board answered {0}, which is no answer to this command; is this a ProXR board, and is the line's speed right?"
    )]
    Answer(u8),
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_are_these_bytes() {
        let relay = |bank, number| Relay::new(bank, number).unwrap();
        assert_eq!(Command::On(relay(1, 1)).encode(), [254, 108, 1]);
        assert_eq!(Command::On(relay(4, 8)).encode(), [254, 115, 4]);
        assert_eq!(Command::Off(relay(1, 1)).encode(), [254, 100, 1]);
        assert_eq!(Command::Off(relay(2, 8)).encode(), [254, 107, 2]);
        assert_eq!(Command::Read(relay(3, 1)).encode(), [254, 116, 3]);
        assert_eq!(Command::Read(relay(3, 8)).encode(), [254, 123, 3]);
        assert_eq!(Command::Test.encode(), hex!("fe 21"));
    }

    #[test]
    fn an_answer_fits_its_command_or_is_refused() {
        let relay = Relay::new(1, 1).unwrap();
        assert_eq!(Command::On(relay).answer(85), Ok(Answer::Done));
        assert_eq!(Command::Off(relay).answer(85), Ok(Answer::Done));
        assert_eq!(Command::Test.answer(85), Ok(Answer::Done));
        assert_eq!(Command::Read(relay).answer(1), Ok(Answer::On));
        assert_eq!(Command::Read(relay).answer(0), Ok(Answer::Off));
        assert_eq!(Command::Read(relay).answer(85), Err(ProxrError::Answer(85)));
        assert_eq!(Command::On(relay).answer(1), Err(ProxrError::Answer(1)));
        assert_eq!(Command::Test.answer(86), Err(ProxrError::Answer(86)));
    }

    #[test]
    fn relays_and_banks_outside_the_board_do_not_exist() {
        assert_eq!(Relay::new(0, 1), Err(ProxrError::Bank(0)));
        assert_eq!(Relay::new(5, 1), Err(ProxrError::Bank(5)));
        assert_eq!(Relay::new(1, 0), Err(ProxrError::Number(0)));
        assert_eq!(Relay::new(1, 9), Err(ProxrError::Number(9)));
    }

    proptest! {
        #[test]
        fn commands_are_read_back(bank in 1..=4u8, number in 1..=8u8, which in 0..4) {
            let relay = Relay::new(bank, number).unwrap();
            let command = match which {
                0 => Command::On(relay),
                1 => Command::Off(relay),
                2 => Command::Read(relay),
                _ => Command::Test,
            };
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }

        #[test]
        fn bytes_that_are_a_command_are_written_again(bytes: [u8; 3]) {
            let mut bytes = bytes;
            bytes[0] = 254;
            if let Ok(command) = Command::decode(&bytes) {
                prop_assert_eq!(command.encode(), bytes);
            }
        }
    }
}
