//! The shell of the [`Ledger`]: one task through which orders are answered and broadcasts enter the reactors.
//!
//! Everything about rooms that is not one reactor's passes here in the order in which it came: a count that a reactor gave
//! with a join is in the ledger before the join is answered, and so before any broadcast that follows from the answer. The
//! way in is bounded and never waited for.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use whimbrel_link::Reply;
use whimbrel_protocol::cluster::room_order_response::Outcome;
use whimbrel_protocol::cluster::{
    RoomBroadcastResponse, RoomCount, RoomCounts, RoomKey, RoomOrderResponse, Status,
};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::{ROOM_COUNTS_LEN_MAX, Registry, RegistryError};

use super::RoomName;
use super::ledger::Ledger;
use crate::engine::{BroadcastPart, Reach, RoomFrame};

/// What may wait for the desk: some 20 ms of its work.
const WAITING_MAX: usize = 4_096;

/// What is told to whoever finds the desk or a reactor full, in milliseconds.
const BUSY_RETRY_AFTER_MS: u32 = 200;

/// What is told to whoever joined while the registry was out of reach, in milliseconds.
const UNTOLD_RETRY_AFTER_MS: u32 = 500;

/// Something for the desk.
enum Errand {
    /// A session was put into a room; the reply is due once the registry knows of it.
    Joined {
        name: Arc<RoomName>,
        reactor: u16,
        members: u32,
        reply: Reply,
    },
    /// Rooms have other numbers of members on a reactor.
    Counts {
        reactor: u16,
        counts: Vec<(Arc<RoomName>, u32)>,
    },
    /// A message for everybody in a room.
    Broadcast {
        name: RoomName,
        frame: Arc<RoomFrame>,
        reply: Reply,
    },
    /// The registry has lost everything.
    Lost,
}

/// The way to the desk. Clones share.
#[derive(Clone)]
pub(crate) struct Desk(mpsc::Sender<Errand>);

/// The desk, to be run.
pub(crate) struct DeskTask {
    errands: mpsc::Receiver<Errand>,
    node: NodeId,
    incarnation: Incarnation,
    registry: Arc<dyn Registry>,
}

impl Desk {
    /// The desk of one life of a gateway.
    pub(crate) fn new(
        node: NodeId,
        incarnation: Incarnation,
        registry: Arc<dyn Registry>,
    ) -> (Self, DeskTask) {
        let (sender, errands) = mpsc::channel(WAITING_MAX);
        let task = DeskTask {
            errands,
            node,
            incarnation,
            registry,
        };
        (Self(sender), task)
    }

    /// A session has been put into a room, which has so many members on its reactor now.
    pub(crate) fn joined(&self, name: Arc<RoomName>, reactor: u16, members: u32, reply: Reply) {
        self.hand_in(Errand::Joined {
            name,
            reactor,
            members,
            reply,
        });
    }

    /// Rooms have so many members on a reactor now; given back when the desk is full.
    pub(crate) fn counts(
        &self,
        reactor: u16,
        counts: Vec<(Arc<RoomName>, u32)>,
    ) -> Result<(), Vec<(Arc<RoomName>, u32)>> {
        match self.0.try_send(Errand::Counts { reactor, counts }) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(Errand::Counts { counts, .. })) => Err(counts),
            // The gateway is going, and its counts with it.
            Err(_) => Ok(()),
        }
    }

    /// Broadcasts in a room.
    pub(crate) fn broadcast(&self, name: RoomName, frame: Arc<RoomFrame>, reply: Reply) {
        self.hand_in(Errand::Broadcast { name, frame, reply });
    }

    /// The registry has lost what it was told.
    pub(crate) async fn lost(&self) {
        // The desk is there as long as the gateway.
        let _there = self.0.send(Errand::Lost).await;
    }

    fn hand_in(&self, errand: Errand) {
        let refused = match self.0.try_send(errand) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(errand) | mpsc::error::TrySendError::Closed(errand)) => {
                errand
            }
        };
        if let Errand::Joined { reply, .. } | Errand::Broadcast { reply, .. } = refused {
            reply.fail(
                Status::Overloaded,
                "the gateway has too much to do for rooms",
                BUSY_RETRY_AFTER_MS,
            );
        }
    }
}

type Telling = Pin<Box<dyn Future<Output = Result<(), RegistryError>> + Send>>;

impl DeskTask {
    /// Runs until it is stopped. `reach` leads to the reactors.
    pub(crate) async fn run(mut self, reach: Reach, stop: CancellationToken) {
        let started = Instant::now();
        let now_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut ledger = Ledger::new(reach.reactors());
        let mut telling: Option<Telling> = None;
        let mut order = 0;
        loop {
            if telling.is_none()
                && let Some(counts) = ledger.poll(now_ms(), ROOM_COUNTS_LEN_MAX)
            {
                order += 1;
                telling = Some(self.tell(&counts, order));
            }
            let due_at = ledger
                .due_at_ms()
                .map(|at_ms| started + Duration::from_millis(at_ms));
            let ended = async {
                match &mut telling {
                    Some(telling) => telling.await,
                    None => std::future::pending().await,
                }
            };
            let due = async {
                match due_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // A fixed order, so that a simulation replays.
                biased;
                () = stop.cancelled() => return,
                ended = ended => {
                    telling = None;
                    if let Err(error) = &ended {
                        tracing::debug!(%error, "the registry was not told of rooms; trying again");
                    }
                    let released = ledger.handle_told(now_ms(), ended.is_ok());
                    released.known.into_iter().for_each(done);
                    for reply in released.unknown {
                        let detail = "the registry cannot be told of the room now";
                        reply.fail(Status::Unavailable, detail, UNTOLD_RETRY_AFTER_MS);
                    }
                }
                errand = self.errands.recv() => match errand {
                    Some(errand) => handle(&mut ledger, &reach, errand),
                    None => return,
                },
                () = due => {}
            }
        }
    }

    /// Tells the registry. A request that was given up for lost may come behind a later one, which `order` shows.
    fn tell(&self, counts: &[(Arc<RoomName>, u32)], order: u64) -> Telling {
        let count = |(name, members): &(Arc<RoomName>, u32)| RoomCount {
            room: Some(RoomKey {
                app_key: name.app.to_string(),
                room: name.room.to_string(),
            }),
            members: *members,
        };
        let counts = RoomCounts {
            gateway: self.node.as_str().to_owned(),
            incarnation: self.incarnation.0,
            counts: counts.iter().map(count).collect(),
            order,
        };
        let registry = Arc::clone(&self.registry);
        Box::pin(async move { registry.put_rooms(counts).await })
    }
}

fn handle(ledger: &mut Ledger<Reply>, reach: &Reach, errand: Errand) {
    match errand {
        Errand::Joined {
            name,
            reactor,
            members,
            reply,
        } => {
            if let Some(reply) = ledger.handle_join(&name, reactor.into(), members, reply) {
                done(reply);
            }
        }
        Errand::Counts { reactor, counts } => {
            for (name, members) in counts {
                ledger.handle_count(&name, reactor.into(), members);
            }
        }
        Errand::Broadcast { name, frame, reply } => {
            let name = Arc::new(name);
            let parts = BroadcastPart::new(&name, &frame, move |taken, dropped| {
                let retry_after_ms = if dropped > 0 { BUSY_RETRY_AFTER_MS } else { 0 };
                let response = RoomBroadcastResponse {
                    taken,
                    dropped,
                    retry_after_ms,
                };
                reply.ok(Bytes::from(response.encode_to_vec()));
            });
            for (reactor, members) in ledger.members(&name) {
                reach.broadcast(reactor, parts.clone(), members);
            }
        }
        Errand::Lost => ledger.handle_lost(),
    }
}

fn done(reply: Reply) {
    let response = RoomOrderResponse {
        outcome: Outcome::Done.into(),
    };
    reply.ok(Bytes::from(response.encode_to_vec()));
}
