#![no_main]
//! See [`drupe_fuzz::blk`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::blk(data));
