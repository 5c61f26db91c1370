//! A user who may do what `docs/operations.md` has operators grant, and nothing else, can do all that a registry does.

use redis::Value;
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::Registry as _;
use whimbrel_registry::conformance::{room_counts, session};

use crate::harness::{new_cluster, registry};
use crate::server::{Cluster, STANDSTILL_MAX_MS, Server, Watched, wait_for};
use crate::together::{G1, put};
use crate::{admin_of, admin_of_cluster, block_on, conform};

pub(crate) const TESTS: [(&str, fn()); 3] = [
    (
        "the_documented_rights_suffice_on_a_single_server",
        the_documented_rights_suffice_on_a_single_server,
    ),
    (
        "the_documented_rights_suffice_on_a_cluster",
        the_documented_rights_suffice_on_a_cluster,
    ),
    (
        "the_documented_rights_suffice_behind_sentinels",
        the_documented_rights_suffice_behind_sentinels,
    ),
];

const OPERATIONS: &str = include_str!("../../../../docs/operations.md");

/// The line with which an operator makes the user, for all clusters of these tests.
fn grant() -> String {
    let mut lines = OPERATIONS.lines().map(str::trim);
    let line = lines.find(|line| line.starts_with("ACL SETUSER whimbrel "));
    let line = line.expect("docs/operations.md says how the user is made");
    assert!(line.contains("NAME") && line.contains(">PASSWORD"), "{line}");
    line.replace("NAME", "test-*")
}

/// The URL, for that user.
fn as_user(url: &str) -> String {
    url.replacen("://", "://whimbrel:PASSWORD@", 1)
}

/// What was refused to anybody.
fn refused(server: &Server) -> Vec<String> {
    let entries: Vec<Value> = server.ask("ACL LOG");
    let entries = entries.iter().map(|entry| format!("{entry:?}"));
    // The client gives its name where the server takes it; it need not.
    entries.filter(|entry| !entry.contains("setinfo")).collect()
}

/// What goes on behind the calls is done as well: a life that ended is swept after.
fn is_swept_after(url: &str, servers: &[&Server]) {
    block_on(async {
        let cluster = new_cluster();
        let node = registry(url, &cluster).await;
        put(&node, G1, 60_000).await;
        node.register(session(G1, 1, 7, "phone", 1)).await.unwrap();
        node.put_rooms(room_counts(G1, &[("hall", 3)])).await.unwrap();
        // Until it ends, the connection hears of changes.
        let mut changes = node.changes();
        changes.mark_unchanged();
        node.remove_node(&NodeId::new("g1").unwrap(), Incarnation(1))
            .await
            .unwrap();
        changes.changed().await.unwrap();
        tokio::task::block_in_place(|| {
            wait_for("nothing of it is left", || {
                let left = servers.iter().flat_map(|server| {
                    server.ask::<Vec<String>>(&format!("KEYS whimbrel:1:{{{cluster}.*}}:i:g1/*"))
                });
                (left.count() == 0).then_some(())
            });
        });
    });
    for server in servers {
        assert_eq!(refused(server), Vec::<String>::new());
    }
}

fn the_documented_rights_suffice_on_a_single_server() {
    let server = Server::start(&["--save", ""]);
    let _: Value = server.ask(&grant());
    let url = as_user(&server.url());
    block_on(async { conform(url.clone(), admin_of(&server).await).await });
    is_swept_after(&url, &[&server]);
    block_on(async {
        let node = registry(&format!("{url}/1"), &new_cluster()).await;
        put(&node, G1, 60_000).await;
    });
    assert_eq!(refused(&server), Vec::<String>::new());
    // And nothing else.
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    for words in [
        "GET somebody",
        "KEYS *",
        "FLUSHALL",
        "CONFIG GET maxmemory",
        "PUBLISH other x",
    ] {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        let error = command.exec(&mut connection).unwrap_err();
        assert_eq!(error.code(), Some("NOPERM"), "{error}");
    }
}

fn the_documented_rights_suffice_on_a_cluster() {
    let cluster = Cluster::start();
    for master in &cluster.masters {
        let _: Value = master.ask(&grant());
    }
    let url = as_user(&cluster.url());
    block_on(async { conform(url.clone(), admin_of_cluster(&cluster).await).await });
    is_swept_after(&url, &cluster.masters.iter().collect::<Vec<_>>());
}

fn the_documented_rights_suffice_behind_sentinels() {
    let watched = Watched::start(STANDSTILL_MAX_MS);
    for server in [&watched.master, &watched.replica] {
        let _: Value = server.ask(&grant());
    }
    is_swept_after(&as_user(&watched.url()), &[&watched.master]);
}
