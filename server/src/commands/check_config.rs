//! `snowcached check-config`: what would be in force, and who said it.

use super::{CheckConfigArgs, say, say_json};
use crate::config::{ConfigError, Effective, Mistakes, Origin, names};
use crate::listen::tls::Certificates;
use crate::oidc::Issuers;
use serde_json::{Value, json};
use std::error::Error;
use std::process::ExitCode;

/// What the configuration is no good for: serving.
const WRONG: u8 = 2;

/// Tells of `effective`, or of what is wrong with it.
pub fn run(
    effective: Result<Effective, Mistakes>,
    args: &CheckConfigArgs,
) -> Result<ExitCode, Box<dyn Error>> {
    let effective = effective.and_then(|effective| {
        if effective.config.tls.is_on() {
            Certificates::load(&effective.config.tls).map_err(ConfigError::Tls)?;
        }
        Issuers::open(&effective.config.auth.issuers_file).map_err(ConfigError::Issuers)?;
        Ok(effective)
    });
    match (effective, args.json) {
        (Ok(effective), false) => say(&as_toml(&effective)?)?,
        (Ok(effective), true) => say_json(&as_json(&effective)?)?,
        (Err(mistakes), false) => {
            eprintln!("{mistakes}");
            return Ok(WRONG.into());
        }
        (Err(mistakes), true) => {
            let mistakes = mistakes
                .0
                .iter()
                .map(|one| crate::observe::with_causes(one));
            say_json(&json!({ "errors": mistakes.collect::<Vec<_>>() }))?;
            return Ok(WRONG.into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A file that would say the same, each line with who said it.
fn as_toml(effective: &Effective) -> Result<String, toml::ser::Error> {
    let mut section = String::new();
    let mut lines = Vec::new();
    for line in toml::to_string(&effective.config)?.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.replace(']', ".");
        }
        lines.push(match line.split_once(" = ") {
            Some((key, _)) => {
                let origin = effective.origin(&format!("{section}{key}"));
                format!("{line}  # {origin}")
            }
            None => line.to_owned(),
        });
    }
    Ok(lines.join("\n"))
}

fn as_json(effective: &Effective) -> Result<Value, serde_json::Error> {
    let keys = names::keys().into_iter();
    let said = keys.map(|(key, _)| (key.clone(), effective.origin(&key)));
    let said = said.filter(|(_, origin)| *origin != Origin::Default);
    let said = said.map(|(key, origin)| (key, origin.to_string().into()));
    Ok(json!({
        "config": serde_json::to_value(&effective.config)?,
        "said_by": said.collect::<serde_json::Map<String, Value>>(),
    }))
}
