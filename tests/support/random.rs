//! Random numbers that can be had again: a seed that is printed, then xorshift64*.

use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator, good enough to choose times, phases and bytes. Never for keys.
pub struct Random(u64);

impl Random {
    /// From the environment's `SNOWCACHE_SEED`, else from the clock; says which seed it is.
    pub fn announced(story: &str) -> Random {
        let seed = std::env::var("SNOWCACHE_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("a clock after 1970");
            now.as_nanos() as u64
        });
        println!("{story}: SNOWCACHE_SEED={seed}");
        Random::seeded(seed)
    }

    pub fn seeded(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in `0..below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
