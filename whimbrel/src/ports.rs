//! Which ports standalone listens on.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rand::seq::SliceRandom as _;
use tokio::time::{Instant, sleep};
use whimbrel_host::BindError;

/// Offsets from the port base.
const HTTP: u16 = 1;
const METRICS: u16 = 2;
const GATEWAY_TCP: u16 = 100;
const LINKS: u16 = 200;
/// The span of ports a base takes up.
const SPAN: u16 = 300;
/// Offset of the UDP port by which a block that was found is held. Nobody sends anything to it.
const CLAIM: u16 = SPAN - 1;

/// Free ports are looked for below the range from which systems give outgoing connections theirs (32768 on Linux),
/// so that a role that is restarted finds its port still free.
const FREE_RANGE: std::ops::Range<u16> = 10_240..32_000;
/// The flag that all of them come from.
const FLAG: &str = "--port-base";
/// Between two looks at a port that is taken.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Over what the roles are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// One process, whose links are in memory.
    OneProcess,
    /// A process for each role, and for each of these.
    Processes { gateways: u16, routers: u16 },
}

/// Every address of a standalone deployment, on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    base: u16,
}

/// Holds a block of ports that was found until it is dropped, against others who look for one: between the look at its ports and
/// the moment when roles listen on them another deployment could choose the same ones. Nothing for a base that was given.
#[derive(Debug)]
#[must_use = "dropped, others may choose the same ports"]
pub(crate) struct Claim {
    _held: Option<UdpSocket>,
}

impl Claim {
    /// None if another deployment holds the block.
    fn on(ports: Ports) -> Option<Self> {
        let held = UdpSocket::bind(loopback(ports.base + CLAIM)).ok()?;
        Some(Self { _held: Some(held) })
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Ports {
    /// The ports from `base`; 0 finds a base whose ports are free now, with so many gateways and routers, and claims them.
    pub(crate) fn new(base: u16, gateways: u16, routers: u16) -> anyhow::Result<(Self, Claim)> {
        if base != 0 {
            if base > u16::MAX - SPAN {
                bail!(
                    "--port-base {base} is too high: ports up to {base}+{SPAN} are used, so give at most {}",
                    u16::MAX - SPAN
                );
            }
            return Ok((Self { base }, Claim { _held: None }));
        }
        // Blocks that do not overlap, so that one port claims all of one.
        let mut bases: Vec<u16> = FREE_RANGE.step_by(usize::from(SPAN)).collect();
        bases.shuffle(&mut rand::rng());
        let spread = Spread::Processes { gateways, routers };
        let is_free = |ports: Self| {
            ports
                .all(spread)
                .all(|(_, address)| TcpListener::bind(address).is_ok())
        };
        bases
            .into_iter()
            .map(|base| Self { base })
            .find_map(|ports| Some((ports, Claim::on(ports).filter(|_| is_free(ports))?)))
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

    /// That nobody else has one of the ports that are needed. Found before any role is started, whose own key
    /// for its address nobody has written here. A deployment that ended just now may hold some for as long as `patience`.
    ///
    /// # Errors
    /// With the first that stays taken, and the flag to change.
    pub(crate) async fn are_free(self, spread: Spread, patience: Duration) -> Result<(), BindError> {
        let until = Instant::now() + patience;
        for (what, address) in self.all(spread) {
            while let Err(source) = TcpListener::bind(address) {
                if source.kind() != io::ErrorKind::AddrInUse || Instant::now() >= until {
                    return Err(BindError {
                        what,
                        address,
                        key: FLAG,
                        source,
                    });
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Each with who listens there.
    fn all(self, spread: Spread) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let (gateways, routers, processes) = match spread {
            Spread::OneProcess => (1, 0, 0),
            Spread::Processes { gateways, routers } => (gateways, routers, 2 + gateways + routers),
        };
        let pages = (0..=processes).map(move |nth| ("a page of metrics and health", self.metrics(nth)));
        let clients = (0..gateways).map(move |nth| ("the gateway", self.gateway_tcp(nth)));
        let links = (0..routers).map(move |nth| ("the router", self.router_links(nth)));
        [("the LBS", self.lbs()), ("the HTTP API", self.http())]
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
        let (ports, _) = Ports::new(7000, 1, 1).unwrap();
        assert_eq!(ports.lbs().port(), 7000);
        assert_eq!(ports.http().port(), 7001);
        assert_eq!(ports.metrics(0).port(), 7002);
        assert_eq!(ports.gateway_tcp(0).port(), 7100);
        assert_eq!(ports.router_links(0).port(), 7200);
    }

    #[test]
    fn base_zero_finds_ports_that_can_be_bound() {
        let (ports, _claim) = Ports::new(0, 3, 2).unwrap();
        for (_, address) in ports.all(Spread::Processes {
            gateways: 3,
            routers: 2,
        }) {
            TcpListener::bind(address).unwrap();
        }
    }

    #[test]
    fn no_two_find_the_same_ports_while_neither_listens_yet() {
        let found: Vec<_> = (0..20).map(|_| Ports::new(0, 1, 1).unwrap()).collect();
        let bases: std::collections::BTreeSet<_> = found.iter().map(|(ports, _)| ports.base).collect();
        assert_eq!(bases.len(), found.len());
        for (one, other) in bases.iter().zip(bases.iter().skip(1)) {
            assert!(other - one >= SPAN, "{one} and {other} overlap");
        }
    }

    #[tokio::test]
    async fn any_port_that_is_taken_is_named_with_the_flag() {
        let (ports, _claim) = Ports::new(0, 2, 1).unwrap();
        let spread = Spread::Processes {
            gateways: 2,
            routers: 1,
        };
        ports.are_free(spread, Duration::ZERO).await.unwrap();
        for (what, address) in ports.all(spread) {
            let _taken = TcpListener::bind(address).unwrap();
            let said = ports
                .are_free(spread, Duration::ZERO)
                .await
                .unwrap_err()
                .to_string();
            for named in [
                what,
                &address.to_string(),
                "taken by another process",
                "`--port-base`",
            ] {
                assert!(said.contains(named), "{said}");
            }
        }
    }

    #[tokio::test]
    async fn one_process_leaves_the_ports_of_several_alone() {
        let (ports, _claim) = Ports::new(0, 1, 1).unwrap();
        let _links = TcpListener::bind(ports.router_links(0)).unwrap();
        let _page = TcpListener::bind(ports.metrics(1)).unwrap();
        ports.are_free(Spread::OneProcess, Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn a_port_that_is_let_go_of_in_time_is_free() {
        let (ports, _claim) = Ports::new(0, 1, 1).unwrap();
        let taken = TcpListener::bind(ports.http()).unwrap();
        let patience = Duration::from_secs(60);
        let let_go = async {
            tokio::task::yield_now().await;
            drop(taken);
        };
        let (free, ()) = tokio::join!(ports.are_free(Spread::OneProcess, patience), let_go);
        free.unwrap();
    }

    #[test]
    fn a_base_without_room_above_it_is_refused_with_the_highest_that_has() {
        let error = Ports::new(65_500, 1, 1).unwrap_err().to_string();
        assert!(error.contains("65235"), "{error}");
    }
}
