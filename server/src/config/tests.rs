//! The shipped file and the defaults agree; mistakes are named.

use super::*;

const SHIPPED: &str = include_str!("../../../config/snowcached.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("snowcached.toml"))
}

#[test]
fn the_shipped_file_says_what_the_defaults_are() {
    assert_eq!(parse(SHIPPED).expect("parses"), Config::default());
}

#[test]
fn the_shipped_file_names_every_key_and_explains_it() {
    let shipped: toml::Table = toml::from_str(SHIPPED).expect("parses");
    assert_eq!(shipped, names::known());
    let lines: Vec<&str> = SHIPPED.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(
                number > 0 && lines[number - 1].starts_with('#'),
                "line {}: {line}",
                number + 1
            );
        }
    }
}

#[test]
fn a_misspelt_key_names_the_nearest_right_one() {
    let text = parse("[uploads]\nmax_nar_size = 5\n")
        .expect_err("unknown")
        .to_string();
    assert!(
        text.contains("`uploads.max_nar_size`") && text.contains("`uploads.max_nar_size_bytes`"),
        "{text}"
    );
    let text = parse("listne = \"\"\n").expect_err("unknown").to_string();
    assert!(text.contains("did you mean `listen`?"), "{text}");
    let text = parse("[upload]\nlease_s = 1\n")
        .expect_err("unknown")
        .to_string();
    assert!(text.contains("did you mean `uploads`?"), "{text}");
}

#[test]
fn a_value_of_the_wrong_type_names_its_line() {
    let text = parse("data = \"x\"\nlisten = 5\n")
        .expect_err("type")
        .to_string();
    assert!(text.contains("line 2"), "{text}");
}

#[test]
fn what_the_server_cannot_work_with_is_refused() {
    for (text, key) in [
        ("[reads]\nmax_at_once = 0\n", "reads.max_at_once"),
        ("[depot]\nzstd_level = 30\n", "depot.zstd_level"),
        ("[log]\nformat = \"xml\"\n", "log.format"),
        ("public_url = \"cache.example.org\"\n", "public_url"),
    ] {
        let error = parse(text)
            .expect("parses")
            .checked()
            .expect_err("refused")
            .to_string();
        assert!(error.contains(key), "{error}");
    }
    Config::default().checked().expect("the defaults work");
}
