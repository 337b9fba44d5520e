#![no_main]
//! See [`drupe_fuzz::net`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::net(data));
