//! What every input must satisfy, one function a fuzz target. The crate's ordinary tests call the
//! same functions on all seeds and regressions.
//!
//! The law of all of them: never panic, and what is accepted writes itself again with the same
//! meaning - byte for byte where the format has one canonical form.

use futures::executor::block_on;
use futures::{io, stream};
use snowcache_nix::ca::{HashModulo, Verifier};
use snowcache_nix::daemon::Connection;
use snowcache_nix::nar::{Event, Limits, NarError, Parser, Writer};
use snowcache_nix::realisation::DrvOutput;
use snowcache_nix::{
    ContentAddress, Hash, Listing, NarHash, NarInfo, PathInfo, PublicKey, Realisation, SecretKey,
    Signature, StoreHash, StorePath, fingerprint,
};

/// A NAR: the same events and the same refusal however it is split; what is accepted is what the
/// writer writes; skipping contents changes nothing else.
pub fn nar(input: &[u8]) {
    let whole = parse(input, input.len().max(1));
    // Split sizes that come from the input, so that the fuzzer can look for a bad one.
    let piece = input.last().map_or(1, |&byte| usize::from(byte % 23) + 1);
    assert_eq!(whole, parse(input, piece), "split into pieces of {piece}");
    let (log, result) = whole;
    if let Ok(size) = result {
        assert_eq!(size, input.len() as u64);
        assert_eq!(rewrite(input), input);
        let skipped = parse_skipping(input);
        assert_eq!(
            skipped.len(),
            log.iter()
                .filter(|said| !matches!(said, Said::Data(_)))
                .count()
        );
    }
}

/// An event that outlives its input; data that follows data is joined.
#[derive(Debug, PartialEq)]
enum Said {
    Directory,
    Entry(Vec<u8>),
    EndDirectory,
    File(bool, u64, u64),
    Data(Vec<u8>),
    EndFile,
    Symlink(Vec<u8>),
}

fn note(log: &mut Vec<Said>, event: Event<'_>) {
    let said = match event {
        Event::Directory => Said::Directory,
        Event::Entry { name } => Said::Entry(name.to_vec()),
        Event::EndDirectory => Said::EndDirectory,
        Event::File {
            executable,
            size,
            offset,
        } => Said::File(executable, size, offset),
        Event::EndFile => Said::EndFile,
        Event::Symlink { target } => Said::Symlink(target.to_vec()),
        Event::Data(bytes) => {
            assert!(!bytes.is_empty(), "no event without data");
            if let Some(Said::Data(before)) = log.last_mut() {
                return before.extend_from_slice(bytes);
            }
            Said::Data(bytes.to_vec())
        }
    };
    log.push(said);
}

fn parse(input: &[u8], piece: usize) -> (Vec<Said>, Result<u64, NarError>) {
    let mut parser = Parser::with_limits(Limits {
        max_nar_size_bytes: 1 << 20,
    });
    let (mut log, mut listing) = (Vec::new(), Listing::new());
    for bytes in input.chunks(piece) {
        let fed = parser.feed(bytes, &mut |event| {
            listing.event(event);
            note(&mut log, event);
        });
        if let Err(error) = fed {
            assert_eq!(parser.finish(), Err(error.clone()), "an error stays");
            assert!(!error.to_string().is_empty());
            return (log, Err(error));
        }
    }
    assert_eq!(parser.offset(), input.len() as u64);
    let result = parser.finish();
    if let Ok(json) = listing.to_json() {
        assert!(json.starts_with("{\"root\":{") && json.ends_with("},\"version\":1}"));
    }
    (log, result)
}

fn parse_skipping(input: &[u8]) -> Vec<Said> {
    let mut parser = Parser::new();
    let (mut log, mut at) = (Vec::new(), 0);
    while at < input.len() {
        let skip = parser.file_remaining();
        parser
            .skip_file_data(skip)
            .expect("it said that so much remains");
        at += skip as usize;
        let next = input.len().min(at + 1);
        parser
            .feed(&input[at..next], &mut |event| note(&mut log, event))
            .expect("accepted before");
        at = next;
    }
    assert_eq!(parser.finish(), Ok(input.len() as u64));
    log
}

fn rewrite(input: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let mut parser = Parser::new();
    let mut written = Ok(());
    parser
        .feed(input, &mut |event| {
            if written.is_ok() {
                written = writer.event(event);
            }
        })
        .expect("accepted before");
    written.expect("what the parser accepts the writer writes");
    writer.finish().expect("the whole NAR")
}

/// A narinfo or a record: one round makes it canonical, and then it stays as it is.
pub fn narinfo(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(info) = NarInfo::parse(text) {
        let canonical = info.to_string();
        let again = NarInfo::parse(&canonical).expect("we wrote it");
        assert_eq!(again, info);
        assert_eq!(again.to_string(), canonical);
        let path = PathInfo::from(&info);
        assert!(fingerprint(&path).starts_with("1;/nix/store/"));
        let moved = path.to_narinfo("nar/x.nar.zst", "zstd", Some(1));
        assert_eq!(
            PathInfo::from(&NarInfo::parse(&moved).expect("we wrote it")),
            path
        );
        record(&path.to_record());
    }
    record(text);
}

fn record(text: &str) {
    if let Ok(path) = PathInfo::from_record(text) {
        let canonical = path.to_record();
        assert_eq!(PathInfo::from_record(&canonical).as_ref(), Ok(&path));
        assert!(
            NarInfo::parse(&canonical).is_err(),
            "a record is no narinfo: it has no URL"
        );
    }
}

/// Store paths and hashes: one text for each.
pub fn store_path(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(path) = text.parse::<StorePath>() {
        assert_eq!(path.to_string(), text);
        assert_eq!(
            StorePath::from_absolute(&path.absolute()).as_ref(),
            Ok(&path)
        );
        assert_eq!(StorePath::new(path.hash(), path.name()).as_ref(), Ok(&path));
    }
    if let Ok(path) = StorePath::from_absolute(text) {
        assert_eq!(path.absolute(), text);
    }
    if let Ok(hash) = text.parse::<StoreHash>() {
        assert_eq!(hash.to_string(), text);
    }
    if let Ok(hash) = text.parse::<Hash>() {
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_hex().parse(), Ok(hash));
    }
    if let Ok(hash) = NarHash::from_base32(text) {
        assert_eq!(hash.base32(), text);
    }
}

/// Keys and signatures: one text for each, and a parsed secret key signs what its public half
/// accepts.
pub fn key(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(signature) = text.parse::<Signature>() {
        assert_eq!(signature.to_string(), text);
    }
    if let Ok(key) = text.parse::<SecretKey>() {
        assert_eq!(key.to_string(), text);
        assert!(key.public().verify("message", &key.sign("message")));
    }
}

/// Realisations of either spelling, and their ids.
pub fn realisation(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(realisation) = Realisation::parse(text) {
        let canonical = realisation.to_json();
        let again = Realisation::parse(&canonical).expect("we wrote it");
        assert_eq!(again, realisation);
        assert_eq!(again.to_json(), canonical);
    }
    if let Ok(id) = text.parse::<DrvOutput>() {
        assert_eq!(id.to_string().parse().as_ref(), Ok(&id));
    }
}

/// A content address in the first line, a NAR after it: the verifier and the hash modulo say the
/// same however the NAR is split.
pub fn ca(input: &[u8]) {
    let end = input
        .iter()
        .position(|&byte| byte == b'\n')
        .unwrap_or(input.len());
    let nar = input.get(end + 1..).unwrap_or_default();
    let piece = input.last().map_or(1, |&byte| usize::from(byte % 67) + 1);
    modulo(nar, piece);
    let Ok(text) = std::str::from_utf8(&input[..end]) else {
        return;
    };
    let Ok(address) = text.parse::<ContentAddress>() else {
        return;
    };
    assert_eq!(address.to_string().parse().as_ref(), Ok(&address));
    for self_reference in [false, true] {
        let Ok(path) = address.store_path_for("x", &[], self_reference) else {
            continue;
        };
        let references: Vec<StorePath> = self_reference.then(|| path.clone()).into_iter().collect();
        let verify = |piece: usize| {
            let mut verifier = Verifier::new(&address, &path, &references)?;
            nar.chunks(piece)
                .try_for_each(|bytes| verifier.feed(bytes))?;
            verifier.finish()
        };
        assert_eq!(
            verify(nar.len().max(1)),
            verify(piece),
            "split into pieces of {piece}"
        );
    }
}

/// The path's hash is the NAR's first 32 bytes where these are one, so that the fuzzer can place
/// more.
fn modulo(nar: &[u8], piece: usize) {
    let own = nar
        .get(..32)
        .and_then(|head| std::str::from_utf8(head).ok());
    let Some(own) = own.and_then(|head| head.parse::<StoreHash>().ok()) else {
        return;
    };
    let hash = |piece: usize| {
        let mut hash = HashModulo::new(own);
        nar.chunks(piece)
            .for_each(|bytes| hash.feed(bytes).expect("far under the limit"));
        hash.finish()
    };
    let simple = modulo_in_memory(nar, own.to_string().as_bytes());
    assert_eq!(hash(nar.len()), simple);
    assert_eq!(hash(piece), simple, "split into pieces of {piece}");
}

/// The same hash as one would write it with everything in memory.
pub fn modulo_in_memory(bytes: &[u8], own: &[u8]) -> NarHash {
    use sha2::Digest as _;
    let (mut zeroed, mut tail, mut at) = (bytes.to_vec(), String::new(), 0);
    while at + own.len() <= zeroed.len() {
        if zeroed[at..].starts_with(own) {
            zeroed[at..at + own.len()].fill(0);
            tail.push_str(&format!("|{at}"));
            at += own.len();
        } else {
            at += 1;
        }
    }
    let hash = sha2::Sha256::new().chain_update(&zeroed).chain_update(tail);
    NarHash::from_bytes(hash.finalize().into())
}

/// What a nix-daemon sends: everything that can be asked of it ends in an answer or an error,
/// however its bytes are cut, and a connection that was left in the middle takes no more questions.
pub fn daemon(input: &[u8]) {
    let whole = ask_everything(input, input.len().max(1));
    let piece = input.last().map_or(1, |&byte| usize::from(byte % 23) + 1);
    assert_eq!(
        whole,
        ask_everything(input, piece),
        "cut in pieces of {piece}"
    );
}

/// A stream that gives so many bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl io::AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        into: &mut [u8],
    ) -> std::task::Poll<io::Result<usize>> {
        let here = into.len().min(self.1).min(self.0.len());
        let (now, later) = self.0.split_at(here);
        into[..here].copy_from_slice(now);
        self.0 = later;
        std::task::Poll::Ready(Ok(here))
    }
}

fn ask_everything(input: &[u8], piece: usize) -> Vec<String> {
    let path: StorePath = "0c7c96gikmzv87i7lv3vq5s1cmfjd6zf-hello-2.12"
        .parse()
        .expect("a path");
    let record = format!(
        "StorePath: {}\nNarHash: sha256:{}\nNarSize: 120\nReferences: {path}\n",
        path.absolute(),
        "0".repeat(52)
    );
    let info = PathInfo::from_record(&record).expect("a record");
    block_on(async {
        let (from, to) = (Pieces(input, piece), io::Cursor::new(Vec::new()));
        let mut connection = match Connection::open(from, to).await {
            Ok(connection) => connection,
            Err(error) => return vec![error.to_string()],
        };
        let mut said = vec![format!("{} {:?}", connection.version(), connection.trust())];
        let two = [path.clone(), path.clone()];
        said.push(format!("{:?}", connection.path_info(&path).await));
        said.push(format!("{:?}", connection.valid_paths(&two).await));
        said.push(format!("{:?}", connection.path_of(path.hash()).await));
        said.push(format!("{:?}", connection.add_temp_roots(&two).await));
        let spent = connection.is_spent();
        let nar = stream::iter([Ok::<_, ()>([0u8; 100]), Err(())]);
        let imported = connection.add_to_store_nar(&info, nar).await;
        assert!(!spent || imported.is_err(), "a spent connection was used");
        said.push(format!("{imported:?}"));
        let begun = connection.begin_nar(&path).await;
        said.push(format!("{begun:?}"));
        if begun.is_ok() {
            // Bytes behind a NAR's end are seen only when they come with it: no part of what is
            // compared.
            while let Ok(Some(_)) = connection.next_of_nar().await {}
        }
        said
    })
}
