//! Who may do what: bearers of the push or the admin token and of tokens that were made, over a way
//! that does not show them to others.
//!
//! Guarantees: tokens are compared in constant time; a token that came readable from another
//! machine is refused before it is looked at. Never: a token in a log line or an answer.

pub mod subject;
pub mod tokens;

use crate::caches::title;
use crate::clock::now_unix_s;
use crate::first_start::Identity;
use crate::http::errors::Refusal;
use crate::listen::Peer;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subject::{Place, Scope, Subject};
use subtle::ConstantTimeEq;
use tokens::{Dead, Tokens};

/// Decides about requests.
pub struct Gate {
    push_token: String,
    admin_token: String,
    /// Those that were made.
    pub tokens: Tokens,
    allow_plaintext_writes: bool,
}

impl Gate {
    /// A gate that opens to the two tokens of `identity`, and to `tokens`.
    pub fn new(identity: &Identity, tokens: Tokens, allow_plaintext_writes: bool) -> Gate {
        Gate {
            push_token: identity.push_token.clone(),
            admin_token: identity.admin_token.clone(),
            tokens,
            allow_plaintext_writes,
        }
    }

    /// Who asks, if they may do what takes `scope`, there.
    ///
    /// # Errors
    /// 403 for plain TCP from another machine and for a token without the scope or for another
    /// cache, 401 for no token or one that is not good.
    pub fn admit(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        scope: Scope,
        place: Place<'_>,
    ) -> Result<Subject, Refusal> {
        self.admit_secret(peer)?;
        match self.bearer(headers) {
            Some(Ok(subject)) if !subject.scopes().allow(scope) => Err(too_little(&subject, scope)),
            Some(Ok(subject)) if !subject.within().has(place) => Err(elsewhere(&subject, place)),
            Some(Ok(subject)) => Ok(subject),
            Some(Err(dead)) => Err(challenged(dead.to_string())),
            None => Err(unauthorized(headers, scope)),
        }
    }

    /// Whether this peer may send what must not be read on the way.
    ///
    /// # Errors
    /// 403 for plain TCP from another machine.
    pub fn admit_secret(&self, peer: &Peer) -> Result<(), Refusal> {
        match self.allow_plaintext_writes || peer.is_private() {
            true => Ok(()),
            false => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "what takes a token is refused over plain TCP from another machine, the token \
                 would travel readable: give the server a certificate ([tls]) or come through a \
                 TLS proxy on its machine, or set auth.allow_plaintext_writes = true",
            )),
        }
    }

    /// Whether the request bears a token that lets it push there.
    pub fn knows(&self, headers: &HeaderMap, place: Place<'_>) -> bool {
        match self.bearer(headers) {
            Some(Ok(subject)) => subject.scopes().allow(Scope::Push) && subject.within().has(place),
            _ => false,
        }
    }

    /// Nothing where there is no token, or one that was never this server's.
    fn bearer(&self, headers: &HeaderMap) -> Option<Result<Subject, Dead>> {
        let token = presented_token(headers)?;
        // Both are compared always, so that the time tells nothing about which one was nearer.
        let push = token.ct_eq(self.push_token.as_bytes());
        let admin = token.ct_eq(self.admin_token.as_bytes());
        match (bool::from(admin), bool::from(push)) {
            (true, _) => Some(Ok(Subject::admin())),
            (_, true) => Some(Ok(Subject::push())),
            _ => self.tokens.bearer(&token, now_unix_s()),
        }
    }
}

/// The token of `Authorization: Bearer TOKEN`, or the password of `Basic` (netrc), whoever the
/// user.
fn presented_token(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.as_bytes().to_vec());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = STANDARD.decode(credentials).ok()?;
        let colon = pair.iter().position(|&byte| byte == b':')?;
        return Some(pair[colon + 1..].to_vec());
    }
    None
}

/// 403: a good token that is for another cache.
fn elsewhere(subject: &Subject, place: Place<'_>) -> Refusal {
    let (asked, instead) = match place {
        Place::Cache(cache) => (
            format!("the cache {}", title(cache)),
            format!("snowcache token create --for-cache {}", title(cache)),
        ),
        Place::Server => (
            "all caches".to_owned(),
            "the one in admin.token, or snowcache token create --scope admin".to_owned(),
        ),
    };
    Refusal::new(
        StatusCode::FORBIDDEN,
        format!(
            "the token of {} is for {}, this is about {asked}: use one that is for it ({instead})",
            subject.as_str(),
            subject.within(),
        ),
    )
}

/// 403: a good token that is for something else.
fn too_little(subject: &Subject, scope: Scope) -> Refusal {
    let instead = match scope {
        Scope::Admin => {
            "what removes something takes the admin token, which is in admin.token of the \
             server's data folder, or one made with --scope admin"
        }
        _ => "have one made that does (snowcache token create --scope)",
    };
    Refusal::new(
        StatusCode::FORBIDDEN,
        format!(
            "the token of {} is for {}, this takes {}: {instead}",
            subject.as_str(),
            subject.scopes(),
            scope.as_str()
        ),
    )
}

fn unauthorized(headers: &HeaderMap, scope: Scope) -> Refusal {
    let is_there = headers.contains_key(header::AUTHORIZATION);
    challenged(match (scope, is_there) {
        (Scope::Admin, _) => {
            "this takes the admin token: send the one in admin.token of the server's data folder \
             as a Bearer token"
        }
        (Scope::Pull, false) => {
            "this cache is private, reading takes a token: put `machine HOST login any password \
             TOKEN` into a netrc file and name it with nix --option netrc-file FILE, or send it \
             as a Bearer token"
        }
        (_, true) => {
            "the token is not this cache's: take the one in push.token of the server's data \
             folder, as the password in a netrc file (nix --option netrc-file FILE) or as a \
             Bearer token"
        }
        (_, false) => {
            "writing needs a token: put `machine HOST login push password TOKEN` with the token \
             of push.token into a netrc file and name it with nix --option netrc-file FILE, or \
             send it as a Bearer token"
        }
    })
}

/// 401, which says how a token is sent.
fn challenged(sentence: impl Into<String>) -> Refusal {
    let challenge =
        HeaderValue::from_static("Basic realm=\"snowcache\", Bearer realm=\"snowcache\"");
    Refusal::new(StatusCode::UNAUTHORIZED, sentence).with(header::WWW_AUTHENTICATE, challenge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use snowcache_depot::CacheName;

    struct Opened {
        gate: Gate,
        _data: tempfile::TempDir,
    }

    impl std::ops::Deref for Opened {
        type Target = Gate;

        fn deref(&self) -> &Gate {
            &self.gate
        }
    }

    fn gate(allow_plaintext_writes: bool) -> Opened {
        let identity = Identity {
            keys: Vec::new(),
            push_token: "push-token-of-this-test".to_owned(),
            admin_token: "admin-token-of-this-test".to_owned(),
        };
        let data = tempfile::tempdir().expect("a folder");
        let tokens = Tokens::open(data.path(), now_unix_s()).expect("opens");
        Opened {
            gate: Gate::new(&identity, tokens, allow_plaintext_writes),
            _data: data,
        }
    }

    fn with(authorization: &str) -> HeaderMap {
        let value = HeaderValue::from_str(authorization).expect("a header");
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    fn basic(pair: &str) -> HeaderMap {
        with(&format!("Basic {}", STANDARD.encode(pair)))
    }

    const PLACE: Place<'static> = Place::Server;

    fn from(address: &str) -> Peer {
        Peer::Tcp(address.parse().expect("an address"))
    }

    #[test]
    fn either_token_opens_as_bearer_or_as_password() {
        let (gate, peer) = (gate(false), from("127.0.0.1:5000"));
        let cache = CacheName::default_cache();
        let place = Place::Cache(&cache);
        let admitted = |headers| gate.admit(&peer, &headers, Scope::Push, place).ok();
        assert_eq!(
            admitted(with("Bearer push-token-of-this-test")),
            Some(Subject::push())
        );
        assert_eq!(
            admitted(with("bearer admin-token-of-this-test")),
            Some(Subject::admin())
        );
        assert_eq!(
            admitted(basic("anybody:push-token-of-this-test")),
            Some(Subject::push())
        );
        assert_eq!(
            admitted(basic(":push-token-of-this-test")),
            Some(Subject::push())
        );
        for wrong in [
            "Bearer ",
            "Bearer push-token-of-this-tesT",
            "Basic !!!",
            "push-token-of-this-test",
        ] {
            assert_eq!(admitted(with(wrong)), None, "{wrong}");
        }
        assert_eq!(
            admitted(basic("push-token-of-this-test")),
            None,
            "no colon, no password"
        );
    }

    #[test]
    fn what_removes_something_is_the_admin_s_alone() {
        let (gate, peer) = (gate(false), from("127.0.0.1:5000"));
        let refusal = |headers| {
            gate.admit(&peer, &headers, Scope::Admin, PLACE)
                .expect_err("refused")
        };
        let push = refusal(with("Bearer push-token-of-this-test"));
        assert_eq!(push.status(), StatusCode::FORBIDDEN);
        for headers in [HeaderMap::new(), with("Bearer wrong")] {
            let stranger = refusal(headers);
            assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);
            assert!(stranger.sentence().contains("admin.token"));
        }
        let admin = with("Bearer admin-token-of-this-test");
        assert_eq!(
            gate.admit(&peer, &admin, Scope::Admin, PLACE).ok(),
            Some(Subject::admin())
        );
        assert!(
            gate.admit(&from("192.0.2.7:1"), &admin, Scope::Admin, PLACE)
                .is_err()
        );
    }

    #[test]
    fn a_token_of_one_cache_is_told_so_at_another() {
        let (gate, peer) = (gate(false), from("127.0.0.1:5000"));
        let cache: CacheName = "team-a--65000000".parse().expect("a name");
        let headers = with("Bearer push-token-of-this-test");
        let refused = gate.admit(&peer, &headers, Scope::Push, Place::Cache(&cache));
        let refused = refused.expect_err("of the cache at /");
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        for word in ["default", "team-a:", "--for-cache team-a)"] {
            assert!(refused.sentence().contains(word), "{}", refused.sentence());
        }
        assert!(!gate.knows(&headers, Place::Cache(&cache)));
        let admin = with("Bearer admin-token-of-this-test");
        assert!(
            gate.admit(&peer, &admin, Scope::Push, Place::Cache(&cache))
                .is_ok()
        );
    }

    #[test]
    fn a_refusal_says_where_the_token_is() {
        let refusal = gate(false)
            .admit(&from("[::1]:1"), &HeaderMap::new(), Scope::Push, PLACE)
            .expect_err("no token");
        assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
        assert!(
            refusal.sentence().contains("push.token"),
            "{}",
            refusal.sentence()
        );
    }

    #[test]
    fn plain_tcp_from_elsewhere_is_refused_unless_allowed() {
        let headers = with("Bearer push-token-of-this-test");
        let cache = CacheName::default_cache();
        let place = Place::Cache(&cache);
        for (address, local) in [
            ("127.0.0.1:1", true),
            ("127.8.9.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("192.0.2.7:1", false),
            ("[2001:db8::1]:1", false),
        ] {
            let admitted = gate(false).admit(&from(address), &headers, Scope::Push, place);
            assert_eq!(admitted.is_ok(), local, "{address}");
            if let Err(refusal) = admitted {
                assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
            }
            assert!(
                gate(true)
                    .admit(&from(address), &headers, Scope::Push, place)
                    .is_ok(),
                "{address}"
            );
        }
        for private in [Peer::Unix, Peer::Tls(([192, 0, 2, 7], 1).into())] {
            assert!(
                gate(false)
                    .admit(&private, &headers, Scope::Push, place)
                    .is_ok(),
                "{private:?}"
            );
        }
    }
}
