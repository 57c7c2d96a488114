//! Which cache a request is for: of a named one its name is taken off the URL, so that all behind
//! sees what it would see at `/`.
//!
//! ```text
//!   /<hash>.narinfo, /push/…   --> the front and the router of the cache at /
//!   /<cache>/push/…  --of a cache that there is--> its own, made at its first request
//! ```
//! Guarantees: what is answered is by the cache as it is decided about now; one that is deleted is
//! not there from the next request on. The log has the URL as it was sent. Never: a wait; more than
//! a look where a server has no named caches.

use super::front::Front;
use super::{App, Shared, router};
use crate::caches::Named;
use axum::Router;
use axum::http::{Request, Uri};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

/// The URL of a request as it was sent, where it was for a named cache.
#[derive(Clone)]
pub struct Sent(pub Uri);

/// What a named cache is served by.
pub struct Door {
    /// As what was decided when it was made.
    of: Arc<Named>,
    /// Asked first.
    pub front: Front,
    /// Asked for the rest.
    pub router: Router,
}

/// Of all named caches that were asked for.
pub struct Doors {
    /// The cache at `/`.
    root: Shared,
    /// By the caches' numbers.
    open: RwLock<HashMap<u32, Arc<Door>>>,
}

impl Doors {
    /// Of the caches beside `root`.
    pub fn new(root: Shared) -> Doors {
        Doors {
            root,
            open: RwLock::default(),
        }
    }

    /// The door of the named cache that the request is for, without its name then.
    pub fn of<B>(&self, request: &mut Request<B>) -> Option<Arc<Door>> {
        let (named, at) = self.root.caches.of_path(request.uri().path())?;
        let within = behind(request.uri(), at)?;
        let sent = std::mem::replace(request.uri_mut(), within);
        request.extensions_mut().insert(Sent(sent));
        named.requests.fetch_add(1, Ordering::Relaxed);
        Some(self.door(&named))
    }

    fn door(&self, named: &Arc<Named>) -> Arc<Door> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        match open.get(&named.number) {
            Some(door) if Arc::ptr_eq(&door.of, named) => return door.clone(),
            _ => drop(open),
        }
        let app = Arc::new(App::named(self.root.engine().clone(), named));
        let door = Arc::new(Door {
            of: named.clone(),
            front: Front::new(app.clone()),
            router: router::of_named(app),
        });
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let here = |named: &Named| self.root.caches.find(named.name.as_str());
        open.retain(|_, it| here(&it.of).is_some_and(|now| Arc::ptr_eq(&it.of, &now)));
        open.insert(named.number, door.clone());
        door
    }
}

/// The same URI, its path from `at` on.
fn behind(uri: &Uri, at: usize) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().get(at..)?;
    let rest = match rest.starts_with('/') {
        true => rest.to_owned(),
        false => format!("/{rest}"),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(rest.try_into().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::behind;

    #[test]
    fn a_cache_sees_its_urls_as_if_it_were_alone() {
        for (sent, seen) in [
            ("/team-a/push/nar/x.nar?a=b", "/push/nar/x.nar?a=b"),
            ("/team-a/", "/"),
            ("/team-a", "/"),
            ("/team-a?limit=1", "/?limit=1"),
            ("/team-a//x", "//x"),
            (
                "http://host/team-a/nix-cache-info",
                "http://host/nix-cache-info",
            ),
        ] {
            let seen_uri = behind(&sent.parse().expect(sent), "/team-a".len());
            assert_eq!(seen_uri.expect(sent).to_string(), seen);
        }
    }
}
