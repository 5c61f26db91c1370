//! The core under a virtual clock: nodes, links and answers are all made up here.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod ejection;
mod model;
mod pools;
mod readiness;
mod retries;
mod silence;
mod switching;

use super::*;
use whimbrel_protocol::ids::{Incarnation, NodeId};

const ROUTER: &str = "router-1";

struct World {
    core: Core,
    now: Duration,
    out: Vec<Action>,
}

fn identity(name: &str, role: Role) -> Identity {
    Identity {
        node: NodeId::new(name).unwrap(),
        role,
        incarnation: Incarnation(1),
        cluster: "test".to_owned(),
        zone: String::new(),
        version_tag: String::new(),
        app_keys: Vec::new(),
        capacity: whimbrel_link::Capacity::ORDINARY,
    }
}

fn told(ready: bool) -> Bytes {
    ProbeResponse {
        ready,
        ..ProbeResponse::default()
    }
    .encode_to_vec()
    .into()
}

fn unasked(ready: bool) -> Envelope {
    Envelope {
        response: true,
        kind: Kind::Probe.into(),
        body: told(ready),
        ..Envelope::default()
    }
}

fn request(id: u64) -> Envelope {
    Envelope {
        id,
        kind: Kind::ClientRequest.into(),
        priority: Priority::Direct.into(),
        to_role: Role::AppService.into(),
        affinity: 77,
        body: Bytes::from_static(b"hello"),
        ..Envelope::default()
    }
}

fn answer(id: u64, status: Status) -> Envelope {
    let body = Bytes::from_static(b"world");
    Envelope {
        id,
        response: true,
        status: status.into(),
        body,
        ..Envelope::default()
    }
}

impl World {
    fn new() -> Self {
        Self::with(RouterConfig::default(), false)
    }

    fn with(config: RouterConfig, serves_registry: bool) -> Self {
        Self::of(Core::new(config, identity(ROUTER, Role::Router), serves_registry))
    }

    fn of(core: Core) -> Self {
        Self {
            core,
            now: Duration::from_secs(1_000),
            out: Vec::new(),
        }
    }

    /// One gateway (link 1) and `apps` ready service nodes (links 11 and up).
    fn with_apps(apps: u64) -> Self {
        let mut world = Self::new();
        world.up(1, "gateway-1", Role::Gateway);
        for app in 0..apps {
            world.up(11 + app, &format!("app-{app}"), Role::AppService);
            world.frame(11 + app, unasked(true));
        }
        world.out.clear();
        world
    }

    fn up(&mut self, link: u64, name: &str, role: Role) {
        self.up_as(link, identity(name, role));
    }

    fn up_as(&mut self, link: u64, identity: Identity) {
        self.core
            .handle_link_up(self.now, LinkId(link), identity, &mut self.out);
    }

    fn down(&mut self, link: u64) {
        self.core.handle_link_down(self.now, LinkId(link), &mut self.out);
    }

    fn frame(&mut self, link: u64, envelope: Envelope) {
        self.core
            .handle_frame(self.now, LinkId(link), envelope, &mut self.out);
    }

    /// Lets time pass, stopping at each timeout; probes of `alive` links are answered at once.
    fn pass(&mut self, time: Duration, alive: &[u64]) {
        let end = self.now + time;
        while let Some(at) = self.core.next_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.core.handle_timeout(self.now, &mut self.out);
            let probes: Vec<_> = self
                .take_probes()
                .into_iter()
                .filter(|(link, _)| alive.contains(link))
                .collect();
            for (link, id) in probes {
                self.frame(
                    link,
                    Envelope {
                        id,
                        response: true,
                        body: told(true),
                        ..Envelope::default()
                    },
                );
            }
        }
        self.now = end;
        self.core.handle_timeout(end, &mut self.out);
    }

    fn take_probes(&mut self) -> Vec<(u64, u64)> {
        let mut probes = Vec::new();
        self.out.retain(|action| match action {
            Action::Send(link, envelope) if envelope.kind == i32::from(Kind::Probe) && !envelope.response => {
                probes.push((link.0, envelope.id));
                false
            }
            _ => true,
        });
        probes
    }

    /// What went out, without probes: link and envelope.
    fn sent(&mut self) -> Vec<(u64, Envelope)> {
        self.take_probes();
        self.out
            .drain(..)
            .map(|action| match action {
                Action::Send(link, envelope) => (link.0, envelope),
                Action::Registry { .. } => panic!("nothing was asked of the registry"),
            })
            .collect()
    }

    fn sent_one(&mut self) -> (u64, Envelope) {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    fn assert_told(&mut self, link: u64, id: u64, status: Status) -> Envelope {
        let (to, envelope) = self.sent_one();
        assert_eq!((to, envelope.id, envelope.response), (link, id, true));
        assert_eq!(
            Status::try_from(envelope.status),
            Ok(status),
            "{}",
            envelope.detail
        );
        envelope
    }
}
