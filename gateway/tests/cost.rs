//! What a connection costs the gateway: memory while it idles, CPU of the reactors to log in.
//!
//! A process of its own, so that nothing else moves its numbers; clients keep only their sockets, and the registry
//! forgets at once. What remains is the gateway's.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use whimbrel_protocol::cluster::{
    NodeLease, Role, RoomCounts, RoomKey, RoomOnGateway, SessionRecord, UserKey,
};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::{MemoryRegistry, Put, Registered, Registry, RegistryError};

#[expect(dead_code, reason = "shared with the other tests, which use the rest")]
#[path = "it/support/mod.rs"]
mod support;

use support::world::{World, config};

/// User bytes of the gateway's process per idle connection: the bound of the design.
const BYTES_PER_CONNECTION_MAX: u64 = 768;

/// Enough to tell bytes from pages; twice as many descriptors are needed.
const CONNECTIONS: u64 = 3_000;

/// Knows nodes, and says yes to every session.
struct Yes(MemoryRegistry);

#[async_trait]
impl Registry for Yes {
    async fn put_node(&self, lease: NodeLease) -> Result<Put, RegistryError> {
        self.0.put_node(lease).await
    }
    async fn remove_node(&self, node: &NodeId, incarnation: Incarnation) -> Result<(), RegistryError> {
        self.0.remove_node(node, incarnation).await
    }
    async fn nodes(&self, role: Option<Role>) -> Result<Vec<NodeLease>, RegistryError> {
        self.0.nodes(role).await
    }
    async fn register(&self, _record: SessionRecord) -> Result<Registered, RegistryError> {
        Ok(Registered {
            accepted: true,
            displaced: Vec::new(),
        })
    }
    async fn unregister(&self, _record: SessionRecord) -> Result<(), RegistryError> {
        Ok(())
    }
    async fn look_up(&self, users: Vec<UserKey>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.0.look_up(users).await
    }
    async fn announce(&self, records: Vec<SessionRecord>) -> Result<Vec<SessionRecord>, RegistryError> {
        self.0.announce(records).await
    }
    async fn put_rooms(&self, counts: RoomCounts) -> Result<(), RegistryError> {
        self.0.put_rooms(counts).await
    }
    async fn look_up_room(&self, room: RoomKey) -> Result<Vec<RoomOnGateway>, RegistryError> {
        self.0.look_up_room(room).await
    }
    fn life(&self) -> watch::Receiver<Option<Incarnation>> {
        self.0.life()
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Nanoseconds on a core that this process's reactors have spent.
fn reactor_cpu_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let reactors = tasks.map(|task| task.unwrap().path()).filter(|task| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("reactor-"))
    });
    let spent = |task: std::path::PathBuf| {
        let text = std::fs::read_to_string(task.join("schedstat")).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    reactors.map(spent).sum()
}

/// The numbers are worth reading, with `--nocapture`, in a build with optimisations; in one without they are not judged.
#[test]
#[expect(clippy::print_stdout, reason = "the numbers are worth reading")]
fn an_idle_connection_costs_less_than_its_budget() {
    let _limit = whimbrel_host::RawFdLimit::raise_to_hard();
    let mut config = config();
    config.connections_max = 10_000;
    let world = World::over(config, Arc::new(Yes(MemoryRegistry::new(Incarnation(1)))));
    let log_in = |index: u64| world.log_in(&format!("user-{index:06}"), 1).stream;
    let mut streams = Vec::with_capacity(usize::try_from(2 * CONNECTIONS).unwrap());
    streams.extend((0..CONNECTIONS / 4).map(log_in));
    let (bytes_before, cpu_before) = (resident_bytes(), reactor_cpu_ns());
    streams.extend((0..CONNECTIONS).map(|index| log_in(CONNECTIONS + index)));
    let bytes = resident_bytes().saturating_sub(bytes_before) / CONNECTIONS;
    let cpu_us = (reactor_cpu_ns() - cpu_before) / CONNECTIONS / 1_000;
    println!("{bytes} bytes of user memory per idle connection, {cpu_us} us of reactor CPU per login");
    assert_eq!(world.gateway().sessions(), streams.len());
    assert!(
        bytes <= BYTES_PER_CONNECTION_MAX,
        "{bytes} bytes per idle connection"
    );
}
