//! What is said over the pipe to a boot ROM and its second stage, whoever says it: the steps of a reset, or one board
//! that is booted by hand (`pandabuildd boot`). Nothing is decided here.

use panda_protocol::omap4::asic_id::{self, AsicId};
use panda_protocol::omap4::{aboot, rom};
use tokio::time::Instant;

use super::error::{StepError, pipe};
use super::paced::Paced;

/// Bytes of the second stage's greeting.
const GREETING_BYTES: usize = 4;

/// Asks the ROM for its ASIC ID.
pub(crate) async fn ask_asic_id(paced: &mut Paced, deadline: Instant) -> Result<AsicId, StepError> {
    paced
        .write(&rom::word(rom::GET_ASIC_ID), deadline)
        .await
        .map_err(pipe("asking for the ASIC ID"))?;
    let answer = paced
        .read(asic_id::BYTES, deadline)
        .await
        .map_err(pipe("reading the ASIC ID"))?;
    Ok(AsicId::parse(&answer)?)
}

/// Sends the second stage, and waits until it announces itself.
pub(crate) async fn send_second_stage(
    paced: &mut Paced,
    stage: &[u8],
    deadline: Instant,
) -> Result<(), StepError> {
    let size = rom::second_stage_size(stage.len())
        .map_err(|error| StepError::Compose(error.to_string()))?;
    for word in [rom::PERIPHERAL_BOOT, size] {
        paced
            .write(&rom::word(word), deadline)
            .await
            .map_err(pipe("announcing the second stage"))?;
    }
    paced
        .write(stage, deadline)
        .await
        .map_err(pipe("sending the second stage"))?;
    let greeting = paced
        .read(GREETING_BYTES, deadline)
        .await
        .map_err(pipe("waiting for the second stage's greeting"))?;
    if aboot::is_greeting(&greeting) {
        Ok(())
    } else {
        Err(StepError::BadMagic {
            got: greeting.len(),
        })
    }
}

/// Announces an image of `bytes` bytes to the second stage.
pub(crate) async fn announce_image(
    paced: &mut Paced,
    bytes: u64,
    deadline: Instant,
) -> Result<(), StepError> {
    let size = usize::try_from(bytes)
        .map_err(|error| StepError::Compose(error.to_string()))
        .and_then(|bytes| {
            aboot::size_word(bytes).map_err(|error| StepError::Compose(error.to_string()))
        })?;
    paced
        .write(&size, deadline)
        .await
        .map_err(pipe("announcing the boot image"))
}
