//! What the depot shows, held against the model.

use std::collections::BTreeSet;

use super::keeping::strictest;
use super::model::{DOCUMENTS, Path, number_of};
use super::operations::{pin_name, store_path, theirs};
use super::*;

/// After two collections a segment may hold so much garbage: less is not worth a file.
const GARBAGE_A_SEGMENT_BYTES: u64 = 64 << 10;

impl Life {
    fn visible(&self) -> BTreeSet<u8> {
        let listed = self
            .depot()
            .paths(&cache(), None, MAX_PAGE)
            .expect("a list");
        listed.iter().map(number_of).collect()
    }

    /// What is visible is what was acknowledged, give or take what was not answered; and closed.
    pub fn check_visible(&mut self) {
        let visible = self.visible();
        for (number, path) in &self.model.paths {
            let may_be_gone = self.model.maybe_gone.contains(number);
            assert!(
                visible.contains(number) || may_be_gone,
                "path {number} is gone: {path:?}"
            );
        }
        for number in &visible {
            let known = self.model.paths.contains_key(number);
            assert!(
                known || self.model.maybe.contains_key(number),
                "path {number} came back"
            );
        }
        let depot = self.depot();
        for (number, kept) in &self.kept {
            let shown = visible.contains(number) || depot.still(kept).is_none();
            assert!(shown, "path {number} is gone, and still kept");
        }
        let all: Vec<u8> = self.model.paths.keys().copied().collect();
        for _ in 0..2 {
            if let Some(number) = self
                .random
                .pick(&all)
                .filter(|number| visible.contains(number))
            {
                self.check_bytes(self.model.paths[&number].nar);
            }
        }
    }

    /// After a start what is there is certain: the model learns what became of what was not
    /// answered.
    pub fn settle(&mut self) {
        let visible = self.visible();
        let maybe_gone = std::mem::take(&mut self.model.maybe_gone);
        for number in maybe_gone {
            // Gone, or gone and come back as something else that was offered.
            if !visible.contains(&number) || !self.is_as_known(number) {
                self.model.paths.remove(&number);
            }
        }
        for number in visible {
            self.settle_one(number);
        }
        let now = self.model.now;
        for (name, maybe) in std::mem::take(&mut self.model.maybe_pins) {
            let pin = self
                .depot()
                .pin(&cache(), &pin_name(name))
                .expect("look up");
            let before = self.model.pins.get(&name).cloned();
            let known = pin == before || maybe.contains(&pin);
            assert!(
                known,
                "pin {name} is {pin:?}, not {before:?} nor of {maybe:?} at {now}"
            );
            self.model.pins.remove(&name);
            self.model.pins.extend(pin.map(|pin| (name, pin)));
        }
        for ((kind, key), maybe) in self.model.maybe_documents.clone() {
            let found = self.document_at(kind, key);
            if let Some(body) = found.filter(|body| maybe.contains(body)) {
                let have = self.model.documents.get(&(kind, key));
                assert!(
                    have.is_none_or(|have| *have == body) || kind == 0,
                    "it was another one"
                );
                self.model.documents.insert((kind, key), body);
            }
        }
    }

    fn is_as_known(&self, number: u8) -> bool {
        let entry = self.depot().path(&cache(), &store_path(number).hash());
        let (entry, known) = (entry.expect("look up"), self.model.paths.get(&number));
        entry
            .zip(known)
            .is_some_and(|(entry, path)| self.says(&entry, path))
    }

    fn says(&self, entry: &Entry, path: &Path) -> bool {
        let references = entry.info.references.iter().map(number_of);
        let nar = self.model.nars[path.nar].nar.nar_hash;
        nar == entry.info.nar_hash && references.eq(path.references.iter().copied())
    }

    /// Learns of a path that is visible which of the offers it is.
    pub fn settle_one(&mut self, number: u8) {
        let entry = self
            .depot()
            .path(&cache(), &store_path(number).hash())
            .expect("look up");
        let Some(entry) = entry else { return };
        let same = |path: &&Path| self.says(&entry, path);
        let have = self.model.paths.get(&number);
        let maybe = self.model.maybe.get(&number).into_iter().flatten();
        let path = match have {
            Some(have) => Some(have).filter(same),
            None => maybe.into_iter().find(same),
        };
        let path =
            path.unwrap_or_else(|| panic!("path {number} is {:?}, not {have:?}", entry.info));
        let mut path = path.clone();
        let signed = |one: &u8| entry.info.signatures.contains(&theirs(*one));
        let kept = have.is_none_or(|have| have.signatures.iter().all(signed));
        assert!(kept, "path {number} lost a signature");
        path.signatures = (0..8).filter(signed).collect();
        self.model.paths.insert(number, path);
    }

    /// Everything that must be there is, byte for byte, and everything else is not.
    pub fn check_everything(&mut self) {
        self.check_visible();
        let visible = self.visible();
        let known: BTreeSet<u8> = self.model.paths.keys().copied().collect();
        assert_eq!(visible, known);
        for (number, path) in &self.model.paths {
            let open = path.references.iter().find(|to| !visible.contains(to));
            assert_eq!(open, None, "path {number} is visible without it");
        }
        let nars: BTreeSet<usize> = self.model.paths.values().map(|path| path.nar).collect();
        nars.into_iter().for_each(|nar| self.check_bytes(nar));
        self.check_frames();
        for number in known {
            self.check_entry(number);
        }
        for (name, lease) in self.model.leased().collect::<Vec<_>>() {
            let reader = self.depot().uploaded_nar(&cache(), &name.to_string());
            let reader = reader.expect("look up");
            let reader = reader.unwrap_or_else(|| panic!("upload {name} is gone: {lease:?}"));
            assert!(collect(reader.raw(0..u64::MAX)) == self.model.nars[lease.nar].bytes);
        }
        for ((kind, key), body) in &self.model.documents {
            let found = self.document_at(*kind, *key);
            let maybe = self.model.maybe_documents.get(&(*kind, *key));
            let newer =
                maybe.is_some_and(|all| found.as_ref().is_some_and(|found| all.contains(found)));
            assert!(
                found.as_ref() == Some(body) || newer,
                "document {kind}/{key} is gone"
            );
        }
        for (name, pin) in &self.model.pins {
            if !self.model.maybe_pins.contains_key(name) {
                let found = self
                    .depot()
                    .pin(&cache(), &pin_name(*name))
                    .expect("look up");
                assert_eq!(found.as_ref(), Some(pin));
            }
        }
    }

    fn document_at(&self, kind: u8, key: u8) -> Option<bytes::Bytes> {
        let kind = DOCUMENTS[kind as usize];
        self.depot()
            .document(&cache(), kind, &key.to_string())
            .expect("look up")
    }

    /// The entry of a path, out of memory when it is still there.
    fn entry(&mut self, number: u8) -> Option<Entry> {
        let (depot, hash) = (self.depot(), store_path(number).hash());
        let kept = self.kept.get(&number);
        if let Some(entry) = kept.and_then(|kept| depot.still(kept)) {
            let now = depot.path(&cache(), &hash).expect("look up");
            let encoding = now.map(|now| now.encoding);
            assert_eq!(encoding.as_ref(), Some(&entry.encoding), "path {number}");
            return Some(entry.clone());
        }
        let kept = depot.keep(&cache(), &hash, |entry| entry).expect("look up");
        let entry = kept.as_ref().and_then(|kept| depot.still(kept)).cloned();
        self.kept.extend(kept.map(|kept| (number, kept)));
        entry
    }

    /// The entry of a path says what was published. This counts as using it.
    pub fn check_entry(&mut self, number: u8) {
        let entry = self.entry(number);
        if entry.is_none() && self.model.maybe_gone.contains(&number) {
            return;
        }
        let entry = entry.unwrap_or_else(|| panic!("path {number} is gone"));
        let path = self
            .model
            .paths
            .get_mut(&number)
            .expect("a path of the model");
        assert_eq!(
            entry.info.nar_hash, self.model.nars[path.nar].nar.nar_hash,
            "path {number}"
        );
        assert!(
            entry
                .info
                .references
                .iter()
                .map(number_of)
                .eq(path.references.iter().copied())
        );
        for signature in &path.signatures {
            assert!(
                entry.info.signatures.contains(&theirs(*signature)),
                "a signature of {number}"
            );
        }
        path.used = self.model.now;
    }

    fn check_bytes(&self, nar: usize) {
        let content = &self.model.nars[nar];
        let reader = self
            .depot()
            .nar(&cache(), &content.nar.nar_hash)
            .expect("look up");
        let reader = reader.unwrap_or_else(|| panic!("NAR {nar} is not visible"));
        assert!(
            collect(reader.raw(0..u64::MAX)) == content.bytes,
            "NAR {nar} has other bytes"
        );
    }

    /// Whatever another depot shows of this life's paths is right, or an error; returns how many
    /// are gone.
    pub fn what_is_there_is_right(&self, depot: &Depot) -> usize {
        let mut gone = 0;
        for (number, path) in &self.model.paths {
            let hash = store_path(*number).hash();
            let Ok(Some(entry)) = depot.path(&cache(), &hash) else {
                gone += 1;
                continue;
            };
            let content = self.model.nars.iter();
            let content = content.filter(|content| content.nar.nar_hash == entry.info.nar_hash);
            let content = content.min_by_key(|content| content.bytes.len());
            let content = content.expect("a NAR that was put");
            let reader = depot.nar(&cache(), &content.nar.nar_hash).expect("look up");
            let chunks = reader.expect("visible").raw(0..u64::MAX);
            let bytes = chunks
                .collect::<Result<Vec<_>>>()
                .map(|chunks| chunks.concat());
            match bytes {
                Ok(bytes) => assert!(bytes == content.bytes, "{number}: {path:?} has other bytes"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
            }
        }
        gone
    }

    /// Hardly more is stored than lives.
    pub fn check_space(&self) {
        let collected = self
            .depot()
            .collect(&strictest(), true, &mut |_| {})
            .expect("told");
        let (live, stored) = (collected.live_bytes, self.disk.stored_bytes());
        assert_eq!(collected.stored_bytes, stored, "what the depot counts");
        let most = live + live / 10 + self.disk.segments() * GARBAGE_A_SEGMENT_BYTES;
        assert!(
            stored <= most,
            "{stored} bytes are stored and {live} live: {collected:?}"
        );
        let paths = self.model.paths.values();
        let nars: BTreeSet<usize> = paths.map(|path| path.nar).collect();
        let bytes: u64 = nars
            .iter()
            .map(|nar| self.model.nars[*nar].nar.nar_size_bytes)
            .sum();
        // A frame has a header of 64 bytes, 1 KiB at least; a record some 2 KiB.
        let records = 200 + self.model.paths.len() as u64 * 3;
        let most = bytes + bytes / 8 + records * 2048;
        assert!(
            live <= most,
            "{live} bytes live for NARs of {bytes}: {collected:?}"
        );
    }
}
