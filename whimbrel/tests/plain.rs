//! The binary that serves people has no planted faults: nothing of one is in it, neither of its own nor of any crate it is
//! made of, though it is built here beside everything else in the workspace. That no dependency asks for them is held by
//! `xtask/tests/plants.rs`.
#![cfg(not(feature = "planted-faults"))]

#[path = "planted/markers.rs"]
mod markers;

use std::path::Path;

#[test]
fn nothing_of_a_planted_fault_is_in_the_binary() {
    let built = Path::new(env!("CARGO_BIN_EXE_whimbrel"));
    // And the one for release, where it was built.
    let release = built
        .ancestors()
        .nth(2)
        .map(|target| target.join("release/whimbrel"))
        .filter(|path| path.exists());
    for binary in release.iter().map(AsRef::as_ref).chain([built]) {
        assert_eq!(
            markers::found_in(binary),
            [""; 0],
            "{} has planted faults",
            binary.display()
        );
    }
}
