//! What the benches share: a load generator for any binary cache, corpora, the servers that are
//! compared, the rows of the table and the report.
//!
//! ```text
//!   corpus    two generations of a system, real or seeded --> folders that nginx serves
//!   peers     snowcached, nginx, what else is given: started, filled, watched
//!   engine    asks, checks and counts: closed loop, open loop, walks, slow readers, replay
//!   rows      one file a goal: what is measured, interleaved, in rounds
//!   report    Markdown, JSON, SVG
//! ```
//!
//! Guarantees: only answers that were checked count as answered; every figure is printed with its
//! spread. Never: reads or changes anything of the user's, except that the real corpus is
//! registered in /nix/store, as in the tests.

#![allow(dead_code, reason = "each bench and test uses its own part of this")]

#[path = "../../tests/support/mod.rs"]
pub mod harness;

pub mod corpus;
pub mod engine;
pub mod load;
pub mod peers;
pub mod report;
pub mod rows;
pub mod settings;
pub mod table;
