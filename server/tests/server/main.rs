//! The real server, in this process, on a free port, spoken to over a plain socket.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's own")]

mod alerts;
mod client;
mod deltas;
mod encrypted;
mod events;
mod falsehoods;
mod front_door;
mod holding;
mod hostile;
mod identity;
mod keeping;
mod limits;
mod named;
mod operating;
mod pieces;
mod pushing;
mod reading;
mod recompressing;
mod remembered;
mod sample;
mod sending;
mod stories;
mod uploads;
mod upstreams;
mod walls;
