//! Programs of others that end with whoever started them.
//!
//! Whimbrel's own processes watch over that themselves. A Redis, or whatever else, is started through the program that
//! starts the cluster: called with [`HELD`] as its first word it asks for its parent's death signal, which outlives an exec,
//! and becomes the program that the further words name.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// The first word.
const HELD: &str = "held-by-its-parent";

/// What is put before a program and its arguments to have it end with its parent: this program, and the word that it must
/// answer to by [`hold`].
///
/// # Errors
/// When this program does not know where it is.
pub fn launcher() -> io::Result<Vec<OsString>> {
    // What this process runs, also when its file was replaced meanwhile: somebody built it anew.
    let running = Path::new("/proc/self/exe");
    let program = if running.exists() {
        running.to_owned()
    } else {
        std::env::current_exe()?
    };
    Ok(vec![program.into_os_string(), HELD.into()])
}

/// To be called first in the `main` of a program that starts clusters. Returns unless it was called to hold another; then it
/// becomes what it was told to, and returns only if that fails.
///
/// # Errors
/// Why it cannot become that.
pub fn hold() -> io::Result<()> {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_none_or(|word| word != HELD) {
        return Ok(());
    }
    let program = words
        .next()
        .ok_or_else(|| io::Error::other("no program to become"))?;
    let parent = rustix::process::getppid();
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if rustix::process::getppid() != parent {
        return Err(io::Error::other("whoever started this is gone already"));
    }
    let error = Command::new(&program).args(words).process_group(0).exec();
    Err(io::Error::new(
        error.kind(),
        format!("{}: {error}", program.display()),
    ))
}
