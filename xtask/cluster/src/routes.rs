//! Who reaches whom where: in a cluster with proxies each pair has one of its own, so that it alone can fail.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::runtime::Runtime;

use crate::ports::Ports;
use crate::{Line, Member, Proxy, Role, Shape};

/// The proxies of a cluster.
#[derive(Debug)]
pub struct Routes {
    /// From each node that dials to each router.
    links: BTreeMap<(Member, Member), Proxy>,
    /// From each node to Redis.
    redis: BTreeMap<Member, Proxy>,
    /// From each service node to the placement driver and to the store.
    stores: BTreeMap<Member, [Proxy; 2]>,
    /// From clients to each gateway and each LBS.
    clients: BTreeMap<Member, Proxy>,
    /// What routers say of where they are: nobody is there, for whoever found a router by itself would go past the proxies.
    nowhere: Proxy,
    /// Kept to the end, so that a proxy works whatever its owner does.
    runtime: Option<Runtime>,
}

impl Routes {
    /// `beneath`: the placement driver and the store.
    pub(crate) fn new(shape: Shape, ports: Ports, beneath: [SocketAddr; 2]) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxies")
            .enable_all()
            .build()
            .context("a thread for the proxies")?;
        let listen = |to| Proxy::listen(runtime.handle(), to).context("a proxy's port");
        let mut links = BTreeMap::new();
        let mut redis = BTreeMap::new();
        let mut clients = BTreeMap::new();
        let mut stores = BTreeMap::new();
        for member in shape.members() {
            redis.insert(member, listen(ports.redis())?);
            match member.role {
                Role::Gateway => drop(clients.insert(member, listen(ports.clients(member.nth))?)),
                Role::Lbs => drop(clients.insert(member, listen(ports.lbs(member.nth))?)),
                Role::AppService => {
                    let [pd, store] = beneath;
                    stores.insert(member, [listen(pd)?, listen(store)?]);
                }
                Role::Router => {}
            }
            for router in shape.members_of(Role::Router) {
                if member.role != Role::Router {
                    links.insert((member, router), listen(ports.links(router.nth))?);
                }
            }
        }
        let nowhere = listen(ports.redis())?;
        nowhere.set(Line::Cut);
        Ok(Self {
            links,
            redis,
            stores,
            clients,
            nowhere,
            runtime: Some(runtime),
        })
    }

    /// The routers as `member` reaches them.
    pub(crate) fn routers_of(&self, member: Member) -> Vec<SocketAddr> {
        let own = self.links.iter().filter(|((from, _), _)| *from == member);
        own.map(|(_, proxy)| proxy.address()).collect()
    }

    pub(crate) fn nowhere(&self) -> SocketAddr {
        self.nowhere.address()
    }

    pub(crate) fn redis_of(&self, member: Member) -> Option<SocketAddr> {
        self.redis.get(&member).map(Proxy::address)
    }

    /// Where a service node reaches the placement driver.
    pub(crate) fn pd_of(&self, service_node: Member) -> Option<SocketAddr> {
        self.stores.get(&service_node).map(|[pd, _]| pd.address())
    }

    /// Where whoever reaches the placement driver at the first address is to reach the store.
    pub(crate) fn ways(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let pairs = self.stores.values();
        pairs.map(|[pd, store]| (pd.address(), store.address())).collect()
    }

    /// Where clients reach a gateway or an LBS.
    pub(crate) fn clients_of(&self, member: Member) -> Option<SocketAddr> {
        self.clients.get(&member).map(Proxy::address)
    }

    /// The line between these two, one of which is a router.
    pub fn link(&self, one: Member, other: Member, line: Line) {
        for pair in [(one, other), (other, one)] {
            if let Some(proxy) = self.links.get(&pair) {
                proxy.set(line);
            }
        }
    }

    /// The lines between all nodes and Redis.
    pub fn redis(&self, line: Line) {
        self.redis.values().for_each(|proxy| proxy.set(line));
    }

    /// The lines between a gateway or an LBS and its clients.
    pub fn clients(&self, member: Member, line: Line) {
        if let Some(proxy) = self.clients.get(&member) {
            proxy.set(line);
        }
    }

    /// The lines between a service node and the placement driver and store.
    pub fn store(&self, service_node: Member, line: Line) {
        for proxy in self.stores.get(&service_node).into_iter().flatten() {
            proxy.set(line);
        }
    }

    /// All lines of a node: its links, those to Redis and to the store, those of its clients.
    pub fn all_of(&self, member: Member, line: Line) {
        let links = self.links.iter();
        let own = links.filter(|((from, to), _)| *from == member || *to == member);
        own.for_each(|(_, proxy)| proxy.set(line));
        self.clients(member, line);
        self.store(member, line);
        if let Some(proxy) = self.redis.get(&member) {
            proxy.set(line);
        }
    }

    /// All lines are whole.
    pub fn heal(&self) {
        let all = self.links.values().chain(self.redis.values());
        let all = all.chain(self.clients.values());
        let all = all.chain(self.stores.values().flatten());
        all.for_each(|proxy| proxy.set(Line::Whole));
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        // Whatever is dropped within a runtime must not wait for one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
