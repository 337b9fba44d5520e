#![no_main]
//! See [`drupe_fuzz::config`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::config(data));
