//! Stories of caches that are made, changed, deleted and found again.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn made(caches: &Caches, text: &str) -> Arc<Named> {
    let change = Change::default();
    let made = caches.put(&name(text), &change, Before::Nothing, 30, "tester");
    made.expect("made")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn a_cache_is_found_again_with_its_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let caches = Caches::open(dir.path()).expect("opens");
    assert!(caches.of_path("/team-a/nix-cache-info").is_none());
    let first = made(&caches, "team-a");
    assert!(!first.settings.public, "a new one is private");
    assert_eq!((first.settings.priority, first.keys.len()), (30, 1));
    let change = Change {
        public: Some(true),
        ..Change::default()
    };
    let changed = caches.put(&first.name, &change, Before::Something, 99, "tester");
    let changed = changed.expect("changed");
    assert_eq!(changed.number, first.number, "what memory has of it stays");
    let again = Caches::open(dir.path()).expect("opens");
    let (found, at) = again.of_path("/team-a/nix-cache-info").expect("found");
    assert_eq!(at, "/team-a".len());
    assert_eq!((&found.cache, &found.by), (&first.cache, &first.by));
    assert_eq!((found.settings.public, found.settings.priority), (true, 30));
    assert_eq!(found.keys[0].to_string(), first.keys[0].to_string());
    let folder = dir.path().join("caches/team-a");
    assert_eq!(mode(&folder.join("cache.json")), 0o600);
    let key = format!("keys/{}.sec", first.keys[0].public().name());
    assert_eq!(mode(&folder.join(key)), 0o600);
}

#[test]
fn a_deleted_cache_leaves_its_name_in_the_depot_and_no_key() {
    let dir = tempfile::tempdir().expect("a folder");
    let caches = Caches::open(dir.path()).expect("opens");
    let first = made(&caches, "team-a");
    let gone = caches.delete(&first.name).expect("deleted").expect("there");
    assert!(Arc::ptr_eq(&gone, &first));
    assert!(caches.delete(&first.name).expect("nothing").is_none());
    assert!(caches.find("team-a").is_none());
    let left = dir
        .path()
        .join("caches/.deleted")
        .join(first.cache.as_str());
    assert!(left.join("cache.json").exists() && !left.join("keys").exists());
    let second = made(&caches, "team-a");
    assert_ne!(second.cache, first.cache, "nothing of the first is seen");
    assert_ne!(
        second.keys[0].public().name(),
        first.keys[0].public().name()
    );
    assert_ne!(second.number, first.number);
    let again = Caches::open(dir.path()).expect("opens");
    assert_eq!(again.find("team-a").expect("there").cache, second.cache);
}

#[test]
fn what_a_crash_left_is_tidied_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let caches = Caches::open(dir.path()).expect("opens");
    let kept = made(&caches, "kept");
    let half = dir.path().join("caches/half.new/keys");
    fs::create_dir_all(&half).expect("half made");
    // Deleted, and back from a backup.
    let back = made(&caches, "back");
    let copy = dir.path().join("copy.json");
    let about = dir.path().join("caches/back/cache.json");
    fs::copy(&about, &copy).expect("copied");
    caches.delete(&back.name).expect("deleted");
    fs::create_dir(dir.path().join("caches/back")).expect("back");
    fs::rename(&copy, &about).expect("back");
    let keys = dir.path().join("caches/.deleted").join(back.cache.as_str());
    fs::create_dir(keys.join("keys")).expect("keys that stayed");
    let again = Caches::open(dir.path()).expect("opens");
    let names: Vec<String> = again.list().iter().map(|it| it.name.to_string()).collect();
    assert_eq!(names, ["kept"]);
    assert_eq!(again.find("kept").expect("there").cache, kept.cache);
    assert!(!half.exists() && !keys.join("keys").exists());
}

#[test]
fn what_cannot_be_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = SecretKey::generate("root-1", [1; 32]).expect("a key");
    let caches = Caches::open(dir.path()).expect("opens").beside(&[root]);
    let first = made(&caches, "team-a");
    let put = |text: &str, before, key_name: Option<&str>| {
        let key_name = key_name.map(str::to_owned);
        let change = Change {
            key_name,
            ..Change::default()
        };
        let put = caches.put(&name(text), &change, before, 30, "tester");
        put.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(put("team-a", Before::Nothing, None).contains("already"));
    assert!(put("team-b", Before::Something, None).contains("no cache"));
    assert!(put("team-a", Before::Anything, Some("k-1")).contains("rotate"));
    assert!(put("team-b", Before::Nothing, Some("a:b")).contains("key's name"));
    for taken in ["root-1", first.keys[0].name()] {
        let refused = put("team-b", Before::Nothing, Some(taken));
        assert!(refused.contains("one key of a name"), "{refused}");
    }
    assert!(caches.find("team-b").is_none());
    assert_eq!(put("team-b", Before::Nothing, Some("b-1")), "");
    let keys = &caches.find("team-b").expect("made").keys;
    assert_eq!(keys[0].public().name(), "b-1");
    assert_eq!(caches.in_depot("default").expect("/").as_str(), "default");
    assert_eq!(caches.in_depot("team-a").expect("there"), first.cache);
    assert!(caches.in_depot("team-c").is_err());
    fs::create_dir(dir.path().join("caches/push")).expect("made");
    let error = Caches::open(dir.path()).err().expect("refused").to_string();
    assert!(error.contains("caches/push") && error.contains("reserved"));
}
