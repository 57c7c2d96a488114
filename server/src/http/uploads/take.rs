//! The stream of an upload on its way into the depot, on a thread that may block.
//!
//! ```text
//!   nar --> literal | frame | known ... --> end of nar: hash as claimed? --> durable, "held"
//!                 |                            '-- refused: nothing of it stays
//!                 +-- a known frame is not here: what came is kept, "lacks"
//!                 +-- no NAR, no frame: refused;  the rest of it is read and thrown away
//!   cut off anywhere: the NARs that ended are held, the frames of the last one kept
//! ```
//! Guarantees: one NAR that is refused does not touch the others; of a stream that was cut off
//! every whole frame stays for the time of a lease, also when the process dies: then one at most is
//! lost that was read, the one at hand, and when the power goes what came since the last
//! `KEEP_BYTES`. Never: more than one record and what the depot holds in memory.

use crate::auth::subject::Subject;
use crate::clock::now_unix_s;
use crate::http::App;
use crate::http::errors::Refusal;
use crate::http::push_nar::received::{Message, Received, Stop};
use crate::http::{body, uploads::MAX_AT_ONCE, uploads::under_way};
use serde::Serialize;
use snowcache_core::upload::{Reader, Record, StreamError};
use snowcache_depot::{CacheName, Error, ErrorKind, Ingest, Lease, Nar, Upload, native_name};
use std::cell::Cell;
use tokio::sync::mpsc;

/// What became of the NARs of a stream.
#[derive(Debug, Default, Serialize)]
pub struct Taken {
    nars: Vec<Outcome>,
}

/// What became of one.
#[derive(Debug, Serialize)]
struct Outcome {
    nar_hash: String,
    #[serde(flatten)]
    fate: Fate,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    /// Durable, for the time of a lease.
    Held(bool),
    /// A frame that was sent by name only is not here.
    Lacks(String),
    /// Why.
    Refused(String),
}

/// A NAR that is being taken in.
struct Open {
    claimed: Nar,
    /// None: it was refused, or lacks a frame.
    ingest: Option<Ingest>,
}

struct Taking<'a> {
    app: &'a App,
    subject: &'a Subject,
    file_size_bytes: &'a Cell<u64>,
    /// What had come when the NAR began.
    began_at: u64,
    open: Option<Open>,
    taken: Taken,
}

/// Takes a stream in.
///
/// # Errors
/// Where it was no whole stream, or the depot failed; NARs that had ended before are held.
pub fn take_in(
    app: &App,
    subject: &Subject,
    upload: &under_way::Upload,
    queued: mpsc::Receiver<Message>,
) -> Result<Taken, Refusal> {
    app.depot.check_quota(&app.cache)?;
    let file_size_bytes = Cell::new(0);
    let limit_bytes = app.config.uploads.max_nar_size_bytes;
    let mut reader = Reader::new(Received::new(queued, &file_size_bytes, limit_bytes));
    let mut taking = Taking {
        app,
        subject,
        file_size_bytes: &file_size_bytes,
        began_at: 0,
        open: None,
        taken: Taken::default(),
    };
    loop {
        match reader.read() {
            Ok(Record::End { .. }) if taking.open.is_none() => return Ok(taking.taken),
            Ok(record) => {
                let is_frame = matches!(record, Record::Frame { .. });
                taking.take(record)?;
                if is_frame {
                    upload.took_a_frame();
                }
            }
            Err(error) => return Err(taking.broken(&error)),
        }
    }
}

impl Taking<'_> {
    fn take(&mut self, record: Record<'_>) -> Result<(), Refusal> {
        let ends = matches!(record, Record::EndOfNar);
        match (record, self.open.as_mut()) {
            (
                Record::Nar {
                    nar_hash,
                    nar_size_bytes,
                },
                None,
            ) => {
                return self.begin(Nar {
                    nar_hash,
                    nar_size_bytes,
                });
            }
            (Record::EndOfNar, Some(_)) => {}
            (
                Record::Literal(_) | Record::Frame { .. } | Record::Known { .. },
                Some(Open {
                    claimed,
                    ingest: Some(ingest),
                }),
            ) => {
                let fed = feed(ingest, &self.app.cache, claimed, record);
                return self.fed(fed);
            }
            (Record::Literal(_) | Record::Frame { .. } | Record::Known { .. }, Some(_)) => {}
            _ => {
                let sentence = "the upload's records come in no order that an upload has";
                return Err(Refusal::malformed(sentence));
            }
        }
        if ends { self.end() } else { Ok(()) }
    }

    fn begin(&mut self, claimed: Nar) -> Result<(), Refusal> {
        if self.taken.nars.len() >= MAX_AT_ONCE {
            let sentence = format!("send at most {MAX_AT_ONCE} NARs at once");
            return Err(Refusal::too_large(sentence));
        }
        self.began_at = self.file_size_bytes.get();
        let mut ingest = self.app.depot.ingest()?;
        ingest.outlives(&self.lease());
        if self.app.caches.are_there() {
            ingest.pack_anew();
        }
        let ingest = Some(ingest);
        self.open = Some(Open { claimed, ingest });
        let max = self.app.config.uploads.max_nar_size_bytes;
        if claimed.nar_size_bytes > max {
            let too_large = body::over(max, "the NAR").sentence().to_owned();
            self.give_up(Fate::Refused(too_large));
        }
        Ok(())
    }

    fn fed(&mut self, fed: Result<Option<String>, Error>) -> Result<(), Refusal> {
        match fed {
            Ok(None) => self.keep_some(),
            Ok(Some(lacks)) => {
                if let Some(ingest) = self.give_up(Fate::Lacks(lacks)) {
                    ingest.keep(self.lease())?;
                }
                Ok(())
            }
            Err(error) => self.refused(error),
        }
    }

    /// Of a long NAR what came is made durable now and then, should the power go before its end.
    fn keep_some(&mut self) -> Result<(), Refusal> {
        let lease = self.lease();
        let ingest = self.open.as_mut().and_then(|open| open.ingest.as_mut());
        match ingest.filter(|ingest| ingest.is_long()) {
            Some(ingest) => {
                let frames = ingest.keep_so_far(lease)?;
                tracing::debug!(frames, "kept of a long NAR");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A refusal is told of the NAR; what is the depot's own fault ends the stream.
    fn refused(&mut self, error: Error) -> Result<(), Refusal> {
        match error.kind() {
            ErrorKind::BadNar | ErrorKind::Refused => {
                self.give_up(Fate::Refused(error.to_string()));
                Ok(())
            }
            _ => Err(error.into()),
        }
    }

    fn give_up(&mut self, fate: Fate) -> Option<Ingest> {
        let open = self.open.as_mut()?;
        let nar_hash = open.claimed.nar_hash.to_string();
        self.taken.nars.push(Outcome { nar_hash, fate });
        open.ingest.take()
    }

    fn end(&mut self) -> Result<(), Refusal> {
        let Some(Open {
            claimed,
            ingest: Some(ingest),
        }) = self.open.take()
        else {
            return Ok(());
        };
        let file_size_bytes = self.file_size_bytes.get() - self.began_at;
        let Lease {
            cache,
            subject,
            expires_unix_s,
        } = self.lease();
        let upload = Upload {
            cache,
            name: native_name(&claimed.nar_hash),
            codec: "zstd".to_owned(),
            file_size_bytes,
            subject,
            expires_unix_s,
        };
        let fate = match ingest.finish_as(claimed, upload) {
            Ok(()) => {
                let bytes = claimed.nar_size_bytes;
                self.app.metrics.uploaded(file_size_bytes, bytes);
                Fate::Held(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::BadNar | ErrorKind::Refused) => {
                Fate::Refused(error.to_string())
            }
            Err(error) => return Err(error.into()),
        };
        let nar_hash = claimed.nar_hash.to_string();
        self.taken.nars.push(Outcome { nar_hash, fate });
        Ok(())
    }

    fn lease(&self) -> Lease {
        Lease {
            cache: self.app.cache.clone(),
            subject: self.subject.as_str().to_owned(),
            expires_unix_s: now_unix_s() + self.app.config.uploads.lease_s,
        }
    }

    /// Keeps what came, and says why no more did.
    fn broken(mut self, error: &StreamError) -> Refusal {
        let lease = self.lease();
        let ingest = self.open.take().and_then(|open| open.ingest);
        match ingest.map(|ingest| ingest.keep(lease)) {
            None => {}
            Some(Ok(frames)) => tracing::info!(frames, "kept of an upload that was cut off"),
            Some(Err(error)) => tracing::warn!(%error, "nothing kept of an upload cut off"),
        }
        let stop = match error {
            StreamError::Input(error) => error.get_ref().and_then(|stop| stop.downcast_ref()),
            _ => None,
        };
        match stop {
            Some(Stop::TooLarge) => {
                body::over(self.app.config.uploads.max_nar_size_bytes, "the upload")
            }
            _ => Refusal::malformed(format!(
                "the upload: {error}; ask what is absent and send that"
            )),
        }
    }
}

/// Hands a piece on; the name of the frame that is not here, where one is not.
fn feed(
    ingest: &mut Ingest,
    cache: &CacheName,
    claimed: &Nar,
    piece: Record<'_>,
) -> Result<Option<String>, Error> {
    match piece {
        Record::Literal(bytes) => ingest.write(bytes)?,
        Record::Frame {
            id,
            raw_len,
            stored,
        } => ingest.frame(id, raw_len, stored)?,
        Record::Known { id, raw_len } => {
            if !ingest.known(cache, id, raw_len)? {
                return Ok(Some(id.to_string()));
            }
        }
        Record::Nar { .. } | Record::EndOfNar | Record::End { .. } => {}
    }
    ingest.within(claimed)?;
    Ok(None)
}
