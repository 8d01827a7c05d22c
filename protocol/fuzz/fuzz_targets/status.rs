//! A board's answer to `status`: a report that is accepted says the same after a round trip, in the
//! dialect it came in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::launchpad::xml::{Limits, decode_answer};
use panda_protocol::launchpad::{Dialect, StatusReport};

fuzz_target!(|document: &[u8]| {
    let Ok(Ok(value)) = decode_answer(document, &Limits::default()) else { return };
    let Ok(report) = StatusReport::from_value(&value) else { return };
    for dialect in [Dialect::Current, Dialect::Y2011] {
        let again = StatusReport::from_value(&report.to_value(dialect));
        if let Ok(again) = again {
            assert_eq!(again.status, report.status);
        }
    }
});
