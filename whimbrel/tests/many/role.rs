//! One role's process, with a configuration of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::waits::{LOOK_EVERY, PATIENCE, eventually, page};

/// A secret of a cluster, in the file's form.
pub(crate) const SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// That of another one.
pub(crate) const OTHER_SECRET: &str = "ff1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// See the module. Killed when dropped.
pub(crate) struct Role {
    pub(crate) child: Child,
    folder: tempfile::TempDir,
    health: SocketAddr,
}

/// Below the range from which systems give connections theirs (32768 on Linux).
const PORTS: Range<u16> = 10_240..32_000;

/// A port that nobody has now, and no connection gets before its process listens.
pub(crate) fn free_port() -> SocketAddr {
    let any = || SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(PORTS)));
    let is_free = |address: &SocketAddr| TcpListener::bind(address).is_ok();
    (0..200).map(|_| any()).find(is_free).unwrap()
}

impl Role {
    /// A router.
    pub(crate) fn router(name: &str, secret: &str) -> Self {
        let links = json!({ "secret": secret, "listen": "127.0.0.1:0" });
        Self::start("router", json!({ "node": { "name": name }, "links": links }))
    }

    /// An LBS that dials this router.
    pub(crate) fn lbs(node: &Value, secret: &str, router: SocketAddr) -> Self {
        let links = json!({ "secret": secret, "routers": [router.to_string()] });
        Self::start(
            "lbs",
            json!({ "node": node, "links": links, "lbs": { "listen": "127.0.0.1:0" } }),
        )
    }

    /// A process of a role with this configuration; where its health page is, is added.
    pub(crate) fn start(role: &str, mut config: Value) -> Self {
        let (folder, health) = (tempfile::tempdir().unwrap(), free_port());
        config["health"] = json!({ "listen": health });
        let path = folder.path().join("role.toml");
        fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
            .arg(role)
            .arg("--config")
            .arg(&path)
            .arg("--ready-file")
            .arg(folder.path().join("ready.json"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            child,
            folder,
            health,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where it takes links, once it does.
    pub(crate) async fn links(&self) -> SocketAddr {
        eventually("a router listens", || async {
            let ready = fs::read(self.file("ready.json")).ok()?;
            let ready: Value = serde_json::from_slice(&ready).ok()?;
            ready["links"].as_str()?.parse().ok()
        })
        .await
    }

    /// A page beside its health.
    pub(crate) async fn page(&self, path: &str) -> Option<String> {
        page(&format!("http://{}/{path}", self.health)).await
    }

    /// The nodes that a router lists, by name and incarnation; of the linked ones.
    pub(crate) async fn linked(&self) -> Vec<(String, String)> {
        let page = self.page("topology").await.unwrap_or_default();
        let topology: Value = serde_json::from_str(&page).unwrap_or_default();
        let nodes = topology["nodes"].as_array().cloned().unwrap_or_default();
        let up = nodes.iter().filter(|node| node["link"] == "up");
        let text = |node: &Value, name: &str| node[name].as_str().unwrap().to_owned();
        up.map(|node| (text(node, "node"), text(node, "incarnation")))
            .collect()
    }

    pub(crate) fn health_url(&self) -> String {
        format!("http://{}", self.health)
    }

    /// How often links were refused for this reason.
    pub(crate) async fn refused(&self, reason: &str) -> u64 {
        let page = self.page("metrics").await.unwrap_or_default();
        let sample = format!("whimbrel_link_refused_total{{reason=\"{reason}\"}} ");
        let count = page.lines().find_map(|line| line.strip_prefix(&sample));
        count.map_or(0, |count| count.parse().unwrap())
    }

    /// The lines it logged that contain this.
    pub(crate) fn logged(&self, text: &str) -> Vec<String> {
        let log = fs::read_to_string(self.file("log")).unwrap();
        log.lines()
            .filter(|line| line.contains(text))
            .map(str::to_owned)
            .collect()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ends(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it runs on");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
