//! nginx, the yardstick: static files with sendfile, a worker for each core, no access log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::certificate::Certificate;
use super::free_port;
use super::{Running, folder, tied};

/// A running nginx.
pub struct Nginx {
    running: Running,
    tls_port: Option<u16>,
}

impl Nginx {
    /// Serves the folders `raw` and `zst` (or whatever is there) under `root`.
    pub fn start(root: &Path, tls: Option<&Certificate>) -> Result<Nginx, String> {
        let folder = folder("nginx")?;
        let (port, tls_port) = (free_port(), tls.map(|_| free_port()));
        let config = configuration(root, folder.path(), port, tls.zip(tls_port));
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config).map_err(|error| error.to_string())?;
        let mut command = tied(binary().ok_or("nginx is not installed")?);
        command.arg("-c").arg(&file).arg("-p").arg(folder.path());
        let running = Running::start(command, folder, port)?;
        Ok(Nginx { running, tls_port })
    }

    pub fn url(&self) -> String {
        self.running.url()
    }

    pub fn tls_url(&self) -> Option<String> {
        Some(format!("https://127.0.0.1:{}", self.tls_port?))
    }

    pub fn pid(&self) -> u32 {
        self.running.pid()
    }
}

/// Where Debian and NixOS have it; `SNOWCACHE_BENCH_NGINX` names another.
pub fn binary() -> Option<PathBuf> {
    let named = std::env::var_os("SNOWCACHE_BENCH_NGINX").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    named.or_else(|| {
        folders
            .map(|folder| folder.join("nginx"))
            .find(|file| file.exists())
    })
}

/// As `nginx -v` says it: `nginx/1.22.1`.
pub fn version() -> Option<String> {
    let output = Command::new(binary()?).arg("-v").output().ok()?;
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(printed.trim().strip_prefix("nginx version: ")?.to_owned())
}

fn configuration(
    root: &Path,
    folder: &Path,
    port: u16,
    tls: Option<(&Certificate, u16)>,
) -> String {
    // Started by root its workers would be another user, who may not read a checkout.
    let user = match fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own))
    {
        Ok(0) => "user root;",
        _ => "",
    };
    let (root, folder) = (root.display(), folder.display());
    let tls = tls.map_or(String::new(), |(made, port)| {
        format!(
            "listen 127.0.0.1:{port} ssl backlog=4096;\n    ssl_certificate {};\n    \
             ssl_certificate_key {};\n    ssl_protocols TLSv1.2 TLSv1.3;",
            made.certificate.display(),
            made.key.display()
        )
    });
    format!(
        "{user}
daemon off;
worker_processes auto;
worker_rlimit_nofile 19000;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 16000; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  types {{ text/x-nix-narinfo narinfo; application/x-nix-nar nar zst; }}
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    {tls}
    root {root};
  }}
}}
"
    )
}
