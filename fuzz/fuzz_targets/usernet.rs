#![no_main]
//! See [`drupe_fuzz::usernet`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::usernet(data));
