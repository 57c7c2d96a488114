//! The corpus of real files: what tests/corpus/make-corpus.sh registered in this machine's store,
//! written as binary caches by nix itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::harness::nix::{Nix, Node, User};
use super::Corpus;

/// The corpus of a folder that make-corpus.sh made.
pub fn corpus(made: &Path) -> Corpus {
    let tops = ["top1", "top2"].map(|name| {
        let link = made.join(name);
        let path = fs::canonicalize(&link)
            .unwrap_or_else(|error| panic!("{}: {error}; run: make test-setup", link.display()));
        path.to_string_lossy().into_owned()
    });
    // Tops name the corpus: made anew, it has others, and what was written of the old is of no use.
    let name = made.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("real-{name}-");
    let hash = &tops[1]["/nix/store/".len()..][..8];
    let folder = super::only_folder_for(&prefix, hash);
    if let Some(corpus) = Corpus::load(&folder) {
        return corpus;
    }
    eprintln!("writing {name} as two binary caches (once)");
    let secret = folder.join("key.sec");
    fs::write(&secret, super::key().to_string()).expect("the corpus's folder");
    let only_ours = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&secret, only_ours).expect("our own file");
    let mut user = User::new();
    user.variable("TOPS", &tops.join(" "));
    for (codec, compression) in [("zst", "zstd"), ("raw", "none")] {
        let store = format!(
            "file://{}?compression={compression}&secret-key={}",
            folder.join(codec).display(),
            secret.display()
        );
        user.variable("STORE", &store);
        let script = "nix copy --no-check-sigs --to \"$STORE\" $TOPS";
        Node::this_machine()
            .sh(&user, &Nix::installed(), script)
            .ok();
    }
    let what = format!("{name}: files of Debian packages as store paths, written by nix copy");
    Corpus::finish(&folder, &what, &tops)
}
