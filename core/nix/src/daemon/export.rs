//! A valid path's NAR, as the daemon makes it.
//!
//! ```text
//!   NarFromPath <path>   ->   messages LAST, then the NAR's bytes as they are: its own end is the
//!                             only one
//! ```

use futures::{AsyncRead, AsyncWrite};

use super::messages::until_done;
use super::{Connection, DaemonError, Operation};
use crate::nar::Parser;
use crate::store_path::StorePath;

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Asks for the NAR of a path; [`Self::next_of_nar`] gives it.
    ///
    /// # Errors
    /// A refusal when the path is not valid.
    pub async fn begin_nar(&mut self, path: &StorePath) -> Result<(), DaemonError> {
        self.begin(Operation::NarFromPath)?;
        self.writer.text(&path.absolute());
        self.writer.flush().await?;
        match until_done(&mut self.reader).await {
            Ok(()) => self.export = Some(Parser::new()),
            Err(error) => {
                if error.is_refusal() {
                    self.end();
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// The next bytes of it; nothing behind its end, when the connection can be used on.
    ///
    /// # Errors
    /// When the daemon goes away, or what it sends is no NAR.
    pub async fn next_of_nar(&mut self) -> Result<Option<Vec<u8>>, DaemonError> {
        let Some(parser) = &mut self.export else {
            return Ok(None);
        };
        if parser.finish().is_ok() {
            self.export = None;
            self.end();
            return Ok(None);
        }
        let bytes = self.reader.some().await?;
        parser.feed(&bytes, &mut |_| ())?;
        Ok(Some(bytes))
    }
}
