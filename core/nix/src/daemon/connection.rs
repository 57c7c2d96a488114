//! A connection to a nix-daemon: the hello, and one request after another.

use futures::{AsyncRead, AsyncWrite};

use super::messages::until_done;
use super::wire::{Reader, Writer};
use super::{DaemonError, Operation, ProtocolVersion};
use crate::hash::{Hash, HashAlgorithm, NarHash};
use crate::nar::Parser;
use crate::narinfo::{MAX_SIGNATURES, PathInfo};
use crate::store_path::{MAX_NAME_BYTES, STORE_DIR, StoreHash, StorePath};

/// "nixc", what a client begins with.
const CLIENT_MAGIC: u64 = 0x6e69_7863;
/// "dxio", what a daemon begins with.
const DAEMON_MAGIC: u64 = 0x6478_696f;

/// `/nix/store/`, 32 characters, a dash and the longest name.
const MAX_PATH_BYTES: u64 = (STORE_DIR.len() + 1 + 32 + 1 + MAX_NAME_BYTES) as u64;
/// A version, a feature, a hash, a content address, a signature: the longest, a signature by a key
/// with a name of 255 characters, has 344.
const MAX_WORD_BYTES: u64 = 1024;
/// Nix has three features today.
const MAX_FEATURES: u64 = 1000;
/// What one path refers to. The largest closures have 30,000 paths, and a path may name all.
const MAX_REFERENCES: u64 = 1 << 20;

/// Questions that are sent before their answers are read. The questions have at most 272 bytes
/// each, 70 kB in all, and the answers 24 each while the daemon has nothing to tell: both fit into
/// a socket's buffer (208 KiB), so neither side waits for the other to read first.
const PIPELINED: usize = 256;

/// What a daemon lets this user do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It does not say: before protocol 1.35, or it does not know.
    Unknown,
    /// Among its `trusted-users`.
    Trusted,
    /// An ordinary user: what is imported must be signed by a key that the daemon trusts.
    Ordinary,
}

/// What the store knows of a valid path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidPath {
    /// What is true of it in any store. A signature that is none is left out.
    pub info: PathInfo,
    /// When it became valid, in seconds since 1970.
    pub registration_time_s: u64,
    /// Whether it was built here.
    pub ultimate: bool,
}

/// A connection over the two halves of a stream.
pub struct Connection<R, W> {
    pub(super) reader: Reader<R>,
    pub(super) writer: Writer<W>,
    version: ProtocolVersion,
    nix_version: Option<String>,
    trust: Trust,
    /// A request is under way, or was broken off.
    pub(super) busy: bool,
    /// The NAR that is being sent.
    pub(super) export: Option<Parser>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Says hello, and asks the daemon to be quiet and to fetch nothing by itself.
    ///
    /// # Errors
    /// When no daemon answers, or one that is too old.
    pub async fn open(reader: R, writer: W) -> Result<Self, DaemonError> {
        let (mut reader, mut writer) = (Reader::new(reader), Writer::new(writer));
        writer.number(CLIENT_MAGIC);
        writer.number(u64::from(ProtocolVersion::NEWEST.0));
        writer.flush().await?;
        let found = reader.number().await?;
        if found != DAEMON_MAGIC {
            return Err(DaemonError::NotADaemon { found });
        }
        let version = negotiate(reader.number().await?)?;
        if version.minor() >= 38 {
            writer.number(0); // no features
        }
        writer.number(0); // no CPU affinity, which is obsolete
        writer.number(0); // no reserved space, which is obsolete
        writer.flush().await?;
        if version.minor() >= 38 {
            for _ in 0..reader.count("features", MAX_FEATURES).await? {
                reader.text("feature", MAX_WORD_BYTES).await?;
            }
        }
        let nix_version = match version.minor() >= 33 {
            true => Some(reader.text("version", MAX_WORD_BYTES).await?),
            false => None,
        };
        let trust = match version.minor() >= 35 {
            true => trust(reader.number().await?)?,
            false => Trust::Unknown,
        };
        until_done(&mut reader).await?;
        let mut connection = Self {
            reader,
            writer,
            version,
            nix_version,
            trust,
            busy: false,
            export: None,
        };
        connection.set_options().await?;
        Ok(connection)
    }

    /// The version that both sides speak.
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// The daemon's own version, as it writes it; older daemons do not say.
    pub fn nix_version(&self) -> Option<&str> {
        self.nix_version.as_deref()
    }

    /// What the daemon lets this user do.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// Whether a request was broken off, so that no other can be made.
    pub fn is_spent(&self) -> bool {
        self.busy
    }

    /// Those of `paths` that are valid, in no particular order. Fetches nothing.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub async fn valid_paths(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, DaemonError> {
        self.begin(Operation::QueryValidPaths)?;
        self.writer.texts(paths.iter().map(StorePath::absolute));
        self.writer.number(0); // substitute nothing
        self.writer.flush().await?;
        self.done().await?;
        let valid = self.paths("valid paths", paths.len() as u64).await?;
        self.end();
        Ok(valid)
    }

    /// What the store knows of a path; nothing of one that is not valid.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub async fn path_info(&mut self, path: &StorePath) -> Result<Option<ValidPath>, DaemonError> {
        let infos = self.path_infos(std::slice::from_ref(path)).await?;
        Ok(infos.into_iter().next().flatten())
    }

    /// The same of many, in their order.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub async fn path_infos(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<ValidPath>>, DaemonError> {
        let mut infos = Vec::with_capacity(paths.len());
        for some in paths.chunks(PIPELINED) {
            let texts = some.iter().map(StorePath::absolute);
            self.ask(Operation::QueryPathInfo, texts).await?;
            let mut refusal = None;
            for path in some {
                match until_done(&mut self.reader).await {
                    Ok(()) => infos.push(match self.reader.yes_or_no().await? {
                        true => Some(self.read_path_info(path).await?),
                        false => None,
                    }),
                    Err(error) if error.is_refusal() => refusal = refusal.or(Some(error)),
                    Err(error) => return Err(error),
                }
            }
            self.end();
            refusal.map_or(Ok(()), Err)?;
        }
        Ok(infos)
    }

    /// The valid path with this hash part.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub async fn path_of(&mut self, hash: StoreHash) -> Result<Option<StorePath>, DaemonError> {
        self.begin(Operation::QueryPathFromHashPart)?;
        self.writer.text(&hash.to_string());
        self.writer.flush().await?;
        self.done().await?;
        let path = self.optional_path().await?;
        self.end();
        Ok(path)
    }

    /// Keeps these paths from being collected for as long as this connection is open - also those
    /// that are not valid yet.
    ///
    /// # Errors
    /// When the daemon cannot be asked; some of them may be kept then.
    pub async fn add_temp_roots(&mut self, paths: &[StorePath]) -> Result<(), DaemonError> {
        let texts = paths.iter().map(StorePath::absolute);
        self.pipeline(Operation::AddTempRoot, texts).await
    }

    /// Makes what the symlinks at these absolute paths point to stay, for as long as the links do.
    ///
    /// # Errors
    /// When the daemon cannot be asked; some of them may stay then.
    pub async fn add_indirect_roots(&mut self, links: &[String]) -> Result<(), DaemonError> {
        let texts = links.iter().cloned();
        self.pipeline(Operation::AddIndirectRoot, texts).await
    }

    /// Many questions of one text each, whose answers say nothing.
    async fn pipeline(
        &mut self,
        operation: Operation,
        texts: impl Iterator<Item = String>,
    ) -> Result<(), DaemonError> {
        let mut texts = texts.peekable();
        while texts.peek().is_some() {
            let asked = self.ask(operation, texts.by_ref().take(PIPELINED)).await?;
            let mut refusal = None;
            for _ in 0..asked {
                match until_done(&mut self.reader).await {
                    Ok(()) => drop(self.reader.number().await?),
                    Err(error) if error.is_refusal() => refusal = refusal.or(Some(error)),
                    Err(error) => return Err(error),
                }
            }
            self.end();
            refusal.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// Begins one request for each of at most [`PIPELINED`] texts, of which there is one; gives how
    /// many.
    async fn ask(
        &mut self,
        operation: Operation,
        texts: impl Iterator<Item = String>,
    ) -> Result<usize, DaemonError> {
        self.begin(operation)?;
        let mut asked = 0;
        for text in texts {
            if asked > 0 {
                self.writer.number(operation as u64);
            }
            self.writer.text(&text);
            asked += 1;
        }
        self.writer.flush().await?;
        Ok(asked)
    }

    async fn set_options(&mut self) -> Result<(), DaemonError> {
        self.begin(Operation::SetOptions)?;
        for option in [
            0, // keep failed builds
            0, // keep going
            0, // fall back to building
            0, // verbosity: errors
            1, // build jobs
            0, // no limit on silence
            1, // use the build hook, which is obsolete
            0, // a build's own verbosity
            0, // log type, which is obsolete
            0, // print a build's trace, which is obsolete
            1, // cores of a build
            0, // use substitutes
            0, // settings: none
        ] {
            self.writer.number(option);
        }
        self.writer.flush().await?;
        self.done().await?;
        self.end();
        Ok(())
    }

    /// A request begins. Whoever leaves before [`Self::end`] leaves the connection unusable.
    pub(super) fn begin(&mut self, operation: Operation) -> Result<(), DaemonError> {
        if std::mem::replace(&mut self.busy, true) {
            return Err(DaemonError::Spent);
        }
        self.writer.number(operation as u64);
        Ok(())
    }

    pub(super) fn end(&mut self) {
        self.busy = false;
    }

    /// The daemon's yes, or its no, which ends the request.
    async fn done(&mut self) -> Result<(), DaemonError> {
        let done = until_done(&mut self.reader).await;
        if done.as_ref().is_err_and(DaemonError::is_refusal) {
            self.end();
        }
        done
    }

    async fn read_path_info(&mut self, path: &StorePath) -> Result<ValidPath, DaemonError> {
        let deriver = self.optional_path().await?;
        let nar_hash = nar_hash(&self.reader.text("hash", MAX_WORD_BYTES).await?)?;
        let mut references = self.paths("references", MAX_REFERENCES).await?;
        references.sort();
        let registration_time_s = self.reader.number().await?;
        let nar_size = self.reader.number().await?;
        let ultimate = self.reader.yes_or_no().await?;
        let mut info = PathInfo {
            store_path: path.clone(),
            nar_hash,
            nar_size,
            references,
            deriver,
            ca: None,
            signatures: Vec::new(),
            unknown: Vec::new(),
        };
        let most = MAX_SIGNATURES as u64;
        for _ in 0..self.reader.count("signatures", most).await? {
            let signature = self.reader.text("signature", MAX_WORD_BYTES).await?;
            if let Ok(signature) = signature.parse() {
                info.add_signature(signature);
            }
        }
        let ca = self.reader.text("content address", MAX_WORD_BYTES).await?;
        info.ca = Some(ca).filter(|ca| !ca.is_empty());
        Ok(ValidPath {
            info,
            registration_time_s,
            ultimate,
        })
    }

    async fn optional_path(&mut self) -> Result<Option<StorePath>, DaemonError> {
        let path = self.reader.text("store path", MAX_PATH_BYTES).await?;
        match path.is_empty() {
            true => Ok(None),
            false => Ok(Some(StorePath::from_absolute(&path)?)),
        }
    }

    async fn paths(
        &mut self,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<StorePath>, DaemonError> {
        let mut paths = Vec::new();
        for _ in 0..self.reader.count(what, limit).await? {
            let path = self.reader.text("store path", MAX_PATH_BYTES).await?;
            paths.push(StorePath::from_absolute(&path)?);
        }
        Ok(paths)
    }
}

/// The older one of both sides' versions.
fn negotiate(theirs: u64) -> Result<ProtocolVersion, DaemonError> {
    let unexpected = |_| DaemonError::Unexpected {
        expected: "a protocol version",
        found: theirs,
    };
    let found = ProtocolVersion(u16::try_from(theirs).map_err(unexpected)?);
    let same_major = found.major() == ProtocolVersion::NEWEST.major();
    match same_major && found >= ProtocolVersion::OLDEST {
        true => Ok(found.min(ProtocolVersion::NEWEST)),
        false => Err(DaemonError::Version { found }),
    }
}

fn trust(number: u64) -> Result<Trust, DaemonError> {
    match number {
        0 => Ok(Trust::Unknown),
        1 => Ok(Trust::Trusted),
        2 => Ok(Trust::Ordinary),
        found => {
            let expected = "trusted (1), not (2), or unknown (0)";
            Err(DaemonError::Unexpected { expected, found })
        }
    }
}

/// Nix sends hex without the algorithm; any of its other spellings means the same.
fn nar_hash(text: &str) -> Result<NarHash, DaemonError> {
    let hash = match text.contains([':', '-']) {
        true => text.parse::<Hash>()?,
        false => Hash::parse_body(HashAlgorithm::Sha256, text)?,
    };
    Ok(hash.try_into()?)
}
