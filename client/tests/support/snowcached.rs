//! A real snowcached of the test's own: new data, a free port, gone at the end.

use snowcache::remote::Remote;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub struct Snowcached {
    pub url: String,
    pub data: TempDir,
    child: Child,
}

/// Beside the client, where cargo puts both.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SNOWCACHED") {
        return PathBuf::from(path);
    }
    let beside = PathBuf::from(env!("CARGO_BIN_EXE_snowcache")).with_file_name("snowcached");
    assert!(
        beside.exists(),
        "{} is not built: run `cargo build -p snowcache-server` with the same profile first, or \
         say where it is in $SNOWCACHED",
        beside.display()
    );
    beside
}

impl Snowcached {
    pub fn start() -> Snowcached {
        let data = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(binary())
            .arg("--data")
            .arg(data.path())
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("snowcached starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("says that it is ready");
        let url = line.trim().strip_prefix("snowcached ready on ");
        let url = url
            .unwrap_or_else(|| panic!("snowcached said {line:?}"))
            .to_owned();
        Snowcached { url, data, child }
    }

    pub fn token(&self) -> String {
        let token = std::fs::read_to_string(self.data.path().join("push.token"));
        token.expect("first start writes it").trim().to_owned()
    }

    pub fn remote(&self) -> Remote {
        let endpoint = self.url.parse().expect("a URL");
        Remote::new(endpoint, Some(&self.token())).expect("a token")
    }
}

impl Drop for Snowcached {
    fn drop(&mut self) {
        // Already gone is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
