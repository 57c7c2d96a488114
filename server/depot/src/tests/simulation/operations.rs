//! What is asked of the depot, and what the model makes of the answers.

use std::collections::BTreeSet;

use super::model::{DOCUMENTS, Lease, Path, content, number_of};
use super::*;

/// Numbers that paths may have.
pub const PATHS: u64 = 24;
/// NARs that a life knows, at most: so that the same comes again.
const NARS: u64 = 16;
/// Names of uploads.
const NAMES: u64 = 10;
pub const DAY: u64 = 86_400;

impl Life {
    /// One operation.
    pub fn step(&mut self) {
        match self.random.below(100) {
            0..22 => self.put_and_publish(),
            22..30 => drop(self.put()),
            30..38 => self.publish(),
            38..43 => self.publish_again(),
            43..46 => self.begin(),
            46..49 => self.go_on(),
            49..53 => self.begin_in_pieces(),
            53..58 => self.go_on_in_pieces(),
            58..62 => self.document(),
            62..68 => self.pin(),
            68..70 => self.unpin(),
            70..73 => self.roll_back(),
            73..77 => self.remove(),
            77..83 => self.wait(),
            83..91 => self.collect_somehow(),
            91..94 => self.look_up(),
            94..96 => self.recompress(),
            96..97 => {
                let lose_index = self.random.chance(300);
                self.stop(lose_index);
            }
            _ => {
                let end = [End::Kill, End::PowerCut][self.random.below(2) as usize];
                let lose_index = self.random.chance(300);
                self.end(end, lose_index);
            }
        }
    }

    pub fn some_nar(&mut self) -> usize {
        let known = self.model.nars.len() as u64;
        if known == 0 || (known < NARS && self.random.chance(400)) {
            let bytes = content(&mut self.random);
            let digest = sha2::Digest::finalize(sha2::Digest::chain_update(
                <sha2::Sha256 as sha2::Digest>::new(),
                &bytes,
            ));
            let nar = Nar {
                nar_hash: snowcache_nix::NarHash::from_bytes(digest.into()),
                nar_size_bytes: bytes.len() as u64,
            };
            // Chance makes the same bytes again once in fifty thousand lives.
            let nars = &mut self.model.nars;
            if let Some(same) = nars.iter().position(|one| one.nar == nar) {
                return same;
            }
            nars.push(model::Content { bytes, nar });
            return known as usize;
        }
        self.random.below(known) as usize
    }

    // ---- uploads ----

    fn put(&mut self) -> Option<usize> {
        let nar = self.some_nar();
        let ingest = self.depot().ingest();
        let bytes = self.model.nars[nar].bytes.clone();
        let written = ingest.and_then(|mut ingest| ingest.write(&bytes).map(|()| ingest));
        match written {
            Ok(ingest) => self.finish(ingest, nar),
            Err(error) => {
                self.tell(format!("put of NAR {nar} failed: {error}"));
                None
            }
        }
    }

    pub fn finish(&mut self, ingest: Ingest, nar: usize) -> Option<usize> {
        let name = self.random.below(NAMES) as u8;
        let expires = self.model.now + [1, DAY, 40 * DAY][self.random.below(3) as usize];
        let mut upload = upload(&name.to_string());
        upload.expires_unix_s = expires;
        let finished = ingest.finish(upload);
        self.tell(format!(
            "upload {name} of NAR {nar} until {expires}: {finished:?}"
        ));
        match finished {
            Ok(found) => {
                assert_eq!(found, self.model.nars[nar].nar);
                self.model.uploads.insert(name, Lease { nar, expires });
                self.model.maybe_uploads.remove(&name);
                Some(nar)
            }
            Err(_) => {
                self.model.maybe_uploads.insert(name);
                None
            }
        }
    }

    fn begin(&mut self) {
        if self.ingests.len() < 3 {
            let nar = self.some_nar();
            self.tell(format!("a NAR begins: {nar}"));
            let Ok(mut ingest) = self.depot().ingest() else {
                return;
            };
            if nar.is_multiple_of(2) {
                ingest.outlives(&crate::Lease {
                    cache: cache(),
                    subject: "tester".to_owned(),
                    expires_unix_s: self.model.now + DAY,
                });
            }
            self.ingests.push((ingest, nar, 0));
        }
    }

    fn go_on(&mut self) {
        if self.ingests.is_empty() {
            return;
        }
        let which = self.random.below(self.ingests.len() as u64) as usize;
        let (mut ingest, nar, at) = self.ingests.swap_remove(which);
        let bytes = &self.model.nars[nar].bytes;
        let end = at + self.random.below((bytes.len() - at) as u64 + 1) as usize;
        let written = ingest.write(&bytes[at..end]);
        let over = end == bytes.len() || self.random.chance(200);
        self.tell(format!("NAR goes on: {nar} to {end}: {written:?}"));
        match written {
            _ if self.random.chance(100) => self.tell("and is given up"),
            Ok(()) if over => {
                let rest = ingest.write(&self.model.nars[nar].bytes[end..]);
                if rest.is_ok() {
                    self.finish(ingest, nar);
                }
            }
            Ok(()) => self.ingests.push((ingest, nar, end)),
            Err(_) => {}
        }
    }

    // ---- paths ----

    pub fn put_and_publish(&mut self) {
        if let Some(nar) = self.put() {
            let number = self.random.below(PATHS) as u8;
            self.offer(number, nar, None);
        }
    }

    fn publish(&mut self) {
        let nars = self.model.nars.len() as u64;
        if nars > 0 {
            let (number, nar) = (
                self.random.below(PATHS) as u8,
                self.random.below(nars) as usize,
            );
            self.offer(number, nar, None);
        }
    }

    /// The same once more, perhaps with a signature of somebody else's.
    fn publish_again(&mut self) {
        let visible: Vec<u8> = self.model.paths.keys().copied().collect();
        if let Some(number) = self.random.pick(&visible) {
            let signature = self.random.chance(700).then(|| self.random.below(4) as u8);
            let path = self.model.paths[&number].clone();
            self.offer_path(number, path, signature);
        }
    }

    fn offer(&mut self, number: u8, nar: usize, signature: Option<u8>) {
        let visible: Vec<u8> = self.model.paths.keys().copied().collect();
        let mut references = BTreeSet::new();
        for _ in 0..self.random.below(4) {
            references.extend(self.random.pick(&visible));
        }
        if self.random.chance(50) {
            references.insert(self.random.below(PATHS) as u8);
        }
        if self.random.chance(100) {
            references.insert(number);
        }
        let path = Path {
            nar,
            references: references.into_iter().collect(),
            signatures: BTreeSet::new(),
            used: self.model.now,
            time: self.model.now,
        };
        self.offer_path(number, path, signature);
    }

    fn offer_path(&mut self, number: u8, mut offered: Path, signature: Option<u8>) {
        let nar = self.model.nars[offered.nar].nar;
        let mut info = super::path(number, nar, &offered.references);
        offered.signatures.extend(signature);
        info.signatures
            .extend(offered.signatures.iter().map(|one| theirs(*one)));
        info.signatures.sort();
        let answer = self.depot().publish(&cache(), signed(info, nar), "tester");
        self.tell(format!("publish {number} as {offered:?}: {answer:?}"));
        let have = self.model.paths.get(&number).cloned();
        let sure = have.is_some() && !self.model.maybe_gone.contains(&number);
        let maybe = self.model.maybe.get(&number).into_iter().flatten();
        let known = have.iter().chain(maybe).find(|path| path.says(&offered));
        match answer {
            Ok(Published::New) => {
                assert!(!sure, "path {number} was visible and is new");
                self.references_are_there(number, &offered);
                (offered.used, offered.time) = (self.model.now, self.model.now);
                self.model.paths.insert(number, offered);
                self.model.maybe_gone.remove(&number);
            }
            Ok(Published::Known) => {
                let mut path = known.expect("only what is visible is known").clone();
                path.signatures.extend(&offered.signatures);
                self.model.paths.insert(number, path);
                self.model.maybe_gone.remove(&number);
            }
            Ok(Published::Conflict { winner }) => {
                let mut all = have
                    .iter()
                    .chain(self.model.maybe.get(&number).into_iter().flatten());
                let won = |path: &Path| self.model.nars[path.nar].nar.nar_hash == winner;
                assert!(
                    all.any(|path| won(path) && !path.says(&offered)),
                    "who is the winner?"
                );
                assert!(
                    !sure || have.is_some_and(|have| won(&have)),
                    "it was another one"
                );
            }
            Err(error) if error.kind() == ErrorKind::Refused => {
                let missing = offered.references.iter().filter(|to| **to != number);
                let there = |to: &u8| {
                    self.model.paths.contains_key(to) && !self.model.maybe_gone.contains(to)
                };
                let closed = missing.into_iter().all(there);
                assert!(!sure, "path {number} is visible and refused: {error}");
                assert!(
                    !closed || !self.model.has_nar(offered.nar),
                    "refused: {error}"
                );
            }
            Err(_) => {
                if let (Some(have), Some(signature)) = (have, signature) {
                    let mut more = have;
                    more.signatures.insert(signature);
                    offered = more;
                }
                self.model.maybe.entry(number).or_default().push(offered);
            }
        }
    }

    fn references_are_there(&mut self, number: u8, path: &Path) {
        for to in path.references.iter().filter(|to| **to != number) {
            // What was seen as a reference is there for certain, whatever had been tried with it.
            if !self.model.paths.contains_key(to) {
                self.settle_one(*to);
            }
            self.model.maybe_gone.remove(to);
        }
    }

    fn look_up(&mut self) {
        let visible: Vec<u8> = self.model.paths.keys().copied().collect();
        if let Some(number) = self.random.pick(&visible) {
            self.tell(format!("look up {number}"));
            self.check_entry(number);
        }
    }

    fn remove(&mut self) {
        let asked: BTreeSet<u8> = (0..1 + self.random.below(4))
            .map(|_| self.random.below(PATHS) as u8)
            .collect();
        let hashes: Vec<_> = asked
            .iter()
            .map(|number| store_path(*number).hash())
            .collect();
        let answer = self
            .depot()
            .remove_paths(&cache(), &hashes, "tester", false);
        self.tell(format!("remove {asked:?}: {answer:?}"));
        let needed = self.model.needed_by_others(&asked);
        match answer {
            Ok(removal) => {
                for path in removal.removed.iter().map(number_of) {
                    assert!(!needed.contains(&path), "path {path} was needed");
                    self.model.paths.remove(&path);
                    self.model.maybe_gone.remove(&path);
                }
            }
            Err(_) => {
                let may = asked.iter().filter(|number| !needed.contains(number));
                self.model.maybe_gone.extend(may);
            }
        }
    }

    // ---- documents and pins ----

    fn document(&mut self) {
        let (kind, key) = (self.random.below(3) as u8, self.random.below(3) as u8);
        let body = bytes::Bytes::from(noise(self.random.below(5), 300));
        let put = |depot: Depot| {
            let kind = DOCUMENTS[kind as usize];
            depot.put_document(&cache(), kind, &key.to_string(), &body, "tester")
        };
        let answer = put(self.depot());
        self.tell(format!("document {kind}/{key}: {answer:?}"));
        let place = (kind, key);
        let have = self.model.documents.get(&place);
        match answer {
            Ok(Stored::New) => {
                assert!(have.is_none() || kind == 0, "a document was replaced");
                self.model.documents.insert(place, body);
                self.model.maybe_documents.remove(&place);
            }
            Ok(Stored::Same) => {
                let maybe = self.model.maybe_documents.get(&place);
                let known = have == Some(&body) || maybe.is_some_and(|all| all.contains(&body));
                assert!(known, "the same as what?");
                self.model.documents.insert(place, body);
            }
            Ok(Stored::Conflict) => assert_ne!(have, Some(&body)),
            Err(_) => self
                .model
                .maybe_documents
                .entry(place)
                .or_default()
                .push(body),
        }
    }

    fn pin(&mut self) {
        let visible: Vec<u8> = self.model.paths.keys().copied().collect();
        let mut roots = BTreeSet::new();
        for _ in 0..1 + self.random.below(3) {
            roots.extend(self.random.pick(&visible));
        }
        if roots.is_empty() {
            return;
        }
        let keep = ["all", "1", "2", "5", "10d"][self.random.below(5) as usize];
        let expires = self.random.chance(100).then(|| self.model.now + 3 * DAY);
        let change = PinChange {
            roots: roots.iter().map(|root| store_path(*root)).collect(),
            keep: Some(keep.parse().expect("a rule")),
            expires,
        };
        let (name, now) = (self.random.below(3) as u8, self.model.now);
        let expected = self.model.pins_that_may_be(name);
        let set = |before| Pin::set(before, &pin_name(name), change.clone(), now, "tester").ok();
        let expected = expected.into_iter().map(set).collect();
        let answer = self
            .depot()
            .set_pin(&cache(), &pin_name(name), change, "tester");
        self.tell(format!("pin {name} to {roots:?}: {answer:?}"));
        if answer.is_ok() {
            for root in &roots {
                self.model.maybe_gone.remove(root);
            }
        }
        self.pinned_as(name, expected, answer.map(Some));
    }

    fn unpin(&mut self) {
        let name = self.random.below(3) as u8;
        let answer = self.depot().remove_pin(&cache(), &pin_name(name), "tester");
        self.tell(format!("unpin {name}: {answer:?}"));
        self.pinned_as(name, vec![None], answer.map(|_| None));
    }

    fn roll_back(&mut self) {
        let name = self.random.below(3) as u8;
        let expected = self.model.pins_that_may_be(name);
        let rolled = |before: Option<Pin>| before?.rollback(None, self.model.now).ok();
        let expected = expected.into_iter().map(rolled).collect();
        let answer = self
            .depot()
            .rollback_pin(&cache(), &pin_name(name), None, "tester");
        self.tell(format!("roll back {name}: {answer:?}"));
        self.pinned_as(name, expected, answer.map(Some));
    }

    /// `expected`: the outcome for each of what the pin may have been.
    fn pinned_as(&mut self, name: u8, expected: Vec<Option<Pin>>, answer: Result<Option<Pin>>) {
        match answer {
            Ok(now) => {
                assert!(expected.contains(&now), "{now:?}, not of {expected:?}");
                self.model.pins.remove(&name);
                self.model.pins.extend(now.map(|pin| (name, pin)));
                self.model.maybe_pins.remove(&name);
            }
            Err(error) if error.kind() == ErrorKind::Refused => {}
            Err(_) => self
                .model
                .maybe_pins
                .entry(name)
                .or_default()
                .extend(expected),
        }
    }
}

/// The store path with this number.
pub fn store_path(number: u8) -> snowcache_nix::StorePath {
    let nar = Nar {
        nar_hash: snowcache_nix::NarHash::from_bytes([0; 32]),
        nar_size_bytes: 1,
    };
    super::path(number, nar, &[]).store_path
}

/// A signature of somebody else's.
pub fn theirs(number: u8) -> snowcache_nix::Signature {
    let key = SecretKey::generate(&format!("theirs-{number}"), [number + 2; 32]);
    key.expect("a key").sign("anything")
}

/// The name of a pin.
pub fn pin_name(number: u8) -> PinName {
    format!("pin{number}").parse().expect("a name")
}
