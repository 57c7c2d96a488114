//! The recipes of config/ci, run step by step where their services cannot be: on a machine with a
//! real nix, with or without its daemon, and with a real cache. What a service itself does (finding
//! a runner, installing nix, handing out secrets) is not.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use support::builder::Builder;
use support::daemon::Daemon;
use support::nix::{Nix, Ran, inputs};
use support::server::binary;

/// A builder's project, in its home: what `nix-build` builds there.
fn project(builder: &Builder) {
    for (from, to) in [
        ("dependencies.nix", "default.nix"),
        ("build.nix", "build.nix"),
    ] {
        let from = support::root().join("tests/nix").join(from);
        fs::copy(from, builder.user.home().join(to)).expect("a copy");
    }
}

/// A recipe whose folder of temporary files is the builder's.
fn recipe(builder: &Builder, name: &str) -> String {
    let path = support::root().join("config/ci").join(name);
    let text = fs::read_to_string(path).expect("a recipe");
    let home = builder.user.home().display();
    text.replace("/var/tmp/", &format!("{home}/"))
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).expect("a program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
}

/// The lines below `key`, a list of commands or a block, without what makes them YAML.
fn below(text: &str, key: &str) -> Vec<String> {
    let mut lines = text.lines();
    let head = lines
        .find(|line| line.trim_start() == key)
        .expect("a key of the recipe");
    let indent = |line: &str| line.len() - line.trim_start().len();
    let deeper = lines.take_while(|line| line.is_empty() || indent(line) > indent(head));
    let words = deeper.map(|line| line.trim_start().trim_start_matches("- ").to_owned());
    words.filter(|line| !line.starts_with('#')).collect()
}

/// The schemas that GitHub and GitLab have published for such files, as of check-jsonschema's
/// release.
const SCHEMAS: [(&str, &[&str]); 2] = [
    ("github-actions.yml", &["vendor.github-workflows"]),
    (
        "gitlab-ci.yml",
        &["vendor.gitlab-ci", "--data-transform", "gitlab-ci"],
    ),
];

/// What the schema has against a recipe.
fn lint(path: &Path, schema: &[&str]) -> Result<(), String> {
    let linter = inputs().join("python/bin/check-jsonschema");
    let mut command = Command::new(&linter);
    command.arg("--builtin-schema").args(schema).arg(path);
    let output = command.output();
    let output = output.unwrap_or_else(|e| panic!("{linter:?}: {e}; run: make test-setup"));
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stdout).into_owned()),
    }
}

#[test]
fn every_recipe_is_what_its_service_or_shell_reads() {
    let folder = support::root().join("config/ci");
    let bad = tempfile::NamedTempFile::with_suffix(".yml").expect("a file");
    for (name, schema) in SCHEMAS {
        let recipe = folder.join(name);
        assert_eq!(lint(&recipe, schema), Ok(()), "{name}");
        // A word that the service does not know is seen.
        let text = fs::read_to_string(&recipe).expect("a recipe");
        let misspelt = text.replace("runs-on:", "run-on:");
        let misspelt = misspelt.replace("  script:", "  scripts:");
        fs::write(bad.path(), misspelt).expect("written");
        assert!(lint(bad.path(), schema).is_err(), "{name}, misspelt");
    }
    let mut scripts = 0;
    for entry in fs::read_dir(&folder).expect("config/ci") {
        let path = entry.expect("a file").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        match path.extension().and_then(|it| it.to_str()) {
            Some("sh") => {
                let read = Command::new("bash").arg("-n").arg(&path).status();
                assert!(read.expect("bash runs").success(), "{name}");
                scripts += 1;
            }
            _ => assert!(SCHEMAS.iter().any(|(known, _)| *known == name), "{name}"),
        }
    }
    assert_eq!(scripts, 2);
}

/// The queue that a recipe leaves in the background, which ends with the job there and with this
/// here.
struct Left<'a>(&'a Builder, &'static str);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        let Left(builder, spool) = self;
        let state = builder.user.home().join(spool).join("state.json");
        let state = fs::read(state).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
        // The last to write it may be a flush, which has ended.
        let kill = format!("kill {} || true", state["pid"]);
        builder.sh(&kill).ok();
    }
}

/// Runs commands where `snowcache` is in PATH.
fn run(builder: &Builder, commands: &[String]) -> Ran {
    let programs = binary("snowcache");
    let programs = programs.parent().expect("a folder").display();
    let bin = builder.user.home().join("bin");
    let path = format!("export PATH={}:{programs}:$PATH\n", bin.display());
    builder.sh(&(path + &commands.join("\n")))
}

#[test]
fn a_job_of_gitlab_pushes_what_it_builds() {
    let mut builder = Builder::new(&Nix::newer());
    project(&builder);
    builder.user.set("post-build-hook", ""); // the recipe sets its own
    let token = builder.server.push_token();
    builder.user.variable("SNOWCACHE_TOKEN", &token);
    let recipe = recipe(&builder, "gitlab-ci.yml");
    let (before, script) = (below(&recipe, "before_script:"), below(&recipe, "script:"));
    assert_eq!((before.len(), script.len()), (3, 2), "{recipe}");
    let _left = Left(&builder, "spool");
    let ran = run(&builder, &[before.clone(), script.clone()].concat()).ok();
    assert_eq!(builder.there(), 4, "{ran}");

    // A job whose pushes are not taken fails, in time.
    let mut other = Builder::new(&Nix::installed());
    project(&other);
    other.user.set("post-build-hook", "");
    other.user.variable("SNOWCACHE_TOKEN", "wrong");
    let script: Vec<String> = [before, script].concat();
    let own = |line: &String| {
        let home = |builder: &Builder| builder.user.home().display().to_string();
        line.replace(&home(&builder), &home(&other))
            .replace("900", "3")
    };
    let _other = Left(&other, "spool");
    let ran = run(&other, &script.iter().map(own).collect::<Vec<_>>());
    let said = ran.fails();
    assert!(said.contains("not there after 3 s"), "{said}");
    assert_eq!(other.there(), 0);
}

/// The steps of the job, in their order; nix with its daemon is there already, as its installer's
/// step leaves it, and `sudo` is root's.
#[test]
fn a_job_of_github_pushes_what_it_builds() {
    let mut builder = Builder::new(&Nix::installed());
    project(&builder);
    let home = builder.user.home().to_owned();
    fs::create_dir(home.join("bin")).expect("a folder");
    program(&home.join("bin/sudo"), "#!/bin/sh\nshift\nexec \"$@\"\n");
    let hook = home.join("push-hook").display().to_string();
    let spool = home.join("snowcache-queue").display().to_string();
    builder.user.set("post-build-hook", &hook);
    builder.user.variable("SNOWCACHE_SPOOL", &spool);
    let token = builder.server.push_token();
    builder.user.variable("SNOWCACHE_TOKEN", &token);
    let recipe = recipe(&builder, "github-actions.yml");
    assert!(
        recipe.contains(&format!("post-build-hook = {hook}\n")),
        "{recipe}"
    );
    assert!(
        recipe.contains(&format!("SNOWCACHE_SPOOL: {spool}\n")),
        "{recipe}"
    );
    let installs = recipe
        .find("install-nix-action")
        .expect("the installer's step");
    assert!(
        recipe.find("push-hook").expect("a hook") < installs,
        "the hook is there before"
    );

    let daemon = Daemon::start(&builder.node, &builder.user, &builder.nix);
    let socket = daemon.socket().to_string_lossy().into_owned();
    builder.user.variable("NIX_DAEMON_SOCKET_PATH", &socket);
    builder.user.variable("NIX_REMOTE", "daemon");
    let steps: Vec<&str> = recipe.split("      - name: ").skip(1).collect();
    let steps: Vec<String> = steps
        .iter()
        .flat_map(|step| below(step, "run: |"))
        .collect();
    assert_eq!(steps.len(), 7, "{steps:?}");
    let _left = Left(&builder, "snowcache-queue");
    let said = run(&builder, &steps).ok();
    assert!(said.contains(" 0 waiting, 0 failed"), "{said}");
    assert_eq!(builder.there(), 4);
}

/// As Hydra's RunCommand plugin calls it: with a file that tells of the build.
#[test]
fn what_hydra_built_is_queued() {
    let builder = Builder::new(&Nix::installed());
    let top = builder.build();
    builder.snowcache(&format!("queue forget {top}")).ok();
    assert_eq!(builder.waiting(), 3);
    let told = |status: u32| {
        let told = format!(
            r#"{{"event": "buildFinished", "build": 7, "job": "hello", "buildStatus": {status},
                 "outputs": [{{"name": "out", "path": "{top}"}}]}}"#
        );
        fs::write(builder.user.home().join("hydra.json"), told).expect("a file");
        let script = support::root().join("config/ci/hydra-runcommand.sh");
        let command = format!("HYDRA_JSON=$PWD/hydra.json {}", script.display());
        builder.sh(&command).ok();
        builder.waiting()
    };
    assert_eq!(told(1), 3, "a build that failed is not queued");
    assert_eq!(told(0), 4);
}
