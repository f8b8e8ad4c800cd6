//! Any bytes as the frames of a client that asks as CoreDNS does: no panic, no endless
//! loop.
#![no_main]

libfuzzer_sys::fuzz_target!(|frames: &[u8]| circuit::grpc::fuzz(frames));
