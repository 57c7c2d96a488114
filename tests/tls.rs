//! Stock Nix and our own client over https: with the authority they push and fetch, without it they
//! do neither; a certificate that is renewed on the way is not noticed.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::nix::{Nix, Node, User};
use support::server::{Snowcached, binary};

/// Certificates for 127.0.0.1, and the authority that made them.
fn made(name: &str) -> PathBuf {
    support::root().join("server/tests/server/tls").join(name)
}

fn place(name: &str, folder: &Path, file: &str) {
    // As certificate managers do it: another file under the same name.
    fs::copy(made(name), folder.join("new")).expect("a copy");
    fs::rename(folder.join("new"), folder.join(file)).expect("renamed");
}

fn encrypted(certificates: &Path) -> Snowcached {
    place("first.pem", certificates, "c.pem");
    place("first.key", certificates, "c.key");
    let config = certificates.join("s.toml");
    let folder = certificates.display();
    let text = format!(
        "[tls]\ncertificate_file = \"{folder}/c.pem\"\nkey_file = \"{folder}/c.key\"\n\
         reload_interval_s = 1\n"
    );
    fs::write(&config, text).expect("a configuration");
    let config = config.to_string_lossy();
    Snowcached::start_with(support::folder_on_disk(), "info", &["--config", &config])
}

#[test]
fn nix_pushes_and_fetches_over_https_also_while_the_certificate_is_renewed() {
    for nix in Nix::both() {
        let certificates = support::folder_on_disk();
        let server = encrypted(certificates.path());
        let url = format!("https://{}", server.address());
        let mut user = User::of(&server);
        user.set("substituters", &url);
        fs::write(user.home().join("a.txt"), "over https\n").expect("a file");
        let builder = Node::empty();
        let path = builder.sh(&user, &nix, "nix-store --add $HOME/a.txt").ok();
        let push = format!("nix copy --to '{url}/push?compression=zstd' {path}");
        let stranger = builder.sh(&user, &nix, &push).fails();
        assert!(
            stranger.contains("certificate") || stranger.contains("SSL"),
            "{stranger}"
        );

        user.variable("NIX_SSL_CERT_FILE", &made("ca.pem").to_string_lossy());
        builder.sh(&user, &nix, &push).ok();
        let logged = server.log.len();
        place("second.key", certificates.path(), "c.key");
        place("second.pem", certificates.path(), "c.pem");
        let taken = |line: &str| line.contains("a new certificate is in use");
        let patience = Duration::from_secs(60);
        assert!(
            server.log.wait_for(logged, patience, taken).is_some(),
            "never taken"
        );
        let machine = Node::empty();
        machine
            .sh(&user, &nix, &format!("nix-store --realise {path}"))
            .ok();
        let arrived = fs::read_to_string(machine.outside(&path)).expect("it is there");
        assert_eq!(arrived, "over https\n");
    }
}

#[test]
fn our_client_reads_over_https() {
    let certificates = support::folder_on_disk();
    let server = encrypted(certificates.path());
    let list = |authority: Option<PathBuf>| {
        let mut command = Command::new(binary("snowcache"));
        command
            .args(["pin", "list"])
            .env("SNOWCACHE_URL", format!("https://{}", server.address()));
        match authority {
            Some(file) => command.env("SSL_CERT_FILE", file),
            None => command.env_remove("SSL_CERT_FILE"),
        };
        command.output().expect("snowcache runs").status.success()
    };
    assert!(list(Some(made("ca.pem"))));
    assert!(!list(None), "who made this certificate is known to nobody");
}
