//! NARs on their way out, over every kind of connection and to every kind of reader.

use crate::client::{Cache, read_answer, start};
use crate::encrypted::Encrypted;
use crate::sample::{Sample, store_path, unpack};
use snowcache_server::http::codec::Codec;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longer than a client may take nothing before what it holds is given up.
const STALL: Duration = Duration::from_millis(1500);

/// More than the windows of unpacked bytes that there are.
const STALLED: usize = 100;

/// Long frames, short ones, and tokens between them.
fn mixed(letter: char) -> Sample {
    let path = store_path(letter, "mixed");
    let mut content = crate::sample::noise(letter as u64, 3 << 20);
    for number in 0..400 {
        let other = store_path(char::from(b'a' + (number % 4) as u8), "dependency");
        content.extend(other.absolute().as_bytes());
        content.extend(crate::sample::noise(number, 97 * number as usize % 20_000));
    }
    content.extend(b"a page of text\n".repeat(200_000));
    Sample::file(path, &content)
}

/// Both URLs of a sample's NAR, with what each has to answer.
fn urls(cache: &Cache, sample: &Sample) -> [(String, Vec<u8>); 2] {
    let encoded = sample.published(cache).url;
    let stored = cache.get(&encoded).body;
    assert!(unpack(Codec::Zstd, &stored) == sample.nar);
    let raw = format!("/nar/{}.nar", sample.hash().base32());
    [(encoded, stored), (raw, sample.nar.clone())]
}

fn ask(stream: &mut impl Write, url: &str) {
    let ask = format!("GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).unwrap();
}

#[test]
fn who_stalls_gets_the_right_bytes_all_the_same() {
    let cache = Cache::new();
    let sample = mixed('a');
    sample.push(&cache);
    for (url, right) in urls(&cache, &sample) {
        let mut stream = TcpStream::connect(cache.server.address).unwrap();
        ask(&mut stream, &url);
        let mut begun = vec![0; 300_000];
        std::thread::sleep(STALL);
        stream.read_exact(&mut begun).unwrap();
        std::thread::sleep(STALL);
        let answer = read_answer(&mut begun.as_slice().chain(&mut stream), false);
        assert!(answer.body == right, "{url}");
    }
}

#[test]
fn readers_that_stall_do_not_hinder_others() {
    let cache = Cache::new();
    let sample = mixed('b');
    sample.push(&cache);
    let [_, (raw, right)] = urls(&cache, &sample);
    let mut stalled: Vec<_> = (0..STALLED)
        .map(|_| TcpStream::connect(cache.server.address).unwrap())
        .collect();
    for stream in &mut stalled {
        ask(stream, &raw);
    }
    assert!(cache.get(&raw).body == right, "among those that stall");
    for mut stream in stalled.into_iter().step_by(9) {
        assert!(read_answer(&mut stream, false).body == right, "in the end");
    }
}

#[test]
fn what_goes_away_meanwhile_is_sent_to_its_end() {
    let cache = Cache::new();
    let sample = mixed('c');
    sample.push(&cache);
    for (url, right) in urls(&cache, &sample) {
        let mut stream = TcpStream::connect(cache.server.address).unwrap();
        ask(&mut stream, &url);
        let mut begun = vec![0; 100_000];
        stream.read_exact(&mut begun).unwrap();
        for segment in std::fs::read_dir(cache.dir.path().join("depot/segments")).unwrap() {
            std::fs::remove_file(segment.unwrap().path()).unwrap();
        }
        std::thread::sleep(STALL);
        let answer = read_answer(&mut begun.as_slice().chain(&mut stream), false);
        assert!(answer.body == right, "{url}");
    }
}

#[test]
fn a_segment_changed_behind_our_back_is_not_served() {
    let cache = Cache::new();
    let sample = mixed('d');
    sample.push(&cache);
    let [(encoded, right), _] = urls(&cache, &sample);
    assert!(cache.get(&encoded).body == right, "checked by now");
    let folder = std::fs::read_dir(cache.dir.path().join("depot/segments")).unwrap();
    for segment in folder {
        let path = segment.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes[middle..=middle], middle as u64)
            .unwrap();
    }
    let mut stream = TcpStream::connect(cache.server.address).unwrap();
    ask(&mut stream, &encoded);
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap_or_default();
    let body = said.windows(4).position(|four| four == b"\r\n\r\n");
    let body = &said[body.unwrap() + 4..];
    assert!(
        body.len() < right.len() && (right.starts_with(body) || !said.starts_with(b"HTTP/1.1 2")),
        "{} of {} bytes",
        body.len(),
        right.len()
    );
}

#[test]
fn answers_on_one_connection_come_in_order() {
    let cache = Cache::new();
    let sample = mixed('g');
    sample.push(&cache);
    let [(encoded, stored), (raw, nar)] = urls(&cache, &sample);
    let mut stream = TcpStream::connect(cache.server.address).unwrap();
    let mut asked = String::new();
    for url in [
        &encoded,
        "/nix-cache-info",
        &raw,
        "/nix-cache-info",
        &encoded,
    ] {
        asked += &format!("GET {url} HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    asked += "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(asked.as_bytes()).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    let mut rest = said.as_slice();
    let info = cache.get("/nix-cache-info").body;
    for right in [&stored, &info, &nar, &info, &stored, &b"ok\n".to_vec()] {
        let head = rest
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let (body, behind) = rest[head + 4..].split_at(right.len());
        assert!(body == right.as_slice());
        rest = behind;
    }
    assert!(rest.is_empty());
}

#[test]
fn sockets_in_the_filesystem_and_encrypted_ones_send_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listen = format!("unix:{}", socket.display());
    let mut cache = Cache::with(|config| config.listen.push(listen));
    let sample = mixed('f');
    sample.push(&cache);
    let urls = urls(&cache, &sample);
    for (url, right) in &urls {
        let mut stream = UnixStream::connect(&socket).unwrap();
        ask(&mut stream, url);
        assert!(read_answer(&mut stream, false).body == *right, "{url}");
    }
    // The same data, encrypted.
    let data = cache.dir.path().to_owned();
    cache.server = start(folder.path().join("other").as_path(), |_| {});
    let encrypted = Encrypted::on(&data);
    for (url, right) in &urls {
        assert!(encrypted.get(url).body == *right, "{url}");
    }
}

#[test]
fn small_nars_are_the_same_out_of_memory_and_as_long_as_they_are_here() {
    let cache = Cache::with(|config| config.retention.sweep_grace_s = 0);
    let sample = Sample::tree('h', "small", 10_000, &[]);
    sample.push(&cache);
    let essence = |method: &str, url: &str| {
        let answer = cache.send(method, url, &[], b"");
        assert!(!answer.header("x-request-id").is_empty());
        let mut headers: Vec<_> = answer.headers.into_iter().collect();
        headers.retain(|(name, _)| name != "date" && name != "x-request-id");
        headers.sort();
        (answer.status, headers, answer.body)
    };
    let raw = format!("/nar/{}.nar", sample.hash().base32());
    let encoded = sample.published(&cache).url;
    for url in [&raw, &encoded] {
        let head = essence("HEAD", url);
        let read = essence("GET", url);
        assert_eq!((read.0, &read.1), (200, &head.1), "{url}");
        // The router knows what a proxy may write so; what is before the router does not.
        let (first, rest) = url["/nar/".len()..].split_at(1);
        let routed = format!("/nar/%{:02x}{rest}", first.as_bytes()[0]);
        for again in [url, &routed, url] {
            assert!(essence("GET", again) == read, "{again}");
            assert!(essence("HEAD", again) == head, "{again}");
        }
        let part = cache.send("GET", url, &[("Range", "bytes=100-199")], b"");
        assert!(part.status == 206 && part.body == read.2[100..200]);
        let etag = cache.head(url).header("etag").to_owned();
        let known = cache.send("GET", url, &[("If-None-Match", &etag)], b"");
        assert_eq!((known.status, known.body.len()), (304, 0));
    }
    assert!(cache.get(&raw).body == sample.nar);
    let gone = format!("/nar/{}-0000000000000000.nar.zst", sample.hash().base32());
    for _ in 0..2 {
        assert_eq!(cache.get(&gone).header("cache-control"), "no-store");
    }
    remove(&cache, &sample);
    for url in [&raw, &encoded] {
        assert_eq!(cache.get(url).status, 404, "kept or not");
    }
    sample.push(&cache);
    assert!(cache.get(&raw).body == sample.nar);
}

#[test]
fn nars_whose_layout_is_kept_are_the_same_and_as_long_as_they_are_here() {
    let cache = Cache::with(|config| config.retention.sweep_grace_s = 0);
    let sample = mixed('i');
    sample.push(&cache);
    let urls = urls(&cache, &sample);
    for (url, right) in &urls {
        let first = cache.get(url);
        assert!(first.body == *right, "{url}");
        let again = cache.get(url);
        assert!(again.body == *right && again.status == 200, "{url}");
        assert_eq!(again.header("etag"), first.header("etag"));
        let part = cache.send("GET", url, &[("Range", "bytes=1000000-1999999")], b"");
        assert!(part.status == 206 && part.body == right[1_000_000..2_000_000]);
        assert_eq!(
            cache.head(url).header("content-length"),
            right.len().to_string()
        );
    }
    let gone = format!("/nar/{}-0000000000000000.nar.zst", sample.hash().base32());
    let instead = cache.get(&gone);
    assert!(instead.body == urls[0].1 && instead.header("cache-control") == "no-store");
    remove(&cache, &sample);
    for (url, _) in &urls {
        assert_eq!(cache.get(url).status, 404, "kept or not");
    }
    sample.push(&cache);
    for (url, right) in &urls {
        assert!(cache.get(url).body == *right, "{url}");
    }
}

/// Takes the path out, and by two collections what it was the last to have.
fn remove(cache: &Cache, sample: &Sample) {
    let token = std::fs::read_to_string(cache.dir.path().join("admin.token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
    ];
    let paths = format!("{{\"paths\": [\"{}\"]}}", sample.path.hash());
    for (path, body) in [("remove", paths.as_str()), ("gc", "{}"), ("gc", "{}")] {
        let done = cache.send(
            "POST",
            &format!("/api/v1/{path}"),
            &headers,
            body.as_bytes(),
        );
        assert_eq!(done.status, 200, "{}", done.text());
    }
}
