//! A NAR whose last bytes are given out only when all of it is known to be right.
//!
//! Guarantees: whoever takes these bytes and completes what they make only at the end has completed
//! the NAR that was promised: canonical, of the right size and hash. Before an error at least the
//! last [`WITHHELD_BYTES`] of what was read are missing, and all of a NAR of at most
//! [`WHOLE_BYTES`].
//! Memory: what is withheld and one chunk.

use super::NarStream;
use crate::error::{Blame, Error, Kind};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{StreamExt, unfold};
use futures::{FutureExt, Stream};
use snowcache_nix::nar::Parser;
use std::collections::VecDeque;

/// More than any buffer between here and where it is acted on (a daemon's has 32 KiB), so that
/// nobody has seen the end of the last file, let alone of the NAR.
pub const WITHHELD_BYTES: usize = 64 << 10;

/// A NAR of at most so many bytes comes when all of it is verified: whoever acts on it then is done
/// in a moment, and need not be there before. Of the benchmarks' closure three of four paths are as
/// small, 107 of 143.
pub const WHOLE_BYTES: u64 = 1 << 20;

struct Withheld {
    nar: NarStream,
    parser: Parser,
    held: VecDeque<Bytes>,
    held_bytes: usize,
    /// What is held in any case before the end.
    least_bytes: usize,
    verified: bool,
    /// What the end waits for besides.
    then: BoxFuture<'static, ()>,
}

impl NarStream {
    /// The same bytes, the last ones once they are verified.
    pub fn withheld(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        self.withheld_until(std::future::ready(()))
    }

    /// The same bytes, the last ones once they are verified and then `then` has come.
    pub fn withheld_until(
        self,
        then: impl Future<Output = ()> + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        let withheld = Withheld {
            least_bytes: match self.nar_size_bytes() <= WHOLE_BYTES {
                true => usize::MAX,
                false => WITHHELD_BYTES,
            },
            nar: self,
            parser: Parser::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            verified: false,
            then: then.boxed(),
        };
        unfold(Some(withheld), |withheld| async {
            let mut withheld = withheld?;
            match withheld.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(withheld))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

impl Withheld {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.verified {
            let malformed = |error| Error::new(Kind::Corrupt, Blame::Upstream, error);
            match self.nar.next().await {
                Some(chunk) => {
                    let chunk = chunk?;
                    let parsed = self.parser.feed(&chunk, &mut |_| ());
                    parsed.map_err(malformed)?;
                    self.held_bytes += chunk.len();
                    self.held.push_back(chunk);
                }
                None => {
                    self.parser.finish().map_err(malformed)?;
                    (&mut self.then).await;
                    self.verified = true;
                }
            }
            let front = self.held.front().map_or(0, Bytes::len);
            if self.held_bytes - front >= self.least_bytes {
                break;
            }
        }
        let chunk = self.held.pop_front();
        self.held_bytes -= chunk.as_ref().map_or(0, Bytes::len);
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Sample, sample};
    use futures::executor::block_on;
    use futures::stream;
    use sha2::{Digest, Sha256};

    /// Longer than what comes whole.
    const LONG: usize = 2_000_000;

    /// The bytes that came, and how it ended.
    fn read(nar: NarStream) -> (Vec<u8>, Result<(), Error>) {
        block_on(async {
            let (mut bytes, mut end) = (Vec::new(), Ok(()));
            let mut chunks = std::pin::pin!(nar.withheld());
            while let Some(chunk) = chunks.next().await {
                match chunk {
                    Ok(chunk) => bytes.extend_from_slice(&chunk),
                    Err(error) => end = Err(error),
                }
            }
            (bytes, end)
        })
    }

    fn in_chunks(bytes: &[u8], size: usize, promised: &Sample) -> NarStream {
        let chunks: Vec<_> = bytes
            .chunks(size)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        let info = &promised.info;
        let (hash, size) = (info.nar_hash, info.nar_size);
        NarStream::new(hash, size, Blame::Upstream, stream::iter(chunks))
    }

    #[test]
    fn a_good_nar_comes_whole_however_it_is_cut() {
        for content in [0, 100, 200_000, 2_000_000] {
            let sample = sample("good", &vec![b'x'; content], &[]);
            for size in [1000, 70_000, 1 << 20] {
                let (bytes, end) = read(in_chunks(&sample.nar, size, &sample));
                end.expect("verified");
                assert!(bytes == sample.nar, "{content} bytes in chunks of {size}");
            }
        }
    }

    #[test]
    fn of_a_bad_nar_the_end_is_never_given_out() {
        let sample = sample("bad", &vec![b'x'; LONG], &[]);
        let mut damaged = sample.nar.to_vec();
        damaged[LONG - 50_000] ^= 1;
        let mut trailing = sample.nar.to_vec();
        trailing.extend([0; 8]);
        let short = &sample.nar[..sample.nar.len() - 8];
        for (bad, says) in [
            (damaged.as_slice(), "but its bytes are"),
            (&trailing, "goes on after"),
            (short, "ends after"),
        ] {
            for size in [1000, 70_000] {
                let (bytes, end) = read(in_chunks(bad, size, &sample));
                let error = end.expect_err(says).to_string();
                assert!(error.contains(says), "{error}");
                assert!(bytes.len() + WITHHELD_BYTES <= bad.len(), "{}", bytes.len());
                assert!(bad.starts_with(&bytes) && bytes.len() > LONG / 2 - size);
            }
        }
    }

    #[test]
    fn of_a_small_nar_nothing_comes_before_its_end_may() {
        let sample = sample("small", &vec![b'x'; 1_000_000], &[]);
        let mut damaged = sample.nar.to_vec();
        damaged[999_000] ^= 1;
        let (bytes, end) = read(in_chunks(&damaged, 70_000, &sample));
        assert_eq!((bytes.len(), end.is_err()), (0, true));
        let (tell, told) = futures::channel::oneshot::channel::<()>();
        let nar = in_chunks(&sample.nar, 70_000, &sample);
        let mut chunks = Box::pin(nar.withheld_until(async { told.await.expect("told") }));
        assert!(chunks.next().now_or_never().is_none());
        tell.send(()).expect("waited for");
        let chunks: Vec<_> = block_on(chunks.map(|chunk| chunk.expect("good")).collect());
        assert!(chunks.concat() == sample.nar);
    }

    #[test]
    fn the_end_of_a_good_nar_waits_for_what_it_is_told_to() {
        let sample = sample("good", &vec![b'x'; LONG], &[]);
        let (tell, told) = futures::channel::oneshot::channel::<()>();
        let nar = in_chunks(&sample.nar, 1000, &sample);
        let mut chunks = Box::pin(nar.withheld_until(async { told.await.expect("told") }));
        let (mut got, mut waiting) = (0, 0);
        while let Some(next) = chunks.next().now_or_never() {
            got += next.expect("not at its end").expect("good").len();
        }
        assert!(got + WITHHELD_BYTES <= sample.nar.len() && got > LONG / 2);
        tell.send(()).expect("waited for");
        while let Some(next) = chunks.next().now_or_never().expect("all is there") {
            waiting += next.expect("good").len();
        }
        assert_eq!(got + waiting, sample.nar.len());
    }

    #[test]
    fn a_nar_that_is_right_but_not_canonical_is_refused() {
        let nar = Bytes::from_static(b"not a NAR at all, but hashed as promised");
        let hash = snowcache_nix::NarHash::from_bytes(Sha256::digest(&nar).into());
        let (bytes, end) = read(NarStream::from_bytes(hash, nar));
        let error = end.expect_err("no NAR").to_string();
        assert!(error.contains("NAR offset 0"), "{error}");
        assert_eq!(bytes, b"");
    }
}
