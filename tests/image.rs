//! The container image: made twice it is the same, each part is what its digest says, and crun runs
//! it from its layers alone: as nobody in particular, on a root that it cannot write, without a
//! capability; it serves what Nix pushed and ends cleanly at SIGTERM.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::corpus;
use support::http::Http;
use support::machine::wait_for;
use support::nix::{Nix, Node, User};
use support::server::binary;

/// As Kubernetes' `runAsUser` in config/kubernetes says it, too.
const USER: u32 = 65532;

#[test]
fn the_same_binaries_make_the_same_image() {
    let folder = support::folder_on_disk();
    let [one, other] = ["one", "other"].map(|name| {
        let file = folder.path().join(name);
        make(&file);
        fs::read(file).expect("an image")
    });
    assert!(one == other, "two runs of scripts/image.sh differ");
}

#[test]
fn it_serves_from_its_layers_alone_and_ends_cleanly() {
    let image = Image::unpacked();
    assert_eq!(image.config["User"], json!(format!("{USER}:{USER}")));
    let owner = |name: &str| fs::metadata(image.root.join(name)).expect(name).uid();
    assert_eq!((owner(""), owner("data")), (0, USER));

    let container = Container::start(&image);
    let (user, top) = (container.user(), &corpus::small().top);
    let push = format!("nix copy --to $PUSH {top}");
    Node::this_machine()
        .sh(&user, &Nix::installed(), &push)
        .ok();
    let narinfo = format!("/{}.narinfo", &top["/nix/store/".len()..][..32]);
    let narinfo = container.http().get(&narinfo).is(200).text();
    assert!(
        narinfo.contains(&format!("StorePath: {top}\n")),
        "{narinfo}"
    );
    let take = format!("nix-store --realise {top}");
    Node::empty().sh(&user, &Nix::newer(), &take).ok();

    // The other program, and Docker's health check.
    let test = image.config["Healthcheck"]["Test"]
        .as_array()
        .expect("a check");
    let words = test[1..].iter().map(|word| word.as_str().expect("a word"));
    let address = format!("127.0.0.1:{}", container.port);
    let words: Vec<String> = words
        .map(|w| w.replace("127.0.0.1:8420", &address))
        .collect();
    let healthy = container.crun(&[&["exec".to_owned(), NAME.to_owned()], &words[..]].concat());
    assert!(healthy, "{words:?}");

    let logged = container.stop();
    let token = user_token(&image);
    assert!(
        !logged.contains(&token),
        "a container's log has the push token"
    );
}

const NAME: &str = "snowcached";

fn make(file: &Path) {
    let programs = binary("snowcached");
    let output = Command::new(support::root().join("scripts/image.sh"))
        .arg(file)
        .arg(programs.parent().expect("a folder"))
        .output()
        .expect("scripts/image.sh runs");
    assert!(output.status.success(), "{output:?}");
}

/// The image as files: every part compared with its digest, layers laid over each other.
struct Image {
    folder: tempfile::TempDir,
    root: PathBuf,
    /// What the image says of how it is to be run.
    config: Value,
}

impl Image {
    fn unpacked() -> Image {
        let folder = support::folder_on_disk();
        let (layout, root) = (folder.path().join("layout"), folder.path().join("root"));
        let file = folder.path().join("image.tar");
        make(&file);
        for path in [&layout, &root] {
            fs::create_dir(path).expect("a folder");
        }
        tar(&layout, &["--extract".as_ref(), "--file".as_ref(), &file]);
        let index = json_of(&fs::read(layout.join("index.json")).expect("index.json"));
        let manifest = json_of(&blob(&layout, &index["manifests"][0]).1);
        let config = json_of(&blob(&layout, &manifest["config"]).1);
        let layers = manifest["layers"].as_array().expect("layers");
        let unpacked = config["rootfs"]["diff_ids"].as_array().expect("their tars");
        assert_eq!(layers.len(), unpacked.len());
        for (layer, tar_digest) in layers.iter().zip(unpacked) {
            let (path, _) = blob(&layout, layer);
            let gzip = Command::new("gzip")
                .args(["-dc".as_ref(), path.as_os_str()])
                .output();
            let plain = gzip.expect("gzip runs").stdout;
            assert_eq!(tar_digest, &json!(digest(&plain)));
            let file = folder.path().join("layer.tar");
            fs::write(&file, plain).expect("a layer");
            tar(&root, &["--extract".as_ref(), "--file".as_ref(), &file]);
        }
        Image {
            config: config["config"].clone(),
            folder,
            root,
        }
    }
}

fn tar(folder: &Path, arguments: &[&Path]) {
    let mut command = Command::new("tar");
    command.arg("--directory").arg(folder).args(arguments);
    let status = command.arg("--same-owner").status().expect("tar runs");
    assert!(status.success(), "{arguments:?}");
}

/// What a descriptor stands for; its size and its hash are right.
fn blob(layout: &Path, descriptor: &Value) -> (PathBuf, Vec<u8>) {
    let wanted = descriptor["digest"].as_str().expect("a digest");
    let path = layout.join("blobs").join(wanted.replace(':', "/"));
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(
        digest(&bytes),
        wanted,
        "{} is not what it says",
        path.display()
    );
    assert_eq!(json!(bytes.len()), descriptor["size"]);
    (path, bytes)
}

fn digest(bytes: &[u8]) -> String {
    let hex = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    format!("sha256:{hex}")
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

fn user_token(image: &Image) -> String {
    let token = fs::read_to_string(image.folder.path().join("volume/push.token"));
    token.expect("made at the first start").trim().to_owned()
}

/// The image, running.
struct Container<'a> {
    image: &'a Image,
    process: Option<Child>,
    port: u16,
}

impl Container<'_> {
    fn start(image: &Image) -> Container<'_> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let volume = image.folder.path().join("volume");
        fs::create_dir(&volume).expect("a volume");
        std::os::unix::fs::chown(&volume, Some(USER), Some(USER)).expect("we are root");
        let bundle = bundle(image, port, &volume);
        let file = image.folder.path().join("config.json");
        fs::write(file, bundle.to_string()).expect("a bundle");
        let log = fs::File::create(image.folder.path().join("log")).expect("a log");
        // crun wants cgroup2 and nothing else there, which is so for nobody but it.
        let script = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
        let process = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .args(["crun", "--cgroup-manager=disabled", "--root"])
            .arg(image.folder.path().join("state"))
            .args(["run", "--bundle"])
            .arg(image.folder.path())
            .arg(NAME)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("unshare (util-linux) runs");
        let container = Container {
            image,
            process: Some(process),
            port,
        };
        let ready = || std::net::TcpStream::connect(container.address()).ok();
        assert!(wait_for(ready).is_some(), "{}", container.log());
        assert_eq!(container.http().get("/readyz").status, 200);
        container
    }

    fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    fn http(&self) -> Http {
        Http(self.address())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.image.folder.path().join("log")).unwrap_or_default()
    }

    fn crun(&self, arguments: &[String]) -> bool {
        let mut command = Command::new("crun");
        command
            .arg("--root")
            .arg(self.image.folder.path().join("state"));
        let output = command.args(arguments).output().expect("crun runs");
        output.status.success()
    }

    fn user(&self) -> User {
        let volume = self.image.folder.path().join("volume");
        let keys = fs::read_dir(volume.join("keys"))
            .expect("made at the first start")
            .flatten();
        let mut keys = keys.map(|entry| entry.path());
        let key = keys.find(|path| path.extension().is_some_and(|e| e == "pub"));
        let key = fs::read_to_string(key.expect("a public key")).expect("text");
        let url = format!("http://{}", self.address());
        let mut user = User::new();
        user.set("substituters", &url)
            .set("trusted-public-keys", key.trim())
            .variable("PUSH", &format!("{url}/push?compression=zstd"))
            .netrc(&user_token(self.image));
        user
    }

    /// SIGTERM; it ends with 0. What it had to say.
    fn stop(mut self) -> String {
        assert!(self.crun(&["kill", NAME, "TERM"].map(str::to_owned)));
        let mut process = self.process.take().expect("it runs");
        let status = process.wait().expect("our own child");
        assert!(status.success(), "ended with {status}:\n{}", self.log());
        self.log()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            self.crun(&["delete", "--force", NAME].map(str::to_owned));
            process.wait().ok();
        }
    }
}

/// What crun is to do, by the runtime specification: what the image says, and no more rights than
/// config/kubernetes gives.
fn bundle(image: &Image, port: u16, volume: &Path) -> Value {
    let mut env = image.config["Env"].as_array().expect("a list").clone();
    env.retain(|pair| !pair.to_string().contains("SNOWCACHE_LISTEN"));
    env.push(json!(format!("SNOWCACHE_LISTEN=127.0.0.1:{port}")));
    let nothing: [&str; 0] = [];
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": image.root, "readonly": true },
        "process": {
            "args": image.config["Entrypoint"],
            "env": env,
            "cwd": image.config["WorkingDir"],
            "user": { "uid": USER, "gid": USER },
            "noNewPrivileges": true,
            "capabilities": { "bounding": nothing, "effective": nothing, "permitted": nothing },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
            {
                "destination": "/data",
                "type": "bind",
                "source": volume,
                "options": ["bind", "rw"],
            },
        ],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }] },
    })
}
