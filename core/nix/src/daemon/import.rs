//! Importing a path: what is claimed of it, then its NAR, piece by piece.
//!
//! ```text
//!   AddToStoreNar <path> <deriver> <NarHash, hex> <references> <registration time> <NarSize>
//!     <ultimate: 0> <signatures> <content address> <repair: 0> <do not check signatures: 0>
//!     { <length> <bytes> } 0          while the daemon may say something at any moment
//! ```
//!
//! Guarantees: a NAR whose stream fails is ended early, which makes it no NAR: the daemon throws
//! away what it has, and the connection can be used on. What the daemon says is read while the NAR
//! is sent, so that neither side waits for the other.
//! Never: signatures unchecked.

use std::pin::pin;

use futures::future::{Either, select};
use futures::{AsyncRead, AsyncWrite, Stream, StreamExt};

use super::messages::until_done;
use super::wire::{Reader, Writer};
use super::{Connection, DaemonError, ImportError, Operation};
use crate::hash::Hash;
use crate::narinfo::PathInfo;
use crate::store_path::StorePath;

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Imports a path whose references (other than itself) are valid. `Ok` means that the path is
    /// valid now, by this or by somebody else's import.
    ///
    /// # Errors
    /// [`ImportError::Nar`] with what `nar` failed with, otherwise what the daemon says. After
    /// either nothing is valid that was not before.
    pub async fn add_to_store_nar<B: AsRef<[u8]>, E>(
        &mut self,
        info: &PathInfo,
        nar: impl Stream<Item = Result<B, E>>,
    ) -> Result<(), ImportError<E>> {
        self.begin(Operation::AddToStoreNar)
            .map_err(ImportError::Daemon)?;
        claim(&mut self.writer, info);
        let (sent, answer) = converse(&mut self.writer, &mut self.reader, nar).await?;
        let in_step = match &sent {
            Err(ImportError::Daemon(_)) => false,
            _ => answer.as_ref().err().is_none_or(DaemonError::is_refusal),
        };
        if in_step {
            self.end();
        }
        match (sent, answer) {
            (Err(ImportError::Nar(error)), _) => Err(ImportError::Nar(error)),
            // It hung up while it was sent to: what it said before tells more.
            (Err(ImportError::Daemon(_)), Err(refusal)) if refusal.is_refusal() => {
                Err(ImportError::Daemon(refusal))
            }
            (Err(error), _) => Err(error),
            (Ok(()), answer) => answer.map_err(ImportError::Daemon),
        }
    }
}

/// What sending ended with, and what the daemon said to it.
type Outcome<E> = (Result<(), ImportError<E>>, Result<(), DaemonError>);

/// Sends and listens at the same time.
async fn converse<R: AsyncRead + Unpin, W: AsyncWrite + Unpin, B: AsRef<[u8]>, E>(
    writer: &mut Writer<W>,
    reader: &mut Reader<R>,
    nar: impl Stream<Item = Result<B, E>>,
) -> Result<Outcome<E>, ImportError<E>> {
    let sending = pin!(send(writer, nar));
    let answer = pin!(until_done(reader));
    match select(sending, answer).await {
        Either::Left((sent, answer)) => Ok((sent, answer.await)),
        // Every daemon reads to the end of the NAR before it answers. From one that does not, it is
        // not known what it takes the rest for, so the connection stays busy.
        Either::Right((Err(refusal), _)) => Err(ImportError::Daemon(refusal)),
        Either::Right((Ok(()), _)) => {
            let expected = "nothing before the NAR's end";
            let early = DaemonError::Unexpected { expected, found: 0 };
            Err(ImportError::Daemon(early))
        }
    }
}

fn claim<W: AsyncWrite + Unpin>(writer: &mut Writer<W>, info: &PathInfo) {
    let deriver = info.deriver.as_ref().map(StorePath::absolute);
    let nar_hash = Hash::from(info.nar_hash).to_hex();
    writer.text(&info.store_path.absolute());
    writer.text(deriver.as_deref().unwrap_or_default());
    writer.text(nar_hash.rsplit(':').next().unwrap_or_default());
    writer.texts(info.references.iter().map(StorePath::absolute));
    writer.number(0); // the registration time, which the daemon sets
    writer.number(info.nar_size);
    writer.number(0); // not built here
    writer.texts(info.signatures.iter().map(ToString::to_string));
    writer.text(info.ca.as_deref().unwrap_or_default());
    writer.number(0); // no repair
    writer.number(0); // check the signatures
}

/// The NAR, or as much as there is of it, and its end.
async fn send<W: AsyncWrite + Unpin, B: AsRef<[u8]>, E>(
    writer: &mut Writer<W>,
    nar: impl Stream<Item = Result<B, E>>,
) -> Result<(), ImportError<E>> {
    let mut nar = pin!(nar);
    let mut failed = None;
    while let Some(bytes) = nar.next().await {
        match bytes {
            Ok(bytes) => writer
                .frames(bytes.as_ref())
                .await
                .map_err(ImportError::Daemon)?,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    writer.number(0);
    writer.flush().await.map_err(ImportError::Daemon)?;
    failed.map_or(Ok(()), |error| Err(ImportError::Nar(error)))
}
