//! Tokens as the real binary makes them.

use std::path::Path;
use std::process::Command;

/// A token for a user, or for a customer's server, of the deployment that the ready file names.
pub(crate) fn token(ready_file: &Path, uid: &str, flags: &[&str]) -> String {
    let made = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
        .args(["token", "--uid", uid])
        .args(flags)
        .arg("--ready-file")
        .arg(ready_file)
        .output()
        .expect("the binary starts");
    assert!(made.status.success(), "no token: {made:?}");
    String::from_utf8(made.stdout)
        .expect("a token is ASCII")
        .trim()
        .to_owned()
}
