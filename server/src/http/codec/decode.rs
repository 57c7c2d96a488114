//! Unpacking: one stream of any codec, to its very end, in bounded memory.
//!
//! Where the memory goes, at most: xz and lzip what the caller allows (their dictionary), zstd its
//! window (the same allowance, rounded down to a power of two), br 16 MiB of window + 16 MiB of
//! slack (large windows are refused), bzip2 4 MB, lz4 2 blocks of 4 MiB, gzip 32 KiB; and
//! [`CHUNK_BYTES`] of output.

use super::{Codec, brotli_stream};
use liblzma::stream::{CONCATENATED, Stream};
use std::io::{self, BufRead, Read};
use thiserror::Error;

/// Unpacked bytes handed on at a time: large enough that the hand-over costs nothing, small beside
/// a codec's window.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Why unpacking stopped.
#[derive(Debug, Error)]
pub enum DecodeError<E> {
    /// The stream is no good, or its source failed (the source's own error is passed through as it
    /// is).
    #[error("the {0} stream is damaged or cut short: {1}")]
    Stream(Codec, #[source] io::Error),
    /// The stream ended and more bytes followed.
    #[error("bytes follow the end of the {0} stream")]
    Trailing(Codec),
    /// Whoever took the unpacked bytes did not want them.
    #[error("{0}")]
    Sink(E),
}

/// Unpacks all of `input` into `sink`, which sees at most [`CHUNK_BYTES`] (for [`Codec::None`]:
/// what `input` buffers) at a time.
///
/// # Errors
/// [`DecodeError`]; what `sink` has seen until then is not to be used.
pub fn decode<E>(
    codec: Codec,
    input: &mut dyn BufRead,
    memory_limit_bytes: u64,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), DecodeError<E>> {
    let stream = |error| DecodeError::Stream(codec, error);
    let lzma = |made: Result<Stream, liblzma::stream::Error>| made.map_err(|e| stream(e.into()));
    let source = &mut *input;
    match codec {
        Codec::None => copy(source, sink)?,
        Codec::Xz => {
            let decoder = lzma(Stream::new_stream_decoder(memory_limit_bytes, CONCATENATED))?;
            pump(
                codec,
                liblzma::bufread::XzDecoder::new_stream(source, decoder),
                sink,
            )?;
        }
        Codec::Lzip => {
            let decoder = lzma(Stream::new_lzip_decoder(memory_limit_bytes, CONCATENATED))?;
            pump(
                codec,
                liblzma::bufread::XzDecoder::new_stream(source, decoder),
                sink,
            )?;
        }
        Codec::Bzip2 => pump(codec, bzip2::bufread::MultiBzDecoder::new(source), sink)?,
        Codec::Gzip => pump(codec, flate2::bufread::MultiGzDecoder::new(source), sink)?,
        Codec::Deflate => pump(codec, flate2::bufread::ZlibDecoder::new(source), sink)?,
        Codec::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source).map_err(stream)?;
            let window_log = memory_limit_bytes.max(1 << 10).ilog2();
            decoder.window_log_max(window_log).map_err(stream)?;
            pump(codec, decoder, sink)?;
        }
        Codec::Brotli => brotli_stream::decode(source, sink)?,
        Codec::Lz4 => decode_lz4(source, sink)?,
    }
    match input.fill_buf().map_err(stream)? {
        [] => Ok(()),
        _ => Err(DecodeError::Trailing(codec)),
    }
}

fn copy<E>(
    input: &mut dyn BufRead,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), DecodeError<E>> {
    loop {
        let bytes = input
            .fill_buf()
            .map_err(|e| DecodeError::Stream(Codec::None, e))?;
        let read = bytes.len();
        if read == 0 {
            return Ok(());
        }
        sink(bytes).map_err(DecodeError::Sink)?;
        input.consume(read);
    }
}

fn pump<E>(
    codec: Codec,
    mut decoder: impl Read,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), DecodeError<E>> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = decoder
            .read(&mut chunk)
            .map_err(|e| DecodeError::Stream(codec, e))?;
        if read == 0 {
            return Ok(());
        }
        sink(&chunk[..read]).map_err(DecodeError::Sink)?;
    }
}

/// lz4's frame decoder answers "no more" both at the end mark of a frame and where the stream was
/// cut between two blocks. They differ in one thing: only the second has looked for more bytes and
/// found none.
fn decode_lz4<E>(
    input: &mut dyn BufRead,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), DecodeError<E>> {
    let stream = |error| DecodeError::Stream(Codec::Lz4, error);
    let mut decoder = lz4_flex::frame::FrameDecoder::new(Watched {
        input,
        came_up_empty: false,
    });
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = decoder.read(&mut chunk).map_err(stream)?;
        if read > 0 {
            sink(&chunk[..read]).map_err(DecodeError::Sink)?;
            continue;
        }
        let source = decoder.get_mut();
        if source.came_up_empty {
            return Err(stream(io::ErrorKind::UnexpectedEof.into()));
        }
        if source.input.fill_buf().map_err(stream)?.is_empty() {
            return Ok(());
        }
    }
}

struct Watched<'a> {
    input: &'a mut dyn BufRead,
    came_up_empty: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        self.came_up_empty |= read == 0 && !into.is_empty();
        Ok(read)
    }
}
