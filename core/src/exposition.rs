//! Prometheus' text format, version 0.0.4.
//!
//! Guarantees: each family has its HELP and TYPE once, before its samples; every name begins with
//! `snowcache_`, but for those of the process, which all servers call the same.

use std::fmt::{Display, Write};

/// What the format is announced as.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const TO_A_STRING: &str = "invariant: writing to a String cannot fail";

/// The text as it grows.
#[derive(Default)]
pub struct Exposition {
    text: String,
    family: String,
}

impl Exposition {
    /// The whole text.
    pub fn into_text(self) -> String {
        self.text
    }

    /// What only grows.
    pub fn counter(&mut self, name: &str, help: &str) {
        self.family(name, "counter", help);
    }

    /// What goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str) {
        self.family(name, "gauge", help);
    }

    /// What is counted by size.
    pub fn histogram(&mut self, name: &str, help: &str) {
        self.family(name, "histogram", help);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.family = match name.starts_with("process_") {
            true => name.to_owned(),
            false => format!("snowcache_{name}"),
        };
        let family = &self.family;
        writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}").expect(TO_A_STRING);
    }

    /// A value of the family that was begun last.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    /// A histogram of that family: how many fell into each bucket, one more than there are bounds.
    pub fn distribution(&mut self, label: (&str, &str), bounds: &[f64], counts: &[u64], sum: f64) {
        let mut below = 0;
        let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts) {
            below += count;
            self.line("_bucket", &[label, ("le", &bound)], below);
        }
        self.line("_sum", &[label], sum);
        self.line("_count", &[label], below);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        write!(self.text, "{}{suffix}", self.family).expect(TO_A_STRING);
        for (number, (name, value)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            write!(self.text, "{before}{name}=\"{value}\"").expect(TO_A_STRING);
        }
        let end = if labels.is_empty() { "" } else { "}" };
        writeln!(self.text, "{end} {value}").expect(TO_A_STRING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_reads_as_prometheus_wants_it() {
        let mut to = Exposition::default();
        to.counter("a_total", "What a is.");
        to.sample(&[("route", "x"), ("code", "200")], 3);
        to.histogram("b_seconds", "What b is.");
        to.distribution(("route", "\"\\"), &[0.5, 1.0], &[1, 0, 2], 7.5);
        assert_eq!(
            to.into_text(),
            "# HELP snowcache_a_total What a is.\n\
             # TYPE snowcache_a_total counter\n\
             snowcache_a_total{route=\"x\",code=\"200\"} 3\n\
             # HELP snowcache_b_seconds What b is.\n\
             # TYPE snowcache_b_seconds histogram\n\
             snowcache_b_seconds_bucket{route=\"\\\"\\\\\",le=\"0.5\"} 1\n\
             snowcache_b_seconds_bucket{route=\"\\\"\\\\\",le=\"1\"} 1\n\
             snowcache_b_seconds_bucket{route=\"\\\"\\\\\",le=\"+Inf\"} 3\n\
             snowcache_b_seconds_sum{route=\"\\\"\\\\\"} 7.5\n\
             snowcache_b_seconds_count{route=\"\\\"\\\\\"} 3\n"
        );
    }
}
