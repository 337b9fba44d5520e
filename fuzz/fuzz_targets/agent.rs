#![no_main]
//! See [`drupe_fuzz::agent`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::agent(data));
