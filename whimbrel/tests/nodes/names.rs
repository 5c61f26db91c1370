//! A process that stands still for longer than its lease, and another one that is started under its name meanwhile.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::role::{Role, SECRET, free_port};
use crate::waits::eventually;

/// The shortest renewal that a service node takes; a lease outlives three.
const RENEWAL_S: u64 = 1;
/// Its lease has ended by then, and its links.
const STANDS_STILL: Duration = Duration::from_secs(6);
/// Each has renewed several times by then.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// A Redis that keeps nothing. Killed when dropped.
struct Redis {
    child: Child,
    url: String,
}

impl Redis {
    fn start(folder: &Path) -> Self {
        let port = free_port().port().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir"]);
        command.arg(folder).stdin(Stdio::null()).stdout(Stdio::null());
        Self {
            child: command.spawn().unwrap(),
            // A node waits for it.
            url: format!("redis://127.0.0.1:{port}"),
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of these two one leaves, and the other is whom the routers know in the end.
pub(crate) async fn of_a_woken_process_and_the_one_that_took_its_name_the_later_stays() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(folder.path());
    let secret = folder.path().join("app.secret");
    std::fs::write(&secret, SECRET).unwrap();
    let registry = json!({ "redis": redis.url });
    let router = |name: &str| {
        let links = json!({ "secret": SECRET, "listen": "127.0.0.1:0" });
        let node = json!({ "name": name });
        Role::start(
            "router",
            json!({ "node": node, "links": links, "registry": registry, "router": {} }),
        )
    };
    let service_node = |routers: &[SocketAddr]| {
        let routers: Vec<_> = routers.iter().map(ToString::to_string).collect();
        let app_service = json!({
            "apps": [{ "key": "demo", "secret_files": [secret] }],
            "service": { "lease_renewal_s": RENEWAL_S },
        });
        Role::start(
            "app-service",
            json!({
                "node": { "name": "app-1" },
                "links": { "secret": SECRET, "routers": routers },
                "registry": registry,
                "store": { "folder": "store" },
                "app-service": app_service,
            }),
        )
    };
    let signal = |role: &Role, signal| kill_process(Pid::from_child(&role.child), signal).unwrap();
    let (first, second) = (router("router-1"), router("router-2"));
    let addresses = [first.links().await, second.links().await];
    let mut earlier = service_node(&addresses);
    let at_both = async |what: &str, is: &dyn Fn(&str) -> bool| {
        eventually(what, || async {
            let (here, there) = (first.linked().await.pop()?, second.linked().await.pop()?);
            (here == there && is(&here.1)).then_some(here.1)
        })
        .await
    };
    let early_life = at_both("the first is linked", &|_| true).await;
    signal(&earlier, Signal::STOP);
    tokio::time::sleep(STANDS_STILL).await;
    let mut later = service_node(&addresses);
    let late_life = at_both("the second is linked", &|life| life != early_life).await;
    let serves = async |later: &Role| {
        let ready = later.page("readyz").await.unwrap_or_default();
        ready.contains("\"ready\":true").then_some(())
    };
    eventually("the second is ready", || serves(&later)).await;

    signal(&earlier, Signal::CONT);
    let status = earlier.ends().await;
    assert!(
        status.success(),
        "in order, or it would be started again: {status}"
    );
    tokio::time::sleep(AFTERWARDS).await;
    assert!(later.is_running(), "nobody serves under the name");
    assert_eq!(at_both("the second is linked still", &|_| true).await, late_life);
    eventually("the second is ready still", || serves(&later)).await;
}
