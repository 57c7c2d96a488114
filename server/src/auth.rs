//! Who may write: bearers of the push or the admin token, over a way that does not show it to
//! others.
//!
//! Guarantees: tokens are compared in constant time; a token that came readable from another
//! machine is refused before it is looked at. Never: a token in a log line or an answer.

use crate::first_start::Identity;
use crate::http::errors::Refusal;
use crate::listen::Peer;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

/// As whom a write is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The bearer of `push.token`.
    Push,
    /// The bearer of `admin.token`.
    Admin,
}

impl Subject {
    /// The name in records and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Subject::Push => "push",
            Subject::Admin => "admin",
        }
    }
}

/// Decides about writes.
pub struct Gate {
    push_token: String,
    admin_token: String,
    allow_plaintext_writes: bool,
}

impl Gate {
    /// A gate that opens to the two tokens of `identity`.
    pub fn new(identity: &Identity, allow_plaintext_writes: bool) -> Gate {
        Gate {
            push_token: identity.push_token.clone(),
            admin_token: identity.admin_token.clone(),
            allow_plaintext_writes,
        }
    }

    /// Who writes, if they may.
    ///
    /// # Errors
    /// 403 for plain TCP from another machine, 401 for no token or a wrong one.
    pub fn admit_write(&self, peer: &Peer, headers: &HeaderMap) -> Result<Subject, Refusal> {
        if !self.allow_plaintext_writes && !peer.is_private() {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "writes over plain TCP from another machine are refused, the token would travel \
                 readable: give the server a certificate ([tls]) or push through a TLS proxy on \
                 this machine, or set auth.allow_plaintext_writes = true",
            ));
        }
        self.subject(headers).ok_or_else(|| unauthorized(headers))
    }

    /// The admin, for what takes something away.
    ///
    /// # Errors
    /// As [`Gate::admit_write`]; and 403 for the push token.
    pub fn admit_admin(&self, peer: &Peer, headers: &HeaderMap) -> Result<Subject, Refusal> {
        match self.admit_write(peer, headers) {
            Ok(Subject::Admin) => Ok(Subject::Admin),
            Ok(Subject::Push) => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "the push token may push and set pins; what removes something takes the admin \
                 token, which is in admin.token of the server's data folder",
            )),
            Err(refusal) if refusal.status() == StatusCode::UNAUTHORIZED => Err(challenged(
                "this takes the admin token: send the one in admin.token of the server's data \
                 folder as a Bearer token",
            )),
            Err(refusal) => Err(refusal),
        }
    }

    /// Whether the request bears a token that lets it write.
    pub fn knows(&self, headers: &HeaderMap) -> bool {
        self.subject(headers).is_some()
    }

    fn subject(&self, headers: &HeaderMap) -> Option<Subject> {
        let token = presented_token(headers)?;
        // Both are compared always, so that the time tells nothing about which one was nearer.
        let push = token.ct_eq(self.push_token.as_bytes());
        let admin = token.ct_eq(self.admin_token.as_bytes());
        match (bool::from(admin), bool::from(push)) {
            (true, _) => Some(Subject::Admin),
            (_, true) => Some(Subject::Push),
            _ => None,
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

fn unauthorized(headers: &HeaderMap) -> Refusal {
    let sentence = match headers.contains_key(header::AUTHORIZATION) {
        true => {
            "the token is not this cache's: take the one in push.token of the server's data \
             folder, as the password in a netrc file (nix --option netrc-file FILE) or as a \
             Bearer token"
        }
        false => {
            "writing needs a token: put `machine HOST login push password TOKEN` with the token \
             of push.token into a netrc file and name it with nix --option netrc-file FILE, or \
             send it as a Bearer token"
        }
    };
    challenged(sentence)
}

/// 401, which says how a token is sent.
fn challenged(sentence: &str) -> Refusal {
    let challenge =
        HeaderValue::from_static("Basic realm=\"snowcache\", Bearer realm=\"snowcache\"");
    Refusal::new(StatusCode::UNAUTHORIZED, sentence).with(header::WWW_AUTHENTICATE, challenge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(allow_plaintext_writes: bool) -> Gate {
        let identity = Identity {
            keys: Vec::new(),
            push_token: "push-token-of-this-test".to_owned(),
            admin_token: "admin-token-of-this-test".to_owned(),
        };
        Gate::new(&identity, allow_plaintext_writes)
    }

    fn with(authorization: &str) -> HeaderMap {
        let value = HeaderValue::from_str(authorization).expect("a header");
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    fn basic(pair: &str) -> HeaderMap {
        with(&format!("Basic {}", STANDARD.encode(pair)))
    }

    fn from(address: &str) -> Peer {
        Peer::Tcp(address.parse().expect("an address"))
    }

    #[test]
    fn either_token_opens_as_bearer_or_as_password() {
        let (gate, peer) = (gate(false), from("127.0.0.1:5000"));
        let admitted = |headers| gate.admit_write(&peer, &headers).ok();
        assert_eq!(
            admitted(with("Bearer push-token-of-this-test")),
            Some(Subject::Push)
        );
        assert_eq!(
            admitted(with("bearer admin-token-of-this-test")),
            Some(Subject::Admin)
        );
        assert_eq!(
            admitted(basic("anybody:push-token-of-this-test")),
            Some(Subject::Push)
        );
        assert_eq!(
            admitted(basic(":push-token-of-this-test")),
            Some(Subject::Push)
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
        let refusal = |headers| gate.admit_admin(&peer, &headers).expect_err("refused");
        let push = refusal(with("Bearer push-token-of-this-test"));
        assert_eq!(push.status(), StatusCode::FORBIDDEN);
        for headers in [HeaderMap::new(), with("Bearer wrong")] {
            let stranger = refusal(headers);
            assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);
            assert!(stranger.sentence().contains("admin.token"));
        }
        let admin = with("Bearer admin-token-of-this-test");
        assert_eq!(gate.admit_admin(&peer, &admin).ok(), Some(Subject::Admin));
        assert!(gate.admit_admin(&from("192.0.2.7:1"), &admin).is_err());
    }

    #[test]
    fn a_refusal_says_where_the_token_is() {
        let refusal = gate(false)
            .admit_write(&from("[::1]:1"), &HeaderMap::new())
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
        for (address, local) in [
            ("127.0.0.1:1", true),
            ("127.8.9.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("192.0.2.7:1", false),
            ("[2001:db8::1]:1", false),
        ] {
            let admitted = gate(false).admit_write(&from(address), &headers);
            assert_eq!(admitted.is_ok(), local, "{address}");
            if let Err(refusal) = admitted {
                assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
            }
            assert!(
                gate(true).admit_write(&from(address), &headers).is_ok(),
                "{address}"
            );
        }
        for private in [Peer::Unix, Peer::Tls(([192, 0, 2, 7], 1).into())] {
            assert!(
                gate(false).admit_write(&private, &headers).is_ok(),
                "{private:?}"
            );
        }
    }
}
