//! Integers as LEB128, and a reader that names what it read when the bytes end early.

use crate::{Error, Result};

/// Appends `value`: 7 bits a byte, lowest first.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads what [`put`] wrote.
pub struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`, which are `what`.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { bytes, what }
    }

    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next integer.
    pub fn u64(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damaged())
    }

    /// The next integer, which fits 32 bits.
    pub fn u32(&mut self) -> Result<u32> {
        let value = self.u64()?;
        u32::try_from(value).map_err(|_| self.damaged())
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.try_into().expect("invariant: N bytes were taken"))
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len <= self.bytes.len());
        let (taken, rest) = self.bytes.split_at(len.ok_or_else(|| self.damaged())?);
        self.bytes = rest;
        Ok(taken)
    }

    fn damaged(&self) -> Error {
        Error::corrupt(format!(
            "{} in the index is damaged; stop snowcached, run `snowcached recover`, start it again",
            self.what
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_read_back_and_short_bytes_are_an_error() {
        let values = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX];
        let mut bytes = Vec::new();
        for value in values {
            put(&mut bytes, value);
        }
        let mut reader = Reader::new(&bytes, "a test");
        for value in values {
            assert_eq!(reader.u64().expect("read"), value);
        }
        assert!(reader.is_empty());
        let error = Reader::new(&[0x80], "a test")
            .u64()
            .expect_err("short")
            .to_string();
        assert!(error.contains("a test"), "{error}");
    }
}
