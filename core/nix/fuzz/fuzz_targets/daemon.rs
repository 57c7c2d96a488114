#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| snowcache_nix_fuzz::daemon(input));
