//! `hobnob::sim::fuzz::mesh` says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hobnob::sim::fuzz::mesh(bytes));
