//! Jobs that come, go first, are overtaken, end, and outlive the process.

use super::*;

fn hash(letter: char) -> String {
    letter.to_string().repeat(32)
}

fn wish(letter: char, priority: i32, deadline_in_s: Option<u64>) -> Wish {
    Wish {
        roots: vec![format!("/nix/store/{}-system", hash(letter))],
        pin: "system".to_owned(),
        priority,
        deadline_in_s,
        from: Vec::new(),
    }
}

struct List {
    folder: tempfile::TempDir,
    jobs: Jobs,
}

impl List {
    fn new() -> List {
        let folder = tempfile::tempdir().expect("a folder");
        let jobs = Jobs::open(folder.path().join("jobs")).expect("a list");
        List { folder, jobs }
    }

    fn add(&mut self, letter: char, priority: i32, deadline_in_s: Option<u64>) -> u64 {
        let wish = wish(letter, priority, deadline_in_s);
        self.jobs.add(wish, None, 1000).expect("taken")
    }

    fn again(&mut self) {
        self.jobs = Jobs::open(self.folder.path().join("jobs")).expect("the list");
    }

    fn next(&self) -> Option<u64> {
        self.jobs.next(Instant::now()).map(|job| job.id)
    }
}

#[test]
fn the_urgent_goes_first_then_the_one_with_a_deadline_then_the_oldest() {
    let mut list = List::new();
    assert_eq!(list.next(), None);
    let oldest = list.add('a', 0, None);
    let dated = list.add('b', 0, Some(600));
    let sooner = list.add('c', 0, Some(60));
    let urgent = list.add('d', 5, None);
    assert!(list.jobs.is_overtaken(oldest, Instant::now()));
    assert!(!list.jobs.is_overtaken(urgent, Instant::now()));
    for expected in [urgent, sooner, dated, oldest] {
        assert_eq!(list.next(), Some(expected));
        let ready = |job: &mut Job| job.state = State::Ready;
        list.jobs.change(expected, ready).expect("written");
    }
    assert_eq!(list.next(), None);
}

#[test]
fn a_job_outlives_the_process_and_waits_no_more_then() {
    let mut list = List::new();
    let id = list.add('a', 3, Some(60));
    let later = Instant::now() + Duration::from_secs(30);
    let failed = |job: &mut Job| {
        job.attempts = 2;
        job.why = Some("no cache".to_owned());
        job.not_before = Some(later);
    };
    list.jobs.change(id, failed).expect("written");
    assert_eq!(list.next(), None);
    assert!(list.jobs.wait(Instant::now()) > Some(Duration::from_secs(20)));
    list.again();
    assert_eq!(list.next(), Some(id));
    let job = list.jobs.get(id).expect("there").clone();
    assert_eq!(
        (job.attempts, job.priority, job.deadline_s),
        (2, 3, Some(1060))
    );
    // What a crash left half written is nobody's job.
    let folder = list.folder.path().join("jobs");
    fs::write(folder.join(".9"), "{\"id\":").expect("a draft");
    fs::write(folder.join("8.json"), "{\"id\":").expect("a damaged one");
    list.again();
    assert_eq!(list.jobs.all().count(), 1);
    assert_eq!(list.add('b', 0, None), id + 1);
}

#[test]
fn the_same_closure_is_one_job_which_takes_the_new_terms() {
    let mut list = List::new();
    let first = list.add('a', 1, None);
    let mut by_hash = wish('a', 0, Some(60));
    by_hash.roots = vec![hash('a')];
    let again = list.jobs.add(by_hash, Some("web"), 2000).expect("taken");
    assert_eq!(first, again);
    let job = list.jobs.get(first).expect("there");
    assert_eq!((job.priority, job.deadline_s), (1, Some(2060)));
    assert_eq!(job.followed.as_deref(), Some("web"));
    let mut elsewhere = wish('a', 0, None);
    elsewhere.pin = "other".to_owned();
    assert_ne!(list.jobs.add(elsewhere, None, 0).expect("taken"), first);
    // What has ended is begun anew.
    let ready = |job: &mut Job| job.state = State::Ready;
    list.jobs.change(first, ready).expect("written");
    let anew = list.add('a', 1, None);
    assert_ne!(anew, first);
    assert_eq!(list.jobs.about(&hash('a')).map(|job| job.id), Some(anew));
}

#[test]
fn what_has_ended_is_forgotten_in_time_and_what_waits_is_bounded() {
    let mut list = List::new();
    for number in 0..MAX_ENDED + 5 {
        let mut wish = wish('a', 0, None);
        wish.pin = number.to_string();
        let id = list.jobs.add(wish, None, 0).expect("taken");
        let over = |job: &mut Job| job.state = State::GivenUp;
        list.jobs.change(id, over).expect("written");
    }
    assert_eq!(list.jobs.all().count(), MAX_ENDED);
    assert_eq!(list.jobs.all().next().map(|job| job.id), Some(6));
    for number in 0..MAX_WAITING {
        let mut wish = wish('b', 0, None);
        wish.pin = number.to_string();
        list.jobs.add(wish, None, 0).expect("taken");
    }
    let error = list
        .jobs
        .add(wish('c', 0, None), None, 0)
        .expect_err("full");
    assert!(error.to_string().contains("agent cancel"), "{error}");
}

#[test]
fn without_a_deadline_only_what_passes_is_waited_for() {
    let mut list = List::new();
    let plain = list.add('a', 0, None);
    let dated = list.add('b', 0, Some(60));
    let ends = |list: &List, id, passing| list.jobs.get(id).expect("there").ends_s(passing, 500);
    assert_eq!(ends(&list, plain, true), Some(1500));
    assert_eq!(ends(&list, plain, false), Some(0));
    assert_eq!(ends(&list, dated, true), Some(1060));
    assert_eq!(ends(&list, dated, false), Some(1060));
    let id = list.jobs.add(wish('c', 0, None), Some("web"), 0);
    assert_eq!(ends(&list, id.expect("taken"), false), None);
}

#[test]
fn a_job_whose_root_comes_waits_no_more_and_one_that_failed_otherwise_does() {
    let mut list = List::new();
    let (absent, other) = (list.add('a', 0, Some(60)), list.add('b', 0, Some(60)));
    let later = Instant::now() + Duration::from_secs(30);
    for id in [absent, other] {
        let failed = |job: &mut Job| {
            job.not_before = Some(later);
            job.was_absent = id == absent;
        };
        list.jobs.change(id, failed).expect("written");
    }
    list.jobs.came(|job| job.has_root(&hash('c')));
    assert_eq!(list.next(), None, "another path");
    list.jobs.came(|_| true);
    assert_eq!(list.next(), Some(absent));
    assert_eq!(list.jobs.wait(Instant::now()), Some(Duration::ZERO));
    // What comes while it is tried is not forgotten when that fails.
    list.jobs.begun(absent);
    assert_eq!(list.next(), None);
    list.jobs.came(|_| true);
    let failed = |job: &mut Job| job.not_before = Some(later);
    list.jobs.change(absent, failed).expect("written");
    assert_eq!(list.next(), Some(absent));
}
