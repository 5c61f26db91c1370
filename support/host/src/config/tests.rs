#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::{net::SocketAddr, time::Duration};

use rstest::rstest;
use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(default)]
struct Role {
    listen: SocketAddr,
    #[serde(with = "humantime_serde")]
    idle_timeout: Duration,
    connections_max: u32,
    ratio: f64,
    verbose: bool,
    zones: Vec<String>,
    nested: Nested,
    backend: Backend,
    apps: Vec<App>,
    app_secret: Option<String>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Nested {
    depth: i32,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Backend {
    Memory,
    Disk { path: String },
}

#[derive(Debug, PartialEq, Deserialize)]
struct App {
    key: String,
    #[serde(default)]
    secrets: Vec<String>,
}

impl Default for Role {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7000".parse().unwrap(),
            idle_timeout: Duration::from_secs(60),
            connections_max: 100,
            ratio: 0.5,
            verbose: false,
            zones: Vec::new(),
            nested: Nested::default(),
            backend: Backend::Memory,
            apps: Vec::new(),
            app_secret: None,
        }
    }
}

fn parsed(text: &str, env: &[(&str, &str)]) -> Result<Loaded<Role>, ConfigError> {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    parse(text, "role.toml", Path::new("."), env)
}

#[test]
fn an_empty_file_is_the_defaults() {
    let loaded = parsed("", &[]).unwrap();
    assert_eq!(loaded.value, Role::default());
    assert_eq!(loaded.warnings, []);
}

#[test]
fn every_kind_of_value_is_read() {
    let text = r#"
        listen = "0.0.0.0:1"
        idle_timeout = "1m 30s"
        connections_max = 5
        ratio = 2
        verbose = true
        zones = ["a", "b"]
        backend = { disk = { path = "/data" } }
        [nested]
        depth = -3
        [[apps]]
        key = "demo"
        secrets = ["one"]
    "#;
    let role = parsed(text, &[]).unwrap().value;
    assert_eq!(role.idle_timeout, Duration::from_secs(90));
    assert_eq!(role.ratio, 2.0);
    assert_eq!(role.nested.depth, -3);
    assert_eq!(
        role.backend,
        Backend::Disk {
            path: "/data".to_owned()
        }
    );
    assert_eq!(role.apps[0].secrets, ["one"]);
}

#[test]
fn the_environment_wins_and_takes_the_type_asked_of_it() {
    let text = "connections_max = 5\n[[apps]]\nkey = \"demo\"\n";
    let env = [
        ("WHIMBREL__CONNECTIONS_MAX", "7"),
        ("WHIMBREL__VERBOSE", "true"),
        ("WHIMBREL__IDLE_TIMEOUT", "2s"),
        ("WHIMBREL__ZONES", "a, b"),
        ("WHIMBREL__NESTED__DEPTH", "-1"),
        ("WHIMBREL__BACKEND", "memory"),
        ("WHIMBREL__APPS__0__KEY", "123"),
        ("WHIMBREL__APPS__0__SECRETS", "[\"x,y\", \"z\"]"),
        ("HOME", "/root"),
    ];
    let loaded = parsed(text, &env).unwrap();
    assert_eq!(loaded.warnings, []);
    let role = loaded.value;
    assert_eq!(
        (role.connections_max, role.verbose, role.nested.depth),
        (7, true, -1)
    );
    assert_eq!(role.idle_timeout, Duration::from_secs(2));
    assert_eq!(role.zones, ["a", "b"]);
    assert_eq!(
        role.apps[0].key, "123",
        "text that reads as a number stays text where text is asked"
    );
    assert_eq!(role.apps[0].secrets, ["x,y", "z"]);
}

#[rstest]
#[case(
    "conections_max = 1",
    "role.toml: unknown key `conections_max` is ignored; did you mean `connections_max`?"
)]
#[case(
    "[nested]\ndeepth = 1",
    "role.toml: unknown key `nested.deepth` is ignored; did you mean `nested.depth`?"
)]
#[case(
    "[[apps]]\nkey = \"a\"\nkeys = 1",
    "role.toml: unknown key `apps[0].keys` is ignored; did you mean `apps[0].key`?"
)]
#[case(
    "app_sceret_file = \"f\"",
    "role.toml: unknown key `app_sceret_file` is ignored; did you mean `app_secret_file`?"
)]
#[case("[elsewhere]\nx = 1", "role.toml: unknown key `elsewhere` is ignored")]
fn an_unknown_key_is_a_warning_with_the_nearest_known_name(#[case] text: &str, #[case] expected: &str) {
    let warnings = parsed(text, &[]).unwrap().warnings;
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [expected]
    );
}

#[test]
fn an_unknown_key_in_the_environment_is_named_by_its_variable() {
    let warnings = parsed("", &[("WHIMBREL__NESTED__DEPHT", "1")]).unwrap().warnings;
    assert_eq!(
        warnings[0].to_string(),
        "environment variable WHIMBREL__NESTED__DEPHT: unknown key `nested.depht` is ignored; did you mean \
         `nested.depth`?"
    );
}

#[rstest]
#[case(
    "connections_max = \"many\"",
    "role.toml: `connections_max` = \"many\": invalid type: string \"many\", expected u32"
)]
#[case(
    "connections_max = -1",
    "role.toml: `connections_max` = -1: invalid value: integer `-1`, expected u32"
)]
#[case(
    "listen = \"here\"",
    "role.toml: `listen` = \"here\": invalid socket address syntax"
)]
#[case(
    "idle_timeout = \"soon\"",
    "role.toml: `idle_timeout` = \"soon\": invalid value: string \"soon\", expected a duration, such as \"30s\" or \"500ms\""
)]
#[case(
    "idle_timeout = 5",
    "role.toml: `idle_timeout` = 5: invalid type: integer `5`, expected a duration, such as \"30s\" or \"500ms\""
)]
#[case(
    "[nested]\ndepth = true",
    "role.toml: `nested.depth` = true: invalid type: boolean `true`, expected i32"
)]
#[case(
    "nested = 1",
    "role.toml: `nested` = 1: invalid type: integer `1`, expected struct Nested"
)]
#[case(
    "backend = \"tape\"",
    "role.toml: `backend` = \"tape\": unknown variant `tape`, expected `memory` or `disk`"
)]
#[case(
    "backend = \"disk\"",
    "role.toml: `backend` = \"disk\": this choice needs a table of settings, not its name alone"
)]
#[case("[[apps]]\nsecrets = []", "role.toml: `apps[0]`: missing field `key`")]
#[case(
    "[[apps]]\nkye = \"a\"",
    "role.toml: `apps[0]`: missing field `key`; the key `kye` is unknown: did you mean `key`?"
)]
#[case(
    "[[apps]]\nname = \"a\"",
    "role.toml: `apps[0]`: missing field `key`; the key `name` is unknown"
)]
#[case(
    "zones = [1]",
    "role.toml: `zones[0]` = 1: invalid type: integer `1`, expected a string"
)]
#[case("a = 1\nb = = 2", "role.toml:2:5: not TOML: ")]
fn a_bad_value_is_named_with_its_file_key_and_what_was_expected(#[case] text: &str, #[case] expected: &str) {
    let error = parsed(text, &[]).unwrap_err().to_string();
    assert!(error.starts_with(expected), "{error}\nexpected {expected}");
}

#[test]
fn a_bad_value_in_the_environment_is_named_by_its_variable() {
    let error = parsed("", &[("WHIMBREL__CONNECTIONS_MAX", "many")])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "environment variable WHIMBREL__CONNECTIONS_MAX: `connections_max` = \"many\": invalid value: string \
         \"many\", expected a whole number, not negative"
    );
}

#[test]
fn a_secret_comes_from_its_file_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "s3cret\n").unwrap();
    std::fs::write(folder.path().join("two"), "first\nsecond\n").unwrap();
    let path = folder.path().join("role.toml");
    let text = "app_secret_file = \"secret\"\n[[apps]]\nkey = \"demo\"\nsecrets_file = \"two\"\n";
    std::fs::write(&path, text).unwrap();
    let loaded = load::<Role>(&path).unwrap();
    assert_eq!(loaded.value.app_secret.as_deref(), Some("s3cret"));
    assert_eq!(loaded.value.apps[0].secrets, ["first", "second"]);
    assert_eq!(loaded.warnings, []);
}

#[test]
fn a_secret_that_is_given_twice_or_not_there_is_an_error() {
    let twice = parsed("app_secret = \"a\"\napp_secret_file = \"b\"", &[])
        .unwrap_err()
        .to_string();
    assert_eq!(
        twice,
        "role.toml: `app_secret_file` = \"b\": `app_secret` is given too; keep one of the two"
    );
    let gone = parsed("app_secret_file = \"/nonexistent/secret\"", &[])
        .unwrap_err()
        .to_string();
    assert!(
        gone.contains("`app_secret_file` = \"/nonexistent/secret\": the file cannot be read"),
        "{gone}"
    );
}

#[test]
fn a_secret_of_the_wrong_kind_is_not_shown() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it never loads")]
    struct Numbered {
        pin_secret: u32,
    }
    let error = parse::<Numbered>("pin_secret = \"hunter2\"", "f", Path::new("."), [])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("pin_secret") && !error.contains("hunter2"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load::<Role>(Path::new("/nonexistent/role.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("configuration /nonexistent/role.toml cannot be read: "),
        "{error}"
    );
}

#[test]
fn the_environment_says_an_underscore_where_a_name_has_a_dash() {
    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default)]
    struct File {
        #[serde(rename = "app-service")]
        app_service: Section,
    }
    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default)]
    struct Section {
        lanes: u32,
        depth: u32,
    }
    let variable = ("WHIMBREL__APP_SERVICE__LANES".to_owned(), "7".to_owned());
    for text in ["", "[app-service]\nlanes = 3\ndepth = 2\n"] {
        let loaded = parse::<File>(text, "a.toml", Path::new("."), [variable.clone()]).unwrap();
        assert_eq!(loaded.warnings, []);
        let section = loaded.value.app_service;
        assert_eq!(
            (section.lanes, section.depth),
            (7, if text.is_empty() { 0 } else { 2 })
        );
    }
}

#[rstest]
#[case(
    "app_secret",
    "app_sceret_file = \"f\"",
    "; the key `app_sceret_file` is unknown: did you mean `app_secret_file`?"
)]
#[case(
    "app_secret_file",
    "app_sceret = \"f\"",
    "; the key `app_sceret` is unknown: did you mean `app_secret`?"
)]
#[case(
    "nested.depth",
    "[nestde]\ndepth = 1",
    "; the key `nestde` is unknown: did you mean `nested`?"
)]
#[case(
    "nested.depth",
    "[nested]\ndetph = 1\nx = 1",
    "; the key `nested.detph` is unknown: did you mean `nested.depth`?"
)]
#[case("nested.depth", "[nested]\nx = 1", "; the key `nested.x` is unknown")]
#[case("nested.depth", "conections_max = 1", "")]
fn what_is_missing_may_have_been_misspelt(#[case] key: &str, #[case] text: &str, #[case] expected: &str) {
    assert_eq!(parsed(text, &[]).unwrap().misspelt(&[key]), expected);
}
