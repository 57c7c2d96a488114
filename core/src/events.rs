//! What a server and its clients agree on about streams of events (`GET api/v1/events`).

use std::time::Duration;

/// Pins and paths that one stream is about, at most: 40 bytes of a URL each are 2.5 KB, and 150
/// bytes of the server's memory 10 KB, as much as a connection has otherwise.
pub const MAX_WANTED: usize = 64;

/// After so long without an event the server says that it lives: proxies cut what is silent for
/// 60 s. Who hears nothing for three of these is cut off.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
