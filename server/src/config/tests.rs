//! The shipped file and the defaults agree; mistakes are named.

use super::*;

const SHIPPED: &str = include_str!("../../../config/snowcached.toml");

fn of(file: &str, environment: &[(&str, &str)]) -> Result<Effective, Mistakes> {
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    Effective::of(Sources {
        file: Some(("snowcached.toml".into(), file.to_owned())),
        environment: environment.iter().map(owned).collect(),
        ..Sources::default()
    })
}

fn parse(text: &str) -> Result<Config, Mistakes> {
    of(text, &[]).map(|effective| effective.config)
}

fn mistakes(file: &str, environment: &[(&str, &str)]) -> String {
    of(file, environment).expect_err("refused").to_string()
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
    let text = mistakes("\n[uploads]\nmax_nar_size = 5\n", &[]);
    assert!(text.starts_with("snowcached.toml:3: "), "{text}");
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
fn a_key_in_the_wrong_section_names_the_right_one() {
    let text = mistakes("max_connections = 5\n[http]\nlisten = \"x:1\"\n", &[]);
    assert!(
        text.contains("did you mean `http.max_connections`?"),
        "{text}"
    );
    assert!(
        text.contains("there is no key `http.listen`; did you mean `listen`?"),
        "{text}"
    );
    let text = mistakes("log = \"json\"\n", &[]);
    assert!(text.contains("write [log]"), "{text}");
}

#[test]
fn a_value_of_the_wrong_type_names_its_line() {
    let text = mistakes("data = \"x\"\nlisten = 5\n[cache]\npriority = -1\n", &[]);
    assert!(
        text.contains("snowcached.toml:2: `listen` is 5: expected"),
        "{text}"
    );
    assert!(
        text.contains("snowcached.toml:4: `cache.priority` is -1: "),
        "{text}"
    );
    let text = mistakes("data = x\n", &[]);
    assert!(
        text.contains("snowcached.toml: TOML parse error at line 1"),
        "{text}"
    );
}

#[test]
fn the_environment_wins_over_the_file_and_a_flag_over_both() {
    let file = "data = \"from-file\"\n[http]\nmax_connections = 7\n[log]\nformat = \"json\"\n";
    let environment = [
        ("SNOWCACHE_HTTP_MAX_CONNECTIONS", "8"),
        ("SNOWCACHE_READ_ONLY", "true"),
        ("SNOWCACHE_LISTEN", "[::]:80, unix:/run/s"),
        ("SNOWCACHE_DATA", "from-environment"),
        ("SNOWCACHE_SERVICE_HOST", "10.0.0.1"),
        ("HOME", "/root"),
    ];
    let owned = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let effective = Effective::of(Sources {
        file: Some(("f.toml".into(), file.to_owned())),
        environment: owned.to_vec(),
        flags: vec![("data", "--data", "from-flag".into())],
        socket_activated: true,
    });
    let effective = effective.expect("all of it is right");
    let config = &effective.config;
    assert_eq!((config.http.max_connections, config.read_only), (8, true));
    assert_eq!(config.listen, ["[::]:80", "unix:/run/s"]);
    assert_eq!(config.data, PathBuf::from("from-flag"));
    for (key, origin) in [
        ("data", "--data"),
        ("http.max_connections", "$SNOWCACHE_HTTP_MAX_CONNECTIONS"),
        ("log.format", "f.toml:5"),
        ("log.filter", "default"),
    ] {
        assert_eq!(effective.origin(key).to_string(), origin);
    }
}

#[test]
fn sockets_of_systemd_are_taken_where_nobody_said_where_to_listen() {
    let activated = |file: &str| {
        let sources = Sources {
            file: Some(("f.toml".into(), file.to_owned())),
            socket_activated: true,
            ..Sources::default()
        };
        Effective::of(sources).expect("right").config.listen
    };
    assert_eq!(activated(""), ["systemd"]);
    assert_eq!(activated("listen = \"[::1]:1\"\n"), ["[::1]:1"]);
}

#[test]
fn mistakes_in_the_environment_are_named_all_of_them() {
    let text = mistakes(
        "listne = 1\n",
        &[
            ("SNOWCACHE_HTTP_MAX_CONECTIONS", "8"),
            ("SNOWCACHE_READ_ONLY", "yes"),
            ("SNOWCACHE_UPLOADS_LEASE_S", "a day"),
            ("SNOWCACHE_CACHE_PRIORITY", "-3"),
        ],
    );
    for says in [
        "did you mean `listen`?",
        "$SNOWCACHE_HTTP_MAX_CONECTIONS sets nothing; did you mean $SNOWCACHE_HTTP_MAX_CONNECTIONS?",
        "$SNOWCACHE_READ_ONLY: `read_only` is \"yes\": it must be true or false",
        "$SNOWCACHE_UPLOADS_LEASE_S: `uploads.lease_s` is \"a day\": it must be a whole number",
        "$SNOWCACHE_CACHE_PRIORITY: `cache.priority` is -3: ",
    ] {
        assert!(text.contains(says), "{says}\n{text}");
    }
    assert_eq!(text.lines().count(), 5, "{text}");
}

#[test]
fn what_the_server_cannot_work_with_is_refused() {
    for (text, key) in [
        ("[reads]\nmax_at_once = 0\n", "2: `reads.max_at_once`"),
        ("[depot]\nzstd_level = 30\n", "2: `depot.zstd_level`"),
        ("[log]\nformat = \"xml\"\n", "2: `log.format`"),
        ("[log]\nfilter = \"=loud=\"\n", "2: `log.filter`"),
        ("public_url = \"cache.example.org\"\n", "1: `public_url`"),
        ("listen = [\"127.0.0.1:1\", \":8420\"]\n", "1: `listen`"),
        ("listen = \"\"\n", "1: `listen` is empty"),
        ("[metrics]\nlisten = \"9420\"\n", "2: `metrics.listen`"),
        (
            "[http]\nunix_socket_mode = \"0999\"\n",
            "2: `http.unix_socket_mode`",
        ),
        (
            "[tls]\ncertificate_file = \"x.pem\"\n",
            "`tls.key_file` is empty",
        ),
        (
            "[retention]\nmax_garbage_percent = 91\n",
            "2: `retention.max_garbage_percent`",
        ),
    ] {
        let error = mistakes(text, &[]);
        assert!(error.contains(key), "{error}");
    }
    Config::default().checked().expect("the defaults work");
}
