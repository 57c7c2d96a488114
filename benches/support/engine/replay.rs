//! A recorded log, asked again at its own times: each request is due when it was made, whether or
//! not the answers before it have come.
//!
//! Two forms of lines are read, and may be mixed with lines that are neither, which are counted:
//!
//! ```text
//!   … [22/Nov/2026:10:00:00 +0000] "GET /abc.narinfo HTTP/1.1" 200 512 …   nginx, Apache
//!   0.125 GET /abc.narinfo 200 512                                         seconds METHOD PATH …
//! ```
//!
//! Only GET and HEAD are asked again. The status must be the recorded one; the length of a 200 too.

use std::sync::Arc;
use std::time::Duration;

use super::ask::{Ask, Expect};
use super::open::Schedule;
use super::target::Target;

/// What a log asks for.
pub struct Recording {
    pub asks: Arc<[Ask]>,
    pub schedule: Schedule,
    /// Lines that are no request, or one that writes.
    pub left_out: usize,
}

struct Line<'a> {
    seconds: f64,
    method: &'a str,
    path: &'a str,
    status: u16,
    bytes: Option<u64>,
}

impl Recording {
    /// Reads a log; `speed` 2 asks twice as fast.
    pub fn read(target: &Target, log: &str, speed: f64) -> Recording {
        let parsed = log
            .lines()
            .map(|line| combined(line).or_else(|| plain(line)));
        let mut lines: Vec<Line> = Vec::new();
        let mut left_out = 0;
        for line in parsed {
            match line {
                Some(line) if matches!(line.method, "GET" | "HEAD") => lines.push(line),
                _ => left_out += 1,
            }
        }
        lines.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
        spread_within_seconds(&mut lines);
        let first = lines.first().map_or(0.0, |line| line.seconds);
        let due = lines.iter().map(|line| (line.seconds - first) / speed);
        Recording {
            schedule: Schedule::At(due.map(Duration::from_secs_f64).collect()),
            asks: lines.iter().map(|line| ask(target, line)).collect(),
            left_out,
        }
    }
}

fn ask(target: &Target, line: &Line) -> Ask {
    let expect = Expect {
        length: line.bytes.filter(|_| line.status == 200),
        ..Expect::status(line.status)
    };
    let path = line.path.trim_start_matches('/');
    match line.method {
        "HEAD" => Ask::head(target, path, expect),
        _ => Ask::get(target, path, expect),
    }
}

/// Web servers write whole seconds: what has the same one is spread over it.
fn spread_within_seconds(lines: &mut [Line]) {
    let mut begin = 0;
    while begin < lines.len() {
        let second = lines[begin].seconds;
        let same = lines[begin..]
            .iter()
            .take_while(|line| line.seconds == second)
            .count();
        if second.fract() == 0.0 {
            for (number, line) in lines[begin..begin + same].iter_mut().enumerate() {
                line.seconds += number as f64 / same as f64;
            }
        }
        begin += same;
    }
}

fn plain(line: &str) -> Option<Line<'_>> {
    let mut words = line.split_whitespace();
    Some(Line {
        seconds: words.next()?.parse().ok()?,
        method: words.next()?,
        path: words.next().filter(|path| path.starts_with('/'))?,
        status: words.next()?.parse().ok()?,
        bytes: words.next().and_then(|bytes| bytes.parse().ok()),
    })
}

fn combined(line: &str) -> Option<Line<'_>> {
    let (_, rest) = line.split_once('[')?;
    let (date, rest) = rest.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let (mut words, mut rest) = (request.split(' '), rest.split_whitespace());
    Some(Line {
        seconds: since_1970(date)?,
        method: words.next()?,
        path: words.next().filter(|path| path.starts_with('/'))?,
        status: rest.next()?.parse().ok()?,
        bytes: rest.next().and_then(|bytes| bytes.parse().ok()),
    })
}

/// `22/Nov/2026:10:00:00 +0000`, the time zone left out: one log has one.
fn since_1970(date: &str) -> Option<f64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = date.split(['/', ':', ' ']);
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut number = || words.next()?.parse::<i64>().ok();
    let (hours, minutes, seconds) = (number()?, number()?, number()?);
    // Days of the civil calendar, counted from March so that leap days come last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    Some((days * 86_400 + hours * 3_600 + minutes * 60 + seconds) as f64)
}
