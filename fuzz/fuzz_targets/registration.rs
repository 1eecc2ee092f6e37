//! `hobnob::config::fuzz::registration` says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hobnob::config::fuzz::registration(bytes));
