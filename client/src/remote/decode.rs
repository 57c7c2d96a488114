//! Unpacking a NAR while it comes in.
//!
//! Guarantees: at most [`CHUNK_BYTES`] of output at a time however well the input is packed, so a
//! bomb is met by whoever counts the bytes; a stream that is cut short, or goes on after its end,
//! is an error. Memory: the codec's window (zstd 128 MiB at most, xz [`XZ_MEMORY_BYTES`], bzip2 4
//! MB).

use bytes::{Buf, Bytes};
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

    /// Appends to `output` what fits into its capacity.
    fn step(&mut self, input: &[u8], last: bool, output: &mut Vec<u8>) -> io::Result<Step> {
        match self {
            Engine::Zstd(zstd) => {
                let mut from = InBuffer::around(input);
                let at = output.len();
                let mut to = OutBuffer::around_pos(output, at);
                let hint = zstd.run(&mut from, &mut to)?;
                Ok(Step {
                    consumed: from.pos(),
                    complete: hint == 0,
                })
            }
            Engine::Xz(xz) => {
                let taken = xz.total_in();
                let action = if last { Action::Finish } else { Action::Run };
                let status = xz.process_vec(input, output, action)?;
                Ok(Step {
                    consumed: (xz.total_in() - taken) as usize,
                    complete: status == Status::StreamEnd,
                })
            }
            Engine::Bzip2(bzip2) => {
                let taken = bzip2.total_in();
                let status = bzip2.decompress_vec(input, output)?;
                let consumed = (bzip2.total_in() - taken) as usize;
                let complete = status == bzip2::Status::StreamEnd;
                if complete {
                    // Another stream may follow, as after `cat a.bz2 b.bz2`.
                    **bzip2 = bzip2::Decompress::new(false);
                }
                Ok(Step { consumed, complete })
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
    /// As much as fits one chunk of what is there, and waits for more only where that is nothing:
    /// a NAR of many small frames is not many small chunks.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let mut output = Vec::with_capacity(CHUNK_BYTES);
        loop {
            if self.input.is_empty() && !self.last {
                if !output.is_empty() {
                    return Ok(Some(output.into()));
                }
                match self.packed.next().await {
                    Some(chunk) => self.input = chunk?,
                    None => self.last = true,
                }
            }
            if self.last && self.input.is_empty() && self.complete {
                return Ok((!output.is_empty()).then(|| output.into()));
            }
            let (url, codec) = (&self.url, self.codec);
            let damaged = |source| DecodeError::Damaged {
                url: url.clone(),
                codec,
                source,
            };
            let before = output.len();
            let step = self.engine.step(&self.input, self.last, &mut output);
            let Step { consumed, complete } = step.map_err(damaged)?;
            if consumed == 0 && output.len() == before && !complete && self.last {
                return Err(DecodeError::Truncated {
                    url: url.clone(),
                    codec,
                }
                .into());
            }
            self.input.advance(consumed);
            self.complete = complete;
            if output.len() == CHUNK_BYTES {
                return Ok(Some(output.into()));
            }
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
