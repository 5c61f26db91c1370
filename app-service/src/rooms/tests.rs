//! Rooms over a registry's home that can be lost, and gateways that answer, are gone, or stand still. Time is virtual.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::time::Instant;
use whimbrel_host::Clock;
use whimbrel_protocol::client::{Content, Text, content};
use whimbrel_protocol::cluster::RegistryRequest;
use whimbrel_protocol::ids::{AppKey, OperationId, Uid, UserId};
use whimbrel_registry::conformance::room_counts;
use whimbrel_registry::{LinkRegistry, MemoryRegistry, serve};

use super::*;
use crate::env::{BoxFuture, Spawner};

struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now_ms(&self) -> u64 {
        1_790_000_000_000
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

struct Tasks;

impl Spawner for Tasks {
    fn spawn(&self, _name: &'static str, task: BoxFuture<()>) {
        drop(tokio::spawn(task));
    }
}

/// What a gateway makes of a broadcast.
#[derive(Clone, Copy)]
enum Gateway {
    Takes(u32),
    Frozen,
}

/// The registry's home and the gateways that can be reached.
#[derive(Default)]
struct Cluster {
    home: Mutex<Option<Arc<MemoryRegistry>>>,
    gateways: Mutex<BTreeMap<&'static str, Gateway>>,
    /// Which gateways were handed something since this was last taken.
    told: Mutex<Vec<String>>,
}

#[async_trait]
impl Caller for Cluster {
    async fn call(&self, request: Envelope, deadline: Duration) -> Result<Envelope, CallError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let answer = |body: Vec<u8>| Envelope {
            body: body.into(),
            ..Envelope::default()
        };
        if request.kind() == Kind::Registry {
            let home = self.home.lock().unwrap().clone();
            let home = home.ok_or(CallError::Unavailable { retry_after_ms: 10 })?;
            let request = RegistryRequest::decode(request.body).unwrap();
            return Ok(answer(serve(&*home, request).await.encode_to_vec()));
        }
        let gateway = self.gateways.lock().unwrap().get(&*request.to_node).copied();
        match gateway {
            None => Err(CallError::UnknownNode),
            Some(Gateway::Frozen) => {
                tokio::time::sleep(deadline).await;
                Err(CallError::Deadline)
            }
            Some(Gateway::Takes(taken)) => {
                self.told.lock().unwrap().push(request.to_node);
                let response = RoomBroadcastResponse {
                    taken,
                    ..RoomBroadcastResponse::default()
                };
                Ok(answer(response.encode_to_vec()))
            }
        }
    }
}

struct World {
    cluster: Arc<Cluster>,
    registry: Arc<LinkRegistry>,
    rooms: Rooms,
}

impl World {
    /// With gateways of which the registry has told.
    async fn new(gateways: &[(&'static str, Gateway)]) -> Self {
        let cluster = Arc::new(Cluster::default());
        *cluster.home.lock().unwrap() = Some(Arc::new(MemoryRegistry::new(Incarnation(1))));
        *cluster.gateways.lock().unwrap() = gateways.iter().copied().collect();
        let registry = Arc::new(LinkRegistry::new(Arc::clone(&cluster) as _, None));
        let env = Env::of_tokio(Arc::new(VirtualClock(Instant::now())), Arc::new(Tasks));
        let rooms = Rooms::new(Arc::clone(&registry) as _, Arc::clone(&cluster) as _, env);
        let world = Self {
            cluster,
            registry,
            rooms,
        };
        for (name, _) in gateways {
            let lease = NodeLease {
                node: (*name).to_owned(),
                role: Role::Gateway.into(),
                incarnation: 9,
                ttl_ms: 10_000,
                ..NodeLease::default()
            };
            world.registry.put_node(lease).await.unwrap();
        }
        world.learn().await;
        world
    }

    async fn learn(&self) {
        self.rooms
            .learn_gateways(&self.registry.nodes(None).await.unwrap());
    }

    async fn send(&self, room: &str) -> Result<SendRoomResponse, Code> {
        let actor = Actor {
            app: AppKey::new("demo").unwrap(),
            user: UserId(1),
            uid: Uid::new("ann").unwrap(),
        };
        let content = content::Content::Text(Text { text: "hi".into() });
        let request = SendRoomRequest {
            room: room.to_owned(),
            client_msg_id: Bytes::copy_from_slice(OperationId::new(1, [7; 10]).as_bytes()),
            content: Some(Content {
                content: Some(content),
            }),
        };
        let deadline = Deadline(self.rooms.0.env.clock.monotonic() + Duration::from_secs(15));
        let sent = self.rooms.send(&actor, request, deadline).await;
        sent.map_err(|failure| failure.code)
    }

    /// How many members took a message, and which gateways were handed it.
    async fn reached(&self, room: &str) -> (u32, Vec<String>) {
        let sent = self.send(room).await.unwrap();
        (
            sent.taken,
            std::mem::take(&mut *self.cluster.told.lock().unwrap()),
        )
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_lost_its_rooms_is_not_believed_until_gateways_have_told_them_again() {
    let world = World::new(&[("g1", Gateway::Takes(3)), ("g2", Gateway::Takes(0))]).await;
    let counts = room_counts(("g1", 9), &[("hall", 3)]);
    world.registry.put_rooms(counts.clone()).await.unwrap();
    assert_eq!(
        world.reached("hall").await,
        (3, vec!["g1".into(), "g2".into()]),
        "its life may have begun just now"
    );
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(world.reached("hall").await, (3, vec!["g1".into()]));

    *world.cluster.home.lock().unwrap() = Some(Arc::new(MemoryRegistry::new(Incarnation(2))));
    let everywhere = (3, vec!["g1".into(), "g2".into()]);
    assert_eq!(world.reached("hall").await, everywhere, "at once");
    world.learn().await;
    assert_eq!(
        world.reached("hall").await,
        everywhere,
        "no gateway has come back"
    );
    world.cluster.gateways.lock().unwrap().clear();
    assert_eq!(world.send("hall").await, Err(Code::Overloaded));

    // What was not told again by then is nobody's.
    tokio::time::sleep(Duration::from_secs(11)).await;
    world.learn().await;
    assert_eq!(world.reached("hall").await, (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_stands_still_keeps_no_message_from_the_members_on_others() {
    let world = World::new(&[("frozen", Gateway::Frozen), ("healthy", Gateway::Takes(3))]).await;
    // Now all rooms may have members on both.
    *world.cluster.home.lock().unwrap() = None;
    let rooms: Vec<_> = (0..2 * BROADCASTS_IN_PROGRESS_MAX)
        .map(|number| format!("room-{number}"))
        .collect();
    let began = Instant::now();
    // Two each millisecond: six times what the frozen one may hold until it is given up for lost.
    let crowd: FuturesUnordered<_> = (0..)
        .zip(&rooms)
        .map(async |(number, room)| {
            tokio::time::sleep(Duration::from_millis(number / 2)).await;
            world.send(room).await
        })
        .collect();
    let (sent, hall) = tokio::join!(crowd.collect::<Vec<_>>(), async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let sent = world.send("hall").await;
        (sent, began.elapsed())
    });
    let taken = sent
        .into_iter()
        .filter(|sent| sent.as_ref().is_ok_and(|sent| sent.taken == 3));
    assert_eq!(taken.count(), rooms.len());
    assert_eq!(hall.0.unwrap().taken, 3);
    assert!(
        hall.1 < Duration::from_millis(1_600),
        "it waited for {:?}",
        hall.1
    );
}

fn tally(answers: &[(u32, u32, u32)]) -> Tally {
    let mut tally = Tally::default();
    for (taken, dropped, retry_after_ms) in answers.iter().copied() {
        tally.add(Ok(RoomBroadcastResponse {
            taken,
            dropped,
            retry_after_ms,
        }));
    }
    tally
}

#[test]
fn what_nobody_took_is_refused_when_a_gateway_of_unknown_members_did_not_answer() {
    let unanswered = |mut tally: Tally| {
        tally.add(Err(Unanswered {
            members: 0,
            retry_after_ms: 700,
        }));
        tally.judge(9)
    };
    let refused = unanswered(tally(&[(0, 0, 0)])).unwrap_err();
    assert_eq!((refused.code, refused.retry_after_ms), (Code::Overloaded, 700));
    assert_eq!(unanswered(tally(&[(3, 0, 0)])).unwrap().taken, 3);
}

#[test]
fn what_nobody_took_is_refused_and_what_somebody_took_is_told() {
    let refused = tally(&[(0, 5, 200), (0, 7, 900)]).judge(1).unwrap_err();
    assert_eq!((refused.code, refused.retry_after_ms), (Code::Overloaded, 900));
    let told = tally(&[(3, 0, 0), (0, 7, 900)]).judge(9).unwrap();
    assert_eq!((told.time_ms, told.taken, told.dropped), (9, 3, 7));
    let empty = tally(&[]).judge(9).unwrap();
    assert_eq!((empty.taken, empty.dropped), (0, 0), "an empty room is no fault");
}
