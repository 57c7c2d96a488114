//! Disks of a test's own: loop-mounted ext4 and xfs whose power can be cut, and a tmpfs that can
//! be full. They need root.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Asks the filesystem of a folder to stop at once without writing what it has gathered
/// (`_IOR('X', 125, u32)` with 2, which ext4 and xfs share): what a power cut leaves.
const CUT: &str = "
import fcntl, os, struct, sys
folder = os.open(sys.argv[1], os.O_RDONLY)
print('ready', flush=True)
sys.stdin.readline()
fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))
print('cut', flush=True)
";

/// Longer than a test of real Nix clients keeps its namespaces.
const UNMOUNTED_WITHIN: Duration = Duration::from_secs(300);

/// Whether disks can be had. Where they cannot (no root), the test has to say so and end; in CI
/// and in long forms that is a failure.
pub fn can_be_had() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    let root = id.stdout.starts_with(b"0\n");
    let must = std::env::var_os("CI").is_some() || super::oracle::long();
    assert!(root || !must, "this test mounts disks: run it as root");
    if !root {
        println!("NOT TESTED: mounting disks needs root");
    }
    root
}

/// A mounted filesystem.
pub struct Disk {
    /// Holds the image and the mount point.
    folder: tempfile::TempDir,
    device: Device,
}

enum Device {
    Image(&'static str),
    Memory,
}

impl Disk {
    /// An empty disk with a filesystem of kind `ext4` or `xfs`, in a sparse image of so many MiB.
    pub fn of(kind: &'static str, mib: u64) -> Disk {
        let folder = super::folder_for_files();
        let image = folder.path().join("image");
        let file = File::create(&image).expect("an image");
        file.set_len(mib << 20).expect("a sparse file");
        run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        let disk = Disk {
            folder,
            device: Device::Image(kind),
        };
        std::fs::create_dir(disk.path()).expect("a mount point");
        disk.mount();
        disk
    }

    /// A tmpfs of so many MiB.
    pub fn in_memory(mib: u64) -> Disk {
        let disk = Disk {
            folder: super::folder_for_files(),
            device: Device::Memory,
        };
        std::fs::create_dir(disk.path()).expect("a mount point");
        let size = format!("size={mib}m");
        let mount = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        run(Command::new("mount").args(mount).arg(disk.path()));
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// A folder on it, which goes with the disk.
    pub fn folder(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir_in(self.path());
        folder.expect("a folder on the disk")
    }

    pub fn mount(&self) {
        if let Device::Image(kind) = self.device {
            let image = self.folder.path().join("image");
            let mut mount = Command::new("mount");
            mount.args(["-t", kind, "-o", "loop"]);
            run(mount.arg(image).arg(self.path()));
        }
    }

    /// Returns when nobody has it mounted any more. (A mount namespace that someone else made
    /// meanwhile has a copy of the mount, and with it the filesystem as it was shut down.)
    pub fn unmount(&self) {
        run(Command::new("umount").arg(self.path()));
        let begin = Instant::now();
        while self.is_attached() {
            assert!(
                begin.elapsed() < UNMOUNTED_WITHIN,
                "another mount namespace holds the disk"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_attached(&self) -> bool {
        let image = self.folder.path().join("image");
        let output = Command::new("losetup").arg("-j").arg(image).output();
        !output.expect("losetup runs").stdout.is_empty()
    }

    /// Prepares the end of its power.
    pub fn switch(&self) -> Switch {
        let mut child = Command::new("python3")
            .args(["-c", CUT])
            .arg(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Switch { child, said }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmount = Command::new("umount").arg("-l").arg(self.path()).status();
        if !unmount.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.path().display());
        }
    }
}

/// A helper that waits for the word, so that the cut comes at once.
pub struct Switch {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Switch {
    /// Cuts the power; a moment shortly before that. What was acknowledged until then counts.
    pub fn cut(mut self) -> Instant {
        let mut word = self.child.stdin.take().expect("a pipe");
        let before = Instant::now();
        word.write_all(b"cut\n").expect("the helper listens");
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a line");
        assert_eq!(line, "cut\n", "the filesystem refuses to be shut down");
        assert!(self.child.wait().expect("the helper ends").success());
        before
    }
}

/// Bytes that a folder's files take.
pub fn used_bytes(folder: &Path) -> u64 {
    let output = Command::new("du").arg("-sB1").arg(folder).output();
    let text = String::from_utf8(output.expect("du runs").stdout).expect("text");
    let number = text.split_whitespace().next().and_then(|n| n.parse().ok());
    number.expect("du prints a number")
}

fn run(command: &mut Command) {
    let output = command.output();
    let output =
        output.unwrap_or_else(|error| panic!("{command:?}: {error}; run: make test-setup"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
