//! Streams of events: what is so already and what becomes so is told, to those who may hear it.

use crate::client::{Cache, eventually};
use crate::named::{by_admin, make, parsed, push, refused, token, with};
use crate::sample::{Sample, store_path};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A stream that is read event by event.
struct Stream {
    reader: BufReader<TcpStream>,
    head: String,
    text: String,
}

/// What comes next of it.
#[derive(Debug, PartialEq)]
enum Next {
    Event(String, Value),
    Comment(String),
    End,
}

impl Stream {
    fn open(cache: &Cache, url: &str, token: Option<&str>) -> Stream {
        let mut stream = TcpStream::connect(cache.server.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let token = token.map(|it| format!("Authorization: Bearer {it}\r\n"));
        let token = token.unwrap_or_default();
        let head = format!("GET {url} HTTP/1.1\r\nHost: cache\r\n{token}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut stream = Stream {
            reader: BufReader::new(stream),
            head: String::new(),
            text: String::new(),
        };
        while !stream.head.ends_with("\r\n\r\n") {
            assert!(stream.reader.read_line(&mut stream.head).unwrap() > 0);
        }
        stream
    }

    /// Of a cache that is open, when it is listened to.
    #[track_caller]
    fn listening(cache: &Cache, query: &str) -> Stream {
        let mut stream = Stream::open(cache, &format!("/api/v1/events?{query}"), None);
        stream.begins();
        stream
    }

    #[track_caller]
    fn begins(&mut self) {
        assert!(self.head.starts_with("HTTP/1.1 200 "), "{}", self.head);
        assert_eq!(self.next(), Next::Comment("listening".to_owned()));
    }

    #[track_caller]
    fn next(&mut self) -> Next {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let next = match event.strip_prefix(':') {
                    Some(comment) => Next::Comment(comment.trim().to_owned()),
                    None => {
                        let (kind, data) = event.split_once('\n').unwrap();
                        let kind = kind.strip_prefix("event: ").unwrap().to_owned();
                        let data = data.strip_prefix("data: ").unwrap();
                        Next::Event(kind, serde_json::from_str(data).unwrap())
                    }
                };
                self.text = rest.to_owned();
                return next;
            }
            match self.chunk() {
                Some(chunk) => self.text += &chunk,
                None => return Next::End,
            }
        }
    }

    /// None at the end, which must be a clean one.
    fn chunk(&mut self) -> Option<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).unwrap();
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8(chunk).unwrap())
    }
}

fn moved(name: &str, generation: u64) -> Next {
    let data = json!({"name": name, "generation": generation});
    Next::Event("pin-moved".to_owned(), data)
}

fn ready(samples: &[&Sample]) -> Next {
    let paths: Vec<String> = samples
        .iter()
        .map(|it| it.path.hash().to_string())
        .collect();
    Next::Event("path-ready".to_owned(), json!({ "paths": paths }))
}

fn pin(cache: &Cache, name: &str, sample: &Sample) {
    let change = json!({"roots": [sample.path.to_string()]}).to_string();
    let put = cache.put(&format!("/api/v1/pins/{name}"), change.as_bytes());
    assert_eq!(put.status, 200, "{}", put.text());
}

#[test]
fn what_is_there_already_is_told_at_once() {
    let cache = Cache::new();
    let (here, absent) = (
        Sample::tree('a', "here", 10, &[]),
        store_path('b', "absent"),
    );
    here.push(&cache);
    pin(&cache, "web", &here);
    // By hash and by path, twice; what is not there says nothing.
    let (hash, path) = (here.path.hash(), here.path.absolute());
    let query = format!(
        "pin=web&pin=none&path={hash}&path={path}&path={}",
        absent.hash()
    );
    let mut stream = Stream::listening(&cache, &query);
    for header in [
        "content-type: text/event-stream\r\n",
        "cache-control: no-store\r\n",
        "x-accel-buffering: no\r\n",
    ] {
        assert!(stream.head.contains(header), "{header}{}", stream.head);
    }
    assert_eq!(stream.next(), moved("web", 1));
    assert_eq!(stream.next(), ready(&[&here]));
    assert_eq!(cache.metric("snowcache_event_listeners "), 1.0);
}

#[test]
fn what_moves_and_what_comes_is_told_to_those_who_asked() {
    let cache = Cache::new();
    let samples = ['1', '2', '3', '4'].map(|it| Sample::tree(it, "x", 10, &[]));
    let [first, second, third, other] = &samples;
    let hashes = [first, second, third].map(|it| format!("path={}", it.path.hash()));
    let mut stream = Stream::listening(&cache, &format!("pin=web&{}", hashes.join("&")));
    other.push(&cache);
    first.push(&cache);
    assert_eq!(stream.next(), ready(&[first]), "by its narinfo");
    for sample in [second, third] {
        cache.holds(sample, &crate::pieces::cut(&sample.nar));
    }
    assert_eq!(cache.commit(&[second.record(), third.record()]).0, 200);
    assert_eq!(stream.next(), ready(&[second, third]), "by one commit");
    pin(&cache, "other", first);
    pin(&cache, "web", first);
    assert_eq!(stream.next(), moved("web", 1));
    pin(&cache, "web", second);
    assert_eq!(stream.next(), moved("web", 2));
    let back = with(
        &cache,
        &cache.token(),
        "POST",
        "/api/v1/pins/web/rollback",
        b"{\"to\": 1}",
    );
    assert_eq!(back.status, 200, "{}", back.text());
    assert_eq!(stream.next(), moved("web", 1));
}

#[test]
fn a_private_cache_tells_those_who_may_read_it_for_as_long_as_they_may() {
    let cache = Cache::new();
    make(&cache, "team-a", json!({}));
    make(&cache, "team-b", json!({}));
    let writer = token(&cache, &["push"], &["team-a", "team-b"]);
    let stranger = token(&cache, &["pull"], &["team-b"]);
    let wish = json!({
        "subject": "reader", "scopes": ["pull"], "caches": ["team-a"], "expires_in_s": 600,
    });
    let made = parsed(&by_admin(&cache, "POST", "/api/v1/tokens", wish));
    let [reader, id] = ["token", "id"].map(|key| made[key].as_str().unwrap());
    let samples = ['1', '2'].map(|it| Sample::tree(it, "x", 10, &[]));
    let hashes = samples
        .each_ref()
        .map(|it| format!("path={}", it.path.hash()));
    let url = format!("/team-a/api/v1/events?{}", hashes.join("&"));
    let narinfo = format!("/team-a/{}.narinfo", samples[0].path.hash());
    let nobody = (cache.get(&url).status, cache.get(&narinfo).status);
    assert_eq!(nobody, (401, 401));
    let asked = |url: &str| with(&cache, &stranger, "GET", url, b"").status;
    assert_eq!((asked(&url), asked(&narinfo)), (403, 403));

    let mut stream = Stream::open(&cache, &url, Some(reader));
    stream.begins();
    push(&cache, "team-b", &writer, &samples[1]);
    push(&cache, "team-a", &writer, &samples[0]);
    assert_eq!(stream.next(), ready(&[&samples[0]]), "of this cache alone");
    let revoked = by_admin(
        &cache,
        "DELETE",
        &format!("/api/v1/tokens/{id}"),
        Value::Null,
    );
    assert_eq!(revoked.status, 200);
    push(&cache, "team-a", &writer, &samples[1]);
    assert_eq!(stream.next(), Next::End);
}

#[test]
fn a_silent_stream_says_that_it_lives() {
    let cache = Cache::new();
    let mut stream = Stream::listening(&cache, "pin=web");
    assert_eq!(stream.next(), Next::Comment(String::new()));
}

#[test]
fn who_takes_too_little_is_told_that_something_is_lost() {
    let cache = Cache::new();
    let mut stream = Stream::listening(&cache, "pin=web");
    let name = "web".parse().unwrap();
    let mut told = 0;
    while cache.server.events.counted().1 == 0 {
        assert!(told < 10_000_000, "whatever is told, nothing is lost");
        told += 1;
        cache.server.events.moved(0, &name, told);
    }
    let mut last = 0;
    loop {
        match stream.next() {
            Next::Event(kind, data) if kind == "pin-moved" => {
                let generation = data["generation"].as_u64().unwrap();
                assert_eq!(generation, last + 1, "all before it was told");
                last = generation;
            }
            next => {
                assert_eq!(next, Next::Event("lost".to_owned(), json!({})));
                break;
            }
        }
    }
    assert!(last < told);
    assert_eq!(stream.next(), Next::End);
    assert_eq!(cache.metric("snowcache_events_lost_total "), 1.0);
}

#[test]
fn a_server_that_drains_ends_its_streams_and_begins_no_more() {
    let mut cache = Cache::with(|config| config.http.drain_delay_s = 5);
    let mut stream = Stream::listening(&cache, "pin=web");
    cache.server.stop();
    assert_eq!(stream.next(), Next::End);
    // While it drains, nobody is let in anew.
    let answer = cache.get("/api/v1/events?pin=web");
    refused(&answer, 503, &["about to end"]);
}

#[test]
fn a_stop_does_not_wait_for_who_listens() {
    let mut cache = Cache::with(|config| config.http.shutdown_grace_s = 3600);
    let mut streams = [(); 3].map(|()| Stream::listening(&cache, "pin=web"));
    cache.server.stop_and_wait();
    for stream in &mut streams {
        assert_eq!(stream.next(), Next::End);
    }
}

#[test]
fn half_of_the_connections_may_listen_and_more_are_refused() {
    let cache = Cache::with(|config| config.http.max_connections = 4);
    let one = Stream::listening(&cache, "pin=web");
    let _two = Stream::listening(&cache, "pin=web");
    let answer = cache.get("/api/v1/events?pin=web");
    refused(
        &answer,
        429,
        &["2 listen to events already", "listen again"],
    );
    assert_eq!(answer.header("retry-after"), "5");
    drop(one);
    eventually("there is room for another", || {
        let stream = Stream::open(&cache, "/api/v1/events?pin=web", None);
        stream.head.starts_with("HTTP/1.1 200 ")
    });
}

#[test]
fn what_cannot_be_told_is_refused_with_what_can() {
    let cache = Cache::new();
    let many: Vec<String> = (0..65).map(|number| format!("pin=p{number}")).collect();
    for (query, says) in [
        (String::new(), "say what is to be told: ?pin=NAME"),
        ("?pins=web".to_owned(), "say what is to be told"),
        ("?pin=.web".to_owned(), "pin"),
        ("?path=x".to_owned(), "store path"),
        (
            format!("?{}", many.join("&")),
            "say at most 64 pins and paths",
        ),
    ] {
        let answer = cache.get(&format!("/api/v1/events{query}"));
        refused(&answer, 400, &[says]);
    }
    assert_eq!(cache.server.events.counted().0, 0);
}
