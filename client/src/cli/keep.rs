//! What can be said about keeping and forgetting: pins, collections, removals.

use clap::{Args, Subcommand};

/// `snowcache pin`
#[derive(Debug, Subcommand)]
pub enum PinCommand {
    /// Let a pin keep these paths and all that they refer to, as its next generation
    #[command(after_help = "\
Examples:
  snowcache pin set web /nix/store/HASH-nixos-system-web --keep 5
  snowcache pin set main $(nix-build) --keep 30d
  snowcache pin set pr-1234 HASH HASH --expires 7d

The paths must be in the cache with all that they refer to: push first. Setting what is current
already makes no new generation. Takes the push token (or the admin token).")]
    Set(PinSetArgs),
    /// List the pins and what they keep now
    #[command(after_help = "\
Examples:
  snowcache pin list
  snowcache pin list --json | jq -r '.pins[].roots[]'")]
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show the generations of a pin, the newest first
    #[command(after_help = "\
Examples:
  snowcache pin history web
  snowcache pin history web --json | jq -r '.generations[-1].roots[]'")]
    History {
        /// The pin
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make an older generation the current one again
    #[command(after_help = "\
Examples:
  snowcache pin rollback web
  snowcache pin rollback web --to 12

Without --to it is the newest one below the current. Takes the push token (or the admin token).")]
    Rollback {
        /// The pin
        name: String,
        /// The generation's number, as `snowcache pin history` shows it
        #[arg(long, value_name = "NUMBER")]
        to: Option<u64>,
    },
    /// Remove a pin with all its generations; what only it kept goes at the next collection
    #[command(after_help = "\
Example:
  snowcache --token-file /var/lib/snowcache/admin.token pin rm pr-1234

Takes the admin token.")]
    Rm {
        /// The pin
        name: String,
    },
}

impl PinCommand {
    /// Whether it changes nothing.
    pub fn is_reading(&self) -> bool {
        matches!(self, PinCommand::List { .. } | PinCommand::History { .. })
    }
}

/// `snowcache pin set`
#[derive(Args, Debug)]
pub struct PinSetArgs {
    /// The pin: up to 128 of letters, digits, '.', '_' and '-'
    pub name: String,
    /// Store paths or their hash parts
    #[arg(required = true, value_name = "STORE-PATH|HASH")]
    pub paths: Vec<String>,
    /// Which generations stay: the newest 5, those of the last 30d, or all [default: as before, at
    /// first 5]
    #[arg(long, value_name = "5|30d|all", value_parser = keep)]
    pub keep: Option<String>,
    /// When the whole pin ends: in so many s, m, h, d or w [default: never]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub expires: Option<u64>,
}

/// `snowcache gc`
#[derive(Args, Debug)]
pub struct GcArgs {
    /// Say what would go, and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Print one JSON object for everything that goes, and at the end {"summary": ...}
    #[arg(long)]
    pub json: bool,
}

/// `snowcache rm`
#[derive(Args, Debug)]
pub struct RmArgs {
    /// Store paths or their hash parts
    #[arg(required = true, value_name = "STORE-PATH|HASH")]
    pub paths: Vec<String>,
    /// Say what would go, and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `all`, `5`, `30d`: how it is understood is the server's to say.
fn keep(text: &str) -> Result<String, String> {
    let generations = || text.parse::<u32>().is_ok_and(|count| count > 0) && !text.starts_with('+');
    match text == "all" || generations() || seconds(text).is_ok() {
        true => Ok(text.to_owned()),
        false => Err("write all, a number of generations (5), or a time (30d)".to_owned()),
    }
}

/// `90m`, `7d`: a whole number and its unit.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let unit = |unit: char| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        'w' => Some(7 * 86_400),
        _ => None,
    };
    let parsed = || {
        let seconds = unit(text.chars().last()?)?;
        let digits = &text[..text.len() - 1];
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = digits.parse().ok().filter(|number| plain && *number > 0)?;
        number.checked_mul(seconds)
    };
    parsed().ok_or_else(|| "write a number and its unit of s, m, h, d, w: 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{keep, seconds};

    #[test]
    fn what_is_kept_is_all_a_number_or_a_time() {
        for good in ["all", "1", "5", "30d", "12h"] {
            assert_eq!(keep(good).as_deref(), Ok(good));
        }
        for bad in ["", "0", "+5", "-5", "5x", "none", "4294967296"] {
            assert!(keep(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_is_a_number_and_its_unit() {
        for (text, means) in [
            ("45s", 45),
            ("90m", 5400),
            ("7d", 604_800),
            ("2w", 1_209_600),
        ] {
            assert_eq!(seconds(text), Ok(means));
        }
        for bad in [
            "",
            "7",
            "d",
            "0d",
            "-1d",
            "+1d",
            "1.5d",
            "7 d",
            "7y",
            "99999999999999999999d",
        ] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
