//! The binary that serves people has no planted faults.
#![cfg(not(feature = "planted-faults"))]

use std::path::Path;

/// What chooses a fault, where there are any.
const VARIABLE: &str = "WHIMBREL_PLANT";

fn has_plants(binary: &Path) -> bool {
    let bytes = std::fs::read(binary).expect("the binary can be read");
    String::from_utf8_lossy(&bytes).contains(VARIABLE)
}

#[test]
fn nothing_in_the_binary_can_be_planted() {
    let built = Path::new(env!("CARGO_BIN_EXE_whimbrel"));
    assert!(!has_plants(built), "{} has planted faults", built.display());
    // And the one for release, where it was built.
    let release = built
        .ancestors()
        .nth(2)
        .map(|target| target.join("release/whimbrel"));
    for binary in release.into_iter().filter(|path| path.exists()) {
        assert!(!has_plants(&binary), "{} has planted faults", binary.display());
    }
}
