use super::*;
use proptest::prelude::*;

const HASH: &[u8; 32] = b"0zzf3lklh2b7m1arz9kw3yq1yq0vv0mm";

/// The rule as it is told, looking at one place after the other.
pub(crate) fn model(bytes: &[u8]) -> Vec<Token> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let len = if is_hash_part(bytes, at) {
            HASH_LEN
        } else if is_build_id(bytes, at) {
            BUILD_ID_LEN
        } else {
            at += 1;
            continue;
        };
        found.push(Token { start: at, len });
        at += len;
    }
    found
}

fn is_hash_part(bytes: &[u8], at: usize) -> bool {
    let lower = "0123456789abcdfghijklmnpqrsvwxyz";
    [lower.to_owned(), lower.to_uppercase()]
        .iter()
        .any(|alphabet| {
            let belongs = |byte: &u8| alphabet.as_bytes().contains(byte);
            bytes.len() > at + 32
                && bytes[at..at + 32].iter().all(belongs)
                && bytes[at + 32] == b'-'
                && !bytes[..at].last().is_some_and(belongs)
        })
}

fn is_build_id(bytes: &[u8], at: usize) -> bool {
    at + 20 <= bytes.len() && bytes[..at].ends_with(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0")
}

fn starts(bytes: &[u8]) -> Vec<(usize, usize)> {
    scan(bytes)
        .iter()
        .map(|token| (token.start, token.len))
        .collect()
}

#[test]
fn a_store_path_holds_one_token_and_its_dash_is_not_part_of_it() {
    let text = [b"PATH=/nix/store/", &HASH[..], b"-bash-5.2/bin"].concat();
    assert_eq!(starts(&text), [(16, 32)]);
    assert_eq!(starts(&text[16..49]), [(0, 32)], "also at the very start");
    assert_eq!(starts(&text[16..48]), [], "nothing without the dash");
}

#[test]
fn thirty_one_and_thirty_three_characters_are_no_token() {
    assert_eq!(starts(&[b"/", &HASH[1..], b"-x"].concat()), []);
    assert_eq!(starts(&[b"/a", &HASH[..], b"-x"].concat()), []);
    assert_eq!(
        starts(&[b"/e", &HASH[..], b"-x"].concat()),
        [(2, 32)],
        "e is not in the alphabet"
    );
    assert_eq!(starts(&[b"/", &HASH[..31], b"e-x"].concat()), []);
}

#[test]
fn gcc_writes_hashes_in_upper_case() {
    let upper = HASH.to_ascii_uppercase();
    assert_eq!(
        starts(&[b"/nix/store/", &upper[..], b"-glibc"].concat()),
        [(11, 32)]
    );
    let mixed = [&upper[..16], &HASH[16..]].concat();
    assert_eq!(
        starts(&[b"/nix/store/", &mixed[..], b"-glibc"].concat()),
        []
    );
    assert_eq!(
        starts(&[b"Z", &HASH[..], b"-x"].concat()),
        [(1, 32)],
        "Z is of the other alphabet"
    );
}

#[test]
fn digits_belong_to_both_alphabets() {
    let digits = [b'7'; 32];
    assert_eq!(starts(&[&digits[..], b"-"].concat()), [(0, 32)]);
    assert_eq!(starts(&[b"7", &digits[..], b"-"].concat()), []);
    assert_eq!(
        starts(&[b"a", &digits[..], b"-"].concat()),
        [(1, 32)],
        "a run of the upper one"
    );
}

#[test]
fn a_build_id_is_a_token_of_twenty_bytes() {
    let note = [b"....", &BUILD_ID_HEADER[..], &[0xab; 20], b"...."].concat();
    assert_eq!(starts(&note), [(20, 20)]);
    assert_eq!(starts(&note[..39]), [], "a note cut short has none");
    let md5 = [&b"\x04\0\0\0\x10\0\0\0\x03\0\0\0GNU\0"[..], &[0xab; 20]].concat();
    assert_eq!(
        starts(&md5),
        [],
        "other kinds of build-id are not looked for"
    );
}

#[test]
fn the_leftmost_wins_and_the_longer_one_of_two() {
    let both = [&BUILD_ID_HEADER[..], HASH, b"-"].concat();
    assert_eq!(starts(&both), [(16, 32)]);
    let behind = [&BUILD_ID_HEADER[..], b"....", HASH, b"-"].concat();
    assert_eq!(starts(&behind), [(16, 20)]);
    let inside = [&BUILD_ID_HEADER[..], b"....", &BUILD_ID_HEADER, &[1; 20]].concat();
    assert_eq!(starts(&inside), [(16, 20), (36, 20)]);
}

#[test]
fn blanking_leaves_what_rebuilds_share() {
    let mut one = [b"/nix/store/", &HASH[..], b"-x"].concat();
    let mut other = [b"/nix/store/", &[b'z'; 32][..], b"-x"].concat();
    for text in [&mut one, &mut other] {
        let tokens = scan(text);
        blank(text, &tokens);
    }
    assert_eq!(one, other);
}

/// Bytes in which tokens and almost-tokens are frequent.
pub(crate) fn tokenish(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let character = prop_oneof![
        40 => prop::sample::select(b"0123456789abcdfghijklmnpqrsvwxyz".to_vec()),
        2 => prop::sample::select(b"0123456789ABCDFGHIJKLMNPQRSVWXYZ".to_vec()),
        2 => Just(b'-'),
        1 => prop::sample::select(b"eotuEOTU/\0\n".to_vec()),
    ];
    let hash = prop::collection::vec(
        prop::sample::select(b"0123456789abcdfghijklmnpqrsvwxyz".to_vec()),
        31..=33,
    );
    let part = prop_oneof![
        4 => prop::collection::vec(character, 0..70),
        4 => hash.clone().prop_map(|hash| [&hash[..], b"-"].concat()),
        1 => hash.prop_map(|hash| [b"/", &hash.to_ascii_uppercase()[..], b"-"].concat()),
        1 => prop::collection::vec(prop::sample::select(b"0123456789".to_vec()), 31..=33),
        2 => Just(BUILD_ID_HEADER.to_vec()),
        1 => (0..16usize).prop_map(|len| BUILD_ID_HEADER[..len].to_vec()),
        2 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(part, 0..most).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn the_scan_finds_what_the_rule_says(bytes in tokenish(40)) {
        prop_assert_eq!(scan(&bytes), model(&bytes));
    }

    #[test]
    fn scanning_in_steps_finds_the_same(bytes in tokenish(40), step in 1usize..100) {
        let mut found: Vec<Token> = Vec::new();
        let mut from = 0;
        for seen in (step..bytes.len()).step_by(step) {
            let until = seen.saturating_sub(LOOKAHEAD);
            scan_from(&bytes[..seen], from, until, |token| found.push(token));
            from = from.max(until).max(found.last().map_or(0, |token| token.end()));
        }
        scan_from(&bytes, from, bytes.len(), |token| found.push(token));
        prop_assert_eq!(found, scan(&bytes));
    }
}
