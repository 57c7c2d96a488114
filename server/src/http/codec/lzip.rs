//! lzip, the one way liblzma does not know: its encoder's LZMA_alone stream, rewrapped.
//!
//! ```text
//!   LZMA_alone   | properties 1 | dictionary 4 | size 8 |  LZMA stream with end marker  |
//!   lzip member  | "LZIP" | version 1 | dictionary 1 |  the same LZMA stream  |
//!                | CRC-32 4 | data size 8 | member size 8 |
//! ```
//! Source: the lzip manual, "File format"; LZMA's lc=3, lp=0, pb=2 are fixed there and are
//! liblzma's defaults.

use liblzma::stream::{LzmaOptions, Stream};
use liblzma::write::XzEncoder;
use std::io::{self, Write};

/// The dictionary: 1 MiB, which lzip's header codes as its binary logarithm.
const DICTIONARY_LOG: u8 = 20;
/// Properties, dictionary size and data size of LZMA_alone, which lzip says in its own way.
const ALONE_HEADER_BYTES: usize = 13;
/// CRC-32, data size, member size.
const TRAILER_BYTES: u64 = 20;

/// Packs one lzip member.
pub struct LzipEncoder {
    lzma: XzEncoder<Vec<u8>>,
    ready: Vec<u8>,
    /// Of the LZMA_alone header, still to be cut off.
    header_left: usize,
    member_size_bytes: u64,
    crc: flate2::Crc,
}

impl LzipEncoder {
    /// An encoder at liblzma's fastest preset: what it packs is read once, by the uploader itself.
    pub fn new() -> io::Result<LzipEncoder> {
        let mut options = LzmaOptions::new_preset(0)?;
        options.dict_size(1 << DICTIONARY_LOG);
        let stream = Stream::new_lzma_encoder(&options)?;
        let header = [b'L', b'Z', b'I', b'P', 1, DICTIONARY_LOG];
        Ok(LzipEncoder {
            lzma: XzEncoder::new_stream(Vec::new(), stream),
            ready: header.to_vec(),
            header_left: ALONE_HEADER_BYTES,
            member_size_bytes: header.len() as u64,
            crc: flate2::Crc::new(),
        })
    }

    /// Packs `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.lzma.write_all(bytes)?;
        self.collect();
        Ok(())
    }

    /// What is ready to be sent, to be taken away.
    pub fn ready(&mut self) -> &mut Vec<u8> {
        &mut self.ready
    }

    /// Ends the member and returns its last bytes.
    pub fn finish(mut self) -> io::Result<Vec<u8>> {
        self.lzma.try_finish()?;
        self.collect();
        let data_size_bytes = self.lzma.total_in();
        self.ready.extend(self.crc.sum().to_le_bytes());
        self.ready.extend(data_size_bytes.to_le_bytes());
        self.ready
            .extend((self.member_size_bytes + TRAILER_BYTES).to_le_bytes());
        Ok(self.ready)
    }

    fn collect(&mut self) {
        let made = std::mem::take(self.lzma.get_mut());
        let cut = made.len().min(self.header_left);
        self.header_left -= cut;
        self.member_size_bytes += (made.len() - cut) as u64;
        self.ready.extend_from_slice(&made[cut..]);
    }
}
