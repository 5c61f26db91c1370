//! The operating files in `deploy`: systemd finds no fault in the units, and the compose file, the configurations it mounts and the
//! documents agree.
//!
//! What looks at them is not everywhere: without `systemd-analyze`, or a python3 that reads YAML, a test is shown as ignored with the
//! reason. Whether the configurations load is tested where they are defined (`whimbrel/src/config.rs`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// Reads YAML and prints it as JSON.
const AS_JSON: &str = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
const ROLES: [&str; 4] = ["gateway", "router", "app-service", "lbs"];

fn main() -> ExitCode {
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    let run = |program: &str, arguments: &[&str]| {
        let ran = Command::new(program).args(arguments).output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    let lacks = |what: &'static str, there: bool| (!there).then_some(what);
    let systemd = lacks("no systemd-analyze", run("systemd-analyze", &["--version"]));
    let yaml = lacks("no python3 with yaml", run("python3", &["-c", "import yaml"]));
    let or_not = |name: &str, lacking: Option<&str>, test: fn()| match lacking {
        None => trial(name, test),
        Some(why) => trial(&format!("{name} ({why})"), test).with_ignored_flag(true),
    };
    let tests = vec![
        or_not("systemd_finds_no_fault_in_the_units", systemd, units),
        trial("a_unit_outlasts_the_drain_of_its_role", drains),
        or_not("the_compose_file_agrees_with_what_it_mounts", yaml, compose),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn deploy() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("deploy")
}

fn unit(role: &str) -> String {
    let path = deploy().join(format!("systemd/whimbrel-{role}@.service"));
    fs::read_to_string(&path).unwrap_or_else(|error| unreachable!("{}: {error}", path.display()))
}

fn units() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ROLES.map(|role| {
        // Systemd looks whether the program is there.
        let text = unit(role).replace("/usr/local/bin/whimbrel", "/bin/true");
        let path = folder.path().join(format!("whimbrel-{role}@{role}-1.service"));
        fs::write(&path, text).unwrap();
        path
    });
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&paths)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("whimbrel-"), "{said}");
}

/// A key of a unit, once.
fn setting<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut values = unit
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| unreachable!("no {key}"));
    assert_eq!(values.next(), None, "{key} is there twice");
    value
}

fn drains() {
    for role in ROLES {
        let unit = unit(role);
        assert_eq!(
            setting(&unit, "ExecStart"),
            format!("/usr/local/bin/whimbrel {role} --config /etc/whimbrel/%i.toml")
        );
        assert_eq!(setting(&unit, "KillSignal"), "SIGTERM");
        // With `always`, two units of one name would take it from one another without end.
        assert_eq!(setting(&unit, "Restart"), "on-failure");
    }
    let seconds = |role: &str| -> u64 {
        let unit = unit(role);
        setting(&unit, "TimeoutStopSec")
            .trim_end_matches('s')
            .parse()
            .unwrap()
    };
    let example = |role: &str, key: &str| {
        let text = fs::read_to_string(deploy().join(format!("config/{role}.toml"))).unwrap();
        let mut lines = text
            .lines()
            .filter_map(|line| line.trim_start_matches('#').strip_prefix(key));
        lines.next().unwrap().trim_start_matches(" = ").to_owned()
    };
    let grace_ms: u64 = example("gateway", "grace_ms").parse().unwrap();
    assert!(seconds("gateway") * 1_000 > grace_ms);
    let of_router = |key: &str| -> u64 { example("router", key).trim_matches(['"', 's']).parse().unwrap() };
    assert!(seconds("router") > of_router("drain_window") + of_router("drain_grace"));
}

fn compose() {
    let path = deploy().join("compose/compose.yaml");
    let folder = path.parent().unwrap();
    let read = Command::new("python3")
        .args(["-c", AS_JSON])
        .stdin(fs::File::open(&path).unwrap())
        .output()
        .unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let compose: Value = serde_json::from_slice(&read.stdout).unwrap();
    let services = compose["services"].as_object().unwrap();
    let mut of_role: BTreeMap<&str, u32> = BTreeMap::new();
    for (name, service) in services {
        let texts = |key: &str| -> Vec<&str> {
            let list = service[key].as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(Value::as_str).collect()
        };
        if let Some(build) = service["build"].as_object() {
            let context = folder.join(build["context"].as_str().unwrap());
            assert!(
                context.join(build["dockerfile"].as_str().unwrap()).is_file(),
                "{name}"
            );
        }
        let image = service["image"].as_str().unwrap();
        assert!(
            image == "whimbrel" || image.contains(':'),
            "{image} names no version"
        );
        let [role, "--config", config] = texts("command")[..] else {
            continue;
        };
        *of_role.entry(role).or_default() += 1;
        assert_eq!(service["environment"]["WHIMBREL__NODE__NAME"], name.as_str());
        let mounted = texts("volumes").into_iter().find_map(|volume| {
            let (file, rest) = volume.split_once(':')?;
            (rest == format!("{config}:ro")).then(|| folder.join(file))
        });
        let text = fs::read_to_string(mounted.unwrap()).unwrap();
        let config: toml::Table = text.parse().unwrap();
        for port in texts("ports") {
            let inside = port.rsplit(':').next().unwrap();
            assert!(
                text.contains(&format!("listen = \"0.0.0.0:{inside}\"")),
                "{name} publishes {inside}, where nothing listens"
            );
        }
        let pd = config
            .get("store")
            .map(|store| store["tikv"][0].as_str().unwrap().to_owned());
        assert!(pd.is_none_or(|pd| pd == "pd:2379"));
        assert_eq!(config["registry"]["redis"].as_str(), Some("redis://redis:6379"));
        if let Some(advertised) = service["environment"]["WHIMBREL__LINKS__ADVERTISE"].as_str() {
            assert_eq!(advertised, format!("{name}:7200"));
        }
    }
    assert!(services.contains_key("redis") && services.contains_key("pd") && services.contains_key("tikv"));
    assert_eq!(
        of_role.into_keys().collect::<Vec<_>>(),
        ["app-service", "gateway", "lbs", "router"]
    );
}
