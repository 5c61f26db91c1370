//! Which crate may depend on which: the map of the workspace, held to what cargo says.
//!
//! A new arrow is a change of the design. It is made here first, on purpose, with a reason.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Roles meet only on links, never in code.
const ROLES: [&str; 4] = [
    "whimbrel-gateway",
    "whimbrel-router",
    "whimbrel-app-service",
    "whimbrel-lbs",
];

/// What each crate of ours may depend on, among ours.
const ALLOWED: [(&str, &[&str]); 22] = [
    ("whimbrel-protocol", &[]),
    ("whimbrel-store", &[]),
    ("whimbrel-store-tikv", &["whimbrel-store"]),
    // Starts processes for tests and developer commands; nothing that ships may use it.
    ("whimbrel-tikv-cluster", &[]),
    // Preloaded into the store's tests; nothing that ships may use it.
    ("whimbrel-powercut", &[]),
    // Part of tests and developer commands; nothing that ships may use it.
    ("whimbrel-disk", &[]),
    ("whimbrel-host", &[]),
    // Optional everywhere, behind the feature `planted-faults`; `plants.rs` holds that.
    ("whimbrel-planted", &[]),
    ("whimbrel-sdk", &["whimbrel-protocol"]),
    // It stands outside, so that it sees what a client sees.
    ("whimbrel-loadtest", &["whimbrel-protocol"]),
    ("whimbrel-link", &["whimbrel-protocol"]),
    ("whimbrel-registry", &["whimbrel-protocol", "whimbrel-link"]),
    // Roles know the trait; which backend there is, only the binary knows.
    (
        "whimbrel-registry-redis",
        &["whimbrel-protocol", "whimbrel-registry"],
    ),
    (
        "whimbrel-gateway",
        &[
            "whimbrel-protocol",
            "whimbrel-host",
            "whimbrel-link",
            "whimbrel-planted",
            "whimbrel-registry",
        ],
    ),
    ("whimbrel-router", &SUPPORTS),
    (
        "whimbrel-app-service",
        &[
            "whimbrel-protocol",
            "whimbrel-host",
            "whimbrel-link",
            "whimbrel-planted",
            "whimbrel-registry",
            "whimbrel-store",
        ],
    ),
    ("whimbrel-lbs", &SUPPORTS),
    (
        "whimbrel",
        &[
            "whimbrel-protocol",
            "whimbrel-host",
            "whimbrel-link",
            "whimbrel-planted",
            "whimbrel-registry",
            "whimbrel-registry-redis",
            "whimbrel-store",
            "whimbrel-store-tikv",
            "whimbrel-gateway",
            "whimbrel-router",
            "whimbrel-app-service",
            "whimbrel-lbs",
            "whimbrel-sdk",
        ],
    ),
    // The cluster in one thread: it plays the part of `whimbrel` and of the clients.
    (
        "whimbrel-sim",
        &[
            "whimbrel-protocol",
            "whimbrel-host",
            "whimbrel-link",
            "whimbrel-planted",
            "whimbrel-registry",
            "whimbrel-store",
            "whimbrel-gateway",
            "whimbrel-router",
            "whimbrel-app-service",
            "whimbrel-loadtest",
            "whimbrel-sdk",
        ],
    ),
    // Starts processes of all roles, for tests and developer commands: the binary by its path, not by its code.
    ("whimbrel-cluster", &["whimbrel-tikv-cluster"]),
    // It cuts the power of servers that it proves, starts what speaks TiKV's protocol, and clusters.
    (
        "xtask",
        &["whimbrel-cluster", "whimbrel-disk", "whimbrel-tikv-cluster"],
    ),
    // Drives the cores of several roles; nothing depends on it.
    (
        "whimbrel-fuzz-targets",
        &[
            "whimbrel-protocol",
            "whimbrel-link",
            "whimbrel-registry",
            "whimbrel-store",
            "whimbrel-gateway",
            "whimbrel-app-service",
            "whimbrel-lbs",
        ],
    ),
];

const SUPPORTS: [&str; 4] = [
    "whimbrel-protocol",
    "whimbrel-host",
    "whimbrel-link",
    "whimbrel-registry",
];

/// What a crate of ours must not use from outside, since its core is pure.
const PURE: [(&str, &[&str]); 1] = [(
    "whimbrel-protocol",
    &["tokio", "mio", "rand", "getrandom", "socket2"],
)];

/// A crate by name, and what it depends on: ours and others', for its code and for its tests.
#[derive(Default)]
struct Graph {
    ours: BTreeMap<String, Dependencies>,
}

#[derive(Default)]
struct Dependencies {
    normal: BTreeSet<String>,
    dev: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Arrow { from: String, to: String },
    RoleToRole { from: String, to: String },
    Impure { from: String, to: String },
    Unplaced { name: String },
    NamesNothing { name: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arrow { from, to } => {
                write!(
                    f,
                    "{from} -> {to}: this arrow is not in the design; see ALLOWED in xtask/tests/arrows.rs"
                )
            }
            Self::RoleToRole { from, to } => {
                write!(
                    f,
                    "{from} -> {to}: roles never depend on one another, not even in tests; they meet on links"
                )
            }
            Self::Impure { from, to } => {
                write!(
                    f,
                    "{from} -> {to}: {from} is pure: bytes in, bytes and events out"
                )
            }
            Self::Unplaced { name } => {
                write!(
                    f,
                    "{name}: a new crate; place it in ALLOWED in xtask/tests/arrows.rs"
                )
            }
            Self::NamesNothing { name } => write!(f, "{name}: a crate is named for the thing it is"),
        }
    }
}

/// Everything in `graph` that the design does not have.
fn faults(graph: &Graph) -> Vec<Fault> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let mut faults = Vec::new();
    for (from, dependencies) in &graph.ours {
        if ["util", "common", "helper", "misc"]
            .iter()
            .any(|word| from.contains(word))
        {
            faults.push(Fault::NamesNothing { name: from.clone() });
        }
        let Some(allowed) = allowed.get(from.as_str()) else {
            faults.push(Fault::Unplaced { name: from.clone() });
            continue;
        };
        for to in &dependencies.normal {
            let is_role = |name: &String| ROLES.contains(&name.as_str());
            if is_role(from) && is_role(to) {
                faults.push(Fault::RoleToRole {
                    from: from.clone(),
                    to: to.clone(),
                });
            } else if graph.ours.contains_key(to) && !allowed.contains(&to.as_str()) {
                faults.push(Fault::Arrow {
                    from: from.clone(),
                    to: to.clone(),
                });
            }
            if PURE
                .iter()
                .any(|(pure, banned)| pure == from && banned.contains(&to.as_str()))
            {
                faults.push(Fault::Impure {
                    from: from.clone(),
                    to: to.clone(),
                });
            }
        }
        // Tests may use more of ours, but a role's tests never another role.
        for to in &dependencies.dev {
            if ROLES.contains(&from.as_str()) && ROLES.contains(&to.as_str()) {
                faults.push(Fault::RoleToRole {
                    from: from.clone(),
                    to: to.clone(),
                });
            }
        }
    }
    faults
}

fn workspace() -> Graph {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    let mut graph = Graph::default();
    for package in metadata.workspace_packages() {
        let dependencies: &mut Dependencies = graph.ours.entry(package.name.to_string()).or_default();
        for dependency in &package.dependencies {
            let kind = match dependency.kind {
                DependencyKind::Development => &mut dependencies.dev,
                _ => &mut dependencies.normal,
            };
            kind.insert(dependency.name.clone());
        }
    }
    graph
}

#[test]
fn the_workspace_has_the_arrows_of_the_design_and_no_others() {
    let found = faults(&workspace());
    let text: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "\n{}\n", text.join("\n"));
}

#[test]
fn every_crate_that_the_design_places_exists() {
    let graph = workspace();
    for (name, _) in ALLOWED {
        assert!(
            graph.ours.contains_key(name),
            "{name} is placed in ALLOWED and is not in the workspace"
        );
    }
}

/// The design's crates with these arrows (`dev:` for tests') and no others.
fn planted(arrows: &[&str]) -> Graph {
    let mut graph = Graph::default();
    for (name, _) in ALLOWED {
        graph.ours.insert(name.to_owned(), Dependencies::default());
    }
    for arrow in arrows {
        let (arrow, dev) = arrow
            .strip_prefix("dev:")
            .map_or((*arrow, false), |arrow| (arrow, true));
        let Some((from, to)) = arrow.split_once(" -> ") else {
            panic!("{arrow} is no arrow")
        };
        let dependencies = graph.ours.entry(from.to_owned()).or_default();
        let kind = if dev {
            &mut dependencies.dev
        } else {
            &mut dependencies.normal
        };
        kind.insert(to.to_owned());
    }
    graph
}

#[test]
fn arrows_of_the_design_are_no_fault() {
    let graph = planted(&[
        "whimbrel-gateway -> whimbrel-link",
        "whimbrel -> whimbrel-lbs",
        "whimbrel-host -> tokio",
    ]);
    assert_eq!(faults(&graph), []);
}

#[test]
fn a_planted_bad_arrow_is_found_and_named() {
    for arrow in [
        "whimbrel-gateway -> whimbrel-app-service",
        "dev:whimbrel-lbs -> whimbrel-router",
        "whimbrel-sdk -> whimbrel-link",
        "whimbrel-loadtest -> whimbrel-sdk",
        "whimbrel-protocol -> whimbrel-host",
        "whimbrel-protocol -> tokio",
        "whimbrel-link -> whimbrel-registry",
        "whimbrel-gateway -> whimbrel-store",
        "whimbrel-store -> whimbrel-powercut",
        "whimbrel-router -> whimbrel-planted",
        "whimbrel-app-service -> whimbrel-store-tikv",
        "whimbrel-store-tikv -> whimbrel-tikv-cluster",
    ] {
        let found = faults(&planted(&[arrow]));
        assert_eq!(found.len(), 1, "{arrow}: {found:?}");
        let named = arrow.strip_prefix("dev:").unwrap_or(arrow);
        assert!(found[0].to_string().starts_with(named), "{}", found[0]);
    }
}

#[test]
fn a_crate_without_a_place_or_a_name_is_found() {
    let found = faults(&planted(&["whimbrel-utils -> tokio"]));
    let name = || "whimbrel-utils".to_owned();
    assert_eq!(
        found,
        [
            Fault::NamesNothing { name: name() },
            Fault::Unplaced { name: name() }
        ]
    );
}
