//! An answer from outside: whatever is accepted can be written again and reads the same, and so does each reply
//! that it is taken for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::launchpad::xml::{Limits, decode_answer, encode_answer};
use panda_protocol::launchpad::{
    Abort, BuildCall, Clean, Echo, EnsurePresent, GetInfo, GetProxyInfo, GetStatus, GetStatusDict,
    Reply, Request,
};

fuzz_target!(|document: &[u8]| {
    let limits = Limits::default();
    // Text without a type is written as a string: one element more.
    let roomy = Limits { bytes: usize::MAX, depth: limits.depth + 1, items: usize::MAX };
    let Ok(answer) = decode_answer(document, &limits) else { return };
    let written = encode_answer(&answer).expect("what was read can be written");
    let again = decode_answer(written.as_bytes(), &roomy).expect("what was written can be read");
    assert_eq!(format!("{again:?}"), format!("{answer:?}"));
    taken_for::<Echo>(document, &limits);
    taken_for::<GetInfo>(document, &limits);
    taken_for::<GetStatus>(document, &limits);
    taken_for::<GetStatusDict>(document, &limits);
    taken_for::<EnsurePresent>(document, &limits);
    taken_for::<BuildCall>(document, &limits);
    taken_for::<Abort>(document, &limits);
    taken_for::<Clean>(document, &limits);
    taken_for::<GetProxyInfo>(document, &limits);
});

fn taken_for<R: Request>(document: &[u8], limits: &Limits) {
    let Ok(Ok(reply)) = R::read_answer(document, limits) else { return };
    let value = reply.encode();
    let again = R::Reply::decode(value.clone()).expect("what was said is understood");
    assert_eq!(format!("{:?}", again.encode()), format!("{value:?}"));
}
