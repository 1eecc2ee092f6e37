//! `hobnob::agent::trust::fuzz::edict` says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hobnob::agent::trust::fuzz::edict(bytes));
