#![no_main]
//! See [`drupe_fuzz::loader`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::loader(data));
