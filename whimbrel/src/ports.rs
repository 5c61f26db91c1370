//! Which ports standalone listens on.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, bail};

/// Offsets from the port base.
const HTTP: u16 = 1;
const METRICS: u16 = 2;
const GATEWAY_TCP: u16 = 100;
const LINKS: u16 = 200;
/// The span of ports a base takes up.
const SPAN: u16 = 300;

/// Free ports are looked for below the range from which systems give outgoing connections theirs (32768 on Linux),
/// so that a role that is restarted finds its port still free.
const FREE_RANGE: std::ops::Range<u16> = 10_240..32_000;
/// Bases tried before giving up; each is a block of few ports in a range of thousands.
const FREE_TRIES: u32 = 200;

/// Every address of a standalone deployment, on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    base: u16,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Ports {
    /// The ports from `base`; 0 finds a base whose ports are free now, with so many gateways and routers.
    pub(crate) fn new(base: u16, gateways: u16, routers: u16) -> anyhow::Result<Self> {
        if base != 0 {
            if base > u16::MAX - SPAN {
                bail!(
                    "--port-base {base} is too high: ports up to {base}+{SPAN} are used, so give at most {}",
                    u16::MAX - SPAN
                );
            }
            return Ok(Self { base });
        }
        (0..FREE_TRIES)
            .map(|_| Self {
                base: rand::random_range(FREE_RANGE),
            })
            .find(|ports| {
                ports
                    .all(gateways, routers)
                    .all(|address| TcpListener::bind(address).is_ok())
            })
            .with_context(|| {
                format!(
                    "no block of free ports found between {} and {}",
                    FREE_RANGE.start, FREE_RANGE.end
                )
            })
    }

    pub(crate) fn lbs(self) -> SocketAddr {
        loopback(self.base)
    }

    pub(crate) fn http(self) -> SocketAddr {
        loopback(self.base + HTTP)
    }

    /// Metrics and health of the process, or with several of the `nth` of them, counted from the supervisor.
    pub(crate) fn metrics(self, nth: u16) -> SocketAddr {
        loopback(self.base + METRICS + nth)
    }

    /// Where the `nth` gateway takes clients.
    pub(crate) fn gateway_tcp(self, nth: u16) -> SocketAddr {
        loopback(self.base + GATEWAY_TCP + nth)
    }

    /// Where the `nth` router takes links.
    pub(crate) fn router_links(self, nth: u16) -> SocketAddr {
        loopback(self.base + LINKS + nth)
    }

    fn all(self, gateways: u16, routers: u16) -> impl Iterator<Item = SocketAddr> {
        let processes = 2 + gateways + routers;
        let pages = (0..=processes).map(move |nth| self.metrics(nth));
        let clients = (0..gateways).map(move |nth| self.gateway_tcp(nth));
        let links = (0..routers).map(move |nth| self.router_links(nth));
        [self.lbs(), self.http()]
            .into_iter()
            .chain(links)
            .chain(pages)
            .chain(clients)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_default_base_gives_the_documented_ports() {
        let ports = Ports::new(7000, 1, 1).unwrap();
        assert_eq!(ports.lbs().port(), 7000);
        assert_eq!(ports.http().port(), 7001);
        assert_eq!(ports.metrics(0).port(), 7002);
        assert_eq!(ports.gateway_tcp(0).port(), 7100);
        assert_eq!(ports.router_links(0).port(), 7200);
    }

    #[test]
    fn base_zero_finds_ports_that_can_be_bound() {
        let ports = Ports::new(0, 3, 2).unwrap();
        for address in ports.all(3, 2) {
            TcpListener::bind(address).unwrap();
        }
    }

    #[test]
    fn a_base_without_room_above_it_is_refused_with_the_highest_that_has() {
        let error = Ports::new(65_500, 1, 1).unwrap_err().to_string();
        assert!(error.contains("65235"), "{error}");
    }
}
