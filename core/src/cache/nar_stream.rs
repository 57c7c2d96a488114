//! A stream of NAR bytes that carries its promise.
//!
//! Guarantees: whoever reads it to its end without meeting an error has read exactly
//! `nar_size_bytes` bytes whose SHA-256 is `nar_hash`. Memory: one chunk. Never: more bytes than
//! promised, not even once.

use crate::error::{Blame, Error, Kind};
use bytes::Bytes;
use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt};
use sha2::{Digest, Sha256};
use snowcache_nix::NarHash;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use thiserror::Error;

/// The bytes of one NAR, in order, verified as they are read.
pub struct NarStream {
    nar_hash: NarHash,
    nar_size_bytes: u64,
    blame: Blame,
    chunks: BoxStream<'static, Result<Bytes, Error>>,
    hasher: Sha256,
    read_bytes: u64,
    ended: bool,
}

/// The bytes of a NAR are not those that were promised.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WrongBytes {
    /// Fewer than promised.
    #[error("the NAR {nar_hash} ends after {read_bytes} bytes of {nar_size_bytes}")]
    Short {
        /// The NAR that was promised.
        nar_hash: NarHash,
        /// Its size.
        nar_size_bytes: u64,
        /// What came.
        read_bytes: u64,
    },
    /// More than promised.
    #[error("the NAR {nar_hash} goes on after its {nar_size_bytes} bytes")]
    Long {
        /// The NAR that was promised.
        nar_hash: NarHash,
        /// Its size.
        nar_size_bytes: u64,
    },
    /// As many as promised, but others.
    #[error("the NAR should be {nar_hash}, but its bytes are {computed}")]
    Hash {
        /// The NAR that was promised.
        nar_hash: NarHash,
        /// What the bytes hash to.
        computed: NarHash,
    },
}

impl NarStream {
    /// A stream that must be this NAR. `blame` is who answers for it if it is not.
    pub fn new(
        nar_hash: NarHash,
        nar_size_bytes: u64,
        blame: Blame,
        chunks: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
    ) -> NarStream {
        NarStream {
            nar_hash,
            nar_size_bytes,
            blame,
            chunks: chunks.boxed(),
            hasher: Sha256::new(),
            read_bytes: 0,
            ended: false,
        }
    }

    /// A NAR that is in memory.
    pub fn from_bytes(nar_hash: NarHash, nar: Bytes) -> NarStream {
        let nar_size_bytes = nar.len() as u64;
        NarStream::new(
            nar_hash,
            nar_size_bytes,
            Blame::Storage,
            stream::iter([Ok(nar)]),
        )
    }

    /// The same NAR, whose bytes come by another way from now on: what that gives is verified.
    pub fn through<S>(
        self,
        way: impl FnOnce(BoxStream<'static, Result<Bytes, Error>>) -> S,
    ) -> NarStream
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        NarStream {
            chunks: way(self.chunks).boxed(),
            ..self
        }
    }

    /// What the bytes must hash to.
    pub fn nar_hash(&self) -> NarHash {
        self.nar_hash
    }

    /// How many bytes there must be.
    pub fn nar_size_bytes(&self) -> u64 {
        self.nar_size_bytes
    }

    fn wrong(&self, wrong: WrongBytes) -> Error {
        Error::new(Kind::Corrupt, self.blame, wrong)
    }

    fn accept(&mut self, chunk: &Bytes) -> Result<(), Error> {
        self.read_bytes = self.read_bytes.saturating_add(chunk.len() as u64);
        let (nar_hash, nar_size_bytes) = (self.nar_hash, self.nar_size_bytes);
        if self.read_bytes > nar_size_bytes {
            return Err(self.wrong(WrongBytes::Long {
                nar_hash,
                nar_size_bytes,
            }));
        }
        self.hasher.update(chunk);
        Ok(())
    }

    fn check_end(&mut self) -> Result<(), Error> {
        let NarStream {
            nar_hash,
            nar_size_bytes,
            read_bytes,
            ..
        } = *self;
        if read_bytes < nar_size_bytes {
            return Err(self.wrong(WrongBytes::Short {
                nar_hash,
                nar_size_bytes,
                read_bytes,
            }));
        }
        let computed = NarHash::from_bytes(self.hasher.finalize_reset().into());
        if computed != nar_hash {
            return Err(self.wrong(WrongBytes::Hash { nar_hash, computed }));
        }
        Ok(())
    }
}

impl Stream for NarStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = match ready!(self.chunks.poll_next_unpin(cx)) {
            Some(Ok(chunk)) => Some(self.accept(&chunk).map(|()| chunk)),
            Some(Err(error)) => Some(Err(error)),
            None => self.check_end().err().map(Err),
        };
        self.ended = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

impl fmt::Debug for NarStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NarStream {
            nar_hash,
            nar_size_bytes,
            read_bytes,
            ..
        } = self;
        write!(
            f,
            "NarStream({nar_hash}, {read_bytes} of {nar_size_bytes} bytes read)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::{TryStreamExt, stream};

    const HELLO: &[u8] = b"hello, world";

    fn promise(hash_of: &[u8], size: u64, sent: &[&'static [u8]]) -> Result<Vec<Bytes>, Error> {
        let hash = NarHash::from_bytes(Sha256::digest(hash_of).into());
        let chunks: Vec<_> = sent
            .iter()
            .map(|chunk| Ok(Bytes::from_static(chunk)))
            .collect();
        block_on(NarStream::new(hash, size, Blame::Upstream, stream::iter(chunks)).try_collect())
    }

    #[test]
    fn reading_to_the_end_is_the_verification() {
        let chunks = promise(HELLO, 12, &[b"hello, ", b"", b"world"]).expect("true");
        assert_eq!(chunks.concat(), HELLO);
        for (sent, sentence) in [
            (&[b"hello, " as &[u8]] as &[_], "ends after 7 bytes of 12"),
            (&[HELLO, b"!"], "goes on after its 12 bytes"),
            (&[b"hello, w0rld"], "but its bytes are sha256:"),
        ] {
            let error = promise(HELLO, 12, sent).expect_err(sentence);
            assert!(error.to_string().contains(sentence), "{error}");
            assert_eq!(
                (error.kind(), error.blame()),
                (Kind::Corrupt, Blame::Upstream)
            );
        }
    }

    #[test]
    fn what_comes_by_another_way_is_verified_behind_it() {
        let nar = || {
            let hash = NarHash::from_bytes(Sha256::digest(HELLO).into());
            NarStream::from_bytes(hash, Bytes::from_static(HELLO))
        };
        let read = |nar: NarStream| block_on(nar.try_collect::<Vec<_>>());
        let same = nar().through(|chunks| chunks);
        assert_eq!(read(same).expect("true").concat(), HELLO);
        let other = nar().through(|_| stream::iter([Ok(Bytes::from_static(b"hello, w0rld"))]));
        let error = read(other).expect_err("other bytes").to_string();
        assert!(error.contains("but its bytes are sha256:"), "{error}");
    }

    #[test]
    fn a_stream_that_failed_ends() {
        let hash = NarHash::from_bytes([0; 32]);
        let chunks = [Ok(Bytes::from_static(HELLO)), Ok(Bytes::from_static(HELLO))];
        let mut nar = NarStream::new(hash, 12, Blame::Client, stream::iter(chunks));
        block_on(async {
            assert!(matches!(nar.next().await, Some(Ok(_))));
            assert!(matches!(nar.next().await, Some(Err(_))));
            assert!(nar.next().await.is_none());
        });
    }
}
