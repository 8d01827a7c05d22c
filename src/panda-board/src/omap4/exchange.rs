//! What is said over the pipe to a boot ROM and its second stage. Nothing is decided here.

use std::time::Duration;

use panda_protocol::omap4::asic_id::{self, AsicId};
use panda_protocol::omap4::{aboot, rom};
use tokio::time::{Instant, sleep};

use crate::PipeError;
use crate::family::FamilyError;
use crate::paced::Paced;

/// Bytes of the second stage's greeting.
const GREETING_BYTES: usize = 4;
/// What the ROM's DMA completes on; a shorter last packet may be waited for in vain.
const PACKET: usize = 512;
/// One try to read the greeting, and the pause before the next: what omap4boot's own client does.
const GREETING_TRY: Duration = Duration::from_secs(3);
const GREETING_PAUSE: Duration = Duration::from_secs(1);

/// Asks the ROM for its ASIC ID.
pub(super) async fn ask_asic_id(
    pipe: &mut Paced<'_>,
    deadline: Instant,
) -> Result<AsicId, FamilyError> {
    pipe.write(&rom::word(rom::GET_ASIC_ID), deadline)
        .await
        .map_err(FamilyError::pipe("asking for the ASIC ID"))?;
    let answer = pipe
        .read(asic_id::BYTES, deadline)
        .await
        .map_err(FamilyError::pipe("reading the ASIC ID"))?;
    AsicId::parse(&answer).map_err(|error| FamilyError::Answer(format!("ASIC ID: {error}")))
}

/// Sends the second stage, and waits until it announces itself. It is filled up to whole packets.
pub(super) async fn send_second_stage(
    pipe: &mut Paced<'_>,
    mut stage: Vec<u8>,
    deadline: Instant,
) -> Result<(), FamilyError> {
    stage.resize(stage.len().next_multiple_of(PACKET), 0);
    let size = rom::second_stage_size(stage.len())
        .map_err(|error| FamilyError::Unfit(error.to_string()))?;
    for word in [rom::PERIPHERAL_BOOT, size] {
        pipe.write(&rom::word(word), deadline)
            .await
            .map_err(FamilyError::pipe("announcing the second stage"))?;
    }
    pipe.write(&stage, deadline)
        .await
        .map_err(FamilyError::pipe("sending the second stage"))?;
    let greeting = greeting(pipe, deadline).await?;
    if aboot::is_greeting(&greeting) {
        Ok(())
    } else {
        let got = greeting.len();
        Err(FamilyError::Answer(format!(
            "the second stage announced itself with {got} bytes that are not its magic"
        )))
    }
}

/// The second stage re-locks its USB clock while it starts: until then transfers fail or time out, for seconds.
async fn greeting(pipe: &mut Paced<'_>, deadline: Instant) -> Result<Vec<u8>, FamilyError> {
    loop {
        let until = deadline.min(Instant::now() + GREETING_TRY);
        let error = match pipe.read(GREETING_BYTES, until).await {
            Ok(greeting) => return Ok(greeting),
            Err(error) => error,
        };
        let last = Instant::now() + GREETING_PAUSE >= deadline;
        if matches!(error, PipeError::Gone) || last {
            return Err(FamilyError::pipe("waiting for the second stage's greeting")(error));
        }
        tracing::debug!(%error, "the second stage does not answer yet");
        sleep(GREETING_PAUSE).await;
    }
}

/// Announces an image of `bytes` bytes to the second stage.
pub(super) async fn announce_image(
    pipe: &mut Paced<'_>,
    bytes: u64,
    deadline: Instant,
) -> Result<(), FamilyError> {
    let size = usize::try_from(bytes)
        .map_err(|error| FamilyError::Unfit(error.to_string()))
        .and_then(|bytes| {
            aboot::size_word(bytes).map_err(|error| FamilyError::Unfit(error.to_string()))
        })?;
    pipe.write(&size, deadline)
        .await
        .map_err(FamilyError::pipe("announcing the boot image"))
}
