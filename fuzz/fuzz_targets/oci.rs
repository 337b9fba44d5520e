#![no_main]
//! See [`drupe_fuzz::oci`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| drupe_fuzz::oci(data));
