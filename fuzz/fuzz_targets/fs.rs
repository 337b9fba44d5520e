#![no_main]
//! See [`drupe_fuzz::fs`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::fs(data));
