//! `snowcache token`: who may do what at a cache, and for how long.
//!
//! Guarantees: a token goes to stdout and nowhere else. Never: an id sent that is none.

use super::{denied, print, print_json};
use crate::cli::{TokenCommand, TokenCreateArgs, TokenRevokeArgs};
use crate::failure::{Exit, Failure};
use crate::identity;
use crate::remote::{NewToken, Remote, RemoteError, Token, TokenWish};
use crate::show;
use serde_json::json;

pub(super) async fn run(remote: &Remote, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(args) => create(remote, &args).await,
        TokenCommand::Exchange { json } => exchange(remote, json).await,
        TokenCommand::List { json } => list(remote, json).await,
        TokenCommand::Revoke(args) => revoke(remote, &args).await,
    }
}

async fn create(remote: &Remote, args: &TokenCreateArgs) -> Result<(), Failure> {
    let wish = TokenWish {
        subject: args.subject.clone(),
        scopes: args.scopes.iter().map(ToString::to_string).collect(),
        caches: args.caches.clone(),
        expires_in_s: args.expires,
    };
    let made = remote.create_token(&wish).await.map_err(for_admins)?;
    show(&made, args.json)
}

async fn exchange(remote: &Remote, json: bool) -> Result<(), Failure> {
    let identity = identity::of_environment(remote.endpoint()).await?;
    let identity = identity.ok_or_else(|| {
        Failure::usage(
            "this is no job of a CI that says who it is: there is no $SNOWCACHE_ID_TOKEN, no \
             $SNOWCACHE_ID_TOKEN_FILE, and nothing of GitHub's (permissions: id-token: write)",
        )
    })?;
    show(&remote.exchange(&identity).await?, json)
}

/// The token to whoever asked for it; about it, to whoever looks on.
fn show(made: &NewToken, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(made);
    }
    eprintln!("{}", row(&made.about).trim_end());
    print(&format!("{}\n", made.token))
}

async fn list(remote: &Remote, json: bool) -> Result<(), Failure> {
    let tokens = remote.tokens().await.map_err(for_admins)?;
    if json {
        return print_json(&json!({ "tokens": tokens }));
    }
    match tokens.is_empty() {
        true => print("no tokens: `snowcache token create NAME --scope push` makes one\n"),
        false => print(&tokens.iter().map(row).collect::<String>()),
    }
}

async fn revoke(remote: &Remote, args: &TokenRevokeArgs) -> Result<(), Failure> {
    if let Some(wrong) = args.ids.iter().find(|id| !is_id(id)) {
        return Err(Failure::usage(format!(
            "{wrong:?} is no id of a token: it has 16 hex digits, `snowcache token list` shows it"
        )));
    }
    let mut ids = args.ids.clone();
    if let Some(subject) = &args.subject {
        let tokens = remote.tokens().await.map_err(for_admins)?;
        let theirs = tokens.into_iter().filter(|token| token.subject == *subject);
        ids.extend(theirs.map(|token| token.id));
    }
    let (mut revoked, mut missing) = (Vec::new(), Vec::new());
    for id in ids {
        match remote.revoke_token(&id).await.map_err(for_admins)? {
            Some(token) => revoked.push(token),
            None => missing.push(id),
        }
    }
    let ok = missing.is_empty() && !revoked.is_empty();
    if args.json {
        print_json(&json!({ "revoked": revoked, "missing": missing }))?;
    } else {
        let missing = missing.iter().map(|id| format!("there is no token {id}\n"));
        print(&revoked.iter().map(row).chain(missing).collect::<String>())?;
        if let (true, Some(subject)) = (revoked.is_empty(), &args.subject) {
            return Err(Failure::failed(format!("{subject} has no tokens")));
        }
    }
    match ok {
        true => Ok(()),
        false => Err(Failure::told(Exit::Failed)),
    }
}

fn for_admins(error: RemoteError) -> Failure {
    denied(error, "admin.token")
}

fn is_id(id: &str) -> bool {
    id.len() == 16
        && id
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn row(token: &Token) -> String {
    let (id, subject, scopes) = (&token.id, &token.subject, token.scopes.join(", "));
    let until = match token.revoked {
        Some(revoked) => format!("REVOKED {}", show::time(revoked)),
        None => format!("until {}", show::time(token.expires)),
    };
    let (made, by) = (show::time(token.created), &token.by);
    let caches = match token.caches.is_empty() {
        true => String::new(),
        false => format!(" in {}", token.caches.join(", ")),
    };
    format!("{id}  {subject}: {scopes}{caches}; {until}; made {made} by {by}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_may_what_and_until_when() {
        let mut token = Token {
            id: "0123456789abcdef".to_owned(),
            subject: "ci".to_owned(),
            scopes: vec!["pull".to_owned(), "push".to_owned()],
            caches: Vec::new(),
            created: 1_600_000_000,
            expires: 1_700_000_000,
            by: "admin".to_owned(),
            revoked: None,
        };
        let head = "0123456789abcdef  ci: pull, push; ";
        let tail = "; made 2020-09-13 12:26 UTC by admin\n";
        assert_eq!(
            row(&token),
            format!("{head}until 2023-11-14 22:13 UTC{tail}")
        );
        token.revoked = Some(1_600_000_060);
        token.caches = vec!["team-a".to_owned()];
        let head = "0123456789abcdef  ci: pull, push in team-a; ";
        assert_eq!(
            row(&token),
            format!("{head}REVOKED 2020-09-13 12:27 UTC{tail}")
        );
    }

    #[test]
    fn an_id_that_would_lead_elsewhere_is_none() {
        assert!(is_id("0123456789abcdef"));
        for bad in [
            "",
            "0123456789abcde/",
            "0123456789ABCDEF",
            "../../../../pins",
        ] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
