//! `hobnob::config::fuzz::config` says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hobnob::config::fuzz::config(bytes));
