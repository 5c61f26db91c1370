//! Words for the person at the terminal. A terminal may be gone, or a pipe closed by whoever read it: that ends a command
//! whose answer nobody can read with an error, and never a server.

use std::io::Write as _;

use anyhow::Context as _;

/// A command's answer to its user.
pub(crate) fn answer(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .context("standard output is closed")
}

/// News of a server that goes on whether or not somebody reads them.
pub(crate) fn say(text: &str) {
    // Nobody reads it: nothing depends on that.
    let _ = answer(text);
}

/// The last word of a command that failed; its exit status says the same.
pub(crate) fn complain(text: &str) {
    // There is no other place to say it.
    let _ = writeln!(std::io::stderr(), "{text}");
}
