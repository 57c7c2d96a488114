//! Runs the README: every command block, in order, as a person would, and compares the output
//! shown there with the real one.
//!
//! The rules:
//! - A ` ```console ` block holds commands and their output. A line that begins with `$ ` is a
//!   command; a command goes on over lines that end in `\` and over lines that begin with `> `.
//!   What follows, up to the next command, is the output shown (stdout and stderr); where nothing
//!   is shown, nothing is compared.
//! - A ` ```sh ` block is a script: it is run as it stands, nothing is compared.
//! - In an output, `…` stands for any text within a line, and a line that is only `…` for any
//!   lines. Nothing else is a placeholder.
//! - Every command must end with 0, but for those whose last output line shown is `[exit code N]`.
//! - A command that serves (`make run`, `…/snowcached …`) is left running: the next command begins
//!   when its whole output was seen.
//! - `make test` and what tests or measures at length (`LONG`) are not run again from here; they
//!   must be targets of the Makefile.
//! - Other languages (` ```toml `, ` ```nix `, ` ```text `, none) are no commands.
//!
//! All commands run in one shell, in the folder of the README, on a machine of their own: an empty
//! /nix, an empty ./var, an empty home, and a network that has nothing but its loopback.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const LONG: [&str; 6] = [
    "make test",
    "make test-long",
    "make test-setup",
    "make check",
    "make bench-storage",
    "cargo test --release",
];
/// Longer than any command of the README takes once the server has been built.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, PartialEq)]
struct Step {
    line: usize,
    command: String,
    shown: Vec<String>,
}

#[test]
fn the_readme_is_true() {
    let text = fs::read_to_string(support::root().join("README.md")).expect("README.md");
    let makefile = fs::read_to_string(support::root().join("Makefile")).expect("Makefile");
    let steps = steps(&text);
    assert!(!steps.is_empty(), "no command block in README.md");
    let mut shell = Shell::start();
    for step in &steps {
        let place = format!("README.md:{}: $ {}", step.line, step.command);
        if LONG.contains(&step.command.as_str()) {
            if let Some(target) = step.command.strip_prefix("make ") {
                let known = makefile.contains(&format!("\n{target}:"));
                assert!(known, "{place}: not a target of the Makefile");
            }
            continue;
        }
        println!("{place}");
        let (shown, code) = step.expectation();
        let (output, ended_with) = shell.run(&step.command, &shown);
        assert!(
            shown.is_empty() || matches(&shown, &output),
            "{place}\nshown:\n{}\nreal:\n{output}",
            shown.join("\n")
        );
        assert_eq!(ended_with, code, "{place}\n{output}");
    }
}

impl Step {
    /// The output shown, and the exit code that is to be.
    fn expectation(&self) -> (Vec<String>, i32) {
        let mut shown = self.shown.clone();
        while shown.last().is_some_and(|line| line.trim().is_empty()) {
            shown.pop();
        }
        let code = shown.last().and_then(|line| {
            line.strip_prefix("[exit code ")?
                .strip_suffix(']')?
                .parse()
                .ok()
        });
        if code.is_some() {
            shown.pop();
        }
        (shown, code.unwrap_or(0))
    }
}

// ---- reading the README ----

fn steps(markdown: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut language: Option<&str> = None;
    let mut continued = false;
    for (line, text) in (1..).zip(markdown.lines()) {
        match (text.trim_start().strip_prefix("```"), language) {
            (Some(name), None) => {
                (language, continued) = (Some(name.trim()), false);
                if name.trim() == "sh" {
                    steps.push(Step {
                        line: line + 1,
                        command: String::new(),
                        shown: Vec::new(),
                    });
                }
            }
            (Some(_), Some(_)) => language = None,
            (None, Some("sh")) => {
                let script = &mut steps
                    .last_mut()
                    .expect("invariant: pushed at the fence")
                    .command;
                *script += &format!("{}{text}", if script.is_empty() { "" } else { "\n" });
            }
            (None, Some("console")) => {
                if let Some(command) = text.strip_prefix("$ ") {
                    steps.push(Step {
                        line,
                        command: command.to_owned(),
                        shown: Vec::new(),
                    });
                    continued = command.ends_with('\\');
                } else {
                    let step = steps
                        .last_mut()
                        .unwrap_or_else(|| panic!("README.md:{line}: output of no command"));
                    let more = text.strip_prefix("> ").filter(|_| step.shown.is_empty());
                    if continued || more.is_some() {
                        step.command += &format!("\n{}", more.unwrap_or(text));
                        continued = continued && text.ends_with('\\');
                    } else {
                        step.shown.push(text.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    steps
}

/// Whether `output` is what was shown.
fn matches(shown: &[String], output: &str) -> bool {
    let lines: Vec<&str> = output.trim_end().lines().map(str::trim_end).collect();
    let shown: Vec<&str> = shown.iter().map(|line| line.trim_end()).collect();
    lines_match(&shown, &lines)
}

fn lines_match(shown: &[&str], real: &[&str]) -> bool {
    match (shown, real) {
        ([], []) => true,
        (["…", rest @ ..], _) => {
            (0..=real.len()).any(|skipped| lines_match(rest, &real[skipped..]))
        }
        ([first, rest @ ..], [line, others @ ..]) => {
            line_matches(first, line) && lines_match(rest, others)
        }
        _ => false,
    }
}

fn line_matches(shown: &str, real: &str) -> bool {
    match shown.split_once('…') {
        None => shown == real,
        Some((before, after)) => real.strip_prefix(before).is_some_and(|rest| {
            let starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            starts
                .into_iter()
                .any(|at| line_matches(after, &rest[at..]))
        }),
    }
}

// ---- running it ----

/// One bash on a machine of its own, told one command after the other.
struct Shell {
    bash: Child,
    stdin: std::process::ChildStdin,
    said: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
    serving: usize,
}

impl Shell {
    fn start() -> Shell {
        let folder = support::folder_on_disk();
        for name in ["nix", "var", "home", "tmp"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        fs::create_dir_all("/nix").expect("/nix, for an empty one to lie over");
        fs::create_dir_all(support::root().join("var"))
            .expect("./var, for an empty one to lie over");
        let script = format!(
            "ip link set lo up; mount --bind {0}/nix /nix; mount --bind {0}/var ./var
             exec bash --norc --noprofile 2>&1",
            folder.path().display()
        );
        let keep = |name: &str| std::env::var_os(name).unwrap_or_default();
        let home = std::path::PathBuf::from(keep("HOME"));
        let or_in_home = |name: &str, folder: &str| match std::env::var_os(name) {
            Some(value) => value,
            None => home.join(folder).into_os_string(),
        };
        // A process-id namespace, so that the servers end with the shell.
        let mut bash = Command::new("unshare")
            .args([
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
                "-euc",
                &script,
            ])
            .env_clear()
            .env("PATH", keep("PATH"))
            .env("HOME", folder.path().join("home"))
            .env("TMPDIR", folder.path().join("tmp"))
            .env("CARGO_HOME", or_in_home("CARGO_HOME", ".cargo"))
            .env("RUSTUP_HOME", or_in_home("RUSTUP_HOME", ".rustup"))
            .env("CCACHE_DIR", or_in_home("CCACHE_DIR", ".cache/ccache"))
            .env("USER", "root")
            .current_dir(support::root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs, as root");
        let stdin = bash.stdin.take().expect("a pipe");
        let said: Arc<Mutex<String>> = Arc::default();
        let (mut stdout, heard) = (bash.stdout.take().expect("a pipe"), Arc::clone(&said));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                heard
                    .lock()
                    .expect("no poison")
                    .push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        Shell {
            bash,
            stdin,
            said,
            _folder: folder,
            serving: 0,
        }
    }

    /// What a command printed, and its exit code (0 of one that still serves).
    fn run(&mut self, command: &str, shown: &[String]) -> (String, i32) {
        let serves = command == "make run"
            || command
                .split(' ')
                .next()
                .is_some_and(|word| word.ends_with("/snowcached"));
        if serves {
            self.serving += 1;
            let log = self
                ._folder
                .path()
                .join(format!("serving-{}.log", self.serving));
            writeln!(self.stdin, "{command} >{} 2>&1 </dev/null &", log.display())
                .expect("a live shell");
            let deadline = Instant::now() + PATIENCE;
            loop {
                let output = fs::read_to_string(&log).unwrap_or_default();
                let done = if shown.is_empty() {
                    output.contains("ready")
                } else {
                    matches(shown, &output)
                };
                if done || Instant::now() > deadline {
                    return (output, 0);
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        self.said.lock().expect("no poison").clear();
        writeln!(self.stdin, "{command}\necho \"[[ended with $?]]\"").expect("a live shell");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.said.lock().expect("no poison").clone();
            let ended = said.split_once("[[ended with ");
            if let Some((output, (code, _))) =
                ended.and_then(|(o, rest)| Some((o, rest.split_once("]]")?)))
            {
                return (output.to_owned(), code.parse().expect("an exit code"));
            }
            assert!(
                Instant::now() < deadline,
                "$ {command}\ndoes not end:\n{said}"
            );
            assert!(
                self.bash.try_wait().expect("our own child").is_none(),
                "the shell ended:\n{said}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.bash.kill().ok();
        self.bash.wait().ok();
    }
}

// ---- the rules themselves ----

#[test]
fn commands_and_outputs_are_told_apart() {
    let text = "words\n```console\n$ one \\\n  more\nout\n\n$ two <<X\n> line\n> X\n```\n\
                ```sh\nthree\nfour\n```\n```toml\n$ no\n```\n";
    let commands: Vec<String> = steps(text).into_iter().map(|step| step.command).collect();
    assert_eq!(
        commands,
        ["one \\\n  more", "two <<X\nline\nX", "three\nfour"]
    );
    assert_eq!(steps(text)[0].expectation(), (vec!["out".to_owned()], 0));
}

#[test]
fn only_an_ellipsis_stands_for_anything() {
    let shown = |lines: &[&str]| {
        lines
            .iter()
            .map(|&line| line.to_owned())
            .collect::<Vec<_>>()
    };
    assert!(matches(
        &shown(&["ready on …:8420", "…", "end"]),
        "ready on 127.0.0.1:8420\na\nb\nend\n"
    ));
    assert!(!matches(
        &shown(&["ready on …:8420", "end"]),
        "ready on 127.0.0.1:8420\na\nend\n"
    ));
    assert!(!matches(&shown(&["a…b"]), "acbd"));
    assert!(matches(&shown(&["…"]), ""));
}
