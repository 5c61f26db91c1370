//! A server to put under load, and a run against it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use whimbrel_loadtest::cli::Cli;
use whimbrel_loadtest::program;
use whimbrel_loadtest::report::Report;

/// A start takes a second or two; a machine that is busy with other tests may take ten times that.
const START_WITHIN: Duration = Duration::from_secs(60);

/// `whimbrel standalone --ephemeral`, running. Killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ready_file = folder.path().join("ready.json");
        let log = || {
            fs::File::options()
                .create(true)
                .append(true)
                .open(folder.path().join("log"))
                .unwrap()
        };
        let child = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
            .args(["standalone", "--ephemeral", "--port-base", "0", "--ready-file"])
            .arg(&ready_file)
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .unwrap();
        let mut server = Self { child, folder };
        let started = Instant::now();
        while !ready_file.exists() {
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("standalone ended at its start, {status}: {}", server.log());
            }
            assert!(
                started.elapsed() < START_WITHIN,
                "standalone is not ready after {START_WITHIN:?}"
            );
            thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command_line(&self, scenario: &str) -> Vec<String> {
        let mut arguments = vec!["whimbrel-loadtest".to_owned()];
        arguments.extend(scenario.split_ascii_whitespace().map(str::to_owned));
        arguments.push("--quiet".to_owned());
        for (flag, name) in [("--ready-file", "ready.json"), ("--json", "out.json")] {
            arguments.extend([flag.to_owned(), self.path(name).display().to_string()]);
        }
        arguments
    }

    /// Runs a scenario in this process: its report, and the JSON it wrote.
    pub(crate) fn load(&self, scenario: &str) -> (Report, Value) {
        let cli = Cli::read(self.command_line(scenario)).unwrap();
        let report = program::measure(&cli).unwrap_or_else(|error| panic!("{scenario}: {error:#}"));
        (report, read_json(&self.path("out.json")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
