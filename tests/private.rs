//! A private cache: reading takes a token, too.

mod support;

use std::fs;

use support::corpus;
use support::nix::{Nix, Node, User};
use support::server::Snowcached;

#[test]
fn stock_nix_reads_a_private_cache_with_a_token_in_its_netrc() {
    let (folder, small) = (support::folder_on_disk(), corpus::small());
    let config = folder.path().join("snowcached.toml");
    fs::write(&config, "[cache]\npublic = false\n").expect("written");
    let config = config.to_str().expect("UTF-8").to_owned();
    let server = Snowcached::start_with(folder, "info", &["--config", &config]);
    let wish = br#"{"subject": "node", "scopes": ["pull"], "expires_in_s": 600}"#;
    let http = server.http();
    let ask = http
        .request("POST", "/api/v1/tokens")
        .bearer(&server.admin_token());
    let made = ask.bytes(wish).send().is(200).json();
    for nix in Nix::both() {
        let copy = format!("nix copy --to \"$PUSH?compression=zstd\" {}", small.top);
        Node::this_machine()
            .sh(&User::of(&server), &nix, &copy)
            .ok();
        let mut reader = User::of(&server);
        reader.netrc(made["token"].as_str().expect("a token"));
        let fetch = format!("nix-store -r {}", small.top);
        Node::empty().sh(&reader, &nix, &fetch).ok();
        // Without a good token there is nothing to be had.
        let mut stranger = User::of(&server);
        stranger.netrc("snow_0123456789abcdef_guessed");
        Node::empty().sh(&stranger, &nix, &fetch).fails();
    }
}
