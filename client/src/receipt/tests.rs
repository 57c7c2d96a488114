//! A receipt is believed exactly when this node signed it, byte for byte.

use super::*;

fn key(seed: u8) -> SecretKey {
    SecretKey::generate("node-1", [seed; 32]).expect("a good name")
}

fn path(digit: char) -> StorePath {
    let base = format!("{}-x", digit.to_string().repeat(32));
    base.parse().expect("a path")
}

fn receipt() -> Receipt {
    let line = |digit, inode| Line {
        path: path(digit),
        nar_hash: NarHash::from_bytes([inode as u8; 32]),
        stamp: Stamp {
            inode,
            ctime_s: 1_700_000_000,
            ctime_ns: 5,
        },
    };
    Receipt {
        root: path('1'),
        registered_s: 1_700_000_000,
        time_s: 1_700_000_001,
        boot: "b1".to_owned(),
        keys: vec!["a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=".to_owned()],
        paths: vec![line('0', 7), line('1', 8)],
    }
}

#[test]
fn what_was_signed_is_read_back() {
    let (receipt, key) = (receipt(), key(1));
    let text = receipt.to_signed(&key);
    let read = Receipt::from_signed(&text, &receipt.root, &key.public());
    assert_eq!(read.expect("good"), receipt);
}

#[test]
fn a_change_of_any_byte_is_noticed() {
    let (receipt, key) = (receipt(), key(1));
    let text = receipt.to_signed(&key);
    for at in 0..text.len() - 1 {
        let mut changed = text.clone().into_bytes();
        changed[at] ^= 1;
        let changed = String::from_utf8(changed).expect("still ASCII");
        let read = Receipt::from_signed(&changed, &receipt.root, &key.public());
        assert!(read.is_err(), "the change at {at} passed");
    }
    for cut in [0, 10, text.len() / 2, text.len() - 10] {
        let read = Receipt::from_signed(&text[..cut], &receipt.root, &key.public());
        assert!(read.is_err(), "cut at {cut}");
    }
}

#[test]
fn another_nodes_receipt_and_one_of_another_root_say_nothing() {
    let receipt = receipt();
    let text = receipt.to_signed(&key(2));
    let read = Receipt::from_signed(&text, &receipt.root, &key(1).public());
    assert!(matches!(read, Err(ReceiptError::Forged(_))), "{read:?}");
    let read = Receipt::from_signed(&text, &path('0'), &key(2).public());
    let error = read.expect_err("another root").to_string();
    assert!(error.contains("about another path"), "{error}");
    assert!(
        error.contains("snowcache prefetch /nix/store/000"),
        "{error}"
    );
}

#[test]
fn a_key_that_is_trusted_no_more_and_a_path_that_is_gone_make_it_void() {
    let receipt = receipt();
    let error = receipt.check(&[]).expect_err("revoked").to_string();
    assert!(error.starts_with("the key a-1 was trusted"), "{error}");
    let trusted: PublicKey = receipt.keys[0].parse().expect("a key");
    let error = receipt.check(&[trusted]).expect_err("gone").to_string();
    assert!(error.contains("is gone since it was verified"), "{error}");
}
