//! Following work that the cache does while it tells of it: a scrub, a recompression.
//!
//! Guarantees: what it came to is what the cache said at its end; a report without an end is a
//! failure. How far it is is drawn on stderr where a person looks at it.

use super::{denied, draw, print, print_json};
use crate::failure::Failure;
use crate::remote::Remote;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::IsTerminal;

/// Work to follow.
pub(super) struct Work<'a> {
    /// What is asked for: `api/v1/scrub`.
    pub route: &'a str,
    /// In a sentence: `scrub`.
    pub noun: &'a str,
    /// Whether lines are passed on as they come.
    pub json: bool,
    /// A line for people, of one that says what was found.
    pub found: fn(&Value) -> Option<String>,
    /// How far it is, of such a line.
    pub progress: fn(&Value) -> Option<String>,
}

/// Has the cache do it; what it came to, printed for people by `text`.
///
/// # Errors
/// What the cache said, or that it said nothing at the end.
pub(super) async fn follow<S: DeserializeOwned>(
    remote: &Remote,
    question: &Value,
    work: Work<'_>,
    text: impl Fn(&S) -> String,
) -> Result<S, Failure> {
    let Work {
        route,
        noun,
        json,
        found,
        progress,
    } = work;
    let report = remote.report(route, question).await;
    let mut report = report.map_err(|error| denied(error, "admin.token"))?;
    let visible = !json && std::io::stderr().is_terminal();
    let mut summary = None;
    while let Some(line) = report.next().await? {
        if visible {
            draw("\r\x1b[K");
        }
        if let Some(error) = line["error"].as_str() {
            return Err(Failure::failed(format!("the {noun} failed: {error}")));
        }
        summary = line.get("summary").cloned().or(summary);
        if json {
            print_json(&line)?;
        } else if let Some(text) = found(&line) {
            print(&text)?;
        } else if visible && let Some(text) = progress(&line["progress"]) {
            draw(&text);
        }
    }
    let summary = summary.ok_or_else(|| {
        Failure::failed(format!(
            "the report ended before the {noun} did; the server's log says more"
        ))
    })?;
    let summary: S = serde_json::from_value(summary)
        .map_err(|error| Failure::failed(format!("the summary cannot be understood: {error}")))?;
    if !json {
        print(&text(&summary))?;
    }
    Ok(summary)
}
