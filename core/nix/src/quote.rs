//! How foreign text is shown inside an error: escaped, and never longer than a line.

use std::fmt;

/// Longest piece of foreign text that an error repeats: enough to recognise a store path (32 + 1 +
/// a usual name), too little to fill a log.
const MAX_QUOTED_CHARS: usize = 80;

/// `text` in single quotes, control characters escaped, cut after [`MAX_QUOTED_CHARS`].
pub(crate) fn quote(text: &str) -> String {
    let escaped = text.chars().take(MAX_QUOTED_CHARS + 1).flat_map(|c| {
        // Only what would break the line: a quote or a backslash stays as it is.
        let keep = !c.is_control();
        let escape = (!keep).then(|| c.escape_default());
        keep.then_some(c)
            .into_iter()
            .chain(escape.into_iter().flatten())
    });
    within_quotes(escaped)
}

/// The same for bytes that need not be UTF-8.
pub(crate) fn quote_bytes(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(MAX_QUOTED_CHARS + 1)];
    within_quotes(shown.escape_ascii().map(char::from))
}

fn within_quotes(escaped: impl Iterator<Item = char>) -> String {
    let mut quoted = String::from("'");
    for (n, c) in escaped.enumerate() {
        if n == MAX_QUOTED_CHARS {
            quoted.push('…');
            break;
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

/// Bytes of a name or a target in an error, kept as they were and quoted when shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Quoted(Box<[u8]>);

impl Quoted {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote_bytes(&self.0))
    }
}

impl fmt::Debug for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
