//! `snowcache hook`: nix's post-build-hook, which queues what was built.
//!
//! Guarantees: when it ends with 0 and without a word, the paths are queued on the disk and nix
//! keeps them. Never: the network; a wait for anything but the disk and, where the store belongs to
//! somebody else, the nix-daemon; a failed build, unless that was asked for.

use super::block_on;
use crate::cli::{HookArgs, SpoolArgs};
use crate::failure::Failure;
use crate::spool::{Spool, roots};
use snowcache_nix::StorePath;

/// Runs it.
///
/// # Errors
/// When the paths are none, or, if that is asked for, could not be queued.
pub fn run(args: &HookArgs) -> Result<(), Failure> {
    let queued = match args.paths.is_empty() {
        true => built().and_then(|paths| queue(args, &paths)),
        false => queue(args, &store_paths(&args.paths)?),
    };
    match queued {
        Err(failure) if !args.strict => {
            let why = failure.sentence().unwrap_or_default();
            eprintln!("snowcache: NOT QUEUED, so it will not be pushed: {why}");
            Ok(())
        }
        result => result,
    }
}

/// What nix has built. Nix 2.8.0 sets `OUT_PATHS` but leaves it empty, and 2.30 and 2.31 do not set
/// it when they build anew what is there (NixOS/nix issues 6446 and 14287): then the outputs are
/// those that the derivation names, as far as they are there.
fn built() -> Result<Vec<StorePath>, Failure> {
    let said = |name| std::env::var(name).unwrap_or_default();
    let mut paths: Vec<String> = said("OUT_PATHS")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let derivation = said("DRV_PATH");
    if paths.is_empty() && !derivation.is_empty() {
        let text = std::fs::read(&derivation)
            .map_err(|error| Failure::failed(format!("{derivation} cannot be read: {error}")))?;
        paths = outputs_of(&String::from_utf8_lossy(&text));
        paths.retain(|path| std::fs::symlink_metadata(path).is_ok());
    }
    match paths.is_empty() {
        true => Err(Failure::failed(
            "neither $OUT_PATHS nor $DRV_PATH says what was built; name store paths, or have nix \
             run this as its post-build-hook",
        )),
        false => store_paths(&paths),
    }
}

/// The output paths of a derivation, `Derive([("out","/nix/store/...","",""),...],...`; of one
/// whose outputs are addressed by what will be in them none.
fn outputs_of(derivation: &str) -> Vec<String> {
    let outputs = derivation.strip_prefix("Derive([(").unwrap_or_default();
    let outputs = outputs.split(")]").next().unwrap_or_default();
    let paths = outputs.split("),(").filter_map(|it| it.split('"').nth(3));
    let paths = paths.filter(|path| !path.is_empty());
    paths.map(str::to_owned).collect()
}

fn queue(args: &HookArgs, paths: &[StorePath]) -> Result<(), Failure> {
    enqueue(&spool(&args.spool)?, paths)
}

/// Queues paths and has nix keep them; where that cannot be done, it is said.
pub(super) fn enqueue(spool: &Spool, paths: &[StorePath]) -> Result<(), Failure> {
    let unrooted = spool.add(paths).map_err(Failure::failed)?;
    if unrooted.is_empty() {
        return Ok(());
    }
    let held = block_on(async { Ok(roots::hold_by_daemon(&unrooted).await) })?;
    if let Err(why) = held {
        eprintln!("snowcache: queued, but nix may collect it before it is pushed: {why}");
    }
    Ok(())
}

/// The spool that the arguments name.
pub(super) fn spool(args: &SpoolArgs) -> Result<Spool, Failure> {
    let folder = args.spool.clone().unwrap_or_else(Spool::default_folder);
    Spool::at(&folder).map_err(Failure::failed)
}

/// Arguments that are store paths.
pub(super) fn store_paths(texts: &[String]) -> Result<Vec<StorePath>, Failure> {
    let paths = texts.iter().map(|text| {
        let no = |error| Failure::usage(format!("{text} is no store path: {error}"));
        StorePath::from_absolute(text).map_err(no)
    });
    paths.collect()
}

#[cfg(test)]
mod tests {
    use super::outputs_of;

    #[test]
    fn a_derivation_names_its_outputs() {
        let two = r#"Derive([("dev","/nix/store/d-x-dev","",""),("out","/nix/store/o-x","","")],["#;
        assert_eq!(outputs_of(two), ["/nix/store/d-x-dev", "/nix/store/o-x"]);
        let fixed = r#"Derive([("out","/nix/store/o-x","sha256","1b8m")],[("/i.drv",["out"])]"#;
        assert_eq!(outputs_of(fixed), ["/nix/store/o-x"]);
        let floating = r#"Derive([("out","","r:sha256","")],[],[]"#;
        assert!(outputs_of(floating).is_empty());
        assert!(outputs_of("something else").is_empty());
    }
}
