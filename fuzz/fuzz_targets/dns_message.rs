//! Any bytes as a DNS message from the network: no panic, no endless loop, and an
//! answer that can be read, or none.
#![no_main]

libfuzzer_sys::fuzz_target!(|message: &[u8]| circuit::dns::fuzz(message));
