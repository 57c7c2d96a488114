//! Ways of cutting, and what to count for them.

use snowcache_core::cut::{Params, Sizes};

#[derive(Clone)]
/// One way.
pub struct Way {
    pub name: String,
    pub params: Params,
    /// Bytes in front of each record.
    pub header: usize,
    /// Bytes in the index for each record.
    pub index: usize,
}

impl Way {
    /// Reads `NAME literal span_min file_min min/avg/max min/avg/max [header index]`.
    pub fn parse(line: &str) -> Option<Way> {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let mut number = || words.next().map(|word| word.parse().ok());
        let (literal, span_min, file_min) = (number()??, number()??, number()??);
        let mut sizes = || {
            let mut sizes = words.next()?.split('/').map(|word| word.parse().ok());
            Some(Sizes {
                min: sizes.next()??,
                avg: sizes.next()??,
                max: sizes.next()??,
            })
        };
        let (span, dense) = (sizes()?, sizes()?);
        let mut overhead = words.map(|word| word.parse().ok());
        Some(Way {
            name,
            params: Params {
                literal_max_bytes: literal,
                span_min_bytes: span_min,
                file_min_bytes: file_min as u64,
                span,
                dense,
            },
            header: overhead.next().unwrap_or(Some(64))?,
            index: overhead.next().unwrap_or(Some(60))?,
        })
    }
}

/// What the decisions compare: version 1, and it with one thing changed.
pub const WAYS: &str = "\
V1 2048 1024 65536 65536/262144/1048576 262144/524288/1048576
span-min-256 2048 256 65536 65536/262144/1048576 262144/524288/1048576
span-min-512 2048 512 65536 65536/262144/1048576 262144/524288/1048576
span-min-2048 2048 2048 65536 65536/262144/1048576 262144/524288/1048576
span-min-4096 2048 4096 65536 65536/262144/1048576 262144/524288/1048576
literal-64 64 1024 65536 65536/262144/1048576 262144/524288/1048576
literal-256 256 1024 65536 65536/262144/1048576 262144/524288/1048576
literal-512 512 1024 65536 65536/262144/1048576 262144/524288/1048576
literal-1024 1024 1024 65536 65536/262144/1048576 262144/524288/1048576
literal-4096 4096 1024 65536 65536/262144/1048576 262144/524288/1048576
files-16384 2048 1024 16384 65536/262144/1048576 262144/524288/1048576
files-32768 2048 1024 32768 65536/262144/1048576 262144/524288/1048576
files-131072 2048 1024 131072 65536/262144/1048576 262144/524288/1048576
files-never 2048 1024 1000000000000000 65536/262144/1048576 262144/524288/1048576
sizes-16/64/256K 2048 1024 65536 16384/65536/262144 262144/524288/1048576
sizes-32/128/512K 2048 1024 65536 32768/131072/524288 262144/524288/1048576
sizes-128/512/1024K 2048 1024 65536 131072/524288/1048576 262144/524288/1048576
sizes-128/512/2048K 2048 1024 65536 131072/524288/2097152 262144/524288/1048576
dense-64/256/1024K 2048 1024 65536 65536/262144/1048576 65536/262144/1048576
dense-512/1024/1024K 2048 1024 65536 65536/262144/1048576 524288/1048576/1048576
dense-1/2/4M 2048 1024 65536 65536/262144/1048576 1048576/2097152/4194304
overhead-96+60 2048 1024 65536 65536/262144/1048576 262144/524288/1048576 96 60
overhead-48+60 2048 1024 65536 65536/262144/1048576 262144/524288/1048576 48 60
overhead-40+40 2048 1024 65536 65536/262144/1048576 262144/524288/1048576 40 40
overhead-0 2048 1024 65536 65536/262144/1048576 262144/524288/1048576 0 0
";
