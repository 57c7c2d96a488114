//! `snowcache gate` and `snowcache why`: is a closure ready on this node, and if not, why not.
//!
//! Guarantees: gate ends with 0 only when this node's receipt is good and everything is as it says;
//! no network, and no output when all is well.

use super::prefetch::node;
use super::{block_on, print, print_json};
use crate::agent::ask::Ask;
use crate::agent::status::Shown;
use crate::cli::{GateArgs, WhyArgs};
use crate::failure::Failure;
use crate::nix_conf;
use crate::preflight;
use crate::receipt::Receipt;
use crate::show;
use crate::store::Store;
use crate::why;
use serde::Serialize;
use snowcache_nix::{PublicKey, StorePath};

#[derive(Serialize)]
struct Report {
    ready: bool,
    root: String,
    why: Option<String>,
    paths: Option<usize>,
    closure: Option<String>,
    verified_at_s: Option<u64>,
    boot: Option<String>,
    keys: Vec<String>,
    careful: Option<String>,
    job: Option<Shown>,
}

pub(super) fn run(args: &GateArgs) -> Result<(), Failure> {
    block_on(check(args)).map(drop)
}

pub(super) fn why(args: &WhyArgs) -> Result<(), Failure> {
    let gate = &args.gate;
    let (result, job) = block_on(async {
        let result = check(gate).await;
        // An agent knows more of what is not ready yet.
        let job = match (&result, root(&gate.root)) {
            (Err(_), Ok(root)) => {
                let agent = Ask::at(&args.agent.socket());
                agent.standing(&root.to_string()).await.ok()
            }
            _ => None,
        };
        Ok((result, job.and_then(|standing| standing.job)))
    })?;
    let report = Report::of(gate, &result, job);
    match args.json {
        true => print_json(&report)?,
        false => print(&report.text(&result))?,
    }
    result
        .map(drop)
        .map_err(|failure| Failure::told(failure.exit()))
}

/// The receipt that lets the root pass.
pub(super) async fn check(args: &GateArgs) -> Result<Receipt, Failure> {
    let root = root(&args.root)?;
    let node = node(&args.node)?;
    let store = Store::at(args.node.store_socket.clone());
    why::ready(&node, &store, &root, &trusted(&args.trusted_public_keys)?).await
}

/// A store path, or a link to one.
fn root(text: &str) -> Result<StorePath, Failure> {
    if let Ok(path) = StorePath::from_absolute(text.trim_end_matches('/')) {
        return Ok(path);
    }
    let target = std::fs::canonicalize(text).ok();
    let path = target.and_then(|path| StorePath::from_absolute(path.to_str()?).ok());
    path.ok_or_else(|| Failure::usage(format!("{text} is neither a store path nor a link to one")))
}

/// The keys given, or those of nix.conf.
pub(super) fn trusted(given: &[String]) -> Result<Vec<PublicKey>, Failure> {
    let given = given.iter().filter(|key| !key.is_empty());
    let keys = given.map(|key| key.parse()).collect::<Result<Vec<_>, _>>();
    let keys = keys.map_err(|error| Failure::usage(format!("--trusted-public-keys: {error}")))?;
    match keys.is_empty() {
        true => nix_conf::trusted_public_keys(),
        false => Ok(keys),
    }
}

impl Report {
    fn of(args: &GateArgs, result: &Result<Receipt, Failure>, job: Option<Shown>) -> Report {
        let receipt = result.as_ref().ok();
        let why = result.as_ref().err().and_then(Failure::sentence);
        Report {
            ready: receipt.is_some(),
            root: args.root.clone(),
            why: why.map(str::to_owned),
            paths: receipt.map(|receipt| receipt.paths.len()),
            closure: receipt.map(Receipt::closure),
            verified_at_s: receipt.map(|receipt| receipt.time_s),
            boot: receipt.map(|receipt| receipt.boot.clone()),
            keys: receipt.map_or(Vec::new(), |receipt| receipt.keys.clone()),
            careful: receipt.and_then(|receipt| preflight::careful(&receipt.root.absolute())),
            job,
        }
    }

    fn text(&self, result: &Result<Receipt, Failure>) -> String {
        let Ok(receipt) = result else {
            let why = self.why.as_deref().unwrap_or_default();
            let job = self
                .job
                .as_ref()
                .map(|job| format!("agent: {}\n", job.stands()));
            return format!("not ready: {why}\n{}", job.unwrap_or_default());
        };
        let (paths, time) = (show::paths(receipt.paths.len()), show::time(receipt.time_s));
        let names = receipt.keys.iter().filter_map(|key| key.split(':').next());
        let names: Vec<&str> = names.collect();
        let careful = self.careful.as_ref();
        let careful = careful
            .map(|it| format!("careful: {it}\n"))
            .unwrap_or_default();
        format!(
            "ready: {paths}, verified {time} against {}; the closure is {}\n{careful}",
            names.join(", "),
            receipt.closure()
        )
    }
}
