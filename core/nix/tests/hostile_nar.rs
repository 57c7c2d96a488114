//! NARs that must be refused: each with a sentence that says what is wrong and at which offset, the
//! same sentence however the input is split, and before anything absurd is believed.

#![allow(
    clippy::unwrap_used,
    reason = "a failure here is the test's own failure"
)]

use snowcache_nix::nar::{Event, Limits, MAX_DEPTH, NarError, Parser, WriteError, Writer};

/// A string: length, bytes, zeros.
fn s(bytes: &[u8]) -> Vec<u8> {
    let mut string = (bytes.len() as u64).to_le_bytes().to_vec();
    string.extend_from_slice(bytes);
    string.resize(string.len().next_multiple_of(8), 0);
    string
}

fn strings(strings: &[&[u8]]) -> Vec<u8> {
    strings.iter().flat_map(|string| s(string)).collect()
}

/// A NAR with these strings for its root.
fn nar(root: &[&[u8]]) -> Vec<u8> {
    [s(b"nix-archive-1"), strings(root)].concat()
}

/// A directory with these names, each an empty file.
fn names(names: &[&[u8]]) -> Vec<u8> {
    let mut nar = nar(&[b"(", b"type", b"directory"]);
    for name in names {
        nar.extend(strings(&[
            b"entry", b"(", b"name", name, b"node", b"(", b"type", b"regular",
        ]));
        nar.extend(strings(&[b"contents", b"", b")", b")"]));
    }
    nar.extend(s(b")"));
    nar
}

fn link(target: &[u8]) -> Vec<u8> {
    nar(&[b"(", b"type", b"symlink", b"target", target, b")"])
}

fn file(contents: &[u8]) -> Vec<u8> {
    nar(&[b"(", b"type", b"regular", b"contents", contents, b")"])
}

/// So many directories inside each other.
fn deep(directories: usize) -> Vec<u8> {
    let mut nar = s(b"nix-archive-1");
    for _ in 1..directories {
        nar.extend(strings(&[
            b"(",
            b"type",
            b"directory",
            b"entry",
            b"(",
            b"name",
            b"d",
            b"node",
        ]));
    }
    nar.extend(strings(&[b"(", b"type", b"directory", b")"]));
    for _ in 1..directories {
        nar.extend(strings(&[b")", b")"]));
    }
    nar
}

fn parse(bytes: &[u8], piece: usize, limits: Limits) -> Result<u64, NarError> {
    let mut parser = Parser::with_limits(limits);
    for piece in bytes.chunks(piece) {
        parser.feed(piece, &mut |_| {})?;
    }
    parser.finish()
}

fn refusal(bytes: &[u8]) -> String {
    let whole = parse(bytes, bytes.len().max(1), Limits::default()).expect_err("hostile");
    for piece in [1, 5, 8, 13] {
        assert_eq!(parse(bytes, piece, Limits::default()), Err(whole.clone()));
    }
    whole.to_string()
}

/// Replaces the byte at `at`.
fn with_byte(mut bytes: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    bytes[at] = byte;
    bytes
}

/// Replaces the eight bytes at `at`.
fn with_length(mut bytes: Vec<u8>, at: usize, length: u64) -> Vec<u8> {
    bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
    bytes
}

#[test]
fn the_helpers_here_make_good_nars() {
    for good in [
        file(b""),
        file(b"12345678"),
        link(b"x"),
        names(&[b"a", b"b"]),
        names(&[]),
        deep(64),
    ] {
        assert_eq!(parse(&good, 7, Limits::default()), Ok(good.len() as u64));
    }
}

#[test]
fn names_that_would_leave_their_directory_or_confuse_are_refused() {
    // Magic 24, "(" 16, "type" 16, "directory" 24, "entry" 16, "(" 16, "name" 16: the name is at
    // 128.
    let long = [b'x'; 256];
    let cases: [(&[&[u8]], &str); 10] = [
        (
            &[b"."],
            "NAR offset 128: the file name '.' is not allowed: it is a step, not a name",
        ),
        (
            &[b".."],
            "NAR offset 128: the file name '..' is not allowed: it is a step, not a name",
        ),
        (
            &[b"/etc"],
            "NAR offset 128: the file name '/etc' is not allowed: it holds a '/'",
        ),
        (
            &[b"a/../b"],
            "NAR offset 128: the file name 'a/../b' is not allowed: it holds a '/'",
        ),
        (
            &[b"a\0b"],
            "NAR offset 128: the file name 'a\\x00b' is not allowed: it holds a NUL",
        ),
        (
            &[b""],
            "NAR offset 128: a file name must have 1 to 255 bytes, found 0",
        ),
        (
            &[&long],
            "NAR offset 128: a file name must have 1 to 255 bytes, found 256",
        ),
        (
            &[b"a", b"a"],
            "NAR offset 312: the entry 'a' stands here a second time",
        ),
        (
            &[b"b", b"a"],
            "NAR offset 312: the entry 'a' stands after 'b', entries must be sorted",
        ),
        (
            &[b"a\xff", b"a"],
            "NAR offset 312: the entry 'a' stands after 'a\\xff', entries must be sorted",
        ),
    ];
    for (hostile, says) in cases {
        assert_eq!(refusal(&names(hostile)), says);
    }
}

#[test]
fn the_order_is_that_of_bytes_and_starts_anew_in_each_directory() {
    assert!(
        parse(
            &names(&[b"A", b"B", b"a", b"a-", b"a.", b"aa", b"\xc3", b"\xff"]),
            9,
            Limits::default()
        )
        .is_ok()
    );
    // "z" with "a" inside, then "zz": the inner name is not compared with the outer ones.
    let mut nested = nar(&[
        b"(",
        b"type",
        b"directory",
        b"entry",
        b"(",
        b"name",
        b"z",
        b"node",
    ]);
    nested.extend(&names(&[b"a"])[24..]);
    nested.extend(strings(&[b")", b"entry", b"(", b"name", b"z", b"node"]));
    assert!(refusal(&nested).ends_with("the entry 'z' stands here a second time"));
}

#[test]
fn symlink_targets_that_cannot_be_are_refused() {
    // Magic 24, "(" 16, "type" 16, "symlink" 16, "target" 16: the target is at 88.
    let long = [b'x'; 4096];
    let cases: [(&[u8], &str); 3] = [
        (
            b"/etc\0/passwd",
            "NAR offset 88: the symlink target '/etc\\x00/passwd' holds a NUL",
        ),
        (
            b"",
            "NAR offset 88: a symlink target must have 1 to 4095 bytes, found 0",
        ),
        (
            &long,
            "NAR offset 88: a symlink target must have 1 to 4095 bytes, found 4096",
        ),
    ];
    for (target, says) in cases {
        assert_eq!(refusal(&link(target)), says);
    }
    assert!(parse(&link(&long[..4095]), 100, Limits::default()).is_ok());
}

#[test]
fn depth_ten_thousand_is_refused_at_the_first_node_too_deep() {
    assert!(parse(&deep(MAX_DEPTH), 4096, Limits::default()).is_ok());
    // A directory with its entry takes 16 + 16 + 24 + 16 + 16 + 16 + 16 + 16 bytes.
    let says = "NAR offset 8728: more than 64 files and directories inside each other";
    assert_eq!(refusal(&deep(MAX_DEPTH + 1)), says);
    assert_eq!(refusal(&deep(10_000)), says);
}

#[test]
fn a_nar_that_was_cut_anywhere_is_refused_and_says_where() {
    let whole = names(&[b"names", b"some"]);
    for end in 0..whole.len() {
        let refusal = parse(&whole[..end], 11, Limits::default())
            .expect_err("cut off")
            .to_string();
        assert!(
            refusal.starts_with(&format!("NAR offset {end}: the NAR was cut off where ")),
            "{refusal}"
        );
    }
    let says = "NAR offset 100: the NAR was cut off where the contents of a file should follow";
    assert_eq!(refusal(&file(&[1; 64])[..100]), says);
}

#[test]
fn nothing_may_follow_the_end() {
    let end = file(b"x").len();
    for more in [&b"\0"[..], b"nix-archive-1", &[0; 4096]] {
        let says = format!("NAR offset {end}: the NAR has ended, but more bytes follow");
        assert_eq!(refusal(&[&file(b"x"), more].concat()), says);
    }
}

#[test]
fn padding_must_be_zero_wherever_it_is() {
    // The magic has 13 bytes, so its zeros are at 21, 22, 23; the file's one byte is at 96.
    let cases = [
        (
            with_byte(file(b"x"), 23, 1),
            "NAR offset 23: padding must be zero, found byte 0x01",
        ),
        (
            with_byte(file(b"x"), 33, 255),
            "NAR offset 33: padding must be zero, found byte 0xff",
        ),
        (
            with_byte(file(b"x"), 97, 7),
            "NAR offset 97: padding must be zero, found byte 0x07",
        ),
        (
            with_byte(file(b"x"), 103, 7),
            "NAR offset 103: padding must be zero, found byte 0x07",
        ),
        (
            with_byte(link(b"x"), 103, 7),
            "NAR offset 103: padding must be zero, found byte 0x07",
        ),
        (
            with_byte(names(&[b"x"]), 137, 7),
            "NAR offset 137: padding must be zero, found byte 0x07",
        ),
    ];
    for (hostile, says) in cases {
        assert_eq!(refusal(&hostile), says);
    }
}

#[test]
fn absurd_lengths_are_refused_without_being_believed() {
    let word = "expected 'nix-archive-1', found a string of";
    let cases = [
        (
            with_length(file(b"x"), 0, u64::MAX),
            format!("NAR offset 0: {word} 18446744073709551615 bytes"),
        ),
        (with_length(file(b"x"), 0, 33), format!("NAR offset 0: {word} 33 bytes")),
        (
            with_length(file(b"x"), 40, 1 << 40),
            "NAR offset 40: expected 'type', found a string of 1099511627776 bytes".to_owned(),
        ),
        (
            with_length(names(&[b"x"]), 128, 1 << 63),
            "NAR offset 128: a file name must have 1 to 255 bytes, found \
            9223372036854775808".to_owned(),
        ),
        (
            with_length(link(b"x"), 88, u64::MAX),
            "NAR offset 88: a symlink target must have 1 to 4095 bytes, found \
            18446744073709551615".to_owned(),
        ),
        (
            with_length(file(b"x"), 88, u64::MAX),
            "NAR offset 96: 18446744073709551615 bytes more would make it larger than the limit of \
             1099511627776 bytes"
                .to_owned(),
        ),
        (
            with_length(file(b"x"), 88, u64::MAX - 7),
            "NAR offset 96: 18446744073709551608 bytes more would make it larger than the limit of \
             1099511627776 bytes"
                .to_owned(),
        ),
    ];
    for (hostile, says) in cases {
        assert_eq!(refusal(&hostile), says);
    }
}

#[test]
fn other_words_are_refused_with_what_was_expected() {
    let cases = [
        (
            s(b"nix-archive-2"),
            "NAR offset 0: expected 'nix-archive-1', found 'nix-archive-2'",
        ),
        (nar(&[b"["]), "NAR offset 24: expected '(', found '['"),
        (
            nar(&[b"(", b"typo"]),
            "NAR offset 40: expected 'type', found 'typo'",
        ),
        (
            nar(&[b"(", b"type", b"socket"]),
            "NAR offset 56: expected 'regular', 'symlink' or 'directory', found 'socket'",
        ),
        (
            nar(&[b"(", b"type", b"regular", b")"]),
            "NAR offset 72: expected 'executable' or 'contents', found ')'",
        ),
        (
            nar(&[b"(", b"type", b"regular", b"executable", b"yes"]),
            "NAR offset 96: expected an empty string, found 'yes'",
        ),
        (
            nar(&[b"(", b"type", b"regular", b"executable", b"", b"executable"]),
            "NAR offset 104: expected 'contents', found 'executable'",
        ),
        (
            nar(&[b"(", b"type", b"directory", b"target"]),
            "NAR offset 80: expected 'entry' or ')', found 'target'",
        ),
        (nar(&[b""]), "NAR offset 24: expected '(', found ''"),
        (
            b"\x7fELF\x02\x01\x01\0........".to_vec(),
            "NAR offset 0: expected 'nix-archive-1', found a string of 282584257676671 bytes",
        ),
    ];
    for (hostile, says) in cases {
        assert_eq!(refusal(&hostile), says);
    }
}

#[test]
fn a_nar_over_the_limit_is_refused_when_its_size_is_read_not_when_it_has_come() {
    let whole = file(&[7; 1000]);
    let limits = |max_nar_size_bytes| Limits { max_nar_size_bytes };
    assert!(parse(&whole, 100, limits(whole.len() as u64)).is_ok());

    // 96 bytes are the header with the file's size: that is all the parser needs to see.
    let mut parser = Parser::with_limits(limits(1000));
    let mut events = 0;
    let refusal = parser
        .feed(&whole[..96], &mut |_| events += 1)
        .expect_err("too large");
    assert_eq!(
        refusal.to_string(),
        "NAR offset 96: 1000 bytes more would make it larger than the limit of 1000 bytes"
    );
    assert_eq!(events, 0, "the file was never announced");

    let short = parse(&whole, 100, limits(whole.len() as u64 - 1)).expect_err("one byte too much");
    assert!(matches!(short, NarError::TooLarge { .. }), "{short}");
    let structure = parse(&names(&[b"a", b"b", b"c"]), 100, limits(300)).expect_err("too large");
    assert!(
        matches!(structure, NarError::TooLarge { offset: 296, .. }),
        "{structure}"
    );
}

#[test]
fn after_a_refusal_the_parser_says_the_same_for_ever() {
    let mut parser = Parser::new();
    let first = parser
        .feed(&s(b"nix-archive-9"), &mut |_| {})
        .expect_err("another magic");
    assert_eq!(
        parser.feed(&file(b"good"), &mut |_| panic!("no event")),
        Err(first.clone())
    );
    assert_eq!(parser.skip_file_data(0), Err(first.clone()));
    assert_eq!(parser.finish(), Err(first));
}

#[test]
fn skipping_works_inside_a_file_only_and_no_further_than_its_end() {
    let whole = file(&[7; 21]);
    let mut parser = Parser::new();
    let mut log = Vec::new();
    let mut note = |event: Event<'_>| log.push(format!("{event:?}"));
    parser.feed(&whole[..97], &mut note).unwrap();
    assert_eq!((parser.offset(), parser.file_remaining()), (97, 20));
    let refusal = parser.skip_file_data(21).expect_err("more than remains");
    assert_eq!(
        refusal.to_string(),
        "NAR offset 97: cannot skip 21 bytes of a file with 20 left"
    );
    parser.skip_file_data(20).unwrap();
    assert_eq!((parser.offset(), parser.file_remaining()), (117, 0));
    assert!(
        parser.skip_file_data(1).is_err(),
        "the padding is no contents"
    );
    parser.feed(&whole[117..], &mut note).unwrap();
    assert_eq!(parser.finish(), Ok(whole.len() as u64));
    let file = "File { executable: false, size: 21, offset: 96 }";
    assert_eq!(log, [file, "Data([7])", "EndFile"]);
}

#[test]
fn the_writer_writes_no_nar_that_the_parser_would_refuse() {
    fn refused(call: impl FnOnce(&mut Writer<Vec<u8>>) -> Result<(), WriteError>) -> String {
        let mut writer = Writer::new(Vec::new());
        writer.directory().unwrap();
        writer.entry(b"m").unwrap();
        writer.file(false, 2).unwrap();
        writer.data(b"12").unwrap();
        call(&mut writer).expect_err("refused").to_string()
    }
    assert!(refused(|w| w.entry(b"..")).ends_with("it is a step, not a name"));
    assert!(refused(|w| w.entry(b"a/b")).ends_with("it holds a '/'"));
    assert!(refused(|w| w.entry(b"m")).ends_with("the entry 'm' stands here a second time"));
    assert!(refused(|w| w.entry(b"a")).ends_with("stands after 'm', entries must be sorted"));
    assert!(refused(|w| w.symlink(b"a\0")).ends_with("holds a NUL"));
    assert!(
        refused(|w| w.directory())
            .ends_with("directory() does not fit here: expected entry() or end_directory()")
    );
    assert!(refused(|w| w.data(b"3")).contains("data() does not fit here"));
    let too_much = refused(|w| {
        w.entry(b"n")?;
        w.file(false, 1)?;
        w.data(b"12")
    });
    assert!(
        too_much.ends_with("a file with 1 bytes left was given 2"),
        "{too_much}"
    );

    let unfinished = Writer::new(Vec::new())
        .finish()
        .expect_err("nothing written")
        .to_string();
    assert!(
        unfinished.contains("finish() does not fit here"),
        "{unfinished}"
    );

    let mut writer = Writer::new(Vec::new());
    for _ in 0..MAX_DEPTH {
        writer.directory().unwrap();
        writer.entry(b"d").unwrap();
    }
    assert!(
        writer
            .symlink(b"x")
            .expect_err("too deep")
            .to_string()
            .contains("more than 64")
    );
}
