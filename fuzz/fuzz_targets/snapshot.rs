//! What a former life of the service has left: any records, into the reader of them. See the door,
//! `daemon/src/core/fuzzing.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| dmashared::core::fuzzing::snapshot(data));
