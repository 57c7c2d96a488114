//! One request as it goes out, and what must come back.

use std::io;
use std::sync::Arc;

use super::target::Target;
use super::wire::Wire;

/// A prepared request.
#[derive(Clone)]
pub struct Ask {
    /// For complaints.
    pub what: String,
    head: Box<[u8]>,
    payload: Option<Arc<[u8]>>,
    bodiless: bool,
    pub expect: Expect,
}

/// What a right answer is.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    pub status: u16,
    /// Of the body, in bytes.
    pub length: Option<u64>,
    /// The body itself: for what is small.
    pub body: Option<Arc<[u8]>>,
}

/// How an answer was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As expected; so many body bytes.
    Right(u64),
    /// An answer, but not that one.
    Wrong(String),
}

impl Expect {
    pub fn status(status: u16) -> Expect {
        Expect {
            status,
            ..Expect::default()
        }
    }

    pub fn length(length: Option<u64>) -> Expect {
        Expect {
            length,
            ..Expect::status(200)
        }
    }

    pub fn body(body: Arc<[u8]>) -> Expect {
        Expect {
            body: Some(body),
            ..Expect::status(200)
        }
    }
}

impl Ask {
    pub fn get(target: &Target, path: &str, expect: Expect) -> Ask {
        Ask {
            what: format!("GET {path}"),
            head: target.request("GET", path, ""),
            payload: None,
            bodiless: false,
            expect,
        }
    }

    /// The body's bytes from `first` on, as many as `part` has.
    pub fn range(target: &Target, path: &str, first: usize, part: Arc<[u8]>) -> Ask {
        let last = first + part.len() - 1;
        let header = format!("Range: bytes={first}-{last}\r\n");
        Ask {
            what: format!("GET {path}, bytes {first} to {last}"),
            head: target.request("GET", path, &header),
            payload: None,
            bodiless: false,
            expect: Expect {
                status: 206,
                ..Expect::body(part)
            },
        }
    }

    pub fn head(target: &Target, path: &str, expect: Expect) -> Ask {
        Ask {
            what: format!("HEAD {path}"),
            head: target.request("HEAD", path, ""),
            payload: None,
            bodiless: true,
            expect,
        }
    }

    pub fn put(target: &Target, path: &str, token: &str, payload: Arc<[u8]>) -> Ask {
        Ask::sending("PUT", target, path, token, payload)
    }

    pub fn post(target: &Target, path: &str, token: &str, payload: Arc<[u8]>) -> Ask {
        Ask::sending("POST", target, path, token, payload)
    }

    fn sending(method: &str, target: &Target, path: &str, token: &str, payload: Arc<[u8]>) -> Ask {
        let more = format!(
            "Authorization: Bearer {token}\r\nContent-Length: {}\r\n",
            payload.len()
        );
        Ask {
            what: format!("{method} {path}"),
            head: target.request(method, path, &more),
            payload: Some(payload),
            bodiless: false,
            expect: Expect::status(200),
        }
    }

    /// Sends it and checks what comes back; says too whether the server closes the connection. An
    /// error means that it is of no more use.
    pub async fn over(&self, wire: &mut Wire) -> io::Result<(Verdict, bool)> {
        self.keeping(wire, None).await
    }

    /// The same, and keeps the body.
    pub async fn keeping(
        &self,
        wire: &mut Wire,
        mut kept: Option<&mut Vec<u8>>,
    ) -> io::Result<(Verdict, bool)> {
        self.send(wire).await?;
        let (mut at, mut same) = (0, true);
        let expected = self.expect.body.as_deref();
        let answer = wire.receive(self.bodiless, |piece| {
            if let Some(expected) = expected {
                same &= expected.get(at..at + piece.len()) == Some(piece);
                at += piece.len();
            }
            if let Some(kept) = kept.as_mut() {
                kept.extend_from_slice(piece);
            }
        });
        let answer = answer.await?;
        let length = expected
            .map(|body| body.len() as u64)
            .or(self.expect.length);
        let length = length.filter(|_| !self.bodiless);
        let verdict = if answer.status != self.expect.status {
            self.wrong(format!("{} for {}", answer.status, self.expect.status))
        } else if let Some(length) = length.filter(|&length| length != answer.body_bytes) {
            self.wrong(format!("{} bytes for {length}", answer.body_bytes))
        } else if !same {
            self.wrong("other bytes".to_owned())
        } else {
            Verdict::Right(answer.body_bytes)
        };
        Ok((verdict, answer.closes))
    }

    pub async fn send(&self, wire: &mut Wire) -> io::Result<()> {
        wire.send(&self.head).await?;
        match &self.payload {
            Some(payload) => wire.send(payload).await,
            None => Ok(()),
        }
    }

    fn wrong(&self, how: String) -> Verdict {
        Verdict::Wrong(format!("{}: {how}", self.what))
    }
}
