//! A deployment as its operator runs it: the real binary, started in a folder, known by its ready file.
#![expect(clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod token;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use whimbrel_sdk::{ClientConfig, FixedToken};

/// A start over an existing store takes a second or two; a machine that is busy with other tests may take ten times that.
const START_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at the ready file.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How a deployment's roles are spread over processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// All in one, over in-memory links.
    OneProcess,
    /// One each, supervised, over loopback TCP, and so many gateways and routers.
    Processes { gateways: u16, routers: u16 },
}

/// `whimbrel standalone`, running. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Standalone {
    child: Child,
    folder: PathBuf,
}

impl Standalone {
    /// Starts it over what `folder` holds and waits until it listens. Port base 0 takes free ports.
    ///
    /// What it prints goes to `server.log` in the folder. Its environment is this process's, and `environment`.
    pub(crate) async fn start(
        folder: &Path,
        mode: Mode,
        port_base: u16,
        environment: &[(&str, PathBuf)],
    ) -> Self {
        let ready_file = ready_file(folder);
        if ready_file.exists() {
            // Left behind by one that was killed.
            fs::remove_file(&ready_file).expect("the old ready file can be removed");
        }
        let log = || {
            let path = folder.join("server.log");
            let file = OpenOptions::new().create(true).append(true).open(path);
            Stdio::from(file.expect("a log in the test's folder"))
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_whimbrel"));
        command.arg("standalone").arg("--data").arg(folder.join("data"));
        command.arg("--ready-file").arg(&ready_file);
        command.arg("--port-base").arg(port_base.to_string());
        if let Mode::Processes { gateways, routers } = mode {
            command.arg("--processes");
            command.arg("--gateways").arg(gateways.to_string());
            command.arg("--routers").arg(routers.to_string());
        }
        let child = command
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .expect("the binary starts");
        let mut standalone = Self {
            child,
            folder: folder.to_owned(),
        };
        let started = Instant::now();
        while !ready_file.exists() {
            let ended = standalone.child.try_wait().expect("a child can be asked");
            assert_eq!(
                ended, None,
                "standalone ended at its start; see {folder:?}/server.log"
            );
            assert!(
                started.elapsed() < START_WITHIN,
                "standalone is not ready after {START_WITHIN:?}; see {folder:?}/server.log"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        standalone
    }

    /// What its ready file says now.
    pub(crate) fn ready(&self) -> Value {
        let text = fs::read_to_string(ready_file(&self.folder)).expect("a ready file while it runs");
        serde_json::from_str(&text).expect("a ready file is JSON")
    }

    /// A text of the ready file.
    pub(crate) fn said(&self, name: &str) -> String {
        let ready = self.ready();
        let text = ready[name].as_str();
        text.unwrap_or_else(|| panic!("no text {name:?} in the ready file {ready}"))
            .to_owned()
    }

    /// A token for a user, or for a customer's server, as the `token` command makes it.
    pub(crate) fn token(&self, uid: &str, flags: &[&str]) -> String {
        token::token(&ready_file(&self.folder), uid, flags)
    }

    /// What a client of `uid` is started with, everything kept in memory.
    pub(crate) fn client(&self, uid: &str) -> (ClientConfig, Arc<FixedToken>) {
        let [lbs, root, app] = ["lbs", "root_key", "app_key"].map(|name| self.said(name));
        let token = FixedToken(self.token(uid, &[]));
        (ClientConfig::new(&lbs, &root, &app, uid), Arc::new(token))
    }

    /// Ends it by SIGKILL and waits until it is gone; with `--processes` its roles go with it. Gives its status if it had
    /// ended by itself before.
    pub(crate) fn kill(&mut self) -> Option<ExitStatus> {
        let ended = self.child.try_wait().ok().flatten();
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        ended
    }

    /// What it printed, over all its starts in this folder.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(self.folder.join("server.log")).expect("the log in the test's folder")
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        self.kill();
    }
}

fn ready_file(folder: &Path) -> PathBuf {
    folder.join("ready.json")
}
