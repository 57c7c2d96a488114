//! A cache with something in it, and ways to spoil it.

use super::http::Response;
use super::nix::{Nix, Node, User};
use super::proxy::Proxy;
use super::server::Snowcached;

/// A server that holds the four-path closure of dependencies.nix, and who pushed it from where.
pub struct Stocked {
    pub server: Snowcached,
    pub user: User,
    pub builder: Node,
    pub top: String,
}

pub fn stocked(nix: &Nix) -> Stocked {
    let server = Snowcached::start();
    let mut user = User::of(&server);
    let builder = Node::empty();
    let top = "nix-build --no-out-link --substituters '' $FILES/dependencies.nix";
    let top = builder.sh(&user, nix, top).ok();
    user.variable("TOP", &top);
    builder.sh(&user, nix, "nix copy --to $PUSH $TOP").ok();
    Stocked {
        server,
        user,
        builder,
        top,
    }
}

impl Stocked {
    /// Someone who has never asked this cache, and has only this substituter.
    pub fn newcomer(&self, substituters: &str) -> User {
        let mut user = User::of(&self.server);
        user.variable("TOP", &self.top)
            .set("substituters", substituters);
        user
    }

    /// A bad cache: this one behind a proxy.
    pub fn behind(
        &self,
        spoil: impl Fn(&str, Response) -> Response + Send + Sync + 'static,
    ) -> Proxy {
        Proxy::before(self.server.address(), spoil)
    }
}
