//! Native uploads, spoken by hand: what is asked, what is sent, and everything that is refused.

use crate::client::Cache;
use crate::pieces::{Part, UPLOADS, cut, huge_window, id_of, stream, stream_of, with_dictionary};
use crate::sample::{Sample, noise, store_path, unpack};
use serde_json::Value;
use snowcache_core::recipe::FrameId;
use snowcache_core::upload::{MAGIC, Record};
use snowcache_nix::NarHash;
use snowcache_server::http::codec::Codec;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn a_closure_comes_in_pieces_and_is_published_at_once() {
    let cache = Cache::new();
    let one = Sample::tree('1', "one", 3 << 20, &[]);
    let two = Sample::tree('2', "two", 3 << 20, std::slice::from_ref(&one.path));
    assert_eq!(cache.absent_nars(&[&one, &two]), 2);
    for sample in [&one, &two] {
        let parts = cut(&sample.nar);
        assert!(cache.absent_frames(&parts).iter().all(|absent| *absent));
        cache.holds(sample, &parts);
        assert!(!cache.absent_frames(&parts).iter().any(|absent| *absent));
    }
    assert_eq!(cache.absent_nars(&[&one, &two]), 0);
    let answer = cache.get(&format!("/{}.narinfo", one.path.hash()));
    assert_eq!(answer.status, 404, "nobody has said yet which path it is");

    let records = [one.record(), two.record()];
    for _ in 0..2 {
        let (status, fates) = cache.commit(&records);
        assert_eq!((status, fates.len()), (200, 2), "{fates:?}");
    }
    for sample in [&one, &two] {
        let published = sample.published(&cache);
        assert_eq!(published.info.signatures.len(), 1);
        let encoded = cache.get(&published.url).body;
        assert!(unpack(Codec::Zstd, &encoded) == sample.nar);
    }
}

#[test]
fn what_is_here_is_sent_by_name() {
    let cache = Cache::new();
    let (old, new) = (store_path('3', "dep"), store_path('4', "dep"));
    let first = Sample::tree('5', "rebuilt", 2 << 20, &[old]);
    let mut second = Sample::tree('5', "rebuilt", 2 << 20, &[new]);
    second.path = store_path('6', "rebuilt");
    cache.holds(&first, &cut(&first.nar));
    let parts = cut(&second.nar);
    let absent = cache.absent_frames(&parts);
    assert!(absent.len() > 4, "{absent:?}");
    assert!(
        absent.iter().filter(|absent| **absent).count() <= 1,
        "{absent:?}"
    );
    let mut absent = absent.into_iter();
    let sent: Vec<Part> = parts
        .iter()
        .map(|part| match id_of(part).and_then(|_| absent.next()) {
            Some(false) => part.known(),
            _ => part.clone(),
        })
        .collect();
    cache.holds(&second, &sent);
}

#[test]
fn a_frame_that_went_away_is_asked_for_and_the_others_are_kept() {
    let cache = Cache::new();
    let sample = Sample::tree('7', "lacking", 3 << 20, &[]);
    let mut parts = cut(&sample.nar);
    let last = parts
        .iter()
        .rposition(|part| id_of(part).is_some())
        .unwrap();
    parts[last] = parts[last].known();
    let fate = cache.upload(&stream(&sample, &parts));
    assert_eq!(
        fate["lacks"],
        id_of(&parts[last]).unwrap().to_string(),
        "{fate}"
    );
    let absent = cache.absent_frames(&parts);
    let count = absent.iter().filter(|absent| **absent).count();
    assert_eq!((count, absent.last()), (1, Some(&true)), "{absent:?}");
}

/// Sends a part of a request and hangs up; the upload has begun then, and the server's kernel knows
/// that nothing more comes: what waits in a client's own kernel nobody else can know of.
fn break_off(cache: &Cache, stream: &[u8], len: usize) {
    let mut socket = TcpStream::connect(cache.server.address).unwrap();
    let head = format!(
        "POST {UPLOADS} HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {}\r\n\r\n",
        cache.token(),
        stream.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(&stream[..len]).unwrap();
    let arrives = Some(Duration::from_secs(30));
    rustix::net::sockopt::set_socket_linger(&socket, arrives).unwrap();
}

#[test]
fn an_upload_cut_anywhere_goes_on_where_it_ended() {
    let cache = Cache::new();
    let sample = Sample::tree('8', "long", 4 << 20, &[]);
    let parts = cut(&sample.nar);
    let whole = stream(&sample, &parts);
    let mut sent = 0;
    // Until the whole of it is there, each attempt ends in the middle of its third frame.
    for attempt in 1.. {
        let mut absent = cache.absent_frames(&parts).into_iter();
        let rest: Vec<Part> = parts
            .iter()
            .map(|part| match id_of(part).and_then(|_| absent.next()) {
                Some(false) => part.known(),
                _ => part.clone(),
            })
            .collect();
        let frames = rest
            .iter()
            .filter(|part| matches!(part, Part::Frame { .. }));
        if frames.clone().count() <= 2 {
            cache.holds(&sample, &rest);
            assert!(attempt > 2, "it was cut before");
            sent += frames.count();
            break;
        }
        let third = rest.iter().enumerate();
        let third = third
            .filter(|(_, part)| matches!(part, Part::Frame { .. }))
            .nth(2);
        let before = stream(&sample, &rest[..third.unwrap().0]).len();
        break_off(&cache, &stream(&sample, &rest), before + 1000);
        sent += 2;
        // The system may still be sending what was written before.
        wait_until(|| {
            let left = cache.absent_frames(&parts).iter().filter(|it| **it).count();
            left == parts.iter().filter_map(id_of).count() - sent
        });
    }
    assert_eq!(
        sent,
        parts.iter().filter_map(id_of).count(),
        "none was sent twice"
    );
    assert!(whole.len() > 4 << 20);
    assert_eq!(cache.commit(&[sample.record()]).0, 200);
}

/// Longer than a step should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "it never came about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn frames_that_are_not_what_they_say_are_refused() {
    let cache = Cache::new();
    let sample = Sample::tree('9', "hostile", 1 << 20, &[]);
    let parts = cut(&sample.nar);
    let at = parts.iter().position(|part| id_of(part).is_some()).unwrap();
    let Part::Frame {
        id,
        raw_len,
        stored,
    } = parts[at].clone()
    else {
        unreachable!("a frame was looked for");
    };
    let raw = zstd::bulk::decompress(&stored, raw_len as usize).unwrap();
    let with = |id, raw_len, stored: Vec<u8>| Part::Frame {
        id,
        raw_len,
        stored,
    };
    let packed = |change: &dyn Fn(&mut zstd::bulk::Compressor<'_>)| {
        let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
        change(&mut compressor);
        compressor.compress(&raw).unwrap()
    };
    let skippable = [&0x184D_2A50u32.to_le_bytes()[..], &[4, 0, 0, 0], b"pads"].concat();
    let stated = |bytes: Vec<u8>| with(id, raw_len, bytes);
    let other = noise(99, raw.len());
    let cases = [
        (
            "is frame",
            with(FrameId::of(b"other"), raw_len, stored.clone()),
        ),
        ("states", with(id, raw_len - 1, stored.clone())),
        ("holds", with(id, 0, stored.clone())),
        ("begin", stated([&skippable[..], &stored].concat())),
        ("follow its end", stated([&stored[..], &skippable].concat())),
        (
            "follow its end",
            stated([&stored[..], &stored[..9]].concat()),
        ),
        (
            "ends in the middle",
            stated(stored[..stored.len() - 1].to_vec()),
        ),
        (
            "does not state its content size",
            stated(packed(&|it| it.include_contentsize(false).unwrap())),
        ),
        (
            "content checksum",
            stated(packed(&|it| it.include_checksum(true).unwrap())),
        ),
        ("window", stated(huge_window(&raw))),
        ("dictionary", stated(with_dictionary(&raw))),
        (
            "",
            with(id, raw_len, zstd::bulk::compress(&other, 3).unwrap()),
        ),
    ];
    for (why, part) in cases {
        let mut sent = parts.clone();
        sent[at] = part;
        let fate = cache.upload(&stream(&sample, &sent));
        let refused = fate["refused"]
            .as_str()
            .unwrap_or_else(|| panic!("{why}: {fate}"));
        assert!(refused.contains(why), "{why}: {refused}");
        assert_nothing_stays(&cache, &sample);
    }
    cache.holds(&sample, &parts);
}

#[track_caller]
fn assert_nothing_stays(cache: &Cache, sample: &Sample) {
    assert_eq!(cache.absent_nars(&[sample]), 1, "the NAR is not held");
    let (status, fates) = cache.commit(&[sample.record()]);
    assert_eq!(status, 422, "{fates:?}");
    let answer = cache.get(&format!("/{}.narinfo", sample.path.hash()));
    assert_eq!(answer.status, 404);
    let stats: Value = serde_json::from_str(cache.get("/api/v1/stats").text()).unwrap();
    assert_eq!(stats["paths"], 0, "{stats}");
}

#[test]
fn nars_that_are_not_what_they_say_are_refused() {
    let cache = Cache::new();
    let sample = Sample::tree('a', "claimed", 300_000, &[]);
    let (hash, size, parts) = (sample.hash(), sample.nar.len() as u64, cut(&sample.nar));
    let other = NarHash::from_bytes([7; 32]);
    let mut longer = parts.clone();
    longer.push(Part::Literal(b"more".to_vec()));
    let mut swapped = parts.clone();
    swapped.reverse();
    let cases = [
        ("said to be", stream_of(other, size, &parts)),
        ("said to be", stream_of(hash, size + 8, &parts)),
        ("more came", stream_of(hash, size - 8, &parts)),
        ("no canonical NAR", stream_of(hash, size + 8, &longer)),
        ("no canonical NAR", stream_of(hash, size, &swapped)),
        (
            "no complete NAR",
            stream_of(hash, size, &parts[..parts.len() - 1]),
        ),
        ("no complete NAR", stream_of(hash, size, &[])),
    ];
    for (why, stream) in cases {
        let fate = cache.upload(&stream);
        let refused = fate["refused"]
            .as_str()
            .unwrap_or_else(|| panic!("{why}: {fate}"));
        assert!(refused.contains(why), "{why}: {refused}");
        assert_nothing_stays(&cache, &sample);
    }
    let huge = cache.upload(&stream_of(hash, u64::MAX, &parts));
    assert!(
        huge["refused"].as_str().unwrap().contains("larger"),
        "{huge}"
    );
}

#[test]
fn streams_out_of_order_are_no_uploads() {
    let cache = Cache::new();
    let sample = Sample::tree('b', "order", 300_000, &[]);
    let nar = Record::Nar {
        nar_hash: sample.hash(),
        nar_size_bytes: 9,
    };
    let literal = Record::Literal(b"x");
    let orders: [&[Record<'_>]; 5] = [
        &[literal],
        &[Record::EndOfNar],
        &[nar, nar],
        &[nar, literal, Record::End { records: 2 }],
        &[Record::End { records: 1 }],
    ];
    for records in orders {
        let mut bytes = MAGIC.to_vec();
        records.iter().for_each(|record| record.put(&mut bytes));
        let answer = cache.post(UPLOADS, &bytes);
        assert_eq!(answer.status, 400, "{records:?}: {}", answer.text());
    }
    assert_nothing_stays(&cache, &sample);
    let good = stream(&sample, &cut(&sample.nar));
    for bytes in [
        &good[..good.len() - 1],
        &good[4..],
        &[&good[..], b"x"].concat(),
    ] {
        assert_eq!(cache.post(UPLOADS, bytes).status, 400);
    }
    // A NAR that had ended when its stream was cut need not be sent again.
    assert_eq!(cache.absent_nars(&[&sample]), 0);
}

#[test]
fn paths_that_must_not_be_published_are_not() {
    let cache = Cache::new();
    let absent = store_path('c', "absent");
    let (open, leaf) = (
        Sample::tree('d', "open", 1000, &[absent]),
        Sample::tree('f', "leaf", 1000, &[]),
    );
    let above = Sample::tree('g', "above", 1000, std::slice::from_ref(&open.path));
    for sample in [&open, &leaf, &above] {
        cache.holds(sample, &cut(&sample.nar));
    }
    let wrong_size = leaf.record().replace("NarSize: ", "NarSize: 1");
    let mut forged = leaf.record();
    forged += "CA: fixed:r:sha256:0000000000000000000000000000000000000000000000000000\n";
    let nobodys = Sample::file(store_path('h', "nobodys"), b"never sent");
    let records = [
        open.record(),
        above.record(),
        wrong_size,
        forged,
        nobodys.record(),
        "StorePath: nonsense\n".to_owned(),
        leaf.record(),
    ];
    let (status, fates) = cache.commit(&records);
    let statuses: Vec<u64> = fates.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [422, 422, 422, 422, 422, 400, 200], "{fates:?}");
    assert_eq!(status, 422);
    assert!(fates[0].1.contains("-absent"), "{fates:?}");
    assert_eq!(leaf.published(&cache).info.signatures.len(), 1);
    let stats: Value = serde_json::from_str(cache.get("/api/v1/stats").text()).unwrap();
    assert_eq!(stats["paths"], 1, "{stats}");

    // The same path with other bytes: whoever came first stays, and the loser hears of it.
    let mut loser = Sample::tree('f', "leaf", 2000, &[]);
    loser.path = leaf.path.clone();
    cache.holds(&loser, &cut(&loser.nar));
    let (status, fates) = cache.commit(&[loser.record()]);
    assert_eq!((status, fates[0].0), (409, 409), "{fates:?}");
    assert_eq!(leaf.published(&cache).info.nar_hash, leaf.hash());
}

#[test]
fn without_the_push_token_nothing_is_taken_and_nothing_told() {
    let cache = Cache::new();
    let sample = Sample::tree('i', "closed", 1000, &[]);
    let stream = stream(&sample, &cut(&sample.nar));
    let admin = std::fs::read_to_string(cache.dir.path().join("admin.token")).unwrap();
    assert_ne!(admin.trim(), cache.token());
    for below in ["", "/nars", "/frames", "/commit"] {
        let path = format!("{UPLOADS}{below}");
        for token in ["", "Bearer", "Bearer wrong", "Basic d3Jvbmc6d3Jvbmc="] {
            let answer = cache.send("POST", &path, &[("Authorization", token)], &stream);
            assert_eq!(answer.status, 401, "{path} {token}: {}", answer.text());
        }
        assert_eq!(cache.get(&path).status, 404, "GET {path}");
    }
    let path = format!("{UPLOADS}/taken/{}", "0".repeat(32));
    assert_eq!(cache.get(&path).status, 401);
    assert_eq!(cache.absent_nars(&[&sample]), 1);
}

#[test]
fn uploads_in_pieces_have_the_limits_of_whole_ones() {
    let cache = Cache::with(|config| {
        config.uploads.max_leased_bytes = 1 << 20;
    });
    let small = Sample::tree('j', "small", 700_000, &[]);
    let next = Sample::tree('k', "next", 700_000, &[]);
    cache.holds(&small, &cut(&small.nar));
    let stream_of_next = stream(&next, &cut(&next.nar));
    let answer = cache.post(UPLOADS, &stream_of_next);
    assert_eq!(answer.status, 507, "{}", answer.text());
    assert!(
        answer.text().contains("max_leased_bytes"),
        "{}",
        answer.text()
    );
    assert_eq!(cache.commit(&[small.record()]).0, 200);
    cache.holds(&next, &cut(&next.nar));
}

/// The bytes of an answer's chunks, as they come; `until` says when it is enough.
fn chunks(stream: &TcpStream, until: usize) -> String {
    let (mut reader, mut bytes) = (BufReader::new(stream), String::new());
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    assert_eq!(line(), "HTTP/1.1 200 OK");
    while !line().is_empty() {}
    while bytes.len() < until {
        match line().as_str() {
            "0" => break,
            _ => bytes += &line(),
        }
    }
    bytes
}

#[test]
fn a_sender_is_told_of_each_frame_that_is_taken_and_nobody_else() {
    let cache = Cache::new();
    let key = "0123456789abcdef0123456789abcdef";
    let sample = Sample::tree('l', "told", 3 << 20, &[]);
    let parts = cut(&sample.nar);
    let whole = stream(&sample, &parts);
    let is_frame = |part: &&Part| matches!(part, Part::Frame { .. });
    let frames = parts.iter().filter(is_frame).count();
    let second = parts.iter().enumerate().filter(|(_, it)| is_frame(it));
    let second = second.map(|(at, _)| at).nth(1).unwrap();
    // All but the end, so that the upload is cut in the middle of its second frame.
    let first = stream(&sample, &parts[..second]).len();

    let ask = |token: &str| {
        let mut socket = TcpStream::connect(cache.server.address).unwrap();
        let head = format!(
            "GET {UPLOADS}/taken/{key} HTTP/1.1\r\nHost: cache\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).unwrap();
        socket
    };
    let early = ask(&cache.token());
    let mut socket = TcpStream::connect(cache.server.address).unwrap();
    let head = format!(
        "POST {UPLOADS} HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer {}\r\n\
         Snowcache-Upload: {key}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        cache.token(),
        whole.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(&whole[..first]).unwrap();
    assert_eq!(chunks(&early, 1), ".");
    let late = ask(&cache.token());
    assert_eq!(chunks(&late, 1), ".", "it is taken already");
    let admin = std::fs::read_to_string(cache.dir.path().join("admin.token")).unwrap();
    let path = format!("{UPLOADS}/taken/{key}");
    let bearer = format!("Bearer {}", admin.trim());
    let other = cache.send("GET", &path, &[("Authorization", &bearer)], b"");
    assert_eq!(other.status, 404, "{}", other.text());

    let all = ask(&cache.token());
    socket.write_all(&whole[first..]).unwrap();
    assert_eq!(chunks(&all, usize::MAX), ".".repeat(frames));
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(r#""held":true"#), "{answer}");
    for key in ["short", &"g".repeat(32)] {
        let answer = cache.send(
            "POST",
            UPLOADS,
            &[
                ("Authorization", &format!("Bearer {}", cache.token())),
                ("Snowcache-Upload", key),
            ],
            b"",
        );
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
}
