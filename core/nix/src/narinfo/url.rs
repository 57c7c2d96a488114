//! Which URLs a narinfo may name: those that stay inside the cache.
//!
//! Nix 2.8 follows whatever is written here, `file:///etc/shadow` included, so a cache that passes
//! a URL on must have looked at it.

use super::error::UrlProblem;

/// Accepts a relative path such as `nar/<file>.nar.xz`.
pub(super) fn check(url: &str) -> Result<(), UrlProblem> {
    if url.is_empty() {
        return Err(UrlProblem::Empty);
    }
    if url
        .bytes()
        .any(|byte| !byte.is_ascii_graphic() || byte == b'\\')
    {
        return Err(UrlProblem::Character);
    }
    // A colon before the first slash makes what stands before it a scheme.
    let first = url.split('/').next().unwrap_or_default();
    if url.starts_with('/') || first.contains(':') {
        return Err(UrlProblem::Absolute);
    }
    let path = url.split(['?', '#']).next().unwrap_or_default();
    if path.split('/').any(is_parent) {
        return Err(UrlProblem::Parent);
    }
    Ok(())
}

fn is_parent(segment: &str) -> bool {
    let plain = segment.replace("%2e", ".").replace("%2E", ".");
    let plain = plain
        .to_ascii_lowercase()
        .replace("%2f", "/")
        .replace("%5c", "/");
    plain.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_below_the_cache_is_accepted() {
        for url in [
            "nar/x.nar.xz",
            "x.nar",
            "nar/1w..z.nar",
            "a/b/c?d=e",
            "nar/...",
            "nar/a:b",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_url_that_leads_elsewhere_is_refused() {
        let cases = [
            ("", UrlProblem::Empty),
            ("http://evil.example/x", UrlProblem::Absolute),
            ("file:///etc/shadow", UrlProblem::Absolute),
            ("FILE:x", UrlProblem::Absolute),
            ("//evil.example/x", UrlProblem::Absolute),
            ("/etc/passwd", UrlProblem::Absolute),
            ("..", UrlProblem::Parent),
            ("nar/../../x", UrlProblem::Parent),
            ("nar/%2e%2E/x", UrlProblem::Parent),
            ("nar/.%2e", UrlProblem::Parent),
            ("nar/%2E.%2Fx", UrlProblem::Parent),
            ("nar/..?x", UrlProblem::Parent),
            ("nar\\..\\x", UrlProblem::Character),
            ("nar/a b", UrlProblem::Character),
            ("nar/é", UrlProblem::Character),
        ];
        for (url, problem) in cases {
            assert_eq!(check(url), Err(problem), "{url}");
        }
    }
}
