//! br by hand: the crate's reader would allow windows of 1 GiB and swallow what follows the stream.

use super::Codec;
use super::decode::{CHUNK_BYTES, DecodeError};
use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use std::io::{self, BufRead};

/// Unpacks one br stream and leaves `input` just behind it.
pub fn decode<E>(
    input: &mut dyn BufRead,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), DecodeError<E>> {
    let stream = |error: io::Error| DecodeError::Stream(Codec::Brotli, error);
    // Strict: windows up to 16 MiB (RFC 7932), never the 1 GiB of the large-window extension.
    let mut state = BrotliState::new_strict(
        StandardAlloc::default(),
        StandardAlloc::default(),
        StandardAlloc::default(),
    );
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut total = 0;
    loop {
        let bytes = input.fill_buf().map_err(stream)?;
        let at_end = bytes.is_empty();
        let (mut available_in, mut read) = (bytes.len(), 0);
        let (mut available_out, mut written) = (chunk.len(), 0);
        let result = BrotliDecompressStream(
            &mut available_in,
            &mut read,
            bytes,
            &mut available_out,
            &mut written,
            &mut chunk,
            &mut total,
            &mut state,
        );
        input.consume(read);
        if written > 0 {
            sink(&chunk[..written]).map_err(DecodeError::Sink)?;
        }
        match result {
            BrotliResult::ResultSuccess => return Ok(()),
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::NeedsMoreInput if at_end => {
                return Err(stream(io::ErrorKind::UnexpectedEof.into()));
            }
            BrotliResult::NeedsMoreInput => {}
            BrotliResult::ResultFailure => {
                return Err(stream(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "invalid br data",
                )));
            }
        }
    }
}
