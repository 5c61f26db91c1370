//! Which ports a cluster's nodes listen on: fixed ones, since a node that is started again must be where it was.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, ensure};

use crate::{Member, Role, Shape};

/// Nodes of a role, at most: what lies between two of the offsets below.
const OF_ROLE_MAX: u16 = 50;
/// Offsets from the base: what is asked for first comes first.
const LBS: u16 = 0;
const API: u16 = 50;
const CLIENTS: u16 = 100;
const LINKS: u16 = 150;
/// Of the pages of all roles, one span for each.
const PAGES: u16 = 200;
const REDIS: u16 = 400;
/// The span of ports a base takes up.
const SPAN: u16 = 401;

/// Free ports are looked for below the range from which systems give outgoing connections theirs (32768 on Linux),
/// so that a node that is started again finds its port still free.
const FREE_RANGE: std::ops::Range<u16> = 10_240..32_000;
/// Bases tried before giving up; each is a block of few ports in a range of thousands.
const FREE_TRIES: u32 = 200;

/// Every address of a cluster, on loopback.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    base: u16,
}

impl Ports {
    /// The ports from `base`; 0 finds a base whose ports are free now.
    pub(crate) fn new(base: u16, shape: Shape) -> anyhow::Result<Self> {
        for role in Role::ALL {
            let (count, most) = (shape.of(role), OF_ROLE_MAX);
            ensure!(
                (1..=most).contains(&count),
                "{count} nodes of the role {role}: expected 1 to {most}"
            );
        }
        if base != 0 {
            let most = u16::MAX - SPAN;
            ensure!(
                base <= most,
                "the port base {base} is too high: give at most {most}"
            );
            return Ok(Self { base });
        }
        let tried = (0..FREE_TRIES).map(|_| Self {
            base: rand::random_range(FREE_RANGE),
        });
        let is_free = |ports: &Self| {
            let mut all = ports.all(shape);
            all.all(|address| TcpListener::bind(address).is_ok())
        };
        tried.into_iter().find(is_free).with_context(|| {
            let (from, to) = (FREE_RANGE.start, FREE_RANGE.end);
            format!("no block of free ports found between {from} and {to}")
        })
    }

    fn at(self, offset: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.base + offset))
    }

    pub(crate) fn lbs(self, nth: u16) -> SocketAddr {
        self.at(LBS + nth)
    }

    /// The HTTP API of a service node.
    pub(crate) fn api(self, nth: u16) -> SocketAddr {
        self.at(API + nth)
    }

    /// Where a gateway takes clients.
    pub(crate) fn clients(self, nth: u16) -> SocketAddr {
        self.at(CLIENTS + nth)
    }

    /// Where a router takes links.
    pub(crate) fn links(self, nth: u16) -> SocketAddr {
        self.at(LINKS + nth)
    }

    /// Health, metrics, and a router's topology.
    pub(crate) fn page(self, member: Member) -> SocketAddr {
        self.at(PAGES + OF_ROLE_MAX * member.role as u16 + member.nth)
    }

    pub(crate) fn redis(self) -> SocketAddr {
        self.at(REDIS)
    }

    fn all(self, shape: Shape) -> impl Iterator<Item = SocketAddr> {
        let members = shape.members().into_iter().flat_map(move |member| {
            let own = match member.role {
                Role::Lbs => self.lbs(member.nth),
                Role::Gateway => self.clients(member.nth),
                Role::Router => self.links(member.nth),
                Role::AppService => self.api(member.nth),
            };
            [own, self.page(member)]
        });
        members.chain([self.redis()])
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SHAPE: Shape = Shape {
        lbs: OF_ROLE_MAX,
        gateways: OF_ROLE_MAX,
        routers: OF_ROLE_MAX,
        service_nodes: OF_ROLE_MAX,
    };

    #[test]
    fn no_two_nodes_share_a_port_however_many_there_are() {
        let ports = Ports::new(7_000, SHAPE).unwrap();
        let all: Vec<_> = ports.all(SHAPE).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert!(all.iter().all(|address| address.port() < 7_000 + SPAN));
    }

    #[test]
    fn too_many_nodes_and_too_high_a_base_are_refused_by_name() {
        let many = Shape {
            gateways: OF_ROLE_MAX + 1,
            ..SHAPE
        };
        let error = Ports::new(0, many).unwrap_err().to_string();
        assert!(error.contains("gateway") && error.contains("1 to 50"), "{error}");
        let error = Ports::new(65_500, SHAPE).unwrap_err().to_string();
        assert!(error.contains("65134"), "{error}");
    }
}
