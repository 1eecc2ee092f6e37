//! `hobnob::dns::fuzz::dns` says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hobnob::dns::fuzz::dns(bytes));
