//! `snowcache pin`: names for what the cache must keep.
//!
//! Guarantees: what is set is durable when the command ends well; a repeated command changes
//! nothing. Never: a name sent that is no name of a pin.

use super::{denied, print, print_json, subject};
use crate::cli::{PinCommand, PinSetArgs};
use crate::failure::Failure;
use crate::remote::{Generation, Listed, Pin, PinChange, Remote};
use crate::show;
use serde_json::json;
use snowcache_nix::STORE_DIR;

/// As long as the server takes them.
const MAX_NAME_BYTES: usize = 128;
/// Roots that a list shows of each pin.
const SHOWN_ROOTS: usize = 3;

pub(super) async fn run(remote: &Remote, command: PinCommand) -> Result<(), Failure> {
    match command {
        PinCommand::Set(args) => set(remote, &args).await,
        PinCommand::List { json } => list(remote, json).await,
        PinCommand::History { name, json } => history(remote, &name, json).await,
        PinCommand::Rollback { name, to } => rollback(remote, &name, to).await,
        PinCommand::Rm { name } => rm(remote, &name).await,
    }
}

async fn set(remote: &Remote, args: &PinSetArgs) -> Result<(), Failure> {
    check_name(&args.name)?;
    let mut roots = Vec::new();
    for text in &args.paths {
        let subject = subject::parse_whole(text)?;
        roots.push(match &subject.path {
            Some(path) => path.to_string(),
            None => subject.narinfo(remote).await?.info.store_path.to_string(),
        });
    }
    let change = PinChange {
        roots,
        keep: args.keep.clone(),
        expires_in_s: args.expires,
    };
    let set = remote.set_pin(&args.name, &change).await;
    let pin = set.map_err(|error| denied(error, "push.token"))?;
    print(&now_at(&pin))
}

async fn list(remote: &Remote, json: bool) -> Result<(), Failure> {
    let pins = remote.pins().await?;
    if json {
        return print_json(&json!({ "pins": pins }));
    }
    match pins.is_empty() {
        true => print("no pins: `snowcache pin set NAME PATH...` makes one\n"),
        false => print(&pins.iter().map(row).collect::<String>()),
    }
}

async fn history(remote: &Remote, name: &str, json: bool) -> Result<(), Failure> {
    let pin = found(remote, name).await?;
    if json {
        return print_json(&pin);
    }
    let mut text = format!("{}  {}\n", pin.name, rule(&pin.keep, pin.expires));
    for generation in pin.generations.iter().rev() {
        text += &generation_row(generation, generation.number == pin.current);
    }
    print(&text)
}

async fn rollback(remote: &Remote, name: &str, to: Option<u64>) -> Result<(), Failure> {
    let pin = found(remote, name).await?;
    let below = pin.generations.iter().map(|it| it.number);
    let below = below.rev().find(|number| *number < pin.current);
    // With nothing below, the server has the sentence for it.
    let moved = remote.rollback_pin(name, to.or(below)).await;
    let pin = moved.map_err(|error| denied(error, "push.token"))?;
    print(&now_at(&pin))
}

async fn rm(remote: &Remote, name: &str) -> Result<(), Failure> {
    check_name(name)?;
    let removed = remote.remove_pin(name).await;
    match removed.map_err(|error| denied(error, "admin.token"))? {
        true => print(&format!("pin {name} is removed\n")),
        false => Err(absent(remote, name)),
    }
}

async fn found(remote: &Remote, name: &str) -> Result<Pin, Failure> {
    check_name(name)?;
    remote.pin(name).await?.ok_or_else(|| absent(remote, name))
}

fn absent(remote: &Remote, name: &str) -> Failure {
    Failure::failed(format!(
        "there is no pin {name} in {}; `snowcache pin list` shows all",
        remote.endpoint()
    ))
}

fn check_name(name: &str) -> Result<(), Failure> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len());
    match fits && name.bytes().all(good) && !name.starts_with(['.', '-']) {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "{name:?} is no name of a pin: use 1 to {MAX_NAME_BYTES} of A-Z, a-z, 0-9, '.', '_' \
             and '-', and begin with a letter, a digit or '_'"
        ))),
    }
}

fn now_at(pin: &Pin) -> String {
    let current = pin.generations.iter().find(|it| it.number == pin.current);
    let roots = current.map_or(0, |it| it.roots.len());
    format!(
        "pin {} is at generation {}: {}; {}\n",
        pin.name,
        pin.current,
        show::paths(roots),
        rule(&pin.keep, pin.expires)
    )
}

fn row(pin: &Listed) -> String {
    let (count, time) = (show::count(pin.generations), show::time(pin.time));
    let generations = match pin.generations {
        1 => "the only one".to_owned(),
        _ => format!("of {count}"),
    };
    let mut text = format!(
        "{}  generation {} {generations}, {time} by {}; {}\n",
        pin.name,
        pin.current,
        pin.subject,
        rule(&pin.keep, pin.expires)
    );
    for root in pin.roots.iter().take(SHOWN_ROOTS) {
        text += &format!("    {STORE_DIR}/{root}\n");
    }
    if let Some(more) = pin.roots.len().checked_sub(SHOWN_ROOTS + 1) {
        text += &format!("    and {} more\n", show::count(more as u64 + 1));
    }
    text
}

fn generation_row(generation: &Generation, is_current: bool) -> String {
    let mark = if is_current { '*' } else { ' ' };
    let (number, time) = (generation.number, show::time(generation.time));
    let mut text = format!("{mark} {number:>5}  {time}  by {}\n", generation.subject);
    for root in &generation.roots {
        text += &format!("         {STORE_DIR}/{root}\n");
    }
    text
}

fn rule(keep: &str, expires: Option<u64>) -> String {
    match expires {
        None => format!("keeps {keep}"),
        Some(expires) => format!("keeps {keep}, ends {}", show::time(expires)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_lead_elsewhere_is_wrong_usage() {
        for bad in ["", "..", "a/b", "a?b", "-x", "ü", &"x".repeat(129)] {
            let failure = check_name(bad).expect_err(bad);
            assert_eq!(failure.exit(), crate::Exit::Usage);
        }
        assert!(check_name("nixos.web-1_x").is_ok());
    }

    #[test]
    fn a_list_shows_some_roots_and_counts_the_others() {
        let listed = |roots: usize| Listed {
            name: "web".to_owned(),
            current: 7,
            generations: 5,
            keep: "5".to_owned(),
            expires: Some(1_700_000_000),
            time: 1_600_000_000,
            subject: "push".to_owned(),
            roots: (0..roots).map(|n| format!("hash-{n}")).collect(),
        };
        let shown = row(&listed(5));
        assert_eq!(
            shown,
            "web  generation 7 of 5, 2020-09-13 12:26 UTC by push; keeps 5, ends 2023-11-14 \
             22:13 UTC\n    /nix/store/hash-0\n    /nix/store/hash-1\n    /nix/store/hash-2\n    \
             and 2 more\n"
        );
        assert!(!row(&listed(3)).contains("more"));
    }
}
