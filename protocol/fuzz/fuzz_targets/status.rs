//! A board's answer to `status`: a report that is accepted says the same after a round trip, in the
//! dialect it came in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::launchpad::xml::Limits;
use panda_protocol::launchpad::{Dialect, GetStatus, Reply, Request, StatusReply};

fuzz_target!(|document: &[u8]| {
    let Ok(Ok(reply)) = GetStatus::read_answer(document, &Limits::default()) else { return };
    for dialect in [Dialect::Current, Dialect::Y2011] {
        let said = StatusReply { dialect, report: reply.report.clone() };
        if let Ok(again) = StatusReply::decode(said.encode()) {
            assert_eq!(again.report.status, reply.report.status);
        }
    }
});
