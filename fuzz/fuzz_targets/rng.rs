#![no_main]
//! See [`drupe_fuzz::rng`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::rng(data));
