#![no_main]
//! See [`drupe_fuzz::layer`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::layer(data));
