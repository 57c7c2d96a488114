//! What happens to a pin in its life.

use super::*;

const DAY: u64 = 86_400;
const NOW: u64 = 1_700_000_000;

fn name() -> PinName {
    "web".parse().expect("a good name")
}

fn path(letter: char) -> StorePath {
    let hash: String = std::iter::repeat_n(letter, 32).collect();
    format!("{hash}-{letter}").parse().expect("a good path")
}

fn roots(letters: &str) -> PinChange {
    PinChange {
        roots: letters.chars().map(path).collect(),
        keep: None,
        expires: None,
    }
}

fn keeping(letters: &str, keep: &str) -> PinChange {
    let keep = Some(keep.parse().expect("a good keep"));
    PinChange {
        keep,
        ..roots(letters)
    }
}

fn set(before: Option<Pin>, change: PinChange, now: u64) -> Pin {
    Pin::set(before, &name(), change, now, "ci").expect("sets")
}

/// A pin that was set to one root after the other, a day apart.
fn daily(letters: &str, keep: &str) -> Pin {
    let days = letters.chars().zip(0..);
    let pin = days.fold(None, |pin, (letter, day)| {
        let change = keeping(&letter.to_string(), keep);
        Some(set(pin, change, NOW + day * DAY))
    });
    pin.expect("at least one letter")
}

fn numbers(pin: &Pin) -> Vec<u64> {
    pin.generations.iter().map(|it| it.number).collect()
}

fn live(pin: &Pin, now: u64) -> String {
    pin.roots(now).map(|root| root.name()).collect()
}

fn refusal<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_new_pin_has_one_generation_and_it_counts() {
    let pin = set(None, roots("ab"), NOW);
    assert_eq!((pin.current, numbers(&pin)), (1, vec![1]));
    assert_eq!((pin.keep, pin.expires), (Keep::Generations(5), None));
    let first = pin.current_generation().expect("there is one");
    assert_eq!((first.time, first.subject.as_str()), (NOW, "ci"));
    assert_eq!(live(&pin, NOW), "ab");
}

#[test]
fn each_set_is_a_generation_and_the_newest_five_stay() {
    let pin = daily("abcdfgh", "5");
    assert_eq!((pin.current, numbers(&pin)), (7, vec![3, 4, 5, 6, 7]));
    assert_eq!(live(&pin, NOW + 99 * DAY), "cdfgh");
    assert_eq!(live(&daily("abc", "1"), NOW), "c");
}

#[test]
fn setting_what_is_set_makes_no_generation_that_pushes_others_out() {
    let mut pin = daily("ab", "2");
    for retry in 0..5 {
        pin = set(Some(pin), keeping("b", "2"), NOW + 2 * DAY + retry);
    }
    assert_eq!(numbers(&pin), [1, 2]);
    let twice = set(None, roots("abab"), NOW);
    assert_eq!(live(&twice, NOW), "ab", "each root once, in its order");
    let turned = set(Some(twice), roots("ba"), NOW);
    assert_eq!(numbers(&turned), [1], "the order says nothing");
}

#[test]
fn keep_stays_until_it_is_said_anew_and_the_end_is_said_each_time() {
    let mut change = keeping("a", "3");
    change.expires = Some(NOW + DAY);
    let pin = set(None, change, NOW);
    let pin = set(Some(pin), roots("b"), NOW);
    assert_eq!((pin.keep, pin.expires), (Keep::Generations(3), None));
    let pin = set(Some(pin), keeping("b", "all"), NOW);
    assert_eq!((pin.keep, numbers(&pin)), (Keep::All, vec![1, 2]));
}

#[test]
fn rolling_back_goes_one_down_and_one_down_again() {
    let pin = daily("abc", "5").rollback(None, NOW).expect("to b");
    assert_eq!((pin.current, numbers(&pin)), (2, vec![1, 2, 3]));
    let pin = pin.rollback(None, NOW).expect("to a");
    assert_eq!(pin.current, 1);
    let says = refusal(pin.clone().rollback(None, NOW));
    assert_eq!(
        says,
        "pin web has no generation before its current one, 1: there are 1 to 3"
    );
    let pin = pin.rollback(Some(3), NOW).expect("forward again");
    assert_eq!(pin.current, 3);
    assert_eq!(live(&pin, NOW), "abc", "a rollback lets nothing go");
}

#[test]
fn a_rollback_to_what_is_gone_names_what_is_there() {
    let pin = daily("abcd", "2").rollback(Some(3), NOW).expect("to c");
    let says = refusal(pin.rollback(Some(1), NOW));
    assert_eq!(says, "pin web has no generation 1: there are 3, 4");
}

#[test]
fn the_current_generation_stays_however_old_it_is() {
    let back = daily("abc", "5").rollback(Some(1), NOW).expect("to a");
    let mut change = back.clone();
    change.keep = Keep::Generations(1);
    assert_eq!(live(&change.pruned(NOW), NOW), "ac", "current and newest");
    let next = set(Some(back), keeping("d", "1"), NOW + 9 * DAY);
    assert_eq!((next.current, numbers(&next)), (4, vec![4]));
}

#[test]
fn by_time_what_was_current_within_it_stays_even_without_a_write() {
    let pin = daily("abc", "30d");
    let b_ended = NOW + 2 * DAY;
    assert_eq!(live(&pin, b_ended + 28 * DAY), "abc");
    assert_eq!(live(&pin, b_ended + 29 * DAY), "bc", "a ended a day before");
    assert_eq!(live(&pin, b_ended + 30 * DAY), "c");
    assert_eq!(live(&pin, b_ended + 999 * DAY), "c");
    assert_eq!(numbers(&pin), [1, 2, 3], "looking changes nothing");
    assert_eq!(numbers(&pin.pruned(b_ended + 30 * DAY)), [3]);
}

#[test]
fn what_a_rollback_left_counts_from_the_rollback_on() {
    let (rolled, left) = (NOW + 10 * DAY, NOW + 100 * DAY);
    let pin = daily("ab", "30d").rollback(Some(1), rolled).expect("to a");
    let pin = set(Some(pin), roots("c"), left);
    assert_eq!(live(&pin, left), "ac", "a ran until now, b until day 10");
    assert_eq!(live(&pin, left + 30 * DAY), "c");
}

#[test]
fn an_expired_pin_keeps_nothing_and_starts_anew_under_higher_numbers() {
    let mut change = roots("c");
    change.expires = Some(NOW + 7 * DAY);
    let pin = set(Some(daily("ab", "all")), change, NOW + 2 * DAY);
    assert_eq!(live(&pin, NOW + 7 * DAY - 1), "abc");
    assert!(pin.is_expired(NOW + 7 * DAY));
    assert_eq!(live(&pin, NOW + 7 * DAY), "");
    let says = refusal(pin.clone().rollback(None, NOW + 7 * DAY));
    assert!(says.contains("has expired") && says.contains("set it anew"));
    let pin = set(Some(pin), roots("c"), NOW + 8 * DAY);
    assert_eq!((numbers(&pin), pin.current), (vec![4], 4));
    assert_eq!(live(&pin, NOW + 99 * DAY), "c");
}

#[test]
fn a_pin_of_nothing_or_of_too_much_is_refused() {
    let says = refusal(Pin::set(None, &name(), roots(""), NOW, "ci"));
    assert_eq!(
        says,
        "pin web was given no store path: name at least one, or remove the pin"
    );
    let many = |count: usize| {
        let numbered = |n| format!("{:032}-x", n).parse().expect("a good path");
        let mut change = roots("");
        change.roots = (0..count).map(numbered).collect();
        Pin::set(None, &name(), change, NOW, "ci")
    };
    assert!(many(MAX_PIN_ROOTS).is_ok());
    assert!(refusal(many(MAX_PIN_ROOTS + 1)).contains("at most 1000"));
}

#[test]
fn even_all_has_an_end_and_the_oldest_go_first() {
    let mut pin = set(None, keeping("a", "all"), NOW);
    for turn in 0..MAX_GENERATIONS as u64 + 9 {
        let letter = if turn % 2 == 0 { "b" } else { "a" };
        pin = set(Some(pin), roots(letter), NOW + turn);
    }
    assert_eq!(pin.generations.len(), MAX_GENERATIONS);
    assert_eq!((pin.generations[0].number, pin.current), (11, 1010));
    let wide = |from: usize| PinChange {
        roots: (from..from + MAX_PIN_ROOTS)
            .map(|n| format!("{n:032}-x").parse().expect("a good path"))
            .collect(),
        ..keeping("", "all")
    };
    let mut pin = set(None, wide(0), NOW);
    for turn in 1..MAX_ROOTS_OF_ALL / MAX_PIN_ROOTS + 3 {
        pin = set(Some(pin), wide(turn), NOW);
    }
    assert_eq!(pin.roots(NOW).count(), MAX_ROOTS_OF_ALL);
}

#[test]
fn names_are_plain() {
    for good in ["a", "_", "nixos.web-1", "Main_2", &"x".repeat(128)] {
        assert_eq!(good.parse::<PinName>().expect(good).as_str(), good);
    }
    for bad in [
        "",
        ".",
        "..",
        ".a",
        "-a",
        "a/b",
        "a b",
        "ü",
        &"x".repeat(129),
    ] {
        let says = refusal(bad.parse::<PinName>());
        assert!(says.contains("use 1 to 128"), "{says}");
    }
}

#[test]
fn what_is_kept_is_written_as_it_was_read() {
    for text in ["all", "1", "5", "45s", "90m", "12h", "30d", "2w"] {
        assert_eq!(text.parse::<Keep>().expect(text).to_string(), text);
    }
    let week: Keep = "7d".parse().expect("7d");
    assert_eq!(
        (week, week.to_string()),
        (Keep::Seconds(7 * DAY), "1w".into())
    );
    let long = format!("{}d", u64::MAX);
    let bad = [
        "",
        "0",
        "0d",
        "-1",
        "+5",
        "d",
        "5x",
        "5 d",
        "1d2h",
        "4294967296",
        &long,
        "ALL",
    ];
    for bad in bad {
        let says = refusal(bad.parse::<Keep>());
        assert!(
            says.contains("write all, a number of generations (5)"),
            "{says}"
        );
    }
}

#[test]
fn the_record_is_json_that_reads_without_this_program() {
    let mut pin = daily("ab", "30d");
    pin.generations[0].subject = "anna".to_owned();
    let cache = CacheName::default_cache();
    let state = PinState { cache, pin };
    let text = serde_json::to_string(&state).expect("writes");
    let (a, b) = ("a".repeat(32), "b".repeat(32));
    let expected = format!(
        "{{\"cache\":\"default\",\"name\":\"web\",\"current\":2,\"keep\":\"30d\",\
         \"expires\":null,\"generations\":[\
         {{\"number\":1,\"roots\":[\"{a}-a\"],\"time\":1700000000,\"subject\":\"anna\",\
         \"until\":1700086400}},\
         {{\"number\":2,\"roots\":[\"{b}-b\"],\"time\":1700086400,\"subject\":\"ci\"}}]}}"
    );
    assert_eq!(text, expected);
    assert_eq!(
        serde_json::from_str::<PinState>(&text).expect("reads"),
        state
    );
    for (good, bad) in [("30d", "30y"), ("\"web\"", "\"../web\""), ("-a\"", "/a\"")] {
        let damaged = text.replacen(good, bad, 1);
        assert!(serde_json::from_str::<PinState>(&damaged).is_err(), "{bad}");
    }
}
