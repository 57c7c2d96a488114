//! `snowcache use`: nix.conf and netrc told of a cache, and of it no more.
//!
//! Guarantees: see [`crate::using`]. The token is where Nix finds it before nix.conf names the
//! cache, and goes after it; both again finish what was cut short. Never: a token printed; one that
//! another cache of the same host needs replaced or removed.

use super::{print, print_json};
use crate::cli::UseArgs;
use crate::failure::Failure;
use crate::nix_conf;
use crate::remote::{Endpoint, Remote};
use crate::using::files::{self, FileError};
use crate::using::place::{Place, Whose};
use crate::using::{Outcome, all, netrc, with, without};
use serde_json::json;
use snowcache_nix::PublicKey;
use std::path::Path;

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// What was done.
struct Done {
    place: Place,
    nix_conf: bool,
    netrc: bool,
}

pub(super) async fn run(
    remote: &Remote,
    args: &UseArgs,
    token: Option<&str>,
) -> Result<(), Failure> {
    let whose = match (args.system, args.user) {
        (true, _) => Whose::System,
        (_, true) => Whose::Mine,
        _ if rustix::process::geteuid().is_root() => Whose::System,
        _ => Whose::Mine,
    };
    let place = Place::of(whose, |path| files::read(path).ok().flatten())?;
    let endpoint = remote.endpoint();
    if endpoint.socket().is_some() {
        let sentence = "Nix speaks to no sockets: name the URL that a proxy has for this cache";
        return Err(Failure::usage(sentence));
    }
    let done = match args.undo {
        true => undo(place, endpoint)?,
        false => put(place, remote, token).await?,
    };
    tell(&done, endpoint, args)
}

/// The cache that is meant: a URL, or a name at another one.
pub(super) fn url(base: &str, cache: Option<&str>) -> String {
    match cache {
        None => base.to_owned(),
        Some(url) if url.contains(':') => url.to_owned(),
        Some(name) => format!("{}/{name}", base.trim_end_matches('/')),
    }
}

async fn put(place: Place, remote: &Remote, token: Option<&str>) -> Result<Done, Failure> {
    let url = remote.endpoint().to_string();
    if remote.cache_info().await?.is_none() {
        let sentence = format!("{url} is no binary cache: it has no nix-cache-info");
        return Err(Failure::failed(sentence));
    }
    let keys = remote.public_keys().await?;
    if keys.is_empty() {
        return Err(Failure::failed(format!(
            "{url} shows no keys, so it is no snowcache: put its lines into nix.conf by hand"
        )));
    }
    check_names(&place.nix_conf, &url, &keys)?;
    let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    let mut lines = format!(
        "extra-substituters = {url}\nextra-trusted-public-keys = {}\n",
        keys.join(" ")
    );
    let netrc = match token {
        None => false,
        Some(token) => {
            if place.names_netrc {
                lines += &format!("netrc-file = {}\n", place.netrc.display());
            }
            put_token(&place, remote.endpoint(), token)?
        }
    };
    let before = read(&place.nix_conf)?;
    let outcome = with(before.as_deref(), &url, &lines);
    let outcome = outcome.map_err(|error| broken(&place.nix_conf, &error))?;
    let nix_conf = carry_out(&place.nix_conf, outcome, PUBLIC)?;
    Ok(Done {
        place,
        nix_conf,
        netrc,
    })
}

/// Nix believes one key of a name, and calls what the other one has signed unsigned.
fn check_names(nix_conf: &Path, url: &str, keys: &[PublicKey]) -> Result<(), Failure> {
    let text = read(nix_conf)?.unwrap_or_default();
    let others = match without(&text, url).map_err(|error| broken(nix_conf, &error))? {
        Outcome::Same => text,
        Outcome::Text(others) => others,
        Outcome::Gone => String::new(),
    };
    let others = nix_conf::keys_in(&others, nix_conf)?;
    let is_taken = |key: &&PublicKey| {
        let mut others = others.iter();
        others.any(|other| other.name() == key.name() && other != *key)
    };
    match keys.iter().find(is_taken) {
        None => Ok(()),
        Some(key) => Err(Failure::failed(format!(
            "{} trusts another key that is called {}, and Nix believes one key of a name: take the \
             other one out, or have {url} sign with a key of another name (a second *.sec beside \
             the first one; snowcache cache create --key-name)",
            nix_conf.display(),
            key.name()
        ))),
    }
}

fn put_token(place: &Place, endpoint: &Endpoint, token: &str) -> Result<bool, Failure> {
    let (path, host) = (&place.netrc, endpoint.host());
    files::check_secret(path).map_err(failed)?;
    let before = read(path)?;
    let text = before.as_deref().unwrap_or_default();
    let theirs = netrc::others(text, host).map_err(|error| broken(path, &error))?;
    match theirs {
        Some(same) if same == token => return Ok(false),
        Some(_) => {
            return Err(Failure::failed(format!(
                "{} has another token for {host}, and Nix sends one to a host: remove that entry, \
                 or put a token there that is good for all that it is for",
                path.display()
            )));
        }
        None => {}
    }
    let others = others_at(place, endpoint)?;
    let have = netrc::password(text, host);
    if have.is_some_and(|have| have != token) && !others.is_empty() {
        return Err(Failure::failed(format!(
            "{} is used with another token, and Nix sends one to a host: make one that is good for \
             all (snowcache token create --for-cache A --for-cache B), and use each with that, \
             after --undo",
            others.join(", ")
        )));
    }
    let outcome = with(before.as_deref(), host, &netrc::line(host, token));
    let outcome = outcome.map_err(|error| broken(path, &error))?;
    carry_out(path, outcome, SECRET)
}

fn undo(place: Place, endpoint: &Endpoint) -> Result<Done, Failure> {
    let text = read(&place.nix_conf)?.unwrap_or_default();
    let outcome = without(&text, &endpoint.to_string());
    let outcome = outcome.map_err(|error| broken(&place.nix_conf, &error))?;
    let nix_conf = carry_out(&place.nix_conf, outcome, PUBLIC)?;
    let mut netrc = false;
    if others_at(&place, endpoint)?.is_empty() {
        let text = read(&place.netrc)?.unwrap_or_default();
        let outcome = without(&text, endpoint.host());
        let outcome = outcome.map_err(|error| broken(&place.netrc, &error))?;
        netrc = carry_out(&place.netrc, outcome, SECRET)?;
    }
    Ok(Done {
        place,
        nix_conf,
        netrc,
    })
}

/// Other caches of this host that are in use.
fn others_at(place: &Place, endpoint: &Endpoint) -> Result<Vec<String>, Failure> {
    let text = read(&place.nix_conf)?.unwrap_or_default();
    let used = all(&text).map_err(|error| broken(&place.nix_conf, &error))?;
    let same_host = |url: &str| {
        let other = url.parse::<Endpoint>();
        other.is_ok_and(|other| other != *endpoint && other.host() == endpoint.host())
    };
    let used = used.into_iter().map(|(url, _)| url.to_owned());
    Ok(used.filter(|url| same_host(url)).collect())
}

/// Whether anything was changed.
fn carry_out(path: &Path, outcome: Outcome, mode: u32) -> Result<bool, Failure> {
    match outcome {
        Outcome::Same => return Ok(false),
        Outcome::Text(text) => files::replace(path, &text, mode),
        Outcome::Gone => files::remove(path),
    }
    .map_err(failed)?;
    Ok(true)
}

fn tell(done: &Done, endpoint: &Endpoint, args: &UseArgs) -> Result<(), Failure> {
    let (nix_conf, netrc) = (&done.place.nix_conf, &done.place.netrc);
    if args.json {
        return print_json(&json!({
            "cache": endpoint.to_string(), "undo": args.undo,
            "nix_conf": nix_conf, "nix_conf_changed": done.nix_conf,
            "netrc": netrc, "netrc_changed": done.netrc,
        }));
    }
    let changed: Vec<String> = [(nix_conf, done.nix_conf), (netrc, done.netrc)]
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(path, _)| path.display().to_string())
        .collect();
    let word = if args.undo {
        "not used any more"
    } else {
        "used"
    };
    print(&match changed.is_empty() {
        true => format!("{endpoint} is {word}: nothing was to be changed\n"),
        false => format!("{endpoint} is {word}: changed {}\n", changed.join(" and ")),
    })
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    files::read(path).map_err(failed)
}

fn failed(error: FileError) -> Failure {
    Failure::failed(error)
}

fn broken(path: &Path, error: &crate::using::Broken) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn a_name_is_one_of_the_cache_s_and_a_url_is_itself() {
        assert_eq!(url("http://h", None), "http://h");
        assert_eq!(url("http://h/", Some("team-a")), "http://h/team-a");
        assert_eq!(url("http://h", Some("https://x/y")), "https://x/y");
    }
}
