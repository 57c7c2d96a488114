//! What every [`Index`] must do, as one suite that each implementation runs.

use super::{Batch, Index, Table};

/// Runs the whole suite; `make` returns a new, empty index each time.
///
/// # Panics
/// Where the implementation breaks the contract, saying how.
pub fn suite(make: impl Fn() -> Box<dyn Index>) {
    the_last_write_wins(&*make());
    tables_are_apart(&*make());
    many_are_answered_in_order(&*make());
    a_scan_is_a_prefix_in_key_order(&*make());
    a_scan_pages(&*make());
}

fn put(index: &dyn Index, table: Table, rows: &[(&[u8], &[u8])]) {
    let mut batch = Batch::default();
    for (key, value) in rows {
        batch.put(table, *key, *value);
    }
    index.write(batch).expect("write");
}

fn get(index: &dyn Index, table: Table, key: &[u8]) -> Option<Vec<u8>> {
    index
        .get(table, key)
        .expect("get")
        .map(|value| value.to_vec())
}

fn the_last_write_wins(index: &dyn Index) {
    assert_eq!(get(index, Table::Paths, b"k"), None);
    put(index, Table::Paths, &[(b"k", b"one"), (b"k", b"two")]);
    assert_eq!(get(index, Table::Paths, b"k"), Some(b"two".to_vec()));
    let mut batch = Batch::default();
    batch.delete(Table::Paths, *b"k");
    batch.delete(Table::Paths, *b"never there");
    index.write(batch).expect("write");
    assert_eq!(get(index, Table::Paths, b"k"), None);
}

fn tables_are_apart(index: &dyn Index) {
    for table in Table::ALL {
        put(index, table, &[(b"same key", table.name().as_bytes())]);
    }
    index.checkpoint().expect("checkpoint");
    for table in Table::ALL {
        assert_eq!(
            get(index, table, b"same key"),
            Some(table.name().as_bytes().to_vec())
        );
    }
}

fn many_are_answered_in_order(index: &dyn Index) {
    put(
        index,
        Table::Frames,
        &[(b"a", b"1"), (b"c", b""), (b"d", b"4")],
    );
    let keys: [&[u8]; 5] = [b"d", b"b", b"a", b"c", b"d"];
    let found = index.get_many(Table::Frames, &keys).expect("get_many");
    let found: Vec<_> = found.iter().map(|value| value.as_deref()).collect();
    let want: [Option<&[u8]>; 5] = [Some(b"4"), None, Some(b"1"), Some(b""), Some(b"4")];
    assert_eq!(found, want);
    assert!(
        index
            .get_many(Table::Frames, &[])
            .expect("no keys")
            .is_empty()
    );
}

fn a_scan_is_a_prefix_in_key_order(index: &dyn Index) {
    put(
        index,
        Table::Visible,
        &[(b"b\0z", b""), (b"b\0\xff", b""), (b"b\0a", b"v")],
    );
    put(
        index,
        Table::Visible,
        &[(b"a\0q", b""), (b"b\x01", b""), (b"bb", b"")],
    );
    put(index, Table::Documents, &[(b"b\0other table", b"")]);
    let rows = index.scan(Table::Visible, b"b\0", None, 100).expect("scan");
    let keys: Vec<&[u8]> = rows.iter().map(|(key, _)| &key[..]).collect();
    let want: [&[u8]; 3] = [b"b\0a", b"b\0z", b"b\0\xff"];
    assert_eq!(keys, want);
    assert_eq!(&rows[0].1[..], b"v");
}

fn a_scan_pages(index: &dyn Index) {
    for number in 0..25u8 {
        put(index, Table::Uploads, &[(&[b'p', number], &[number])]);
    }
    let mut seen = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = index
            .scan(Table::Uploads, b"p", after.as_deref(), 10)
            .expect("scan");
        let Some((last, _)) = page.last() else { break };
        assert!(
            page.len() <= 10,
            "a page of {} rows was asked for with limit 10",
            page.len()
        );
        after = Some(last.to_vec());
        seen.extend(page.iter().map(|(_, value)| value[0]));
    }
    assert_eq!(seen, (0..25).collect::<Vec<u8>>());
}
