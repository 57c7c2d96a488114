//! What must not come in: each is answered 4xx with a sentence, and leaves nothing behind.

use crate::client::{Cache, eventually, read_answer};
use crate::sample::{Sample, pack, store_path};
use snowcache_nix::nar::Writer;
use snowcache_server::http::codec::Codec;
use std::io::Write;
use std::net::TcpStream;

/// One string of a NAR: length, bytes, zeros.
fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn strings(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| string(part)).collect()
}

fn directory(names: &[&[u8]]) -> Vec<u8> {
    let mut nar = strings(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    for name in names {
        nar.extend(strings(&[b"entry", b"(", b"name", name, b"node", b"("]));
        nar.extend(strings(&[b"type", b"symlink", b"target", b"x", b")", b")"]));
    }
    nar.extend(string(b")"));
    nar
}

fn deep(depth: usize) -> Vec<u8> {
    let mut nar = strings(&[b"nix-archive-1"]);
    for _ in 0..depth {
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
    nar
}

#[test]
fn nars_that_are_none_are_refused_with_a_sentence() {
    let cache = Cache::new();
    let good = Sample::tree('a', "good", 5000, &[]).nar;
    let symlink = |target: &[u8]| {
        strings(&[
            b"nix-archive-1",
            b"(",
            b"type",
            b"symlink",
            b"target",
            target,
            b")",
        ])
    };
    let huge = strings(&[b"nix-archive-1", b"(", b"type", b"regular", b"contents"]);
    let huge = [huge, (1_u64 << 50).to_le_bytes().to_vec(), vec![0; 4096]].concat();
    let cases: [(&str, Vec<u8>); 13] = [
        ("empty", Vec::new()),
        ("not a NAR", b"<html>404</html>".to_vec()),
        ("truncated", good[..good.len() - 9].to_vec()),
        ("trailing bytes", [good.as_slice(), &[0; 8]].concat()),
        ("unsorted", directory(&[b"b", b"a"])),
        ("duplicate", directory(&[b"a", b"a"])),
        ("dot dot", directory(&[b".."])),
        ("slash", directory(&[b"a/b"])),
        ("NUL in a target", symlink(b"a\0b")),
        ("empty target", symlink(b"")),
        ("too deep", deep(10_000)),
        ("a file that cannot fit", huge),
        ("bad padding", {
            let mut nar = good.clone();
            nar[8 + 13] = 1;
            nar
        }),
    ];
    for (what, nar) in cases {
        let put = cache.put("/push/nar/bad.nar", &nar);
        let text = put.text();
        assert!(
            (400..500).contains(&put.status),
            "{what}: {} {text}",
            put.status
        );
        assert!(
            text.len() > 20 && text.lines().count() == 1,
            "{what}: {text}"
        );
        for codec in [Codec::Xz, Codec::Zstd, Codec::Gzip] {
            if nar.is_empty() {
                continue;
            }
            let put = cache.put("/push/nar/bad.nar", &pack(codec, &nar));
            assert!(
                (400..500).contains(&put.status),
                "{what} in {codec}: {}",
                put.status
            );
        }
    }
    let stats = cache.get("/api/v1/stats");
    assert!(stats.text().contains("\"nars\":0") && stats.text().contains("\"uploads\":0"));
}

#[test]
fn damaged_streams_and_bombs_are_refused() {
    let cache = Cache::new();
    let nar = Sample::tree('a', "good", 100_000, &[]).nar;
    let suffixes = [
        (Codec::Xz, ".xz"),
        (Codec::Bzip2, ".bz2"),
        (Codec::Gzip, ""),
        (Codec::Zstd, ".zst"),
        (Codec::Brotli, ".br"),
        (Codec::Lzip, ".lzip"),
        (Codec::Lz4, ".lz4"),
    ];
    for (codec, suffix) in suffixes {
        let url = format!("/push/nar/bad.nar{suffix}");
        let packed = pack(codec, &nar);
        let bomb = pack(codec, &vec![0; 64 << 20]);
        let cut = packed[..packed.len() - 3].to_vec();
        let more = [packed, b"and more".to_vec()].concat();
        for (what, body) in [("cut", cut), ("followed by more", more), ("a bomb", bomb)] {
            let put = cache.put(&url, &body);
            assert!(
                (400..500).contains(&put.status),
                "{codec} {what}: {}",
                put.status
            );
            assert!(
                put.text().contains("nar/bad.nar"),
                "{codec} {what}: {}",
                put.text()
            );
        }
    }
    let wrong_suffix = cache.put("/push/nar/x.nar.xz", &pack(Codec::Zstd, &nar));
    assert_eq!(wrong_suffix.status, 422);
    assert!(
        wrong_suffix.text().contains("the bytes are zstd"),
        "{}",
        wrong_suffix.text()
    );
}

#[test]
fn a_nar_over_the_limit_is_refused_before_it_is_taken_in() {
    let cache = Cache::with(|config| config.uploads.max_nar_size_bytes = 100_000);
    let nar = Sample::tree('a', "big", 200_000, &[]).nar;
    let announced = cache.put("/push/nar/x.nar", &nar);
    assert_eq!(announced.status, 413, "{}", announced.text());
    let mut zeros = Writer::new(Vec::new());
    zeros.file(false, 500_000).unwrap();
    zeros.data(&vec![0; 500_000]).unwrap();
    let unpacked = cache.put(
        "/push/nar/x.nar.xz",
        &pack(Codec::Xz, &zeros.finish().unwrap()),
    );
    assert!((400..500).contains(&unpacked.status), "{}", unpacked.text());
}

#[test]
fn narinfos_that_lie_are_refused_with_a_sentence() {
    let cache = Cache::new();
    let sample = Sample::tree('a', "claimed", 5000, &[]);
    assert_eq!(cache.put("/push/nar/x.nar", &sample.nar).status, 200);
    let good = sample.narinfo("nar/x.nar", "none");
    let hash = sample.hash().to_string();
    let other_hash = "sha256:0000000000000000000000000000000000000000000000000000";
    let size = format!("NarSize: {}", sample.nar.len());
    let missing = store_path('z', "missing").to_string();
    let other_path = store_path('b', "claimed").absolute();
    let cases: Vec<(&str, String, &str)> = vec![
        (
            "wrong hash",
            good.replace(&hash, other_hash),
            "the bytes are",
        ),
        (
            "lying size",
            good.replace(&size, "NarSize: 100"),
            "NarSize 100",
        ),
        ("size 0", good.replace(&size, "NarSize: 0"), "NarSize"),
        (
            "http URL",
            good.replace("nar/x.nar", "http://evil.example/x.nar"),
            "absolute",
        ),
        (
            "file URL",
            good.replace("nar/x.nar", "file:///etc/shadow"),
            "absolute",
        ),
        ("parent URL", good.replace("nar/x.nar", "../x.nar"), "'..'"),
        (
            "no such upload",
            good.replace("nar/x.nar", "nar/y.nar"),
            "upload the NAR first",
        ),
        (
            "other path",
            good.replace(&sample.path.absolute(), &other_path),
            "the URL says",
        ),
        (
            "missing reference",
            good.replace("References: ", &format!("References: {missing}")),
            &missing,
        ),
        ("unknown codec", good.replace("none", "rot13"), "rot13"),
        ("twice", format!("{good}NarSize: 5\n"), "NarSize"),
        (
            "no store path",
            good.replace("StorePath", "StorPath"),
            "StorePath",
        ),
        ("not text", "\u{0}".to_owned(), "line 1"),
        ("empty", String::new(), "StorePath"),
    ];
    for (what, narinfo, says) in cases {
        let put = cache.put(&sample.narinfo_url(), narinfo.as_bytes());
        let text = put.text();
        assert!(
            (400..500).contains(&put.status),
            "{what}: {} {text}",
            put.status
        );
        assert!(
            text.contains(says) && text.lines().count() == 1,
            "{what}: {text}"
        );
        assert_eq!(cache.get(&sample.narinfo_url()).status, 404, "{what}");
    }
    let put = cache.put(&sample.narinfo_url(), b"StorePath: \xff\xfe\n");
    assert_eq!(put.status, 400, "{}", put.text());
    assert_eq!(
        cache.put(&sample.narinfo_url(), good.as_bytes()).status,
        200,
        "the lease holds"
    );
}

#[test]
fn a_narinfo_of_a_gigabyte_is_refused_while_it_comes() {
    let cache = Cache::new();
    let url = Sample::tree('a', "big", 10, &[]).narinfo_url();
    let length = (1_u64 << 30).to_string();
    let put = |head: String, body: &[u8]| {
        let mut stream = TcpStream::connect(cache.server.address).unwrap();
        let token = cache.token();
        let head = format!(
            "PUT {url} HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\n{head}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap_or_default();
        stream
            .shutdown(std::net::Shutdown::Write)
            .unwrap_or_default();
        read_answer(&mut stream, false)
    };
    let announced = put(format!("Content-Length: {length}"), &[b'x'; 4096]);
    assert_eq!(announced.status, 413, "{}", announced.text());
    let chunk = [b"200000\r\n".as_slice(), &vec![b'x'; 0x20_0000], b"\r\n"].concat();
    let unannounced = put("Transfer-Encoding: chunked".to_owned(), &chunk);
    assert_eq!(unannounced.status, 413, "{}", unannounced.text());
    let packed = pack(Codec::Gzip, &vec![b'x'; 64 << 20]);
    let encoded = cache.put_with(&url, &[("Content-Encoding", "gzip")], &packed);
    assert_eq!(encoded.status, 413, "{}", encoded.text());
}

#[test]
fn an_upload_that_stalls_or_breaks_off_leaves_nothing() {
    let cache = Cache::with(|config| config.uploads.stall_timeout_s = 1);
    let sample = Sample::tree('a', "stalled", 100_000, &[]);
    let head = format!(
        "PUT /push/nar/x.nar HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n\
         Authorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        cache.token(),
        sample.nar.len() + 1
    );
    // All of the NAR comes, but the body does not end.
    let mut stalled = TcpStream::connect(cache.server.address).unwrap();
    stalled.write_all(head.as_bytes()).unwrap();
    stalled.write_all(&sample.nar).unwrap();
    let mut broken = TcpStream::connect(cache.server.address).unwrap();
    broken.write_all(head.as_bytes()).unwrap();
    broken.write_all(&sample.nar).unwrap();
    drop(broken);
    let answer = read_answer(&mut stalled, false);
    assert_eq!(answer.status, 408, "{}", answer.text());
    eventually("nothing is left of them", || {
        cache.get("/api/v1/stats").text().contains("\"uploads\":0")
    });
}
