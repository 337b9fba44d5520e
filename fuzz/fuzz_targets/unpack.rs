#![no_main]
//! See [`drupe_fuzz::unpack`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::unpack(data));
