//! Random histories: whatever happens, every request is answered exactly once.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Ask {
        asker: u64,
        to_app: Option<u64>,
        one_way: bool,
        hops: u32,
    },
    Answer {
        index: prop::sample::Index,
        status: Status,
    },
    Down(u64),
    Up(u64),
    Pass {
        ms: u64,
        frozen: u64,
    },
    FillLink(u64),
    EmptyLinks,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let status = prop::sample::select(vec![
        Status::Ok,
        Status::Ok,
        Status::Internal,
        Status::Unavailable,
    ]);
    let step = prop_oneof![
        6 => (1_u64..4, prop::option::weighted(0.3, 0_u64..4), prop::bool::weighted(0.1), 0_u32..2)
            .prop_map(|(asker, to_app, one_way, hops)| Step::Ask { asker, to_app, one_way, hops }),
        6 => (any::<prop::sample::Index>(), status).prop_map(|(index, status)| Step::Answer { index, status }),
        1 => (11_u64..15).prop_map(Step::Down),
        1 => (11_u64..15).prop_map(Step::Up),
        1 => (1_u64..5_000, 11_u64..16).prop_map(|(ms, frozen)| Step::Pass { ms, frozen }),
        1 => (11_u64..15).prop_map(Step::FillLink),
        1 => Just(Step::EmptyLinks),
    ];
    prop::collection::vec(step, 1..200)
}

struct Model {
    world: World,
    next_id: u64,
    /// Asked and not answered: asker and its id.
    waiting: BTreeMap<(u64, u64), ()>,
    /// What nodes hold: link and router's id.
    held: Vec<(u64, u64)>,
    alive: Vec<u64>,
    full: Vec<u64>,
}

impl Model {
    fn new() -> Self {
        let mut world = World::with_apps(4);
        world.up(2, "gateway-2", Role::Gateway);
        world.up(3, "gateway-3", Role::Gateway);
        world.sent();
        let alive = (11..15).collect();
        Self {
            world,
            next_id: 1,
            waiting: BTreeMap::new(),
            held: Vec::new(),
            alive,
            full: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask {
                asker,
                to_app,
                one_way,
                hops,
            } => {
                let id = if one_way { 0 } else { self.next_id };
                self.next_id += 1;
                if !one_way {
                    self.waiting.insert((asker, id), ());
                }
                let to_node = to_app.map_or_else(String::new, |app| format!("app-{app}"));
                let affinity = u32::try_from(self.next_id % 3).unwrap();
                self.world.frame(
                    asker,
                    Envelope {
                        to_node,
                        hops,
                        affinity,
                        deadline_ms: 4_000,
                        ..request(id)
                    },
                );
            }
            Step::Answer { index, status } => {
                if !self.held.is_empty() {
                    let (link, id) = self.held.remove(index.index(self.held.len()));
                    self.world.frame(link, answer(id, status));
                }
            }
            Step::Down(link) => {
                if self.alive.contains(&link) {
                    self.alive.retain(|alive| *alive != link);
                    self.world.down(link);
                }
            }
            Step::Up(link) => {
                if !self.alive.contains(&link) {
                    self.alive.push(link);
                    self.world
                        .up(link, &format!("app-{}", link - 11), Role::AppService);
                    self.world.frame(link, unasked(true));
                }
            }
            Step::Pass { ms, frozen } => {
                let answering: Vec<u64> = (1..15).filter(|link| *link != frozen).collect();
                self.world.pass(Duration::from_millis(ms), &answering);
            }
            Step::FillLink(link) => self.full.push(link),
            Step::EmptyLinks => self.full.clear(),
        }
        self.deliver();
    }

    /// Carries out the actions; a full link refuses.
    fn deliver(&mut self) {
        loop {
            let sent = self.world.sent();
            if sent.is_empty() {
                return;
            }
            for (link, envelope) in sent {
                if envelope.kind == i32::from(Kind::Probe) {
                    continue;
                }
                if envelope.response {
                    let waited = self.waiting.remove(&(link, envelope.id));
                    assert!(
                        waited.is_some(),
                        "answered twice or never asked: {link} {envelope:?}"
                    );
                } else if self.full.contains(&link) {
                    let World { core, now, out } = &mut self.world;
                    core.handle_send_failed(*now, LinkId(link), &envelope, SendFailure::Full, out);
                } else if envelope.id != 0 {
                    self.held.push((link, envelope.id));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn every_request_is_answered_exactly_once(steps in steps()) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
            prop_assert_eq!(model.world.core.pending(), model.waiting.len());
            let outstanding: usize =
                (1..15).filter_map(|link| model.world.core.nodes.get(LinkId(link))).map(|node| node.outstanding).sum();
            prop_assert_eq!(outstanding, model.waiting.len());
        }
        model.step(Step::Pass { ms: 5_000, frozen: 0 });
        prop_assert!(model.waiting.is_empty(), "{:?}", model.waiting);
    }
}
