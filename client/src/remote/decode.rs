//! Unpacking a NAR while it comes in.
//!
//! Guarantees: at most [`CHUNK_BYTES`] of output at a time however well the input is packed, so a
//! bomb is met by whoever counts the bytes; a stream that is cut short, or goes on after its end,
//! is an error. Memory: the codec's window (zstd 128 MiB at most, xz [`XZ_MEMORY_BYTES`], bzip2 4
//! MB).

use bytes::Bytes;
use futures::stream::{BoxStream, unfold};
use futures::{Stream, StreamExt};
use liblzma::stream::{Action, CONCATENATED, Status, Stream as Xz};
use snowcache_core::error::{Blame, Error, Kind};
use snowcache_nix::Compression;
use std::io::{self, Read};
use thiserror::Error;
use zstd::stream::raw::{Decoder as Zstd, InBuffer, Operation, OutBuffer};

/// A whole block of zstd.
const CHUNK_BYTES: usize = 128 << 10;
/// `xz -9` needs 65 MiB to unpack.
const XZ_MEMORY_BYTES: u64 = 128 << 20;

/// Why a stream could not be unpacked.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// A codec that this client does not have.
    #[error("this client does not unpack {0}, only none, zstd, xz and bzip2; fetch it with nix")]
    Codec(Compression),
    /// Not what the codec writes.
    #[error("{url}: the {codec} stream is damaged: {source}")]
    Damaged {
        /// Where it came from.
        url: String,
        /// What it should be.
        codec: Compression,
        /// What the codec says.
        source: io::Error,
    },
    /// It ends where it should go on.
    #[error("{url}: the {codec} stream is cut short")]
    Truncated {
        /// Where it came from.
        url: String,
        /// What it should be.
        codec: Compression,
    },
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Error {
        let kind = match error {
            DecodeError::Codec(_) => Kind::Invalid,
            DecodeError::Damaged { .. } | DecodeError::Truncated { .. } => Kind::Corrupt,
        };
        Error::new(kind, Blame::Upstream, error)
    }
}

enum Engine {
    Zstd(Zstd<'static>),
    Xz(Box<Xz>),
    Bzip2(Box<bzip2::Decompress>),
}

/// What one step of a codec did.
struct Step {
    consumed: usize,
    produced: usize,
    /// The input may end here.
    complete: bool,
}

impl Engine {
    fn new(codec: Compression) -> io::Result<Option<Engine>> {
        Ok(match codec {
            Compression::Zstd => Some(Engine::Zstd(Zstd::new()?)),
            Compression::Xz => {
                let xz = Xz::new_stream_decoder(XZ_MEMORY_BYTES, CONCATENATED)?;
                Some(Engine::Xz(Box::new(xz)))
            }
            Compression::Bzip2 => Some(Engine::Bzip2(Box::new(bzip2::Decompress::new(false)))),
            _ => None,
        })
    }

    fn step(&mut self, input: &[u8], last: bool, output: &mut [u8]) -> io::Result<Step> {
        match self {
            Engine::Zstd(zstd) => {
                let mut from = InBuffer::around(input);
                let mut to = OutBuffer::around(output);
                let hint = zstd.run(&mut from, &mut to)?;
                Ok(Step {
                    consumed: from.pos(),
                    produced: to.pos(),
                    complete: hint == 0,
                })
            }
            Engine::Xz(xz) => {
                let (taken, given) = (xz.total_in(), xz.total_out());
                let action = if last { Action::Finish } else { Action::Run };
                let status = xz.process(input, output, action)?;
                let consumed = (xz.total_in() - taken) as usize;
                let produced = (xz.total_out() - given) as usize;
                Ok(Step {
                    consumed,
                    produced,
                    complete: status == Status::StreamEnd,
                })
            }
            Engine::Bzip2(bzip2) => {
                let (taken, given) = (bzip2.total_in(), bzip2.total_out());
                let status = bzip2.decompress(input, output)?;
                let consumed = (bzip2.total_in() - taken) as usize;
                let produced = (bzip2.total_out() - given) as usize;
                let complete = status == bzip2::Status::StreamEnd;
                if complete {
                    // Another stream may follow, as after `cat a.bz2 b.bz2`.
                    **bzip2 = bzip2::Decompress::new(false);
                }
                Ok(Step {
                    consumed,
                    produced,
                    complete,
                })
            }
        }
    }
}

struct Unpacking {
    url: String,
    codec: Compression,
    engine: Engine,
    packed: BoxStream<'static, Result<Bytes, Error>>,
    input: Bytes,
    last: bool,
    complete: bool,
    output: Vec<u8>,
}

/// Unpacks `packed`, which came from `url`.
///
/// # Errors
/// When this client does not have the codec.
pub fn unpack(
    url: String,
    codec: Compression,
    packed: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
) -> Result<BoxStream<'static, Result<Bytes, Error>>, DecodeError> {
    if codec == Compression::None {
        return Ok(packed.boxed());
    }
    let engine = Engine::new(codec)
        .map_err(|source| DecodeError::Damaged {
            url: url.clone(),
            codec,
            source,
        })?
        .ok_or(DecodeError::Codec(codec))?;
    let unpacking = Unpacking {
        url,
        codec,
        engine,
        packed: packed.boxed(),
        input: Bytes::new(),
        last: false,
        complete: false,
        output: vec![0; CHUNK_BYTES],
    };
    let chunks = unfold(Some(unpacking), |unpacking| async {
        let mut unpacking = unpacking?;
        match unpacking.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(unpacking))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(chunks.boxed())
}

/// All of a small zstd stream, if that is at most so many bytes.
///
/// # Errors
/// When it is not, or damaged.
pub fn unpack_small(packed: &[u8], limit_bytes: usize) -> io::Result<Bytes> {
    let mut plain = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(packed)?;
    decoder
        .take(limit_bytes as u64 + 1)
        .read_to_end(&mut plain)?;
    match plain.len() > limit_bytes {
        true => Err(io::Error::other(format!(
            "it unpacks to more than {limit_bytes} bytes"
        ))),
        false => Ok(plain.into()),
    }
}

impl Unpacking {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.input.is_empty() && !self.last {
                match self.packed.next().await {
                    Some(chunk) => self.input = chunk?,
                    None => self.last = true,
                }
            }
            if self.last && self.input.is_empty() && self.complete {
                return Ok(None);
            }
            let (url, codec) = (&self.url, self.codec);
            let damaged = |source| DecodeError::Damaged {
                url: url.clone(),
                codec,
                source,
            };
            let step = self.engine.step(&self.input, self.last, &mut self.output);
            let Step {
                consumed,
                produced,
                complete,
            } = step.map_err(damaged)?;
            if consumed == 0 && produced == 0 && !complete && self.last {
                return Err(DecodeError::Truncated {
                    url: url.clone(),
                    codec,
                }
                .into());
            }
            self.input = self.input.slice(consumed..);
            self.complete = complete;
            if produced > 0 {
                return Ok(Some(Bytes::copy_from_slice(&self.output[..produced])));
            }
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
