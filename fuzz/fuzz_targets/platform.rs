#![no_main]
//! See [`drupe_fuzz::platform`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::platform(data));
