//! Unread is exact: any run of operations against a model that counts by looking at every entry.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use whimbrel_app_service::log::Actor;
use whimbrel_protocol::client;

use crate::world::{Node, World, text, wire};

const UIDS: [&str; 4] = ["ann", "bob", "cleo", "dave"];

#[derive(Debug, Clone)]
enum Step {
    /// By whom, messages, whether they count, how far back the sender has seen (0: says nothing).
    Send {
        by: usize,
        messages: usize,
        counted: bool,
        seen_back: u64,
    },
    /// By whom, how far below the head.
    Read {
        by: usize,
        back: u64,
    },
    Recall {
        by: usize,
        back: u64,
    },
    Remove {
        whom: usize,
    },
    Invite {
        whom: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let by = 0..UIDS.len();
    prop_oneof![
        5 => (by.clone(), 1..4usize, any::<bool>(), 0..6u64)
            .prop_map(|(by, messages, counted, seen_back)| Step::Send { by, messages, counted, seen_back }),
        4 => (by.clone(), 0..12u64).prop_map(|(by, back)| Step::Read { by, back }),
        1 => (by, 0..8u64).prop_map(|(by, back)| Step::Recall { by, back }),
        1 => (1..UIDS.len()).prop_map(|whom| Step::Remove { whom }),
        1 => (1..UIDS.len()).prop_map(|whom| Step::Invite { whom }),
    ]
}

/// What a user's list should say, kept the slow way.
#[derive(Debug, Default)]
struct Model {
    /// Sender and whether it counts; the seq is the place, from 1.
    log: Vec<(usize, bool)>,
    visible: BTreeMap<usize, BTreeSet<u64>>,
    read: BTreeMap<usize, u64>,
    members: BTreeSet<usize>,
}

impl Model {
    fn append(&mut self, sender: usize, counts: bool) -> u64 {
        self.log.push((sender, counts));
        let seq = self.log.len() as u64;
        for member in &self.members {
            self.visible.entry(*member).or_default().insert(seq);
        }
        seq
    }

    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    fn end(&self, user: usize) -> u64 {
        self.visible[&user].last().copied().unwrap_or(0)
    }

    fn read(&mut self, user: usize, seq: u64) {
        let seq = seq.min(self.end(user));
        let read = self.read.entry(user).or_default();
        *read = (*read).max(seq);
    }

    fn unread(&self, user: usize) -> u64 {
        let read = self.read.get(&user).copied().unwrap_or(0);
        let unread = self.visible[&user].range(read + 1..).filter(|seq| {
            let (sender, counts) = self.log[usize::try_from(**seq - 1).unwrap()];
            counts && sender != user
        });
        unread.count() as u64
    }
}

async fn run(steps: Vec<Step>) {
    let world = World::new(77);
    let node = world.node("one").await;
    let mut actors = Vec::new();
    for uid in UIDS {
        actors.push(node.user(uid).await);
    }
    let group = node.group(&world, &actors[0], &UIDS[1..]).await;
    let mut model = Model {
        members: (0..UIDS.len()).collect(),
        ..Model::default()
    };
    model.append(0, false);
    for user in 0..UIDS.len() {
        model.read(user, 1);
    }
    for step in steps {
        apply(&world, &node, &actors, group, &mut model, &step).await;
        for (user, actor) in actors.iter().enumerate() {
            let view = world.view(actor, group).await;
            assert_eq!(view.unread(), model.unread(user), "{} after {step:?}", UIDS[user]);
            assert_eq!(
                view.head_seq().0,
                model.end(user),
                "{} after {step:?}",
                UIDS[user]
            );
            assert_eq!(
                view.member.read_seq,
                model.read.get(&user).copied().unwrap_or(0),
                "{} after {step:?}",
                UIDS[user]
            );
        }
    }
    let log = world.entries(group).await;
    let counted: Vec<u64> = log.iter().map(|entry| entry.entry.counted).collect();
    let running: Vec<u64> = model
        .log
        .iter()
        .scan(0, |sum, (_, counts)| {
            *sum += u64::from(*counts);
            Some(*sum)
        })
        .collect();
    assert_eq!(counted, running);
}

async fn apply(
    world: &World,
    node: &Node,
    actors: &[Actor],
    group: whimbrel_protocol::ids::ConversationId,
    model: &mut Model,
    step: &Step,
) {
    match *step {
        Step::Send {
            by,
            messages,
            counted,
            seen_back,
        } => {
            let seen_seq = if seen_back == 0 {
                0
            } else {
                model.head().saturating_sub(seen_back - 1)
            };
            let outgoing = (0..messages).map(|n| {
                let mut message = text(world.operation(), &format!("{n}"));
                message.options = Some(client::MessageOptions {
                    uncounted: !counted,
                    push_text: String::new(),
                });
                message
            });
            let request = client::SendRequest {
                conversation: wire(group),
                messages: outgoing.collect(),
                seen_seq,
            };
            let sent = node.log.send(&actors[by], request, world.deadline()).await;
            assert_eq!(sent.is_ok(), model.members.contains(&by));
            if sent.is_ok() {
                model.read(by, seen_seq);
                for _ in 0..messages {
                    model.append(by, counted);
                }
            }
        }
        Step::Read { by, back } => {
            let seq = model.head().saturating_sub(back);
            let (read_seq, unread) = node.read(world, &actors[by], group, seq).await.unwrap();
            model.read(by, seq);
            assert_eq!(
                (read_seq, unread),
                (model.read.get(&by).copied().unwrap_or(0), model.unread(by))
            );
        }
        Step::Recall { by, back } => {
            // Taking back changes nothing that is counted, allowed or not.
            drop(
                node.recall(world, &actors[by], group, model.head().saturating_sub(back))
                    .await,
            );
        }
        Step::Remove { whom } => {
            let seq = node
                .remove(world, &actors[0], group, &[UIDS[whom]])
                .await
                .unwrap();
            assert_eq!(seq != 0, model.members.contains(&whom));
            if seq != 0 {
                assert_eq!(model.append(0, false), seq);
                model.members.remove(&whom);
            }
        }
        Step::Invite { whom } => {
            let seq = node
                .invite(world, &actors[0], group, &[UIDS[whom]])
                .await
                .unwrap();
            assert_eq!(seq != 0, !model.members.contains(&whom));
            if seq != 0 {
                model.members.insert(whom);
                assert_eq!(model.append(0, false), seq);
                model.read(whom, seq);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn unread_is_what_counting_every_entry_gives(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(steps));
    }
}

#[tokio::test]
async fn marking_far_below_ones_own_messages_counts_them_exactly() {
    let world = World::new(5);
    let node = world.node("one").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let chat = node.direct(&world, &ann, "bob").await;
    let bulk = async |actor: &Actor, batches: usize| {
        for _ in 0..batches {
            let batch = (0..32).map(|_| text(world.operation(), "x")).collect();
            node.send_batch(&world, actor, chat, batch).await.unwrap();
        }
    };
    bulk(&bob, 1).await; // 1 to 32
    bulk(&ann, 40).await; // 33 to 1312
    bulk(&bob, 1).await; // 1313 to 1344
    bulk(&ann, 1).await; // 1345 to 1376
    for (seq, unread) in [(10, 41 * 32), (600, 1312 - 600 + 32), (1320, 32), (1376, 0)] {
        assert_eq!(node.read(&world, &bob, chat, seq).await, Ok((seq, unread)));
    }
}
