//! Nix's base32: its own alphabet, and the digits in reverse order.
//!
//! A text of `n` digits is a little-endian number written most significant digit first: the *first*
//! character holds the top bits of the *last* byte. So the order of texts is the order of the bytes
//! read backwards.
//!
//! Guarantees: one text per value, both ways (spare bits must be zero). Never allocates on
//! decoding. Source: Nix, `src/libutil/base-nix-32.cc`.

use thiserror::Error;

/// The 32 digits in order. The letters `e`, `o`, `t`, `u` are left out, so that hashes spell few
/// words.
pub const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Marks a byte that is no digit.
const NOT_A_DIGIT: u8 = 0xff;

const DIGIT_OF: [u8; 256] = {
    let mut table = [NOT_A_DIGIT; 256];
    let mut digit = 0;
    while digit < ALPHABET.len() {
        table[ALPHABET[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};

/// Why a text is no base32 of the expected size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Base32Error {
    /// Not the number of characters that the value needs.
    #[error("base32 of {expected} characters expected, found {found}")]
    Length {
        /// Characters that a value of this size has.
        expected: usize,
        /// Bytes that the text has.
        found: usize,
    },
    /// A byte outside the alphabet.
    #[error(
        "'{}' at character {at} is no base32 digit (0-9, a-z without e, o, t, u)",
        .found.escape_ascii()
    )]
    Digit {
        /// The byte.
        found: u8,
        /// Its place, counted from 0.
        at: usize,
    },
    /// The first digit has bits beyond the value's last byte.
    #[error("the first base32 digit is too large for {bytes} bytes")]
    Overflow {
        /// Size of the value.
        bytes: usize,
    },
}

/// How many digits `bytes` bytes take: eight bits a byte, five bits a digit, rounded up.
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// The value of one digit, or nothing for other bytes.
pub(crate) const fn digit_of(byte: u8) -> Option<u8> {
    match DIGIT_OF[byte as usize] {
        NOT_A_DIGIT => None,
        digit => Some(digit),
    }
}

/// Writes `bytes` in Nix's base32.
pub fn encode(bytes: &[u8]) -> String {
    let digits = encoded_len(bytes.len());
    let mut text = String::with_capacity(digits);
    for n in (0..digits).rev() {
        let (byte, bit) = (n * 5 / 8, n * 5 % 8);
        let low = u16::from(bytes[byte]);
        let high = u16::from(bytes.get(byte + 1).copied().unwrap_or(0));
        let digit = ((high << 8 | low) >> bit) & 0x1f;
        text.push(char::from(ALPHABET[usize::from(digit)]));
    }
    text
}

/// Reads exactly `N` bytes from the base32 text in `text`.
pub fn decode<const N: usize>(text: &[u8]) -> Result<[u8; N], Base32Error> {
    let mut bytes = [0; N];
    decode_into(text, &mut bytes)?;
    Ok(bytes)
}

/// Reads exactly `bytes.len()` bytes from `text`. On an error `bytes` holds nothing of meaning.
pub(crate) fn decode_into(text: &[u8], bytes: &mut [u8]) -> Result<(), Base32Error> {
    let expected = encoded_len(bytes.len());
    if text.len() != expected {
        return Err(Base32Error::Length {
            expected,
            found: text.len(),
        });
    }
    bytes.fill(0);
    for (n, &found) in text.iter().rev().enumerate() {
        let at = text.len() - 1 - n;
        let digit = digit_of(found).ok_or(Base32Error::Digit { found, at })?;
        let (byte, bit) = (n * 5 / 8, n * 5 % 8);
        let shifted = u16::from(digit) << bit;
        let [low, high] = shifted.to_le_bytes();
        bytes[byte] |= low;
        match bytes.get_mut(byte + 1) {
            Some(next) => *next |= high,
            None if high != 0 => return Err(Base32Error::Overflow { bytes: bytes.len() }),
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sha256_of_nothing_reads_as_nix_prints_it() {
        let text = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        let bytes: [u8; 32] = decode(text.as_bytes()).expect("nix printed this");
        assert_eq!(bytes[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        assert_eq!(encode(&bytes), text);
    }

    #[test]
    fn each_refusal_says_what_and_where() {
        let refusal = |text: &str| decode::<20>(text.as_bytes()).expect_err(text).to_string();
        assert_eq!(refusal("0123"), "base32 of 32 characters expected, found 4");
        assert_eq!(
            refusal("0123456789abcdfghijklmnpqrsvwxye"),
            "'e' at character 31 is no base32 digit (0-9, a-z without e, o, t, u)"
        );
        assert_eq!(
            decode::<1>(b"z0"),
            Err(Base32Error::Overflow { bytes: 1 }),
            "ten bits do not fit a byte"
        );
    }

    #[test]
    fn every_length_comes_back() {
        let bytes: Vec<u8> = (0..70u8).map(|n| n.wrapping_mul(197) ^ 0x5a).collect();
        for len in 0..bytes.len() {
            let text = encode(&bytes[..len]);
            let mut again = vec![0xaa; len];
            decode_into(text.as_bytes(), &mut again).expect("we wrote it");
            assert_eq!(again, bytes[..len], "{len} bytes");
        }
    }
}
