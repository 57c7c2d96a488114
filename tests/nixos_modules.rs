//! The NixOS modules and the flake, evaluated by real Nix, old and new, against a stand-in of
//! nixpkgs' option system that is ours (tests/nixos/stand-in.nix).
//!
//! So it is not proven here that nixpkgs takes them; but what they render is real: the server reads
//! the file, systemd the unit, and Nix builds the check that refuses a wrong key.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use support::nix::{Nix, Node, Ran, User};
use support::server::{Snowcached, binary};

/// By `systemd-analyze security`, in tenths.
const EXPOSURE_AT_MOST: &str = "15";

#[test]
fn the_module_makes_the_units_that_are_shipped() {
    for nix in Nix::both() {
        let report = Machine::with("services.snowcached.enable = true;").report(&nix);
        for (made, shipped) in [
            ("services", "snowcached.service"),
            ("sockets", "snowcached.socket"),
        ] {
            let text = support::root().join("config/systemd").join(shipped);
            let text = fs::read_to_string(text).expect("a shipped unit");
            let rendered = report[made]["snowcached"].as_str().expect("a unit");
            assert_eq!(lines_of(rendered), lines_of(&text), "{shipped}");
        }
        assert_eq!(report["users"], json!(["snowcache"]));
        assert_eq!(report["ports"], json!([]));
        assert_eq!(report["failed"], json!([]));
    }
}

#[test]
fn the_agents_module_makes_the_units_that_are_shipped() {
    for nix in Nix::both() {
        let plain = Machine::with("services.snowcache-agent.enable = true;").report(&nix);
        let unit = support::root().join("config/systemd/snowcache-agent.service");
        let unit = fs::read_to_string(unit).expect("a shipped unit");
        let rendered = plain["services"]["snowcache-agent"]
            .as_str()
            .expect("a unit");
        assert_eq!(lines_of(rendered), lines_of(&unit));
        for (made, shipped) in [("services", "service"), ("paths", "path")] {
            let file = format!("config/systemd/snowcache-confirm.{shipped}");
            let file = fs::read_to_string(support::root().join(file)).expect("a shipped unit");
            // NixOS has the programs elsewhere.
            let file = file
                .lines()
                .filter(|line| !line.starts_with("Environment=PATH"));
            let file: String = file.map(|line| format!("{line}\n")).collect();
            let rendered = plain[made]["snowcache-confirm"].as_str().expect("a unit");
            assert_eq!(lines_of(rendered), lines_of(&file), "{shipped}");
        }
        assert_eq!(plain["checks"], json!({}));
        let gated = "services.snowcache-agent = { enable = true; gate = true; };";
        let gated = Machine::with(gated).report(&nix);
        let check = gated["checks"]["snowcache"].as_str().expect("a script");
        assert!(check.contains("/bin/snowcache gate \"$1\""), "{check}");
        let off = "services.snowcache-agent = { enable = true; daemon = false; };";
        assert_eq!(Machine::with(off).report(&nix)["services"], json!({}));
    }
}

#[test]
fn the_agent_reads_the_file_that_the_settings_become() {
    let machine = Machine::with(
        r#"services.snowcache-agent = {
            enable = true;
            proxy = "http://proxy.example.org:3128";
            caches = [ { url = "http://cache:8420"; publicKeys = [ "a-1:AAAA" ]; } ];
            settings = {
                group = "wheel";
                fetch.rate = "50MB/s";
                follow = [ { pin = "web"; as = "system"; } { pin = "tools"; } ];
            };
        };"#,
    );
    for nix in Nix::both() {
        let report = machine.report(&nix);
        let unit = report["services"]["snowcache-agent"]
            .as_str()
            .expect("a unit");
        for line in [
            "all_proxy=http://proxy.example.org:3128\n",
            "no_proxy=localhost,",
        ] {
            assert!(unit.contains(&format!("Environment={line}")), "{unit}");
        }
        // To build it is to have the agent check it.
        let built = machine.run(&nix, "nix-build --no-out-link -A agent").ok();
        let command = machine
            .node
            .sh(&User::new(), &nix, &format!("cat {built}"))
            .ok();
        let file = command.split_whitespace().last().expect("--config FILE");
        let text = fs::read_to_string(machine.node.outside(file)).expect("the file");
        for line in [
            "group = \"wheel\"",
            "caches = [\"http://cache:8420\"]",
            "rate = \"50MB/s\"",
            "{ as = \"system\", pin = \"web\" }",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let wrong = "services.snowcache-agent = { enable = true; settings.fetch.rat = \"1\"; };";
        let wrong = Machine::with(wrong).run(&nix, "nix-build --no-out-link -A agent");
        let complaint = wrong.fails();
        assert!(
            complaint.contains("did you mean `fetch.rate`"),
            "{complaint}"
        );
    }
}

#[test]
fn the_server_reads_the_file_that_the_settings_become() {
    let machine = Machine::with(
        r#"services.snowcached = {
            enable = true;
            settings = {
                listen = [ "0.0.0.0:8420" "[::]:8420" "unix:/run/snowcache/http.sock" ];
                public_url = "https://cache.example.org";
                cache.priority = 20;
                depot.max_size_bytes = 500000000000;
            };
        };"#,
    );
    for nix in Nix::both() {
        let start = machine.start(&nix);
        let command = start.ok();
        let file = command.split_whitespace().last().expect("--config FILE");
        let output = Command::new(binary("snowcached"))
            .args(["check-config", "--config"])
            .arg(machine.node.outside(file))
            .output()
            .expect("snowcached runs");
        let effective = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        for line in [
            "listen = \"systemd\"",
            "data = \"/var/lib/snowcache\"",
            "public_url = \"https://cache.example.org\"",
            "priority = 20",
            "max_size_bytes = 500000000000",
        ] {
            assert!(effective.contains(line), "{line} is not in\n{effective}");
        }
        let sockets = &machine.report(&nix)["sockets"]["snowcached"];
        for line in [
            "ListenStream=0.0.0.0:8420\n",
            "ListenStream=[::]:8420\n",
            "ListenStream=/run/snowcache/http.sock\n",
            "BindIPv6Only=ipv6-only\n",
        ] {
            assert!(sockets.as_str().expect("text").contains(line), "{sockets}");
        }
    }
}

#[test]
fn a_key_that_does_not_exist_fails_the_build_and_is_named() {
    let machine =
        Machine::with("services.snowcached = { enable = true; settings.cache.prioritty = 20; };");
    for nix in Nix::both() {
        let complaint = machine.start(&nix).fails();
        for word in ["cache.prioritty", "cache.priority"] {
            assert!(complaint.contains(word), "{complaint}");
        }
    }
}

#[test]
fn wrong_options_are_refused_and_named() {
    for (settings, complaint) in [
        (
            "services.snowcached.enabel = true;",
            "services.snowcached.enabel",
        ),
        (
            r#"services.snowcached = { enable = true; openFirewall = "yes"; };"#,
            "services.snowcached.openFirewall",
        ),
        (
            r#"services.snowcached = { enable = true; settings.listen = "127.0.0.1:1"; };"#,
            "services.snowcached.settings.listen",
        ),
        (
            r#"services.snowcache-agent = { enable = true; caches = [ { url = "cache"; } ]; };"#,
            "services.snowcache-agent.caches",
        ),
    ] {
        let said = Machine::with(settings).evaluate(&Nix::installed()).fails();
        assert!(said.contains(complaint), "{settings}: {said}");
    }
}

#[test]
fn what_a_machine_opens_is_what_others_can_reach() {
    let machine = Machine::with(
        r#"services.snowcached = {
            enable = true;
            openFirewall = true;
            environmentFile = "/run/secrets/snowcached";
            settings = {
                listen = [ "127.0.0.1:1" "[::1]:2" "0.0.0.0:8420" "[::]:8420" "unix:/run/s" ];
                data = "/srv/snowcache";
                metrics.listen = "0.0.0.0:9420";
                http.drain_delay_s = 15;
            };
        };"#,
    );
    let report = machine.report(&Nix::installed());
    assert_eq!(report["ports"], json!([8420, 9420]));
    assert_eq!(
        report["tmpfiles"],
        json!(["d /srv/snowcache 0700 snowcache snowcache -"])
    );
    let unit = report["services"]["snowcached"].as_str().expect("a unit");
    for line in [
        "PrivateNetwork=false\n",
        "RestrictAddressFamilies=AF_INET6\n",
        "ReadWritePaths=/srv/snowcache\n",
        "EnvironmentFile=/run/secrets/snowcached\n",
        "TimeoutStopSec=105\n",
    ] {
        assert!(unit.contains(line), "{line} is not in\n{unit}");
    }
    // Also where it has a network.
    let folder = support::folder_on_disk();
    let file = folder.path().join("snowcached.service");
    fs::write(&file, unit).expect("a unit");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={EXPOSURE_AT_MOST}"))
        .arg(&file)
        .output()
        .expect("systemd-analyze runs; run: make test-setup");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

#[test]
fn an_agent_says_in_nix_conf_what_the_server_prints() {
    let server = Snowcached::start();
    let (url, key) = (server.url(), server.public_key());
    let settings = format!(
        r#"services.snowcache-agent = {{
            enable = true;
            caches = [ {{ url = "{url}"; publicKeys = [ "{key}" ]; }} ];
        }};"#
    );
    let report = Machine::with(&settings).report(&Nix::installed());
    let nix = report["nix"].as_object().expect("a set").iter();
    let text = |value: &Value| value.to_string().replace('"', "");
    let nix: BTreeMap<&str, String> = nix.map(|(k, v)| (k.as_str(), text(v))).collect();
    let said = server.said.lock().expect("no poison").join("\n");
    for (name, value) in &nix {
        let value = value.trim_matches(['[', ']']);
        let line = format!("\n{name} = {value}");
        assert!(said.contains(&line), "{line} is not in\n{said}");
    }
    assert!(nix.contains_key("stalled-download-timeout"), "{nix:?}");
    assert_eq!(report["variables"]["SNOWCACHE_URL"], json!(url));
}

#[test]
fn the_examples_of_the_page_are_machines() {
    let page = fs::read_to_string(support::root().join("docs/install.md")).expect("a page");
    let blocks = page.split("```nix\n").skip(1);
    let blocks: Vec<&str> = blocks.filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2, "a server and an agent");
    let server = Machine::of(blocks[0]);
    let report = server.report(&Nix::installed());
    assert_eq!(report["ports"], json!([8420]));
    server.start(&Nix::installed()).ok();
    let agent = Machine::of(blocks[1]).report(&Nix::installed());
    assert_eq!(agent["nix"]["fallback"], json!(true));
    for line in snowcache_core::failover::NIX_CONF {
        assert!(page.contains(&format!("\n{line}\n")), "{line}");
    }
}

#[test]
fn the_flake_exports_packages_modules_checks_and_a_shell() {
    let version = env!("CARGO_PKG_VERSION");
    let packages =
        json!({ "server": "snowcached", "client": "snowcache", "default": "snowcached" });
    for nix in Nix::both() {
        let flake = support::root().join("tests/nixos/flake.nix");
        let script = format!("nix-instantiate --eval --strict --json {}", flake.display());
        let exports = Node::empty().sh(&User::new(), &nix, &script).json();
        assert_eq!(
            exports,
            json!({
                "packages": { "x86_64-linux": packages, "aarch64-linux": packages },
                "modules": ["agent", "server"],
                "checks": ["client", "server", "unit"],
                "shells": ["default"],
                "server": "snowcached",
                "agent": "snowcache",
                "version": version,
            })
        );
    }
}

/// A machine with the modules and some settings.
struct Machine {
    settings: String,
    node: Node,
    programs: tempfile::TempDir,
}

impl Machine {
    fn with(settings: &str) -> Machine {
        Machine::of(&format!("{{ {settings} }}"))
    }

    /// With a module.
    fn of(module: &str) -> Machine {
        let programs = support::folder_on_disk();
        let bin = programs.path().join("bin");
        fs::create_dir(&bin).expect("a folder");
        for name in ["snowcached", "snowcache"] {
            std::os::unix::fs::symlink(binary(name), bin.join(name)).expect("a link");
        }
        Machine {
            settings: module.to_owned(),
            node: Node::empty(),
            programs,
        }
    }

    fn run(&self, nix: &Nix, command: &str) -> Ran {
        let eval = support::root().join("tests/nixos/eval.nix");
        let file = self.programs.path().join("settings.nix");
        fs::write(&file, &self.settings).expect("a file");
        let script = format!(
            "{command} {} --arg settings 'import {}' --argstr programs {}",
            eval.display(),
            file.display(),
            self.programs.path().display()
        );
        self.node.sh(&User::new(), nix, &script)
    }

    fn evaluate(&self, nix: &Nix) -> Ran {
        self.run(
            nix,
            "nix-instantiate --eval --strict --json --read-write-mode -A report",
        )
    }

    fn report(&self, nix: &Nix) -> Value {
        self.evaluate(nix).json()
    }

    /// Builds what the service needs; its command line.
    fn start(&self, nix: &Nix) -> Ran {
        let built = self.run(nix, "nix-build --no-out-link -A start");
        match built.failed() {
            true => built,
            false => self
                .node
                .sh(&User::new(), nix, &format!("cat {}", built.ok())),
        }
    }
}

/// The settings of a unit, sorted, as systemd understands them; without those that name files of
/// the one system or the other.
fn lines_of(unit: &str) -> Vec<String> {
    let lines = unit
        .lines()
        .filter(|line| line.contains('=') && !line.starts_with('#'));
    let elsewhere = |line: &&str| !line.starts_with("Exec") && !line.starts_with("EnvironmentFile");
    let mut lines: Vec<String> = lines
        .filter(elsewhere)
        .map(|line| match line.split_once('=').expect("KEY=VALUE") {
            (key, "yes") => format!("{key}=true"),
            (key, "no") => format!("{key}=false"),
            _ => line.to_owned(),
        })
        .collect();
    lines.sort();
    lines
}
