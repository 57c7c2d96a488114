//! `snowcache rm`: removes paths now, as far as nothing that stays needs them.
//!
//! Guarantees: of each path that was named it is said what became of it.

use super::{denied, print, print_json, subject};
use crate::cli::RmArgs;
use crate::failure::{Exit, Failure};
use crate::remote::{Remote, Removal};
use crate::show;
use snowcache_nix::STORE_DIR;

pub(super) async fn run(remote: &Remote, args: &RmArgs) -> Result<(), Failure> {
    let subjects = args.paths.iter().map(|text| subject::parse_whole(text));
    let subjects: Vec<_> = subjects.collect::<Result<_, _>>()?;
    let name = |it: &subject::Subject| match &it.path {
        Some(path) => path.to_string(),
        None => it.hash.to_string(),
    };
    let names: Vec<String> = subjects.iter().map(name).collect();
    let removal = remote.remove(&names, args.dry_run).await;
    let removal = removal.map_err(|error| denied(error, "admin.token"))?;
    match args.json {
        true => print_json(&removal)?,
        false => print(&text(&removal, args.dry_run))?,
    }
    match removal.kept.is_empty() && removal.missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::told(Exit::Failed)),
    }
}

fn text(removal: &Removal, dry_run: bool) -> String {
    let (word, end) = match dry_run {
        true => ("would go", "would go"),
        false => ("removed", "removed"),
    };
    let mut text = String::new();
    for path in &removal.removed {
        text += &format!("{word:<8}  {STORE_DIR}/{path}\n");
    }
    for kept in &removal.kept {
        text += &format!("{:<8}  {STORE_DIR}/{}: {}\n", "KEPT", kept.path, kept.why);
    }
    for missing in &removal.missing {
        text += &format!("{:<8}  {missing}\n", "NOT HERE");
    }
    text += &format!("{} {end}", show::paths(removal.removed.len()));
    for (count, what) in [
        (removal.kept.len(), "kept"),
        (removal.missing.len(), "not here"),
    ] {
        if count > 0 {
            text += &format!(", {} {what}", show::count(count as u64));
        }
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::Kept;

    #[test]
    fn of_each_path_it_is_said_what_became_of_it() {
        let kept = Kept {
            path: "hash-b".to_owned(),
            why: "hash-c refers to it".to_owned(),
        };
        let removal = Removal {
            removed: vec!["hash-a".to_owned()],
            kept: vec![kept],
            missing: vec!["hash-d".to_owned()],
        };
        assert_eq!(
            text(&removal, false),
            "removed   /nix/store/hash-a\n\
             KEPT      /nix/store/hash-b: hash-c refers to it\n\
             NOT HERE  hash-d\n\
             1 path removed, 1 kept, 1 not here\n"
        );
        assert!(text(&removal, true).starts_with("would go  /nix/store/hash-a\n"));
    }
}
