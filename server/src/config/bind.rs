//! Where to listen: one address or several, written as a string or as a list of them.

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

/// Sockets that systemd has bound.
pub const SYSTEMD: &str = "systemd";

#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "expected an address or a list of addresses")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A string stands for a list of one, an empty one for none.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(one) if one.is_empty() => Vec::new(),
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// As short as it can be said.
pub fn serialize<S: Serializer>(addresses: &[String], to: S) -> Result<S::Ok, S::Error> {
    match addresses {
        [] => to.serialize_str(""),
        [one] => to.serialize_str(one),
        many => many.serialize(to),
    }
}

/// Whether this is `ADDRESS:PORT`, `unix:PATH` or `systemd`.
pub fn is_one(address: &str) -> bool {
    if let Some(path) = address.strip_prefix("unix:") {
        return !path.is_empty();
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return address == SYSTEMD;
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    port.parse::<u16>().is_ok() && !host.is_empty() && (bracketed || !host.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::is_one;

    #[test]
    fn what_can_be_listened_at() {
        for right in [
            "127.0.0.1:8420",
            "[::]:8420",
            "[::1]:0",
            "localhost:80",
            "unix:/run/s.sock",
            "systemd",
        ] {
            assert!(is_one(right), "{right}");
        }
        for wrong in [
            "",
            "8420",
            ":8420",
            "127.0.0.1",
            "::1:8420",
            "unix:",
            "a:b",
            "a:70000",
        ] {
            assert!(!is_one(wrong), "{wrong}");
        }
    }
}
