//! The pages on moving over, run: every `sh` block of a page in order, as one script, with a real
//! old cache in front and a new snowcached behind it, by Nix old and new.
//!
//! A line `export NAME=…` is the reader's own value: the test has its own in its place. Blocks in
//! other languages are no scripts.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use snowcache_nix::NarInfo;
use support::attic::Attic;
use support::machine::wait_for;
use support::nix::{Nix, Node, User, inputs};
use support::running::free_port;
use support::server::{Snowcached, binary};

#[test]
fn from_files_everything_comes_over_and_clients_keep_their_key() {
    for nix in Nix::both() {
        let mut move_ = Move::with_an_old_key();
        let old = move_.old_folder(&nix, "xz");
        let mut user = move_.user();
        user.variable("OLD", &old.to_string_lossy())
            .variable("TOP", &move_.top);
        move_.run("ncps-or-nginx-file.md", &user, &nix, Some("## ncps"));
        move_.assert_served_under_the_old_key(&nix);
    }
}

#[test]
fn from_a_bucket_everything_comes_over() {
    let bucket = Bucket::start();
    for (nix, name) in Nix::both().into_iter().zip(["old-nix", "new-nix"]) {
        let mut move_ = Move::with_an_old_key();
        move_.install_key();
        bucket.fill(name, &move_.old_folder(&nix, "xz"));
        let mut user = move_.user();
        user.variable("OLD", name)
            .variable("PORT", &free_port().to_string());
        for (variable, value) in bucket.variables() {
            user.variable(variable, &value);
        }
        move_.run("s3-bucket.md", &user, &nix, None);
        move_.assert_served_under_the_old_key(&nix);
    }
}

#[test]
fn from_a_store_everything_comes_over() {
    for nix in Nix::both() {
        let mut move_ = Move::with_an_old_key();
        let user = move_.user();
        move_.run("harmonia.md", &user, &nix, None);
        move_.assert_served_under_the_old_key(&nix);
    }
}

/// attic has to be given: `SNOWCACHE_BENCH_ATTIC` is the path of `atticd`, with `atticadm` beside
/// it.
#[test]
fn from_attic_everything_comes_over() {
    let Some(atticd) = std::env::var_os("SNOWCACHE_BENCH_ATTIC") else {
        eprintln!("SNOWCACHE_BENCH_ATTIC names no atticd: only the page's words were looked at");
        return;
    };
    for nix in Nix::both() {
        let mut move_ = Move::with_an_old_key();
        let attic = Attic::start(Path::new(&atticd)).expect("attic");
        let old = move_.old_folder(&nix, "none");
        for entry in fs::read_dir(&old).expect("a folder") {
            let file = entry.expect("an entry").path();
            if file.extension().is_some_and(|name| name == "narinfo") {
                let text = fs::read_to_string(file).expect("a narinfo");
                let info = NarInfo::parse(&text).expect("a narinfo");
                let nar = fs::File::open(old.join(info.url)).expect("a NAR");
                attic.upload(&info, nar).expect("uploaded");
            }
        }
        move_.old_public_key = attic.public_key().expect("a key");
        let database = attic.database().to_string_lossy();
        let mut user = move_.user();
        user.variable("OLD", &attic.url())
            .variable("DATABASE", &database);
        move_.run("attic.md", &user, &nix, None);
        move_.assert_served_under_the_old_key(&nix);
    }
}

#[test]
fn the_pages_of_all_peers_are_there_and_say_whether_they_are_tested() {
    for page in ["attic", "harmonia", "s3-bucket", "ncps-or-nginx-file"] {
        let text = page_text(&format!("{page}.md"));
        assert!(text.to_lowercase().contains("tested"), "{page}");
    }
}

/// A new server, and an old cache with a key that clients trust.
struct Move {
    new: Snowcached,
    builder: Node,
    folder: tempfile::TempDir,
    /// A closure of four paths that the builder has, kept by a root.
    top: String,
    old_public_key: String,
}

impl Move {
    fn with_an_old_key() -> Move {
        let (builder, folder) = (Node::empty(), support::folder_on_disk());
        let (secret, public) = (folder.path().join("old.sec"), folder.path().join("old.pub"));
        let build = format!(
            "nix-store --generate-binary-cache-key old-cache-1 {} {}
             nix-build --out-link /nix/var/nix/gcroots/kept $FILES/dependencies.nix",
            secret.display(),
            public.display()
        );
        let top = builder.sh(&User::new(), &Nix::installed(), &build).ok();
        Move {
            new: Snowcached::start(),
            builder,
            top,
            old_public_key: fs::read_to_string(public).expect("a key").trim().to_owned(),
            folder,
        }
    }

    /// What the builder has, as files, signed.
    fn old_folder(&self, nix: &Nix, compression: &str) -> std::path::PathBuf {
        let old = self.folder.path().join("old");
        let key = self.folder.path().join("old.sec");
        let copy = format!(
            "nix copy --to 'file://{}?compression={compression}&secret-key={}' {}",
            old.display(),
            key.display(),
            self.top
        );
        self.builder.sh(&User::new(), nix, &copy).ok();
        old
    }

    fn install_key(&mut self) {
        let target = self.new.data().join("keys/old-cache-1.sec");
        fs::copy(self.folder.path().join("old.sec"), target).expect("a copy");
        self.restart();
    }

    fn user(&self) -> User {
        let programs = binary("snowcache");
        let programs = programs.parent().expect("a folder").display().to_string();
        let mut user = User::of(&self.new);
        user.variable("NEW", &self.new.url())
            .variable("DATA", &self.new.data().to_string_lossy())
            .variable("KEY", &self.folder.path().join("old.sec").to_string_lossy())
            .variable("PROGRAMS", &programs);
        user
    }

    /// The page's scripts, up to a heading. What the page says in words is done here: after the key
    /// was brought the server is restarted.
    fn run(&mut self, page: &str, user: &User, nix: &Nix, until: Option<&str>) {
        let text = page_text(page);
        let text = until.map_or(&*text, |heading| text.split(heading).next().unwrap_or(""));
        for block in scripts(text) {
            let script = format!("export PATH=$PATH:$PROGRAMS\n{block}");
            self.builder.sh(user, nix, &script).ok();
            if block.contains("/keys/") {
                self.restart();
            }
        }
    }

    fn restart(&mut self) {
        self.new.stop();
        self.new.start_again();
    }

    fn assert_served_under_the_old_key(&self, nix: &Nix) {
        let mut user = User::new();
        user.set("substituters", &self.new.url())
            .set("trusted-public-keys", &self.old_public_key);
        let take = format!("nix-store --realise {}", self.top);
        Node::empty().sh(&user, nix, &take).ok();
    }
}

fn page_text(page: &str) -> String {
    let path = support::root().join("docs/moving").join(page);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The `sh` blocks, without the lines that set the reader's own values.
fn scripts(text: &str) -> Vec<String> {
    let blocks = text.split("```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap_or_default());
    let lines = |block: &str| {
        let lines = block.lines().filter(|line| !line.starts_with("export "));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    blocks
        .map(lines)
        .filter(|script| !script.trim().is_empty())
        .collect()
}

/// A real S3 server, SeaweedFS.
struct Bucket {
    process: Child,
    port: u16,
    /// Of its ports for gRPC, each of which has a socket in /tmp.
    grpc: [u16; 4],
    _folder: tempfile::TempDir,
}

impl Bucket {
    fn start() -> Bucket {
        let weed = inputs().join("python/bin/weed");
        assert!(
            weed.exists(),
            "{} is missing; run: make test-setup",
            weed.display()
        );
        let folder = support::folder_on_disk();
        let users = folder.path().join("users.json");
        let text = r#"{ "identities": [ { "name": "old",
            "credentials": [ { "accessKey": "key", "secretKey": "secret" } ],
            "actions": [ "Admin", "Read", "Write", "List" ] } ] }"#;
        fs::write(&users, text).expect("a file");
        let (port, log) = (free_port(), folder.path().join("log"));
        let log = fs::File::create(log).expect("a log");
        // Each port of its own has another one for gRPC, 10,000 above.
        let [master, volume, filer] = [(); 3].map(|()| low_port());
        let s3_grpc = low_port();
        let socket = |of: &str| format!("-{of}.localSocket={}/{of}", folder.path().display());
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(weed)
            .arg(format!("-logdir={}", folder.path().display()))
            .args([
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-filer",
                "-s3",
            ])
            .arg(format!("-dir={}", folder.path().display()))
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-s3.port={port}"))
            .arg(format!("-s3.port.grpc={s3_grpc}"))
            .args([socket("filer"), socket("s3")])
            .arg(format!("-s3.config={}", users.display()))
            .arg("-master.volumeSizeLimitMB=64")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("setpriv (util-linux) runs");
        let bucket = Bucket {
            process,
            port,
            grpc: [master + 10_000, volume + 10_000, filer + 10_000, s3_grpc],
            _folder: folder,
        };
        let answers = || bucket.rclone(&["lsd", ":s3:"]).then_some(());
        wait_for(answers).expect("SeaweedFS answers");
        bucket
    }

    fn fill(&self, name: &str, from: &Path) {
        let to = format!(":s3:{name}");
        let filled = || {
            let made = self.rclone(&["mkdir", &to]);
            (made && self.rclone(&["copy", &from.to_string_lossy(), &to])).then_some(())
        };
        wait_for(filled).expect("the bucket takes the old cache");
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("RCLONE_CONFIG", "/dev/null".to_owned()),
            ("RCLONE_S3_PROVIDER", "Other".to_owned()),
            (
                "RCLONE_S3_ENDPOINT",
                format!("http://127.0.0.1:{}", self.port),
            ),
            ("RCLONE_S3_ACCESS_KEY_ID", "key".to_owned()),
            ("RCLONE_S3_SECRET_ACCESS_KEY", "secret".to_owned()),
        ]
    }

    fn rclone(&self, arguments: &[&str]) -> bool {
        let output = Command::new("rclone")
            .args(arguments)
            .args(["--retries=1", "--low-level-retries=1"])
            .env_remove("AWS_CA_BUNDLE")
            .envs(self.variables())
            .output();
        output
            .expect("rclone runs; run: make test-setup")
            .status
            .success()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        for (of, port) in ["master", "volume", "filer", "s3"].iter().zip(self.grpc) {
            fs::remove_file(format!("/tmp/seaweedfs-{of}-grpc-{port}.sock")).ok();
        }
    }
}

/// A free port whose neighbour 10,000 above is one, too.
fn low_port() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let seed = free_port() % 9_000;
    let mut ports = (12_000..22_000)
        .cycle()
        .skip(usize::from(seed))
        .take(10_000);
    let found = ports.find(|port| free(*port) && free(port + 10_000));
    found.expect("a free pair of ports")
}
