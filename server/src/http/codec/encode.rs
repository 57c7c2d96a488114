//! Packing: a NAR in the codec it was uploaded in, made while it is being read, for the uploader
//! who asks for it back.
//!
//! Guarantees: the stream unpacks to exactly the source's bytes; at most one source chunk and what
//! it packed into are in memory beside the codec's own state. Never: byte for byte the file that
//! was uploaded - which is why such a file is only ever sent whole.

use super::Codec;
use super::lzip::LzipEncoder;
use bytes::Bytes;
use std::io::{self, Write};

/// Packed bytes collected before they are handed on: as many as a response sends at a time.
const HANDED_ON_BYTES: usize = 64 << 10;

enum Encoder {
    None(Vec<u8>),
    Xz(liblzma::write::XzEncoder<Vec<u8>>),
    Bzip2(bzip2::write::BzEncoder<Vec<u8>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Deflate(flate2::write::ZlibEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Lzip(LzipEncoder),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
}

impl Encoder {
    /// Each at its fastest sensible level.
    fn new(codec: Codec) -> io::Result<Encoder> {
        let fast = flate2::Compression::fast();
        Ok(match codec {
            Codec::None => Encoder::None(Vec::new()),
            Codec::Xz => Encoder::Xz(liblzma::write::XzEncoder::new(Vec::new(), 0)),
            Codec::Bzip2 => Encoder::Bzip2(bzip2::write::BzEncoder::new(
                Vec::new(),
                bzip2::Compression::fast(),
            )),
            Codec::Gzip => Encoder::Gzip(flate2::write::GzEncoder::new(Vec::new(), fast)),
            Codec::Deflate => Encoder::Deflate(flate2::write::ZlibEncoder::new(Vec::new(), fast)),
            Codec::Zstd => Encoder::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1)?),
            Codec::Brotli => {
                // Quality 2, a window of 2^20 bytes.
                let writer = brotli::CompressorWriter::new(Vec::new(), 64 << 10, 2, 20);
                Encoder::Brotli(Box::new(writer))
            }
            Codec::Lzip => Encoder::Lzip(LzipEncoder::new()?),
            Codec::Lz4 => Encoder::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(Vec::new()))),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Encoder::None(ready) => ready.write_all(bytes),
            Encoder::Xz(encoder) => encoder.write_all(bytes),
            Encoder::Bzip2(encoder) => encoder.write_all(bytes),
            Encoder::Gzip(encoder) => encoder.write_all(bytes),
            Encoder::Deflate(encoder) => encoder.write_all(bytes),
            Encoder::Zstd(encoder) => encoder.write_all(bytes),
            Encoder::Brotli(encoder) => encoder.write_all(bytes),
            Encoder::Lzip(encoder) => encoder.write(bytes),
            Encoder::Lz4(encoder) => encoder.write_all(bytes),
        }
    }

    fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Encoder::None(ready) => ready,
            Encoder::Xz(encoder) => encoder.get_mut(),
            Encoder::Bzip2(encoder) => encoder.get_mut(),
            Encoder::Gzip(encoder) => encoder.get_mut(),
            Encoder::Deflate(encoder) => encoder.get_mut(),
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Lzip(encoder) => encoder.ready(),
            Encoder::Lz4(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        Ok(match self {
            Encoder::None(ready) => ready,
            Encoder::Xz(encoder) => encoder.finish()?,
            Encoder::Bzip2(encoder) => encoder.finish()?,
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Deflate(encoder) => encoder.finish()?,
            Encoder::Zstd(encoder) => encoder.finish()?,
            Encoder::Brotli(encoder) => encoder.into_inner(),
            Encoder::Lzip(encoder) => encoder.finish()?,
            Encoder::Lz4(encoder) => encoder.finish().map_err(io::Error::other)?,
        })
    }
}

/// An iterator over the packed bytes of a source of NAR bytes.
pub struct Encoded<I> {
    source: I,
    encoder: Option<Encoder>,
}

impl<I> Encoded<I> {
    /// Packs what `source` yields.
    ///
    /// # Errors
    /// When the codec cannot be set up (no memory).
    pub fn new(codec: Codec, source: I) -> io::Result<Encoded<I>> {
        Ok(Encoded {
            source,
            encoder: Some(Encoder::new(codec)?),
        })
    }

    fn step<E: From<io::Error>>(&mut self) -> Result<Option<Bytes>, E>
    where
        I: Iterator<Item = Result<Bytes, E>>,
    {
        while let Some(encoder) = &mut self.encoder {
            match self.source.next() {
                Some(bytes) => encoder.write(&bytes?)?,
                None => {
                    let last = self.encoder.take().map(Encoder::finish).transpose()?;
                    return Ok(last.filter(|last| !last.is_empty()).map(Bytes::from));
                }
            }
            if encoder.ready().len() >= HANDED_ON_BYTES {
                return Ok(Some(Bytes::from(std::mem::take(encoder.ready()))));
            }
        }
        Ok(None)
    }
}

impl<I, E> Iterator for Encoded<I>
where
    I: Iterator<Item = Result<Bytes, E>>,
    E: From<io::Error>,
{
    type Item = Result<Bytes, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.encoder = None;
        }
        step.transpose()
    }
}
