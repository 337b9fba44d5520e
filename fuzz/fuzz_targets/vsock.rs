#![no_main]
//! See [`drupe_fuzz::vsock`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::vsock(data));
