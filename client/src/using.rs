//! A part of a file that is ours, among lines that are not: how `snowcache use` changes nix.conf
//! and netrc files, and takes its changes back.
//!
//! ```text
//!   substituters = https://cache.nixos.org        somebody's
//!   # >>> snowcache use https://host/team-a       ours, until
//!   extra-substituters = https://host/team-a
//!   # <<< snowcache use https://host/team-a       here
//! ```
//! Guarantees: lines that are not ours stay as they are, to the byte; the same again changes
//! nothing; what was put in and taken out leaves the file as it was before, also where it was not
//! there, or its last line had no end. Never: a part without its end taken for one.

pub mod files;
pub mod netrc;
pub mod place;

use std::fmt;
use thiserror::Error;

const BEGIN: &str = "# >>> snowcache use ";
const END: &str = "# <<< snowcache use ";

/// What a part begins with when its file was made for it.
const NEW_FILE: &str = " (the file was not there)";
/// What a part begins with when the line before had no end.
const NO_LINE_END: &str = " (the line before had no end)";

/// A part that has lost its end.
#[derive(Debug, Error)]
#[error("line {line}, {text:?}, begins what was never ended: remove that part by hand")]
pub struct Broken {
    line: usize,
    text: String,
}

/// What a file is to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it is.
    Same,
    /// This.
    Text(String),
    /// Gone: it was made for what was taken out.
    Gone,
}

/// A part that is ours.
struct Part<'a> {
    key: &'a str,
    note: Note,
    /// Where it is, its marks included.
    from: usize,
    to: usize,
    /// Where its lines are.
    lines: std::ops::Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Note {
    None,
    NewFile,
    NoLineEnd,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Note::None => "",
            Note::NewFile => NEW_FILE,
            Note::NoLineEnd => NO_LINE_END,
        })
    }
}

/// The file with this part in it, in the place of an older one of this key; `lines` end in a line
/// break.
///
/// # Errors
/// A part that has no end.
pub fn with(file: Option<&str>, key: &str, lines: &str) -> Result<Outcome, Broken> {
    let text = file.unwrap_or_default();
    if let Some(part) = parts(text)?.into_iter().find(|part| part.key == key) {
        if text[part.lines.clone()] == *lines {
            return Ok(Outcome::Same);
        }
        let (before, behind) = (&text[..part.lines.start], &text[part.lines.end..]);
        return Ok(Outcome::Text([before, lines, behind].concat()));
    }
    let (note, line_end) = match file {
        None => (Note::NewFile, ""),
        Some(text) if text.is_empty() || text.ends_with('\n') => (Note::None, ""),
        Some(_) => (Note::NoLineEnd, "\n"),
    };
    let part = format!("{line_end}{BEGIN}{key}{note}\n{lines}{END}{key}\n");
    Ok(Outcome::Text([text, &part].concat()))
}

/// The file without the part of this key.
///
/// # Errors
/// A part that has no end.
pub fn without(text: &str, key: &str) -> Result<Outcome, Broken> {
    let parts = parts(text)?;
    let Some(at) = parts.iter().position(|part| part.key == key) else {
        return Ok(Outcome::Same);
    };
    let part = &parts[at];
    let (before, behind) = (&text[..part.from], &text[part.to..]);
    // What was noted of the file goes over to the part that now stands in this place.
    if let Some(next) = parts.get(at + 1).filter(|next| next.from == part.to) {
        let rest = &text[next.lines.start..];
        let note = if next.note == Note::None {
            part.note
        } else {
            next.note
        };
        let head = format!("{BEGIN}{}{note}\n", next.key);
        return Ok(Outcome::Text([before, &head, rest].concat()));
    }
    Ok(match (part.note, behind.is_empty()) {
        (Note::NewFile, true) if before.is_empty() => Outcome::Gone,
        (Note::NoLineEnd, true) => {
            Outcome::Text(before.strip_suffix('\n').unwrap_or(before).to_owned())
        }
        _ => Outcome::Text([before, behind].concat()),
    })
}

/// The keys of all parts, and their lines.
///
/// # Errors
/// A part that has no end.
pub fn all(text: &str) -> Result<Vec<(&str, &str)>, Broken> {
    let parts = parts(text)?.into_iter();
    Ok(parts.map(|part| (part.key, &text[part.lines])).collect())
}

fn parts(text: &str) -> Result<Vec<Part<'_>>, Broken> {
    let (mut parts, mut open, mut at) = (Vec::new(), None, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let (from, to) = (at, at + line.len());
        at = to;
        let words = line.trim_end();
        if let Some(head) = words.strip_prefix(BEGIN) {
            let noted = |note: Note, words: &str| Some((head.strip_suffix(words)?, note));
            let (key, note) = noted(Note::NewFile, NEW_FILE)
                .or_else(|| noted(Note::NoLineEnd, NO_LINE_END))
                .unwrap_or((head, Note::None));
            let before = open.replace((number, words, key, note, from, to));
            if let Some((line, text, ..)) = before {
                return Err(broken(line, text));
            }
        }
        if let Some(key) = words.strip_prefix(END)
            && let Some((line, head, begun, note, began, lines)) = open.take()
        {
            if begun != key {
                return Err(broken(line, head));
            }
            parts.push(Part {
                key,
                note,
                from: began,
                to,
                lines: lines..from,
            });
        }
    }
    match open {
        Some((line, text, ..)) => Err(broken(line, text)),
        None => Ok(parts),
    }
}

fn broken(line: usize, text: &str) -> Broken {
    Broken {
        line: line + 1,
        text: text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What there is after it.
    fn carried_out(file: Option<String>, outcome: Outcome) -> Option<String> {
        match outcome {
            Outcome::Same => file,
            Outcome::Text(text) => Some(text),
            Outcome::Gone => None,
        }
    }

    fn put(file: Option<String>, key: &str, lines: &str) -> Option<String> {
        let outcome = with(file.as_deref(), key, lines).expect("whole parts");
        carried_out(file, outcome)
    }

    fn take(file: Option<String>, key: &str) -> Option<String> {
        let outcome = without(file.as_deref().unwrap_or_default(), key).expect("whole parts");
        carried_out(file, outcome)
    }

    #[test]
    fn what_is_put_in_and_taken_out_in_any_order_leaves_the_file_as_it_was() {
        for before in [
            None,
            Some(""),
            Some("\n"),
            Some("a = b"),
            Some("a = b\n"),
            Some("a = b\n\n# c"),
        ] {
            let before = before.map(str::to_owned);
            for order in [
                ["x", "y", "z"],
                ["z", "y", "x"],
                ["y", "z", "x"],
                ["y", "x", "z"],
            ] {
                let mut file = before.clone();
                for key in ["x", "y", "z"] {
                    file = put(file, key, &format!("of {key}\n"));
                    let same = with(file.as_deref(), key, &format!("of {key}\n"));
                    assert_eq!(same.expect("whole"), Outcome::Same);
                }
                file = put(file, "y", "of y\nand more\n");
                for key in order {
                    assert_ne!(file, before);
                    file = take(file, key);
                }
                assert_eq!(file, before, "{order:?}");
            }
        }
    }

    #[test]
    fn lines_that_come_later_stay() {
        let file = put(Some("a = b".to_owned()), "x", "of x\n");
        let file = file.map(|text| text + "c = d\n");
        assert_eq!(take(file, "x").as_deref(), Some("a = b\nc = d\n"));
        let file = put(None, "x", "of x\n").map(|text| text + "c = d");
        assert_eq!(take(file, "x").as_deref(), Some("c = d"));
    }

    #[test]
    fn a_part_without_its_end_is_told() {
        for text in [
            "# >>> snowcache use x\na\n",
            "# >>> snowcache use x\na\n# <<< snowcache use y\n",
            "# >>> snowcache use x\n# >>> snowcache use y\n# <<< snowcache use y\n",
        ] {
            let error = without(text, "x").expect_err(text).to_string();
            assert!(error.starts_with("line 1, "), "{error}");
        }
        assert_eq!(
            without("# <<< snowcache use x\n", "x").expect("nothing"),
            Outcome::Same
        );
    }
}
