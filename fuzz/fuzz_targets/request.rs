//! `hobnob::http::fuzz::request` says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hobnob::http::fuzz::request(bytes));
