//! What Nix's own functional tests expect of signatures, said again for a cache behind HTTP: they
//! travel, they add up, and what carries none that is trusted stays out.

mod support;

use support::nix::{Nix, Node, User, path_infos};
use support::server::Snowcached;

/// A builder with two signing keys, and an outsider who knows the public halves as `$ONE` and
/// `$TWO`.
struct Signers {
    server: Snowcached,
    user: User,
    builder: Node,
}

fn signers(nix: &Nix) -> Signers {
    let server = Snowcached::start();
    let mut user = User::of(&server);
    let builder = Node::empty();
    for (variable, name) in [("ONE", "cache1.example.org"), ("TWO", "cache2.example.org")] {
        let make = format!(
            "cd $HOME; nix-store --generate-binary-cache-key {name} {variable}.sec {variable}.pub
             cat {variable}.pub"
        );
        let public = builder.sh(&user, nix, &make).ok();
        user.variable(variable, &public);
    }
    user.set("substituters", "").set("trusted-public-keys", "");
    Signers {
        server,
        user,
        builder,
    }
}

impl Signers {
    fn sh(&self, nix: &Nix, script: &str) -> support::nix::Ran {
        self.builder.sh(&self.user, nix, script)
    }

    /// The names of the keys that have signed this path, as the cache tells it to someone who
    /// never asked before.
    fn signed_by(&self, nix: &Nix, path: &str) -> Vec<String> {
        let newcomer = User::of(&self.server);
        let info = format!("nix path-info --store $URL --json {path}");
        let info = Node::empty().sh(&newcomer, nix, &info).json();
        let info = &path_infos(info)[0].1;
        assert!(
            info["ultimate"] != true,
            "only a machine's own builds are ultimate"
        );
        let mut names: Vec<String> = info["signatures"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .filter_map(|sig| sig.as_str()?.split(':').next().map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    fn our_name(&self) -> String {
        self.server
            .public_key()
            .split(':')
            .next()
            .expect("name:key")
            .to_owned()
    }
}

const BUILD: &str = "nix-build --no-out-link $FILES/dependencies.nix";

#[test]
fn a_builders_signatures_arrive_and_ours_joins_them() {
    for nix in Nix::both() {
        let all = signers(&nix);
        let top = all
            .sh(
                &nix,
                &format!("{BUILD} --secret-key-files \"$HOME/ONE.sec $HOME/TWO.sec\""),
            )
            .ok();
        all.sh(&nix, &format!("nix copy --to $PUSH {top}")).ok();
        let mut expected = vec![
            "cache1.example.org".into(),
            "cache2.example.org".into(),
            all.our_name(),
        ];
        expected.sort();
        assert_eq!(all.signed_by(&nix, &top), expected);

        let verify = |more: &str| {
            all.sh(
                &nix,
                &format!("nix store verify -r --store $URL {top} {more}"),
            )
        };
        verify("--no-trust").ok();
        assert_eq!(verify("--sigs-needed 1").code, 2, "no key is trusted yet");
        verify("--sigs-needed 1 --trusted-public-keys \"$ONE\"").ok();
        assert_eq!(
            verify("--sigs-needed 2 --trusted-public-keys \"$ONE\"").code,
            2
        );
        verify("--sigs-needed 2 --trusted-public-keys \"$ONE $TWO\"").ok();
        let ours = all.server.public_key();
        verify(&format!(
            "--sigs-needed 3 --trusted-public-keys \"$ONE $TWO {ours}\""
        ))
        .ok();
    }
}

/// By who pushed it; a newer Nix lets others do it too. (2.8 needs a FileHash for that, which only
/// the pusher remembers.)
#[test]
fn a_signature_can_be_added_later() {
    for nix in Nix::both() {
        let all = signers(&nix);
        let top = all
            .sh(&nix, &format!("{BUILD} --secret-key-files $HOME/ONE.sec"))
            .ok();
        all.sh(&nix, &format!("nix copy --to $PUSH {top}")).ok();
        let mut expected = vec!["cache1.example.org".to_owned(), all.our_name()];
        expected.sort();
        assert_eq!(all.signed_by(&nix, &top), expected);

        for signer in [Some(&nix), Nix::both().get(1)].into_iter().flatten() {
            all.sh(
                signer,
                &format!("nix store sign --store $PUSH --key-file $HOME/TWO.sec {top}"),
            )
            .ok();
            let mut expected = expected.clone();
            expected.push("cache2.example.org".into());
            expected.sort();
            assert_eq!(all.signed_by(&nix, &top), expected);
            all.user.forget();
        }
    }
}

#[test]
fn a_pusher_may_sign_while_pushing() {
    for nix in Nix::both() {
        let all = signers(&nix);
        let top = all.sh(&nix, BUILD).ok();
        all.sh(
            &nix,
            &format!("nix copy --to \"$PUSH?secret-key=$HOME/ONE.sec\" {top}"),
        )
        .ok();
        let closure = all.sh(&nix, &format!("nix-store -qR {top}")).ok();
        for path in closure.lines() {
            assert!(
                all.signed_by(&nix, path)
                    .contains(&"cache1.example.org".to_owned()),
                "{path}"
            );
        }
    }
}

#[test]
fn a_store_takes_only_what_a_trusted_key_signed() {
    for nix in Nix::both() {
        let all = signers(&nix);
        let top = all
            .sh(&nix, &format!("{BUILD} --secret-key-files $HOME/ONE.sec"))
            .ok();
        all.sh(&nix, &format!("nix copy --to $PUSH {top}")).ok();
        let copy = |node: &Node, more: &str| {
            node.sh(
                &all.user,
                &nix,
                &format!("nix copy --from $URL {top} {more}"),
            )
        };
        let mut user = User::of(&all.server);
        user.set("trusted-public-keys", "");
        let complaint = Node::empty()
            .sh(&user, &nix, &format!("nix copy --from $URL {top}"))
            .fails();
        assert!(complaint.contains("lacks a"), "{complaint}");
        let node = Node::empty();
        copy(&node, "--trusted-public-keys \"$ONE\"").ok();
        let verify = |more: &str| {
            node.sh(
                &all.user,
                &nix,
                &format!("nix store verify -r {top} {more}"),
            )
        };
        assert_eq!(verify("--trusted-public-keys \"$TWO\"").code, 2);
        verify("--trusted-public-keys \"$ONE\"").ok();

        // Without the check everything comes in, and still has its signatures.
        let careless = Node::empty();
        user.set("require-sigs", "false");
        careless
            .sh(&user, &nix, &format!("nix copy --from $URL {top}"))
            .ok();
        careless
            .sh(
                &all.user,
                &nix,
                &format!("nix store verify -r {top} --trusted-public-keys \"$ONE\""),
            )
            .ok();
    }
}

#[test]
fn what_is_content_addressed_counts_as_signed_by_everyone() {
    for nix in Nix::both() {
        let all = signers(&nix);
        let path = all
            .sh(
                &nix,
                "nix-build --no-out-link $FILES/content-addressed.nix -A flat | head -n1",
            )
            .ok();
        all.sh(&nix, &format!("nix copy --to $PUSH {path}")).ok();
        all.sh(
            &nix,
            &format!("nix store verify --store $URL {path} --sigs-needed 1000"),
        )
        .ok();
        all.sh(
            &nix,
            &format!("nix store sign --store $PUSH --key-file $HOME/ONE.sec {path}"),
        )
        .ok();
        let verify =
            "nix store verify --store $URL --sigs-needed 1000 --trusted-public-keys \"$ONE\"";
        all.sh(&nix, &format!("{verify} {path}")).ok();
        let mut user = User::of(&all.server);
        user.set("trusted-public-keys", "");
        Node::empty()
            .sh(&user, &nix, &format!("nix copy --from $URL {path}"))
            .ok();
    }
}
