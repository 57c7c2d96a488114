//! What a hostile or broken client may send: NARs that no Nix would make, narinfos that lie.

use std::fs;

use super::codec::Codec;
use super::nar::{Nar, Upload, base32};

/// Something bad, and what is bad about it.
type Named<T> = (&'static str, T);

/// NARs that no Nix would make.
pub fn bad_nars() -> Vec<Named<Nar>> {
    [badly_framed(), badly_named(), badly_built()].concat()
}

fn badly_framed() -> Vec<Named<Nar>> {
    let good = Nar::of_file(b"content");
    let (whole, length) = (good.0.clone(), good.0.len());
    let mut dirty_padding = good.clone();
    dirty_padding.0[length - 17] = 1;
    vec![
        ("nothing", Nar::default()),
        ("no NAR", Nar(b"<html>404 not found</html>".to_vec())),
        (
            "another archive",
            Nar::default().text("nix-archive-2").file(b"x"),
        ),
        ("truncated", Nar(whole[..length - 8].to_vec())),
        ("truncated in its magic", Nar(whole[..12].to_vec())),
        ("trailing zeros", Nar([whole.clone(), vec![0; 8]].concat())),
        ("trailing NAR", Nar([whole.clone(), whole].concat())),
        ("dirty padding", dirty_padding),
    ]
}

fn badly_named() -> Vec<Named<Nar>> {
    let folder = |names: &[&[u8]]| {
        let open = Nar::new().directory();
        names
            .iter()
            .fold(open, |nar, name| nar.entry(name, |nar| nar.file(b"")))
            .end()
    };
    vec![
        ("unsorted", folder(&[b"b", b"a"])),
        ("duplicate", folder(&[b"a", b"a"])),
        ("..", folder(&[b".."])),
        (".", folder(&[b"."])),
        ("an empty name", folder(&[b""])),
        ("a name with a slash", folder(&[b"a/b"])),
        ("a name with NUL", folder(&[b"a\0b"])),
        ("a long name", folder(&[&[b'n'; 256]])),
        ("an empty target", Nar::new().symlink(b"")),
        ("a target with NUL", Nar::new().symlink(b"a\0b")),
        ("a long target", Nar::new().symlink(&[b't'; 4096])),
    ]
}

fn badly_built() -> Vec<Named<Nar>> {
    let deeper = |nar: Nar, _| nar.directory().words(&["entry", "(", "name", "d", "node"]);
    let mut endless = Nar::new().words(&["(", "type", "regular", "contents"]);
    endless.0.extend_from_slice(&u64::MAX.to_le_bytes());
    vec![
        ("10,000 folders deep", (0..10_000).fold(Nar::new(), deeper)),
        (
            "a type of its own",
            Nar::new().words(&["(", "type", "device", ")"]),
        ),
        ("a file of 2^64-1 bytes", endless),
    ]
}

/// A NAR like any other, of one file with nothing but zeros in it: only its size is an attack.
/// Brotli packs a gigabyte of them into a kilobyte. (zstd makes 32 KiB of it: an empty disk image.)
pub fn canonical_bomb() -> Vec<u8> {
    let folder = super::folder_on_disk();
    let (head, tail) = (folder.path().join("head"), folder.path().join("tail"));
    let mut opening = Nar::new().words(&["(", "type", "regular", "contents"]).0;
    opening.extend_from_slice(&(4_u64 << 30).to_le_bytes());
    fs::write(&head, opening).expect("a file");
    fs::write(&tail, Nar::default().text(")").0).expect("a file");
    let (head, tail) = (head.display(), tail.display());
    let command = format!("{{ cat {head}; head -c 4G /dev/zero; cat {tail}; }}");
    Codec::named("br").compress_output_of(&command)
}

/// The narinfo of an honest upload, with one thing wrong.
pub fn lies(honest: &Upload) -> Vec<Named<String>> {
    [
        about_the_bytes(honest),
        about_the_paths(honest),
        not_even_lies(honest),
    ]
    .concat()
}

fn lie(honest: &Upload, change: impl Fn(&mut Upload)) -> String {
    let mut liar = honest.clone();
    change(&mut liar);
    liar.narinfo()
}

fn someone_else() -> Upload {
    Upload::honest(99, "other", &Nar::of_file(b"other"), Codec::named("xz"))
}

fn about_the_bytes(honest: &Upload) -> Vec<Named<String>> {
    let other = someone_else();
    let url = |url: &str| lie(honest, |u| url.clone_into(&mut u.url));
    let forged = format!("CA: fixed:r:sha256:{}\n", base32(&[7; 32]));
    vec![
        (
            "a wrong NarHash",
            lie(honest, |u| u.nar_hash.clone_from(&other.nar_hash)),
        ),
        (
            "no hash at all",
            lie(honest, |u| u.nar_hash = "sha256:abc".to_owned()),
        ),
        ("a NarSize too small", lie(honest, |u| u.nar_size = 100)),
        ("a NarSize too big", lie(honest, |u| u.nar_size += 1)),
        ("a NarSize of 0", lie(honest, |u| u.nar_size = 0)),
        ("an absolute URL", url("http://evil.example/nar/x.nar.xz")),
        ("a file URL", url("file:///etc/passwd")),
        ("a path from the root", url("/etc/passwd")),
        ("a path upwards", url("nar/../../etc/passwd")),
        ("a NAR that never came", url(&other.url)),
        (
            "an unknown codec",
            lie(honest, |u| u.compression = "rot13".to_owned()),
        ),
        (
            "a forged content address",
            lie(honest, |u| u.more.clone_from(&forged)),
        ),
    ]
}

fn about_the_paths(honest: &Upload) -> Vec<Named<String>> {
    let other = someone_else();
    let called = |path: &str| lie(honest, |u| path.clone_into(&mut u.store_path));
    let referring = |to: &str| lie(honest, |u| u.references = vec![to.to_owned()]);
    vec![
        ("a forged StorePath", called(&other.store_path)),
        (
            "another store",
            called(&honest.store_path.replace("/nix/store", "/gnu/store")),
        ),
        (
            "a StorePath upwards",
            called(&format!("{}/../../etc", honest.store_path)),
        ),
        ("missing references", referring(other.base_name())),
        ("a reference that is none", referring("../../etc/passwd")),
    ]
}

fn not_even_lies(honest: &Upload) -> Vec<Named<String>> {
    let narinfo = honest.narinfo();
    let without = |key: &str| {
        let kept = narinfo
            .lines()
            .filter(|line| line.split(':').next() != Some(key));
        kept.map(|line| format!("{line}\n")).collect::<String>()
    };
    vec![
        ("a duplicate key", format!("{narinfo}NarSize: 1\n")),
        (
            "a duplicate StorePath",
            format!("{narinfo}StorePath: {}\n", honest.store_path),
        ),
        ("no NarHash", without("NarHash")),
        ("no StorePath", without("StorePath")),
        ("no URL", without("URL")),
        ("no narinfo at all", "<html>".to_owned()),
        ("nothing", String::new()),
    ]
}
