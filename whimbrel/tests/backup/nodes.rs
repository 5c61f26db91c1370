//! Several nodes over TiKV's protocol and Redis: backed up beside all of them while people write, and another cluster, with another Redis
//! and another store, goes on from the backup and the keys.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use whimbrel_cluster::{Cluster, Member, Role, Saved, Setup, Shape};
use whimbrel_sdk::{ClientConfig, FixedToken};
use whimbrel_tikv_cluster::Binaries;

use crate::people::{People, Server};
use crate::support::token;
use crate::{succeeds, text, tikv};

const SHAPE: Shape = Shape {
    lbs: 1,
    gateways: 1,
    routers: 1,
    service_nodes: 2,
};
/// A start takes some seconds, and on a machine that is busy with other tests ten times that.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What a cluster stands on, or what of it is missing.
pub(crate) fn ground() -> Result<Binaries, &'static str> {
    if !whimbrel_cluster::redis_is_there() {
        return Err("redis-server is missing: run `apt-get install redis-server`");
    }
    tikv()
}

impl Server for Cluster {
    fn client(&self, uid: &str) -> (ClientConfig, Arc<FixedToken>) {
        let ready = self.ready();
        let [lbs, root, app] =
            ["lbs", "root_key", "app_key"].map(|name| ready[name].as_str().expect("it says so"));
        let token = FixedToken(token::token(&self.ready_file(), uid, &[]));
        (ClientConfig::new(lbs, root, app, uid), Arc::new(token))
    }
}

fn cluster(folder: &Path, saved: Option<&Saved>) -> Cluster {
    let setup = Setup {
        binary: env!("CARGO_BIN_EXE_whimbrel").into(),
        tikv: ground().unwrap(),
        folder: folder.to_owned(),
        ready_file: None,
        shape: SHAPE,
        port_base: 0,
        held_back: Vec::new(),
        proxies: false,
        restart: false,
        log: "warn".to_owned(),
    };
    let cluster = match saved {
        Some(saved) => Cluster::start_from(saved, setup),
        None => Cluster::start(setup),
    };
    let cluster = cluster.expect("a cluster starts");
    let ready = cluster.wait_until_ready(READY_WITHIN, &|| false);
    ready.expect("every node becomes ready");
    cluster
}

pub(crate) async fn backed_up_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let first = cluster(&old, None);
    let mut people = People::arrive(&first, folder.path()).await;
    people.chat("kept", 20).await;
    let saved = Saved {
        keys_of: old,
        backup: folder.path().join("a.backup"),
    };
    let config = first.config_of(Member {
        role: Role::AppService,
        nth: 0,
    });
    let backup = saved.backup.clone();
    let backup = tokio::task::spawn_blocking(move || {
        succeeds(&["backup", "--config", text(&config), "--to", text(&backup)])
    });
    let said = people.chat_during(backup).await;
    assert!(said.contains("of cluster \"whimbrel\""), "{said}");
    people.chat("lost", 5).await;
    people.leave().await;
    first.stop().expect("all of it ends");

    let second = cluster(&new, Some(&saved));
    people.come_back_to_what_was_kept(&second).await;
}
