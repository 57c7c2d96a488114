//! Numbers as people read them.

use std::time::Duration;

/// A size in bytes: `17`, `1.2 KiB`, `3.4 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut scaled = bytes as f64;
    let mut unit = None;
    for name in UNITS {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = Some(name);
    }
    match unit {
        None => format!("{bytes} B"),
        Some(unit) => format!("{scaled:.1} {unit}"),
    }
}

/// A count with separators: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A span of time: `12 s`, `3 min 20 s`, `2 h 5 min`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// `1 path`, `2 paths`.
pub fn paths(number: usize) -> String {
    match number {
        1 => "1 path".to_owned(),
        number => format!("{} paths", count(number as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 1023, 1024, 1 << 30].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.0 GiB"]
        );
        assert_eq!(
            [0, 999, 1000, 12_345_678].map(count),
            ["0", "999", "1,000", "12,345,678"]
        );
        let spans = [9, 200, 7500].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["9 s", "3 min 20 s", "2 h 5 min"]);
        assert_eq!([1, 2].map(paths), ["1 path", "2 paths"]);
    }
}
