//! `snowcache pins`: what this node keeps, under which name, and why.

use super::prefetch::node;
use super::{print, print_json};
use crate::agent::ask::Ask;
use crate::cli::PinsArgs;
use crate::failure::Failure;
use crate::show;
use serde::Serialize;
use snowcache_nix::{STORE_DIR, StorePath};

#[derive(Serialize)]
struct Pin {
    name: String,
    roots: Vec<String>,
    follows: Option<String>,
    /// When a receipt of the first root was written, in seconds since 1970.
    verified_at_s: Option<u64>,
}

pub(super) async fn run(args: &PinsArgs) -> Result<(), Failure> {
    let node = node(&args.node)?;
    // Without an agent nothing is followed.
    let status = Ask::at(&args.agent.socket()).status().await.ok();
    let follow = status.map(|status| status.follow).unwrap_or_default();
    let mut pins = Vec::new();
    for (name, roots) in node.pins().map_err(Failure::failed)? {
        let follows = follow.iter().find(|it| it.name == name);
        let verified = |root: &StorePath| crate::receipt::read(&node, root).ok();
        let receipt = roots.first().and_then(verified);
        pins.push(Pin {
            follows: follows.map(|it| format!("{} of {}", it.pin, it.cache)),
            verified_at_s: receipt.map(|receipt| receipt.time_s),
            roots: roots.iter().map(|root| root.absolute()).collect(),
            name,
        });
    }
    match args.json {
        true => print_json(&serde_json::json!({ "pins": pins })),
        false if pins.is_empty() => print("no pins: `snowcache prefetch ROOT --pin NAME`\n"),
        false => print(&pins.iter().map(Pin::text).collect::<String>()),
    }
}

impl Pin {
    fn text(&self) -> String {
        let mut text = self.name.clone();
        if let Some(follows) = &self.follows {
            text += &format!("  follows {follows}");
        }
        if let Some(time_s) = self.verified_at_s {
            text += &format!("  verified {}", show::time(time_s));
        }
        for root in &self.roots {
            let name = root.strip_prefix(STORE_DIR).unwrap_or(root);
            text += &format!("\n    {STORE_DIR}{name}");
        }
        text + "\n"
    }
}
