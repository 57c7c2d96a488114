//! Plans and frames, as any client may ask for them: what is told is right, and of visible NARs
//! only; what is asked wrongly is told how.

use crate::client::{Answer, Cache};
use crate::sample::{Sample, noise, store_path};
use snowcache_core::delta::{self, Delta, Pair};
use snowcache_nix::NarHash;
use snowcache_server::config::Config;
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
    let no_patch = delta::patch::name(&old.hash(), &old.hash());
    for (path, body, status, sentence) in [
        ("plan", b"what?".to_vec(), 400, "does not begin with"),
        ("plan", damaged, 400, "checksum is wrong"),
        ("plan", long, 413, "larger than"),
        ("frames", b"{}".to_vec(), 400, "expected {\"nar\""),
        ("frames", frames("nonsense", &[]), 400, "nar \"nonsense\""),
        ("frames", frames(&no_patch, &[]), 404, "ask for a new plan"),
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

#[test]
fn a_plan_is_made_once_and_told_on_until_what_it_says_goes() {
    let cache = Cache::new();
    let [old, new] = builds(300_000);
    old.push(&cache);
    new.push(&cache);
    let question = delta::question(&[pair(&new, &old)]);
    let first = post(&cache, "/api/v1/plan", &question);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let again = post(&cache, "/api/v1/plan", &question);
                assert!(again.body == first.body);
                assert_eq!(again.header("content-length"), first.body.len().to_string());
            });
        }
    });
    let counted = |what: &str| cache.metric(&format!("snowcache_plans_{what}"));
    assert_eq!((counted("asked_total"), counted("made_total")), (21.0, 1.0));
    assert!(counted("kept_bytes") >= first.body.len() as f64);
    let another = delta::question(&[pair(&old, &new)]);
    post(&cache, "/api/v1/plan", &another);
    assert_eq!(counted("made_total"), 2.0, "another question");

    let admin = std::fs::read_to_string(cache.dir.path().join("admin.token")).unwrap();
    let admin = format!("Bearer {}", admin.trim());
    let gone = serde_json::json!({ "paths": [new.path.absolute().to_string()] }).to_string();
    let headers = [("Authorization", admin.as_str())];
    let removed = cache.send("POST", "/api/v1/remove", &headers, gone.as_bytes());
    assert_eq!(removed.status, 200, "{}", removed.text());
    assert_eq!(planned(&cache, &[pair(&new, &old)], &[1]), [None]);
    assert_eq!(counted("made_total"), 3.0);
}

#[test]
fn a_plan_that_was_cut_off_goes_on_where_it_ended() {
    let cache = Cache::new();
    let [old, new] = builds(300_000);
    old.push(&cache);
    new.push(&cache);
    let question = delta::question(&[pair(&new, &old)]);
    let whole = post(&cache, "/api/v1/plan", &question);
    let id = whole.header("etag").trim_matches('"').to_owned();
    let rest = |id: &str, from: usize| {
        let path = format!("/api/v1/plan?answer={id}&from={from}");
        post(&cache, &path, &question)
    };
    for from in [0, 1, whole.body.len() - 1, whole.body.len()] {
        let rest = rest(&id, from);
        assert_eq!(
            (rest.status, rest.header("etag")),
            (200, whole.header("etag"))
        );
        assert!(rest.body == whole.body[from..]);
    }
    for (id, from) in [(id.as_str(), whole.body.len() + 1), ("0123456789abcdef", 0)] {
        let rest = rest(id, from);
        assert_eq!(rest.status, 404, "{id} from {from}");
        assert!(
            rest.text().contains("ask the question again"),
            "{}",
            rest.text()
        );
    }
}

/// Two versions that are alike but for a byte here and there, of which a pin has the first and gets
/// the second.
fn bumped(change: impl FnOnce(&mut Config)) -> (Cache, [Sample; 2]) {
    let cache = Cache::with(change);
    let before = noise(1, 2 << 20);
    let mut after = before.clone();
    after.iter_mut().step_by(20_000).for_each(|byte| *byte ^= 1);
    let versions = [('a', "program-1.0", before), ('b', "program-1.1", after)];
    let versions = versions.map(|(letter, name, content)| {
        let sample = Sample::file(store_path(letter, name), &content);
        sample.push(&cache);
        let roots = serde_json::json!({ "roots": [sample.path.absolute().to_string()] });
        let pinned = cache.put("/api/v1/pins/system", roots.to_string().as_bytes());
        assert_eq!(pinned.status, 200, "{}", pinned.text());
        sample
    });
    (cache, versions)
}

/// For what takes a second of one core in the background; only a failure waits for all of it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(900);

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begin = std::time::Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_pin_that_moves_gets_patches_for_those_who_follow() {
    let (cache, [old, new]) = bumped(|_| {});
    let made = || cache.metric("snowcache_patches_made_total");
    wait_until("a patch", || made() == 1.0);
    let deltas = planned(&cache, &[pair(&new, &old)], &[new.nar.len()]);
    let delta = deltas[0].as_ref().unwrap();
    assert_eq!(delta.ranges(), []);
    let (at, len) = delta.patch.unwrap();
    assert!(len < 2_000, "{len} bytes of patch");
    let name = delta::patch::name(&new.hash(), &old.hash());
    let frames = |ranges: &[(u64, u64)]| {
        let asked = serde_json::json!({ "nar": name, "ranges": ranges });
        post(&cache, "/api/v1/frames", asked.to_string().as_bytes())
    };
    let whole = frames(&[(at, len)]);
    assert_eq!((whole.status, whole.body.len() as u64), (200, len));
    let rest = frames(&[(at + 20, len - 20)]);
    assert!(rest.body == whole.body[20..]);
    assert_eq!(cache.metric("snowcache_patches_used_total"), 1.0);
}

#[test]
fn patches_take_no_more_than_they_may() {
    let (cache, [old, new]) = bumped(|config| config.depot.patch_bytes = 0);
    let deltas = planned(&cache, &[pair(&new, &old)], &[new.nar.len()]);
    assert_eq!(deltas[0].as_ref().unwrap().patch, None);
    assert_eq!(cache.metric("snowcache_patches_made_total"), 0.0);
    let (cache, [old, new]) = bumped(|_| {});
    wait_until("a patch", || {
        cache.metric("snowcache_patches_made_total") == 1.0
    });
    let bytes = cache.metric("snowcache_patches_bytes");
    assert!(bytes > 0.0 && bytes < 2_000.0, "{bytes}");
    let deltas = planned(&cache, &[pair(&new, &old)], &[new.nar.len()]);
    assert!(deltas[0].as_ref().unwrap().patch.is_some());
}
