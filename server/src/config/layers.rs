//! The configuration as it is in force: flags over environment over file over defaults.
//!
//! ```text
//!   --listen, --data  >  $SNOWCACHE_<SECTION>_<KEY>  >  snowcached.toml  >  Config::default()
//! ```
//! Guarantees: of every value it is known who said it; every mistake in any of the sources is
//! reported, not only the first. Never: reads the environment by itself.

use super::Config;
use super::bind::SYSTEMD;
use super::error::{ConfigError, Mistakes, Origin};
use super::names;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// What is said beside the defaults, by whom.
#[derive(Debug, Default)]
pub struct Sources {
    /// The configuration file and what is in it.
    pub file: Option<(PathBuf, String)>,
    /// The environment, all of it.
    pub environment: Vec<(String, String)>,
    /// Keys that have a flag: the key, the flag, the value.
    pub flags: Vec<(&'static str, &'static str, Value)>,
    /// Whether systemd has passed sockets to this process.
    pub socket_activated: bool,
}

/// The configuration, and who said what of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// What is in force.
    pub config: Config,
    origins: BTreeMap<String, Origin>,
}

/// A value for a key, and who said it.
struct Said {
    key: String,
    value: Value,
    origin: Origin,
}

impl Sources {
    /// With the configuration file at `path`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn with_file(mut self, path: &Path) -> Result<Sources, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        self.file = Some((path.to_owned(), text));
        Ok(self)
    }
}

impl Effective {
    /// Puts the sources together.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn of(sources: Sources) -> Result<Effective, Mistakes> {
        let (mut said, mut mistakes) = (Vec::new(), Vec::new());
        if let Some((path, text)) = &sources.file {
            from_file(path, text, &mut said, &mut mistakes)?;
        }
        from_environment(&sources.environment, &mut said, &mut mistakes);
        said.extend(sources.flags.into_iter().map(|(key, flag, value)| Said {
            key: key.to_owned(),
            value,
            origin: Origin::Flag(flag),
        }));
        if sources.socket_activated && said.iter().all(|said| said.key != "listen") {
            said.push(Said {
                key: "listen".to_owned(),
                value: Value::String(SYSTEMD.to_owned()),
                origin: Origin::Environment("LISTEN_FDS".to_owned()),
            });
        }
        let (mut table, mut origins) = (names::known(), BTreeMap::new());
        for Said { key, value, origin } in said {
            // Alone, so that what is wrong with it is known to be wrong with it.
            let mut alone = Table::new();
            put(&mut alone, &key, value.clone());
            match alone.try_into::<Config>() {
                Ok(_) => {
                    put(&mut table, &key, value);
                    origins.insert(key, origin);
                }
                Err(error) => mistakes.push(ConfigError::Type {
                    origin,
                    key,
                    value: value.to_string(),
                    problem: error.message().to_owned(),
                }),
            }
        }
        if !mistakes.is_empty() {
            return Err(Mistakes(mistakes));
        }
        let config = table.try_into::<Config>();
        let config = config.expect("invariant: each value fits its key, so all of them do");
        Effective { config, origins }.checked()
    }

    /// Who said what is in force of a key.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Refuses what the server cannot work with, and says where that was said.
    fn checked(self) -> Result<Effective, Mistakes> {
        let origins = self.origins;
        match self.config.checked() {
            Ok(config) => Ok(Effective { config, origins }),
            Err(ConfigError::Value {
                key, value, rule, ..
            }) => {
                let origin = origins.get(key).cloned();
                let wrong = ConfigError::Value {
                    origin,
                    key,
                    value,
                    rule,
                };
                Err(wrong.into())
            }
            Err(other) => Err(other.into()),
        }
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((section, key)) => {
            let section = table.entry(section).or_insert_with(|| Table::new().into());
            if let Value::Table(section) = section {
                section.insert(key.to_owned(), value);
            }
        }
    }
}

fn from_file(
    path: &Path,
    text: &str,
    said: &mut Vec<Said>,
    mistakes: &mut Vec<ConfigError>,
) -> Result<(), ConfigError> {
    let syntax = |problem| ConfigError::Syntax {
        path: path.to_owned(),
        problem,
    };
    let values: Table = toml::from_str(text).map_err(syntax)?;
    let places = DeTable::parse(text).map_err(syntax)?;
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    let mut file = File {
        origin: &|at| Origin::File(path.to_owned(), line(at)),
        said,
        mistakes,
    };
    file.read(None, places.get_ref(), &values, &names::known());
    Ok(())
}

/// A file while it is read.
struct File<'a> {
    origin: &'a dyn Fn(usize) -> Origin,
    said: &'a mut Vec<Said>,
    mistakes: &'a mut Vec<ConfigError>,
}

impl File<'_> {
    fn read(&mut self, section: Option<&str>, places: &DeTable, values: &Table, known: &Table) {
        for (name, place) in places {
            let origin = (self.origin)(name.span().start);
            let name: &str = name.get_ref();
            let key = section.map_or(name.to_owned(), |section| format!("{section}.{name}"));
            match (known.get(name), place.get_ref(), &values[name]) {
                (Some(Value::Table(known)), DeValue::Table(places), Value::Table(values)) => {
                    self.read(Some(name), places, values, known);
                }
                (Some(Value::Table(_)), _, value) => self.mistakes.push(ConfigError::Type {
                    origin,
                    value: value.to_string(),
                    problem: format!("it is a section: write [{key}], and its keys below"),
                    key,
                }),
                (Some(_), _, value) => self.said.push(Said {
                    key,
                    value: value.clone(),
                    origin,
                }),
                (None, _, _) => self.mistakes.push(ConfigError::UnknownKey {
                    origin,
                    nearest: names::nearest_key(section, name, known),
                    key,
                }),
            }
        }
    }
}

fn from_environment(
    environment: &[(String, String)],
    said: &mut Vec<Said>,
    mistakes: &mut Vec<ConfigError>,
) {
    let keys = names::keys();
    for (name, text) in environment
        .iter()
        .filter(|(name, _)| !names::is_foreign(name))
    {
        let Some((key, default)) = keys.iter().find(|(key, _)| names::variable(key) == *name)
        else {
            mistakes.push(ConfigError::UnknownVariable {
                name: name.clone(),
                nearest: names::nearest_variable(name),
            });
            continue;
        };
        let origin = Origin::Environment(name.clone());
        match value(key, default, text) {
            Ok(value) => said.push(Said {
                key: key.clone(),
                value,
                origin,
            }),
            Err(problem) => mistakes.push(ConfigError::Type {
                origin,
                key: key.clone(),
                value: format!("{text:?}"),
                problem: problem.to_owned(),
            }),
        }
    }
}

/// A variable's text as a value of the kind that the key's default is.
fn value(key: &str, default: &Value, text: &str) -> Result<Value, &'static str> {
    match default {
        Value::Integer(_) => match text.parse() {
            Ok(number) => Ok(Value::Integer(number)),
            Err(_) => Err("it must be a whole number"),
        },
        Value::Boolean(_) => match text.parse() {
            Ok(truth) => Ok(Value::Boolean(truth)),
            Err(_) => Err("it must be true or false"),
        },
        _ if key.ends_with("listen") => Ok(addresses(text.split(','))),
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// One address or several, as a configuration file has them.
pub fn addresses<'a>(several: impl Iterator<Item = &'a str>) -> Value {
    let several = several.map(str::trim).filter(|one| !one.is_empty());
    Value::Array(several.map(|one| one.to_owned().into()).collect())
}
