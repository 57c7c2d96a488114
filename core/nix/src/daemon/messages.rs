//! What a daemon says while it works: log lines and activities, then that it is done, or why not.
//!
//! ```text
//!   NEXT <line>          START <id> <level> <type> <text> <fields> <parent>
//!   STOP <id>            RESULT <id> <type> <fields>            any number of these, thrown away
//!   LAST                                                        done; the answer follows
//!   ERROR "Error" <level> <name> <text> <position: 0> { 0 <trace> }
//! ```

use futures::AsyncRead;

use super::DaemonError;
use super::wire::Reader;

const NEXT: u64 = 0x6f6c_6d67;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// A log line, or an error. An evaluation's error with its trace has some 100 kB; imports have
/// lines.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Of an activity; Nix sends four at most.
const MAX_FIELDS: u64 = 64;
/// Of an error. An error of the store has none or a few.
const MAX_TRACES: u64 = 1000;
/// A field of an activity is a number or a string.
const NUMBER_FIELD: u64 = 0;
const STRING_FIELD: u64 = 1;
/// What is shown of an error: the longest store path thrice, and the sentence around it.
const MAX_SHOWN_CHARS: usize = 1000;

/// Reads up to the end of an operation.
///
/// # Errors
/// [`DaemonError::Refused`] when the daemon says that it failed.
pub(super) async fn until_done<R: AsyncRead + Unpin>(
    from: &mut Reader<R>,
) -> Result<(), DaemonError> {
    loop {
        match from.number().await? {
            LAST => return Ok(()),
            ERROR => return Err(DaemonError::Refused(error(from).await?)),
            NEXT => drop(from.string("log line", MAX_TEXT_BYTES).await?),
            START_ACTIVITY => {
                for _ in ["id", "level", "type"] {
                    from.number().await?;
                }
                from.string("activity", MAX_TEXT_BYTES).await?;
                fields(from).await?;
                from.number().await?; // its parent
            }
            STOP_ACTIVITY => drop(from.number().await?),
            RESULT => {
                for _ in ["id", "type"] {
                    from.number().await?;
                }
                fields(from).await?;
            }
            found => {
                let expected = "a message";
                return Err(DaemonError::Unexpected { expected, found });
            }
        }
    }
}

async fn fields<R: AsyncRead + Unpin>(from: &mut Reader<R>) -> Result<(), DaemonError> {
    for _ in 0..from.count("activity fields", MAX_FIELDS).await? {
        match from.number().await? {
            NUMBER_FIELD => drop(from.number().await?),
            STRING_FIELD => drop(from.string("activity field", MAX_TEXT_BYTES).await?),
            found => {
                let expected = "the type of an activity's field";
                return Err(DaemonError::Unexpected { expected, found });
            }
        }
    }
    Ok(())
}

/// The sentence of an error; its traces are for Nix's own developers.
async fn error<R: AsyncRead + Unpin>(from: &mut Reader<R>) -> Result<String, DaemonError> {
    from.string("error type", MAX_TEXT_BYTES).await?;
    from.number().await?; // its level
    from.string("error name", MAX_TEXT_BYTES).await?;
    let text = from.string("error", MAX_TEXT_BYTES).await?;
    no_position(from).await?;
    for _ in 0..from.count("error traces", MAX_TRACES).await? {
        no_position(from).await?;
        from.string("error trace", MAX_TEXT_BYTES).await?;
    }
    Ok(one_line(&String::from_utf8_lossy(&text)))
}

/// Nix has never sent where in a file an error is, and a client could not read it.
async fn no_position<R: AsyncRead + Unpin>(from: &mut Reader<R>) -> Result<(), DaemonError> {
    match from.number().await? {
        0 => Ok(()),
        found => {
            let expected = "the position of an error (0)";
            Err(DaemonError::Unexpected { expected, found })
        }
    }
}

/// Without colours, line breaks and control characters, and short enough to be read.
fn one_line(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            // A colour: ESC [ numbers and a letter.
            '\x1b' => drop(chars.find(|c| c.is_ascii_alphabetic())),
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    let words: Vec<&str> = plain.split_whitespace().collect();
    let mut line = words.join(" ");
    if let Some((end, _)) = line.char_indices().nth(MAX_SHOWN_CHARS) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn an_error_is_shown_as_one_plain_line() {
        let text = "cannot add path '\x1b[35;1m/nix/store/x\x1b[0m'\n  because\tit lacks";
        assert_eq!(
            one_line(text),
            "cannot add path '/nix/store/x' because it lacks"
        );
        assert_eq!(one_line(&"é".repeat(2000)).chars().count(), 1001);
        assert_eq!(one_line("\x1b["), "");
    }
}
