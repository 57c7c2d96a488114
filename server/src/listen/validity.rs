//! When a certificate ends: the one field of X.509 that an operator is to be warned of.
//!
//! ```text
//!   Certificate { TBSCertificate { [0] version?, serial, algorithm, issuer,
//!                                  Validity { notBefore, notAfter }, ... } ... }
//! ```
//! DER as in X.690, the fields as in RFC 5280, section 4.1. Never: trusts a length.

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `notAfter` of a certificate in seconds since 1970, if it can be read.
pub fn not_after_unix_s(certificate: &[u8]) -> Option<i64> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        (_, fields) = any(fields)?.1;
    }
    for _serial_algorithm_issuer in 0..3 {
        (_, fields) = any(fields)?.1;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let (_, (_, not_after)) = any(validity)?;
    let (tag, (text, _)) = any(not_after)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    match tag {
        // Two digits of the year: up to 2049.
        UTC_TIME if text.len() == 12 => {
            let century = if text < "50" { "20" } else { "19" };
            seconds(&format!("{century}{text}"))
        }
        GENERALIZED_TIME if text.len() == 14 => seconds(text),
        _ => None,
    }
}

/// What the next element holds, and what follows it.
type Element<'a> = (&'a [u8], &'a [u8]);

fn element(bytes: &[u8], wanted: u8) -> Option<Element<'_>> {
    any(bytes)
        .filter(|(tag, _)| *tag == wanted)
        .map(|(_, element)| element)
}

fn any(bytes: &[u8]) -> Option<(u8, Element<'_>)> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let (length, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            if length.len() > 4 {
                return None;
            }
            let length = length
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
    };
    Some((tag, rest.split_at_checked(length)?))
}

/// Of YYYYMMDDHHMMSS.
fn seconds(digits: &str) -> Option<i64> {
    let part = |from: usize, to: usize| digits.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    // Years begin in March here, so that a leap day is the last of its year.
    let years = if month > 2 { year } else { year - 1 };
    let days_before_the_month = (153 * ((month + 9) % 12) + 2) / 5;
    let leap_days = years / 4 - years / 100 + years / 400;
    let days = years * 365 + leap_days + days_before_the_month + day - 1 - DAYS_TO_1970;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// From the 1st of March of the year 0 to the 1st of January 1970.
const DAYS_TO_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_as_date_counts_them() {
        for (digits, unix_s) in [
            ("19700101000000", 0),
            ("20000229120000", 951_825_600),
            ("20380119031408", 1 << 31),
            ("20491231235959", 2_524_607_999),
            ("21000301000000", 4_107_542_400),
        ] {
            assert_eq!(seconds(digits), Some(unix_s), "{digits}");
        }
        assert_eq!(seconds("20001301000000"), None);
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        for bytes in [
            &[][..],
            &[0x30],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 0xff],
            &[0x30, 0x02, 0x30, 0x00],
        ] {
            assert_eq!(not_after_unix_s(bytes), None);
        }
    }
}
