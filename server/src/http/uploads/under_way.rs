//! The uploads that are under way, so that whoever comes back after a cut asks behind what they had
//! sent.
//!
//! ```text
//!   upload:    begins ---- takes in ----- cut ---- takes in what had come ---- keeps it: over
//!   question:                                  '-- absent? ------- waits -------'--> answer
//! ```
//! Guarantees: an answer to a subject counts what all its uploads brought whose client had gone
//! when it was asked, as far as this machine's kernel had heard of it, unless that takes longer
//! than [`PATIENCE`]. Uploads of clients that are there hold nobody up.

use crate::auth::subject::Subject;
use crate::listen::line::{Line, Watched};
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// What a socket held, 6 MiB (net.ipv4.tcp_rmem) from far away, is taken in and synced within this
/// time on a disk of 1 MB/s; afterwards it is sent again. So long, before that, an upload that has
/// begun may go without being looked at, which is done when the server first tries to read from it:
/// as soon as one of its threads has a core. Both are less than the minute that our client waits
/// for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who asks for an upload that has not begun waits so long: longer than our client, which then goes
/// on without.
const BEGINS_WITHIN: Duration = Duration::from_secs(2);
/// How often to look whether it was.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// See the module.
#[derive(Debug, Default)]
pub struct UnderWay(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    uploads: Mutex<Uploads>,
    /// One has begun, or ended.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Uploads {
    next: u64,
    by_number: HashMap<u64, Known>,
}

/// What is known of an upload.
#[derive(Debug)]
struct Known {
    by: Subject,
    key: Option<Key>,
    line: Watched,
    frames: watch::Receiver<u64>,
}

/// What its sender calls an upload: random, so that nobody else's has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u128);

/// What is no [`Key`].
#[derive(Debug, thiserror::Error)]
#[error("an upload is called by 32 hexadecimal digits")]
pub struct KeyError;

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Key, KeyError> {
        let is_key = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_key
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten();
        number.map(Key).ok_or(KeyError)
    }
}

/// How far an upload is.
#[derive(Debug)]
pub struct Progress {
    /// Its client is within a millisecond.
    pub is_near: bool,
    /// Frames of it that outlive the process, or are of no use; closed when it ends.
    pub frames: watch::Receiver<u64>,
}

/// An upload, under way until this is dropped.
#[derive(Debug)]
pub struct Upload {
    number: u64,
    frames: watch::Sender<u64>,
    inner: Arc<Inner>,
}

impl UnderWay {
    /// An upload begins, over this connection; some senders call it by a key.
    pub fn begin(&self, subject: &Subject, key: Option<Key>, line: &Line) -> Upload {
        let mut uploads = self.0.lock();
        let number = uploads.next;
        uploads.next += 1;
        let (counted, frames) = watch::channel(0);
        let known = Known {
            by: subject.clone(),
            key,
            line: line.watch(),
            frames,
        };
        uploads.by_number.insert(number, known);
        drop(uploads);
        self.0.changed.notify_waiters();
        Upload {
            number,
            frames: counted,
            inner: self.0.clone(),
        }
    }

    /// How far the subject's upload of this key is, once something was read of it; None where none
    /// begins within [`BEGINS_WITHIN`].
    pub async fn progress(&self, subject: &Subject, key: Key) -> Option<Progress> {
        let found = async {
            loop {
                let changed = self.0.changed.notified();
                match self.0.called(subject, key) {
                    Some(Some(progress)) => return progress,
                    Some(None) => tokio::time::sleep(LOOK_AGAIN).await,
                    None => changed.await,
                }
            }
        };
        tokio::time::timeout(BEGINS_WITHIN, found).await.ok()
    }

    /// Waits for those of the subject's uploads whose client has gone.
    pub async fn behind_what_was_cut(&self, subject: &Subject) {
        let seeing = async {
            while self.0.any(subject, Watched::is_blind) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        // Late or not: of those that were seen it is known whether they are cut.
        if tokio::time::timeout(PATIENCE, seeing).await.is_err() {
            let subject = subject.as_str();
            tracing::warn!(subject, "an upload has begun of which nothing was read");
        }
        let cut = self.0.cut(subject);
        if cut.is_empty() {
            return;
        }
        let over = async {
            loop {
                let ended = self.0.changed.notified();
                if self.0.are_over(&cut) {
                    return;
                }
                ended.await;
            }
        };
        if tokio::time::timeout(PATIENCE, over).await.is_err() {
            let subject = subject.as_str();
            tracing::warn!(subject, "an upload that was cut is still being taken in");
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Uploads> {
        let uploads = self.uploads.lock();
        uploads.expect("invariant: no panic while the lock is held")
    }

    fn any(&self, subject: &Subject, is_so: impl Fn(&Watched) -> bool) -> bool {
        let uploads = self.lock();
        let mut all = uploads.by_number.values();
        all.any(|it| it.is_by(subject) && is_so(&it.line))
    }

    /// None: there is no such upload. None within: it is blind.
    fn called(&self, subject: &Subject, key: Key) -> Option<Option<Progress>> {
        let uploads = self.lock();
        let mut all = uploads.by_number.values();
        let upload = all.find(|it| it.key == Some(key) && it.is_by(subject))?;
        let progress = || Progress {
            is_near: upload.line.is_near(),
            frames: upload.frames.clone(),
        };
        Some((!upload.line.is_blind()).then(progress))
    }

    fn cut(&self, subject: &Subject) -> Vec<u64> {
        let uploads = self.lock();
        let own = uploads.by_number.iter();
        let own = own.filter(|(_, it)| it.is_by(subject));
        let cut = own.filter(|(_, it)| it.line.is_cut());
        cut.map(|(number, _)| *number).collect()
    }

    fn are_over(&self, numbers: &[u64]) -> bool {
        let uploads = self.lock();
        let by_number = &uploads.by_number;
        !numbers.iter().any(|number| by_number.contains_key(number))
    }
}

impl Known {
    fn is_by(&self, subject: &Subject) -> bool {
        self.by.as_str() == subject.as_str()
    }
}

impl Upload {
    /// Another frame of it would survive this process, or is of no use.
    pub fn took_a_frame(&self) {
        self.frames.send_modify(|frames| *frames += 1);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.inner.lock().by_number.remove(&self.number);
        self.inner.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[tokio::test]
    async fn who_comes_back_waits_for_what_was_cut_and_for_nothing_else() {
        let (under_way, subject, other) = (UnderWay::default(), Subject::push(), Subject::admin());
        let sockets = || UnixStream::pair().expect("a pair");
        let lines = [Line::default(), Line::default()];
        let ((client, server), (there, its_server)) = (sockets(), sockets());
        let cut = under_way.begin(&subject, None, &lines[0]);
        let live = under_way.begin(&subject, None, &lines[1]);
        lines[0].show(server.as_fd());
        lines[1].show(its_server.as_fd());
        under_way.behind_what_was_cut(&subject).await; // both clients are there

        drop(client);
        let mut waiting = Box::pin(under_way.behind_what_was_cut(&subject));
        for _ in 0..50 {
            let early = waiting.as_mut().now_or_never();
            assert!(early.is_none(), "what was cut is still being taken in");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        under_way.behind_what_was_cut(&other).await; // it is not theirs
        drop(cut);
        waiting.await;
        drop((live, there));
    }
}
