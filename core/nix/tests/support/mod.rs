//! Trees and NARs for the tests: made at random, written, damaged.

use proptest::prelude::*;
use snowcache_nix::nar::{Parser, Writer};

/// A tree as one thinks of it.
#[derive(Debug, Clone)]
pub enum Node {
    File(bool, Vec<u8>),
    Symlink(Vec<u8>),
    Directory(Vec<(Vec<u8>, Node)>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-zA-Z0-9._+-]{1,12}".prop_map(String::into_bytes),
        prop::collection::vec(1u8..=255, 1..20),
        Just(vec![b'n'; 255]),
    ]
    .prop_filter("a name", |name| {
        !name.contains(&b'/') && name.as_slice() != b"." && name.as_slice() != b".."
    })
}

pub fn tree() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(x, b)| Node::File(x, b)),
        prop::collection::vec(1u8..=255, 1..60).prop_map(Node::Symlink),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop::collection::btree_map(name(), inner, 0..8)
            .prop_map(|entries| Node::Directory(entries.into_iter().collect()))
    })
}

fn write(node: &Node, out: &mut Writer<Vec<u8>>) {
    match node {
        Node::File(executable, bytes) => {
            out.file(*executable, bytes.len() as u64).unwrap();
            // In two pieces, as a reader with a small buffer would.
            let (head, tail) = bytes.split_at(bytes.len() / 3);
            out.data(head).unwrap();
            out.data(tail).unwrap();
        }
        Node::Symlink(target) => out.symlink(target).unwrap(),
        Node::Directory(entries) => {
            out.directory().unwrap();
            for (name, node) in entries {
                out.entry(name).unwrap();
                write(node, out);
            }
            out.end_directory().unwrap();
        }
    }
}

pub fn nar_of(node: &Node) -> Vec<u8> {
    let mut out = Writer::new(Vec::new());
    write(node, &mut out);
    assert!(out.offset() > 0);
    out.finish().unwrap()
}

pub fn rewrite(nar: &[u8]) -> Vec<u8> {
    let (mut parser, mut writer) = (Parser::new(), Writer::new(Vec::new()));
    parser
        .feed(nar, &mut |event| writer.event(event).unwrap())
        .unwrap();
    writer.finish().unwrap()
}

/// One change to a NAR that an enemy or a bad disk could make.
#[derive(Debug, Clone)]
pub enum Damage {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    SwapEights(prop::sample::Index, prop::sample::Index),
}

pub fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at(), prop::collection::vec(any::<u8>(), 1..17)).prop_map(|(at, b)| Damage::Insert(at, b)),
        (at(), 1usize..40).prop_map(|(at, len)| Damage::Remove(at, len)),
        (at(), at()).prop_map(|(a, b)| Damage::SwapEights(a, b)),
    ]
}

pub fn apply(nar: &mut Vec<u8>, damage: &Damage) {
    match damage {
        Damage::Set(at, byte) => {
            let at = at.index(nar.len());
            nar[at] = *byte;
        }
        Damage::Insert(at, bytes) => {
            let at = at.index(nar.len());
            nar.splice(at..at, bytes.iter().copied());
        }
        Damage::Remove(at, len) => {
            let at = at.index(nar.len());
            nar.drain(at..(at + len).min(nar.len()));
        }
        Damage::SwapEights(a, b) => {
            let (a, b) = (a.index(nar.len() / 8) * 8, b.index(nar.len() / 8) * 8);
            (0..8).for_each(|n| nar.swap(a + n, b + n));
        }
    }
}
