//! What of a stream is taken, asked over a second connection while the first one sends it, so that
//! no frame leaves before the last one is where no death of the server can cost it.
//!
//! ```text
//!   POST uploads              frame 1 |  . . . . . . . | frame 2 |  . . . .
//!   GET  uploads/taken/KEY     -----------------> "."             --> "."
//! ```
//! Guarantees: as long as the server tells, at most one frame of a stream has left and is not
//! taken. Something on the way that keeps requests or answers back costs [`DOUBT`] once a push;
//! then, with a server that is older, and over a long way, the push goes on without. Never: a frame
//! that waits for ever.

use super::http::{Ask, Http, random_key};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// Until the first frame of a push is taken: milliseconds, unless something keeps that back.
const DOUBT: Duration = Duration::from_secs(1);
/// Until the next one is, of a server that told of others: its disk may be busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who had no answer to anything within this time is so far away that waiting for each frame costs
/// more than sending some again. How far its own neighbour is the server knows better: this is
/// about those who speak to it through a proxy nearby.
const NEAR: Duration = Duration::from_millis(25);
/// After so many frames that is known: each cost one such wait, or a busy machine was slow.
const FRAMES_TO_TELL: u64 = 8;
/// What the server calls the stream.
const KEY: HeaderName = HeaderName::from_static("snowcache-upload");

/// Whether the streams of a push wait; they find out together.
#[derive(Clone, Debug, Default)]
pub struct Waits(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Frames of which somebody was told that they are taken.
    told: AtomicU64,
    in_vain: AtomicBool,
}

impl Waits {
    fn are_in_vain(&self) -> bool {
        self.0.in_vain.load(Ordering::Relaxed)
    }
}

/// The frames of a stream.
pub(super) struct Taking {
    http: Http,
    waits: Waits,
    /// None: nobody waits.
    question: Option<Question>,
    sent: u64,
    taken: u64,
}

enum Question {
    /// Of which nobody needs the answer yet.
    Ask(Ask),
    /// A byte for each frame that is taken.
    Answer(Incoming),
}

/// Why there is no answer.
enum Silence {
    /// There will be none to this stream's question.
    Broken,
    /// Nor to any other.
    InVain,
}

impl Taking {
    /// Those of the stream that `upload` begins.
    pub fn of(http: &Http, waits: &Waits, upload: &mut Ask) -> Taking {
        let key = (!waits.are_in_vain()).then(random_key).flatten();
        let question = key.and_then(|key| {
            let value = HeaderValue::from_str(&key).ok()?;
            upload.headers.insert(KEY, value);
            Some(Question::Ask(Ask::get(format!(
                "{}/taken/{key}",
                upload.url
            ))))
        });
        Taking {
            http: http.clone(),
            waits: waits.clone(),
            question,
            sent: 0,
            taken: 0,
        }
    }

    /// Waits until all frames that were sent are taken: another one is to follow.
    pub async fn wait(&mut self) {
        while self.taken < self.sent && self.question.is_some() {
            let told = self.waits.0.told.load(Ordering::Relaxed);
            let patience = if told == 0 { DOUBT } else { PATIENCE };
            let next = timeout(patience, self.next(told)).await;
            match next.unwrap_or(Err(Silence::InVain)) {
                Ok(frames) => {
                    self.taken += frames;
                    self.waits.0.told.fetch_add(frames, Ordering::Relaxed);
                }
                Err(silence) => {
                    self.question = None;
                    let in_vain = matches!(silence, Silence::InVain);
                    self.waits.0.in_vain.fetch_or(in_vain, Ordering::Relaxed);
                }
            }
        }
        self.sent += 1;
    }

    /// How many more are taken; of all the push's `told` were.
    async fn next(&mut self, told: u64) -> Result<u64, Silence> {
        let is_far = told >= FRAMES_TO_TELL && self.http.quickest() > NEAR;
        if is_far || self.waits.are_in_vain() {
            return Err(Silence::InVain);
        }
        if let Some(Question::Ask(ask)) = &self.question {
            let nothing = Empty::<Bytes>::new().map_err(|never| match never {});
            let answer = self.http.streamed(ask, nothing.boxed_unsync()).await;
            let answer = answer.map_err(|_| Silence::Broken)?;
            if answer.status() != StatusCode::OK {
                return Err(Silence::InVain);
            }
            self.question = Some(Question::Answer(answer.into_body()));
        }
        let Some(Question::Answer(answer)) = &mut self.question else {
            return Err(Silence::Broken);
        };
        match answer.frame().await {
            Some(Ok(frame)) => Ok(frame.data_ref().map_or(0, |bytes| bytes.len() as u64)),
            _ => Err(Silence::Broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Instant;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// Somebody who answers a question thus, a part at a time.
    fn server(parts: &'static [&'static str]) -> Http {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("somebody asks");
            assert!(client.read(&mut [0; 4096]).expect("a question") > 0);
            for part in parts {
                client.write_all(part.as_bytes()).expect("it is heard");
                thread::sleep(Duration::from_millis(100));
            }
            if parts.is_empty() {
                thread::sleep(3 * DOUBT);
            }
        });
        Http::new(url.parse().expect("a URL"), None)
    }

    /// Sends two frames to it: how long the second one waited, and whether others need not wait.
    async fn second_frame(parts: &'static [&'static str]) -> (Duration, bool) {
        let (http, waits) = (server(parts), Waits::default());
        let mut upload = Ask::new(Method::POST, http.endpoint.join("api/v1/uploads"));
        let mut taking = Taking::of(&http, &waits, &mut upload);
        assert!(upload.headers.contains_key(KEY));
        taking.wait().await;
        let began = Instant::now();
        taking.wait().await;
        (began.elapsed(), waits.are_in_vain())
    }

    #[tokio::test]
    async fn a_frame_waits_until_the_one_before_it_is_taken() {
        let (waited, in_vain) = second_frame(&[HEAD, "1\r\n.\r\n", ""]).await;
        assert!(
            waited >= Duration::from_millis(100) && waited < DOUBT,
            "{waited:?}"
        );
        assert!(!in_vain);
        let (waited, in_vain) = second_frame(&[HEAD]).await;
        assert!(
            waited < DOUBT && !in_vain,
            "only this stream's answer broke off"
        );
    }

    #[tokio::test]
    async fn nobody_waits_for_who_does_not_tell() {
        let older = second_frame(&["HTTP/1.1 404 Never Heard\r\nContent-Length: 0\r\n\r\n"]).await;
        let far = second_frame(&["HTTP/1.1 204 Far\r\n\r\n"]).await;
        for (waited, in_vain) in [older, far] {
            assert!(waited < DOUBT && in_vain, "{waited:?}");
        }
        let (waited, in_vain) = second_frame(&[]).await; // somebody on the way keeps it back
        assert!(
            waited >= DOUBT && waited < 2 * DOUBT && in_vain,
            "{waited:?}"
        );
    }

    #[tokio::test]
    async fn over_a_long_way_nobody_goes_on_waiting() {
        let http = server(&[HEAD, "8\r\n........\r\n", "", "", ""]);
        let waits = Waits::default();
        let mut upload = Ask::new(Method::POST, http.endpoint.join("api/v1/uploads"));
        let mut taking = Taking::of(&http, &waits, &mut upload);
        assert!(http.quickest() > NEAR, "no question was answered soon");
        for _ in 0..=FRAMES_TO_TELL {
            taking.wait().await;
            assert!(!waits.are_in_vain());
        }
        taking.wait().await;
        assert!(waits.are_in_vain());
    }
}
