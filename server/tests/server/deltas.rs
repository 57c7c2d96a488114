//! Plans and frames, as any client may ask for them: what is told is right, and of visible NARs
//! only; what is asked wrongly is told how.

use crate::client::{Answer, Cache};
use crate::sample::{Sample, noise, store_path};
use snowcache_core::delta::{self, Delta, Pair};
use snowcache_nix::NarHash;
use snowcache_server::http::codec::Codec;

/// Two builds of a program that names itself; the second has `changed` bytes of its own.
fn builds(changed: usize) -> [Sample; 2] {
    ['a', 'b'].map(|letter| {
        let path = store_path(letter, "program");
        let mut content = noise(1, 2 << 20);
        content.extend(path.absolute().as_bytes());
        content.extend(noise(letter as u64, changed));
        content.extend(noise(2, 2 << 20));
        Sample::file(path, &content)
    })
}

fn pair(wanted: &Sample, old: &Sample) -> Pair {
    Pair {
        wanted: wanted.path.hash(),
        old: old.path.hash(),
        old_nar: old.hash(),
    }
}

fn post(cache: &Cache, path: &str, body: &[u8]) -> Answer {
    cache.send("POST", path, &[], body)
}

/// What the cache says of these pairs.
fn planned(cache: &Cache, pairs: &[Pair], sizes: &[usize]) -> Vec<Option<Delta>> {
    let answer = post(cache, "/api/v1/plan", &delta::question(pairs));
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let plan = zstd::stream::decode_all(&answer.body[..]).unwrap().into();
    let deltas = delta::answered(&plan, pairs.len()).unwrap();
    let decode =
        |(encoded, size): (bytes::Bytes, &usize)| Delta::decode(&encoded, *size as u64).unwrap();
    let told = deltas.into_iter().zip(sizes);
    told.map(|(encoded, size)| Some(decode((encoded?, size))))
        .collect()
}

#[test]
fn a_plan_tells_a_rebuild_in_a_few_bytes_and_a_change_by_its_frames() {
    let cache = Cache::new();
    let rebuilt = builds(0);
    rebuilt.iter().for_each(|build| build.push(&cache));
    let pairs = [
        pair(&rebuilt[1], &rebuilt[0]),
        pair(&rebuilt[0], &rebuilt[1]),
    ];
    let asked = delta::question(&pairs);
    let answer = post(&cache, "/api/v1/plan", &asked);
    assert!(answer.body.len() < 100, "{} bytes", answer.body.len());
    let sizes = [rebuilt[1].nar.len(), rebuilt[0].nar.len()];
    for delta in planned(&cache, &pairs, &sizes) {
        assert_eq!(delta.unwrap().ranges(), []);
    }

    let cache = Cache::new();
    let [old, new] = builds(300_000);
    old.push(&cache);
    new.push(&cache);
    let deltas = planned(&cache, &[pair(&new, &old)], &[new.nar.len()]);
    let ranges = deltas[0].as_ref().unwrap().ranges();
    let sum: u64 = ranges.iter().map(|(_, len)| len).sum();
    let whole = new.published(&cache);
    assert!(
        (300_000..whole.file_size / 2).contains(&sum),
        "{sum} bytes of frames"
    );
    let name = whole.url.rsplit('/').next().unwrap();
    let asked = serde_json::json!({ "nar": name, "ranges": ranges }).to_string();
    let answer = post(&cache, "/api/v1/frames", asked.as_bytes());
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    assert_eq!(answer.header("content-length"), sum.to_string());
    let stored = cache.get(&whole.url).body;
    let right: Vec<&[u8]> = ranges
        .iter()
        .map(|(at, len)| &stored[*at as usize..(at + len) as usize])
        .collect();
    assert!(answer.body == right.concat());
    crate::sample::unpack(Codec::Zstd, &answer.body);
}

#[test]
fn nothing_is_planned_of_what_is_not_shown() {
    let cache = Cache::new();
    let [old, new] = builds(0);
    old.push(&cache);
    let unknown = Pair {
        old_nar: NarHash::from_bytes([7; 32]),
        ..pair(&old, &old)
    };
    // Its NAR is held, but under no path.
    let name = format!("/push/nar/{}.nar", new.hash().base32());
    assert_eq!(cache.put(&name, &new.nar).status, 200);
    let pairs = [pair(&new, &old), pair(&old, &new), unknown];
    assert_eq!(planned(&cache, &pairs, &[1, 1, 1]), [None, None, None]);
}

#[test]
fn what_is_asked_wrongly_is_told_how() {
    let cache = Cache::new();
    let [old, _] = builds(0);
    old.push(&cache);
    let url = old.published(&cache).url;
    let name = url.rsplit('/').next().unwrap();
    let frames = |nar: &str, ranges: &[(u64, u64)]| {
        serde_json::json!({ "nar": nar, "ranges": ranges })
            .to_string()
            .into_bytes()
    };
    let too_many: Vec<(u64, u64)> = (0..20_000).map(|at| (at, 1)).collect();
    let mut damaged = delta::question(&[pair(&old, &old)]);
    damaged[30] ^= 1;
    let long = vec![0; delta::MAX_QUESTION_BYTES + 1];
    let other = name.replace("-", "-0");
    for (path, body, status, sentence) in [
        ("plan", b"what?".to_vec(), 400, "does not begin with"),
        ("plan", damaged, 400, "checksum is wrong"),
        ("plan", long, 413, "larger than"),
        ("frames", b"{}".to_vec(), 400, "expected {\"nar\""),
        ("frames", frames("nonsense", &[]), 400, "nar \"nonsense\""),
        (
            "frames",
            frames(&other, &[]),
            404,
            "ask for its narinfo again",
        ),
        (
            "frames",
            frames(name, &[(5, 5), (9, 1)]),
            400,
            "range 2: [9, 1]",
        ),
        ("frames", frames(name, &[(5, 0)]), 400, "is empty"),
        ("frames", frames(name, &[(0, 1 << 40)]), 400, "not within"),
        ("frames", frames(name, &[(u64::MAX, 2)]), 400, "not within"),
        (
            "frames",
            frames(name, &too_many),
            413,
            "at most 16384 ranges",
        ),
    ] {
        let answer = post(&cache, &format!("/api/v1/{path}"), &body);
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{said}");
        assert!(said.contains(sentence), "{said} lacks {sentence}");
    }
    let nothing = post(&cache, "/api/v1/frames", &frames(name, &[]));
    assert_eq!((nothing.status, nothing.body.len()), (200, 0));
}
