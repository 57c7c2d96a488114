#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snowcache_core_fuzz::delta(bytes));
