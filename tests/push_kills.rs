//! A push that is killed, each time at a place that was chosen before: the client, the server or
//! the connections; then resumed. It ends complete, nothing that had got through is sent again but
//! what a server's death may cost, and what nobody came back for is gone when its lease has ended.

mod support;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use support::nix::{Nix, Node, User};
use support::oracle::{self, all_paths_at};
use support::random::Random;
use support::served;
use support::server::{Snowcached, binary};
use support::tap::parser::{Parser, Read};
use support::tap::{Again, Count, Place, Tap};

/// `make test` kills so often at each place, in each way; `SNOWCACHE_KILLS` asks for another number
/// in all.
const EACH: u64 = 2;
/// The cache that is pushed to where there are several.
const NAMED: &str = "/team";
/// Closures of some 2.3 MB that a server holds before the next one takes over.
const ROUND: usize = 120;
/// How long what came of an upload stays: longer than a push takes to come back, on a busy machine.
const LEASE_S: u64 = 20;
/// A push that is begun anew so often does not end.
const MAX_PUSHES: usize = 8;
/// NARs of so many MiB are long: the server keeps what came of them each 8 MiB.
const LONG_MIB: u64 = 36;
/// Frames of a long NAR, of some 300 KB, of which one is broken in its midst: behind 19 to 29 MB,
/// more than a server's death may cost.
const LONG_FRAMES: std::ops::Range<u64> = 64..96;
/// Segments are rewritten that have so much garbage, in percent, and 64 KiB of it: what stays of
/// what is gone is so little, and so much of a few segments.
const GARBAGE_PERCENT: u64 = 1;
const LEAKED_BYTES: u64 = 512 << 10;

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Client,
    Server,
    /// A server that has named caches, one of which is pushed to: it compresses anew.
    ServerOfMany,
    Connections,
}

const KINDS: [Kind; 4] = [
    Kind::Client,
    Kind::Server,
    Kind::ServerOfMany,
    Kind::Connections,
];

/// Where a push is when somebody dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Missing,
    Nars,
    Frames,
    Begun,
    Frame,
    LongFrame,
    NarEnded,
    StreamEnded,
    Commit,
}

const STAGES: [Stage; 9] = [
    Stage::Missing,
    Stage::Nars,
    Stage::Frames,
    Stage::Begun,
    Stage::Frame,
    Stage::LongFrame,
    Stage::NarEnded,
    Stage::StreamEnded,
    Stage::Commit,
];

/// What was seen of one kind of death at one stage.
#[derive(Clone, Copy, Default)]
struct Cell {
    kills: u64,
    streams: u64,
    /// The worst of the streams.
    worst: Again,
    /// Streams of which more than one frame came again that had left the sender.
    more_than_one: u64,
}

type Table = BTreeMap<(Stage, Kind), Cell>;

#[test]
fn a_push_killed_anywhere_and_resumed_ends_complete_and_leaves_nothing() {
    let mut random = Random::announced("push kills");
    let cells = (STAGES.len() * KINDS.len()) as u64;
    let each = oracle::setting("SNOWCACHE_KILLS", EACH * cells).div_ceil(cells);
    let all = (0..each).flat_map(|_| STAGES.map(|stage| KINDS.map(|kind| (stage, kind))));
    let mut todo: Vec<(Stage, Kind)> = all.flatten().collect();
    for at in (1..todo.len()).rev() {
        todo.swap(at, random.below(at as u64 + 1) as usize);
    }
    let (mut table, mut left) = (Table::new(), Vec::new());
    let (many, one): (Vec<_>, Vec<_>) = todo
        .into_iter()
        .partition(|(_, kind)| *kind == Kind::ServerOfMany);
    let rounds = [("", &one), (NAMED, &many)];
    let rounds = rounds.map(|(at, todo)| todo.chunks(ROUND).map(move |some| (at, some)));
    for (number, (cache, some)) in rounds.into_iter().flatten().enumerate() {
        let mut yard = Yard::new(number, cache, some);
        for (at, (stage, kind)) in some.iter().enumerate() {
            let again = yard.kill_and_resume(at, *stage, *kind, &mut random);
            table.entry((*stage, *kind)).or_default().note(again);
        }
        println!("{}", Told(&table));
        left.push(yard.leave_some_and_collect(some.len()));
    }
    left.iter().for_each(|left| println!("{left}"));
    for ((stage, kind), cell) in &table {
        assert_eq!(cell.kills, each, "{stage} {kind:?}");
        let left = cell.worst.left;
        match kind {
            // However short: the next one leaves when this one is taken.
            Kind::Server | Kind::ServerOfMany => {
                assert_eq!(cell.more_than_one, 0, "{stage} {kind:?}: {left:?}");
            }
            // The one that was broken is not counted: it had not left as a whole.
            _ => assert_eq!(left.bytes, 0, "{stage} {kind:?}: {left:?}"),
        }
    }
}

/// A server behind a tap, a machine with closures, and somebody who pushes.
struct Yard {
    server: Snowcached,
    /// The URL path of the cache that is pushed to.
    cache: &'static str,
    tap: Tap,
    node: Node,
    user: User,
    nix: Nix,
    tops: Vec<String>,
    _configured: tempfile::TempDir,
}

impl Yard {
    /// With a closure for each of these, and one more for each stage.
    fn new(round: usize, cache: &'static str, kills: &[(Stage, Kind)]) -> Yard {
        let configured = support::folder_on_disk();
        let [flag, config] = oracle::quick_collections(configured.path(), LEASE_S);
        let text = fs::read_to_string(&config).expect("a configuration");
        let retention = format!("[retention]\nmax_garbage_percent = {GARBAGE_PERCENT}");
        fs::write(&config, text.replace("[retention]", &retention)).expect("written");
        let server = Snowcached::start_with(support::folder_on_disk(), "info", &[&flag, &config]);
        let tap = Tap::to(server.address());
        let mut user = User::of(&server);
        user.variable("SNOWCACHE", &binary("snowcache").to_string_lossy());
        user.variable("SNOWCACHE_URL", &format!("{}{cache}", tap.url()));
        let token = match cache {
            "" => server.push_token(),
            name => {
                let (url, admin) = (format!("/api/v1/caches{name}"), server.admin_token());
                let made = server.http().put(&url, &admin, br#"{"public": true}"#);
                made.is(200);
                admin
            }
        };
        user.variable("SNOWCACHE_TOKEN", &token);
        let (node, nix) = (Node::empty(), Nix::installed());
        let stages = kills.iter().map(|(stage, _)| *stage).chain(STAGES);
        let long = stages.enumerate().filter(|(_, it)| *it == Stage::LongFrame);
        let long: Vec<String> = long.map(|(at, _)| at.to_string()).collect();
        let script = format!(
            "nix-build --no-out-link $FILES/closures.nix --arg count {} --arg long '[ {} ]' \
             --arg mib {LONG_MIB} --arg round {round}",
            kills.len() + STAGES.len(),
            long.join(" ")
        );
        let built = node.sh(&user, &nix, &script).ok();
        Yard {
            server,
            cache,
            tap,
            node,
            user,
            nix,
            tops: built.lines().map(str::to_owned).collect(),
            _configured: configured,
        }
    }

    fn push(&self, at: usize) -> Pushing {
        let script = format!("exec $SNOWCACHE push --quiet {}", self.tops[at]);
        let mut command = self.node.command(&self.user, &self.nix, &script);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Pushing(command.spawn().expect("setpriv runs"))
    }

    /// Pushes until that stage, kills, and pushes again until all is there.
    fn kill_and_resume(
        &mut self,
        at: usize,
        stage: Stage,
        kind: Kind,
        random: &mut Random,
    ) -> Vec<Again> {
        let mut pushing = self.killed_push(at, stage, kind, random);
        let mut pushes = 1;
        let mut said = String::new();
        while !pushing.as_mut().is_some_and(|it| it.succeeds(&mut said)) {
            assert!(pushes < MAX_PUSHES, "{stage} {kind:?}: {said}");
            pushing = Some(self.push(at));
            pushes += 1;
        }
        self.assert_complete(at);
        self.tap.sent_again()
    }

    /// A push that lives on, unless it was the client that died.
    fn killed_push(
        &mut self,
        at: usize,
        stage: Stage,
        kind: Kind,
        random: &mut Random,
    ) -> Option<Pushing> {
        let (place, nth) = stage.place(random);
        self.tap.stop_at(place, nth);
        let mut pushing = self.push(at);
        let reached = self.tap.is_reached(|| pushing.is_over());
        assert!(reached, "{stage} was not reached: {}", pushing.end());
        thread::sleep(Duration::from_micros(random.below(5_000)));
        let is_server = matches!(kind, Kind::Server | Kind::ServerOfMany);
        let dying_server = is_server.then(|| {
            self.server.pause();
            self.server.address()
        });
        self.tap.killed(dying_server);
        match kind {
            Kind::Client => {
                pushing.kill();
                self.tap.go_on();
                self.tap.wait_until_closed();
                return None;
            }
            Kind::Server | Kind::ServerOfMany => {
                self.server.kill();
                self.tap.cut();
                self.server.start_again();
            }
            Kind::Connections => self.tap.cut(),
        }
        Some(pushing)
    }

    #[track_caller]
    fn assert_complete(&self, at: usize) {
        let closure = format!("nix-store -qR {}", self.tops[at]);
        let closure = self.node.sh(&self.user, &self.nix, &closure).ok();
        assert_eq!(closure.lines().count(), 3);
        for path in closure.lines() {
            let name = &path["/nix/store/".len()..];
            let served = served::one_at(self.server.http(), self.cache, name);
            let computed = support::corpus::sha256(&served.nar[..]);
            let computed = snowcache_nix::NarHash::from_bytes(computed);
            let line = format!("NarHash: {computed}\n");
            assert!(served.narinfo.contains(&line), "{path}: {}", served.narinfo);
        }
    }

    /// Which are no secret of anybody's only while there is one cache.
    fn stats(&self) -> serde_json::Value {
        let stats = self.server.http().request("GET", "/api/v1/stats");
        let stats = stats.bearer(&self.server.admin_token()).send();
        stats.is(200).json()
    }

    /// One push for each stage dies and nobody comes back; when the leases have ended there is
    /// nothing but what paths have.
    fn leave_some_and_collect(mut self, from: usize) -> String {
        let mut random = Random::seeded(from as u64);
        for (at, stage) in STAGES.into_iter().enumerate() {
            self.killed_push(from + at, stage, Kind::Client, &mut random);
        }
        let before = self.stats();
        thread::sleep(Duration::from_secs(LEASE_S + 1));
        let (http, token) = (self.server.http(), self.server.admin_token());
        let collected = oracle::collect(http, &token).expect("a collection");
        let bytes = |what: &str| collected[what].as_u64().expect("a number");
        let (live, stored) = (bytes("live_bytes"), bytes("stored_bytes"));
        let after = self.stats();
        // The uploads of what paths have stay as long as these do.
        assert_eq!(after["uploads"], after["paths"], "{after}");
        assert_eq!(after["nars"], after["paths"], "a NAR without a path stays");
        let garbage = live / 100 * GARBAGE_PERCENT + LEAKED_BYTES;
        assert!(stored <= live + garbage, "{collected}");
        let paths = all_paths_at(http, self.cache);
        let expected = after["paths"].as_u64();
        assert_eq!(Some(paths.len() as u64), expected);
        format!(
            "{} kills and {} pushes left behind: {} uploads and {} frames before the leases \
             ended, then {} and {}; {} paths, {live} bytes live, {stored} stored",
            from,
            STAGES.len(),
            before["uploads"],
            before["frames"],
            after["uploads"],
            after["frames"],
            paths.len()
        )
    }
}

impl Stage {
    /// Where to stop for it; however the NARs are spread over streams, there are so many of these.
    fn place(self, random: &mut Random) -> (Place, u64) {
        match self {
            Stage::Missing => (Place::Asked("missing"), 0),
            Stage::Nars => (Place::Asked("uploads/nars"), 0),
            Stage::Frames => (Place::Asked("uploads/frames"), 0),
            Stage::Begun => (Place::Begun, 0),
            Stage::Frame => (Place::InFrame, random.below(4)),
            Stage::LongFrame => {
                let many = LONG_FRAMES.end - LONG_FRAMES.start;
                (Place::InFrame, LONG_FRAMES.start + random.below(many))
            }
            Stage::NarEnded => (Place::NarEnded, random.below(3)),
            Stage::StreamEnded => (Place::StreamEnded, 0),
            Stage::Commit => (Place::Asked("uploads/commit"), 0),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Missing => "which paths are missing: asked",
            Stage::Nars => "which NARs are absent: asked",
            Stage::Frames => "which frames are absent: asked",
            Stage::Begun => "a stream begins",
            Stage::Frame => "in a frame",
            Stage::LongFrame => "in a frame of a long NAR",
            Stage::NarEnded => "a NAR has ended",
            Stage::StreamEnded => "a stream has ended, unanswered",
            Stage::Commit => "paths are to be published: asked",
        })
    }
}

impl Cell {
    fn note(&mut self, again: Vec<Again>) {
        self.kills += 1;
        self.streams += again.len() as u64;
        let worse = |worst: &mut Count, one: Count| {
            if one.bytes > worst.bytes {
                *worst = one;
            }
        };
        for Again { left, read } in again {
            worse(&mut self.worst.left, left);
            worse(&mut self.worst.read, read);
            self.more_than_one += u64::from(left.frames > 1);
        }
    }
}

/// The table, as docs/reliability.md has it.
struct Told<'a>(&'a Table);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| where | {} |",
            KINDS.map(|it| format!("{it:?}")).join(" | ")
        )?;
        writeln!(f, "|---|{}", "---|".repeat(KINDS.len()))?;
        for stage in STAGES {
            write!(f, "| {stage} |")?;
            for kind in KINDS {
                let cell = self.0.get(&(stage, kind)).copied().unwrap_or_default();
                let Cell { kills, streams, .. } = cell;
                let Again { left, read } = cell.worst;
                write!(
                    f,
                    " {kills} kills, {streams} streams; left: {} frames, {}; read: {} frames, \
                     {}; more than one: {} |",
                    left.frames, left.bytes, read.frames, read.bytes, cell.more_than_one
                )?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// `snowcache push` under way.
struct Pushing(Child);

impl Pushing {
    fn is_over(&mut self) -> bool {
        self.0.try_wait().expect("our own child").is_some()
    }

    fn kill(&mut self) {
        self.0.kill().expect("our own child");
        self.0.wait().expect("our own child");
    }

    /// Waits for its end; what it complained of.
    fn succeeds(&mut self, said: &mut String) -> bool {
        use std::io::Read as _;
        said.clear();
        if let Some(stderr) = &mut self.0.stderr {
            stderr.read_to_string(said).expect("text");
        }
        self.0.wait().expect("our own child").success()
    }

    fn end(mut self) -> String {
        let mut said = String::new();
        self.succeeds(&mut said);
        said
    }
}

/// The tap sees what it is to see.
#[test]
fn what_a_push_sends_is_understood() {
    use snowcache_core::recipe::FrameId;
    use snowcache_core::upload::{MAGIC, Record};
    let mut stream = MAGIC.to_vec();
    let id = FrameId::of(b"frame");
    let records = [
        Record::Nar {
            nar_hash: snowcache_nix::NarHash::from_bytes([7; 32]),
            nar_size_bytes: 1,
        },
        Record::Literal(b"x"),
        Record::Frame {
            id,
            raw_len: 5,
            stored: b"stored",
        },
        Record::EndOfNar,
        Record::End { records: 4 },
    ];
    records.iter().for_each(|record| record.put(&mut stream));
    let (one, other) = stream.split_at(30);
    let mut sent = b"POST /api/v1/missing HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}".to_vec();
    sent.extend(b"POST /api/v1/uploads HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunk in [one, other, b""] {
        sent.extend(format!("{:X}\r\n", chunk.len()).bytes());
        sent.extend(chunk);
        sent.extend(b"\r\n");
    }
    sent.extend(b"GET / HTTP/1.1\r\n\r\n");
    let mut parser = Parser::default();
    let seen: Vec<Read> = sent.iter().flat_map(|byte| parser.take(*byte)).collect();
    let expected = [
        Read::Request("/api/v1/missing".to_owned()),
        Read::Stream,
        Read::Begun,
        Read::HalfAFrame,
        Read::Frame(*id.as_bytes(), 32 + 4 + 6),
        Read::NarEnded,
        Read::Request("/api/v1/uploads".to_owned()),
        Read::Request("/".to_owned()),
    ];
    assert_eq!(seen, expected);
}
