//! What a daemon sends, as bytes: the golden way, and every other way.

use std::pin::pin;

use futures::executor::block_on;
use futures::io::Cursor;
use futures::stream;
use proptest::prelude::*;

use super::messages::until_done;
use super::wire::Reader;
use super::*;
use crate::{PathInfo, StorePath};

const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;
const BASE: &str = "0c7c96gikmzv87i7lv3vq5s1cmfjd6zf-hello-2.12";

/// What a daemon says, put together.
#[derive(Default)]
struct Said(Vec<u8>);

impl Said {
    fn number(mut self, number: u64) -> Said {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Said {
        let mut said = self.number(text.len() as u64);
        said.0.extend(text.bytes());
        said.0.resize(said.0.len().next_multiple_of(8), 0);
        said
    }

    /// Up to the first request of the user's.
    fn hello(version: u64) -> Said {
        let mut said = Said::default().number(0x6478_696f).number(version);
        if version & 0xff >= 38 {
            said = said.number(1).text("some-feature");
        }
        if version & 0xff >= 33 {
            said = said.text("2.99");
        }
        if version & 0xff >= 35 {
            said = said.number(1);
        }
        said.number(LAST).number(LAST)
    }

    fn error(self, text: &str) -> Said {
        let said = self.number(ERROR).text("Error").number(0).text("Error");
        said.text(text).number(0).number(1).number(0).text("while")
    }
}

type Heard = Connection<Cursor<Vec<u8>>, Cursor<Vec<u8>>>;

fn open(said: Said) -> Result<Heard, DaemonError> {
    block_on(Connection::open(
        Cursor::new(said.0),
        Cursor::new(Vec::new()),
    ))
}

fn path() -> StorePath {
    BASE.parse().expect("a path")
}

fn info() -> PathInfo {
    let record = format!(
        "StorePath: /nix/store/{BASE}\nNarHash: sha256:{}\nNarSize: 120\nReferences: {BASE}\n",
        "0".repeat(52)
    );
    PathInfo::from_record(&record).expect("a record")
}

#[test]
fn old_and_new_daemons_are_understood_and_what_was_before_is_not() {
    for (minor, spoken) in [(32, "1.32"), (34, "1.34"), (38, "1.38"), (57, "1.38")] {
        let connection = open(Said::hello(1 << 8 | minor)).expect("a daemon");
        assert_eq!(connection.version().to_string(), spoken);
        assert_eq!(connection.nix_version(), (minor >= 33).then_some("2.99"));
        let trust = match minor >= 35 {
            true => Trust::Trusted,
            false => Trust::Unknown,
        };
        assert_eq!(connection.trust(), trust);
    }
    for (version, says) in [
        (1 << 8 | 31, "speaks protocol 1.31, this needs 1.32 to 1.x"),
        (2 << 8 | 38, "speaks protocol 2.38"),
        (1 << 40, "0x10000000000 where a protocol version belongs"),
    ] {
        let refusal = open(Said::hello(version)).err().expect("refused");
        assert!(refusal.to_string().contains(says), "{refusal}");
    }
    let http = Said(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let refusal = open(http).err().expect("no daemon").to_string();
    assert!(refusal.contains("is no nix-daemon"), "{refusal}");
}

#[test]
fn a_refusal_is_told_in_the_daemons_words_and_leaves_the_connection_usable() {
    let said = Said::hello(1 << 8 | 34)
        .error("\x1b[31;1mno\x1b[0m such\nthing")
        .number(LAST)
        .number(0);
    let mut connection = open(said).expect("a daemon");
    let refused = block_on(connection.path_info(&path())).expect_err("refused");
    assert_eq!(refused.to_string(), "the nix-daemon refused: no such thing");
    assert_eq!(
        block_on(connection.path_info(&path())).expect("asked"),
        None
    );
}

#[test]
fn log_lines_and_activities_pass_by() {
    let said = Said::default()
        .number(0x6f6c_6d67)
        .text("a line\n")
        .number(0x5354_5254)
        .number(7)
        .number(3)
        .number(105)
        .text("copying")
        .number(2)
        .number(0)
        .number(9)
        .number(1)
        .text("x")
        .number(0)
        .number(0x5253_4c54)
        .number(7)
        .number(101)
        .number(0)
        .number(0x5354_4f50)
        .number(7)
        .number(LAST);
    let mut reader = Reader::new(Cursor::new(said.0));
    block_on(until_done(&mut reader)).expect("done");
}

#[test]
fn an_import_that_fails_on_the_way_is_ended_and_the_connection_goes_on() {
    let said = Said::hello(1 << 8 | 38)
        .error("unexpected end of the NAR")
        .number(LAST);
    let mut connection = open(said).expect("a daemon");
    let nar = stream::iter([Ok(b"nix".as_slice()), Err("cut"), Ok(b"never sent")]);
    let failed = block_on(connection.add_to_store_nar(&info(), nar));
    assert!(matches!(failed, Err(ImportError::Nar("cut"))), "{failed:?}");
    let nar = stream::iter([Ok::<_, &str>(b"whole".as_slice())]);
    block_on(connection.add_to_store_nar(&info(), nar)).expect("imported");
}

#[test]
fn a_daemon_that_dies_in_an_import_is_reported_and_the_connection_spent() {
    let mut connection = open(Said::hello(1 << 8 | 38)).expect("a daemon");
    let nar = stream::iter([Ok::<_, &str>(b"whole".as_slice())]);
    let failed = block_on(connection.add_to_store_nar(&info(), nar));
    let closed = matches!(failed, Err(ImportError::Daemon(DaemonError::Closed)));
    assert!(closed, "{failed:?}");
    let next = block_on(connection.valid_paths(&[path()])).expect_err("spent");
    assert!(matches!(next, DaemonError::Spent), "{next}");
}

#[test]
fn lengths_are_checked_before_memory_is_taken() {
    let long = Said::hello(1 << 8 | 38).number(0x6f6c_6d67).number(1 << 60);
    let mut connection = open(long).expect("a daemon");
    let refusal = block_on(connection.path_info(&path())).expect_err("too long");
    assert_eq!(
        refusal.to_string(),
        "the nix-daemon sent log line of 1152921504606846976, the limit is 1048576"
    );
    let many = Said::hello(1 << 8 | 38).number(LAST).number(2);
    let mut connection = open(many).expect("a daemon");
    let refusal = block_on(connection.valid_paths(&[path()])).expect_err("too many");
    assert!(
        refusal
            .to_string()
            .contains("valid paths of 2, the limit is 1")
    );
}

/// Everything that can be asked, one after another, whatever comes back.
fn ask_everything(said: Vec<u8>) {
    let hello = open(Said(said));
    let Ok(mut connection) = hello else { return };
    block_on(async {
        drop(connection.path_info(&path()).await);
        drop(connection.valid_paths(&[path(), path()]).await);
        drop(connection.path_of(path().hash()).await);
        drop(connection.add_temp_roots(&[path()]).await);
        if connection.begin_nar(&path()).await.is_ok() {
            while let Ok(Some(_)) = connection.next_of_nar().await {}
        }
        let nar = pin!(stream::iter([Ok::<_, ()>([0; 100])]));
        drop(connection.add_to_store_nar(&info(), nar).await);
    });
}

proptest! {
    #[test]
    fn any_bytes_end_in_an_answer_or_an_error(
        minor in 30u64..40,
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut said = Said::hello(1 << 8 | minor).0;
        said.extend(bytes);
        ask_everything(said);
    }

    #[test]
    fn words_of_the_protocol_in_any_order_end_in_an_answer_or_an_error(
        words in prop::collection::vec(
            prop_oneof![
                Just(LAST), Just(ERROR), Just(0x6f6c_6d67), Just(0x5354_5254), Just(0x5354_4f50),
                Just(0x5253_4c54), 0u64..4, any::<u64>(),
            ],
            0..40,
        ),
    ) {
        let said = words.into_iter().fold(Said::hello(1 << 8 | 38), Said::number);
        ask_everything(said.0);
    }
}
