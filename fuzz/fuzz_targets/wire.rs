//! `hobnob::mesh::fuzz::wire` says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hobnob::mesh::fuzz::wire(bytes));
