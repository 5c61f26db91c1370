//! No build has planted faults unless it is asked for them on its command line.
//!
//! Cargo joins the features of a crate over all that is built at once: a dependency that asks for `planted-faults`, be it
//! one of another crate's tests, brings them into the server that is built beside it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cargo_metadata::{MetadataCommand, Package};

const FEATURE: &str = "planted-faults";

/// The crate that plants.
const MECHANISM: &str = "whimbrel-planted";

fn asks(feature: &str) -> bool {
    feature == FEATURE || feature.ends_with("/planted-faults") || feature.contains(MECHANISM)
}

/// What in a package's manifest brings planted faults into a build that does not name them.
fn brings_in(package: &Package) -> Vec<String> {
    let of_dependencies = package
        .dependencies
        .iter()
        .filter(|dependency| {
            let always = dependency.name == MECHANISM && !dependency.optional;
            always || dependency.features.iter().any(|feature| asks(feature))
        })
        .map(|dependency| format!("{} -> {} ({})", package.name, dependency.name, dependency.kind));
    let of_features = package
        .features
        .iter()
        .filter(|(name, brings)| *name != FEATURE && brings.iter().any(|feature| asks(feature)))
        .map(|(name, _)| format!("the feature {name} of {}", package.name));
    of_dependencies.chain(of_features).collect()
}

fn packages() -> Vec<Package> {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    metadata.packages
}

#[test]
fn nothing_in_the_workspace_asks_for_planted_faults() {
    let found: Vec<String> = packages().iter().flat_map(brings_in).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_feature_is_there_where_faults_are() {
    let with: Vec<String> = packages()
        .into_iter()
        .filter(|package| package.features.contains_key(FEATURE))
        .map(|package| package.name.to_string())
        .collect();
    for name in [
        "whimbrel",
        "whimbrel-app-service",
        "whimbrel-gateway",
        "whimbrel-sim",
        "whimbrel-store",
    ] {
        assert!(with.iter().any(|with| with == name), "{name} has none: {with:?}");
    }
}

#[test]
fn a_dependency_or_a_default_that_asks_for_them_is_found() {
    let mut store = packages()
        .into_iter()
        .find(|package| *package.name == "whimbrel-store")
        .unwrap();
    store
        .features
        .insert("default".to_owned(), vec![FEATURE.to_owned()]);
    let dependency = store.dependencies.first_mut().unwrap();
    dependency.features.push(FEATURE.to_owned());
    assert_eq!(brings_in(&store).len(), 2, "{:?}", brings_in(&store));
}

#[test]
fn the_crate_that_plants_is_found_where_it_always_comes_along() {
    let mut gateway = packages()
        .into_iter()
        .find(|package| *package.name == "whimbrel-gateway")
        .unwrap();
    assert!(brings_in(&gateway).is_empty());
    for dependency in &mut gateway.dependencies {
        dependency.optional = false;
    }
    gateway
        .features
        .insert("default".to_owned(), vec![format!("dep:{MECHANISM}")]);
    assert_eq!(brings_in(&gateway).len(), 2, "{:?}", brings_in(&gateway));
}
