//! `hobnob::mesh::fuzz::merge` says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hobnob::mesh::fuzz::merge(bytes));
