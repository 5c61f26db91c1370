//! Rooms against a model, and their bounds, under a virtual clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use whimbrel_protocol::frame::RequestId;

use super::ledger::Ledger;
use super::pace::PacedBy;
use super::table::{JoinError, Offered, Rooms};
use super::{ROOMS_PER_SESSION_MAX, RoomLimits, RoomName};
use crate::engine::Place;

fn name(room: &(impl ToString + ?Sized)) -> Arc<RoomName> {
    Arc::new(RoomName {
        app: "demo".into(),
        room: room.to_string().into_boxed_str(),
    })
}

fn place(slot: u32) -> Place {
    Place { slot, generation: 1 }
}

fn join(rooms: &mut Rooms<u32>, room: &Arc<RoomName>, slot: u32) -> Result<u32, JoinError> {
    rooms.join(room, place(slot), PacedBy(slot % 4), None, 0)
}

fn room_of(members: u32, limits: RoomLimits) -> (Rooms<u32>, Arc<RoomName>) {
    let (mut rooms, hall) = (Rooms::new(limits), name("hall"));
    for slot in 0..members {
        assert_eq!(join(&mut rooms, &hall, slot), Ok(slot + 1));
    }
    (rooms, hall)
}

fn deliver(rooms: &mut Rooms<u32>, now_ms: u64, at_most: usize) -> Vec<(u32, u32)> {
    let mut delivered = Vec::new();
    while delivered.len() < at_most
        && let Some(due) = rooms.next(now_ms)
    {
        delivered.push((*rooms.front(due.room).unwrap(), due.place.slot));
    }
    rooms.end_slice();
    delivered
}

#[derive(Debug, Clone)]
enum Op {
    Join { slot: u32, room: u32 },
    Leave { slot: u32, room: u32 },
    LeaveLate { slot: u32, room: u32 },
    End { slot: u32 },
    Offer { room: u32 },
    Deliver { count: usize },
    Pass { ms: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (slot, room) = (0..12_u32, 0..3_u32);
    let op = prop_oneof![
        5 => (slot.clone(), room.clone()).prop_map(|(slot, room)| Op::Join { slot, room }),
        2 => (slot.clone(), room.clone()).prop_map(|(slot, room)| Op::Leave { slot, room }),
        1 => (slot.clone(), room.clone()).prop_map(|(slot, room)| Op::LeaveLate { slot, room }),
        1 => slot.prop_map(|slot| Op::End { slot }),
        2 => room.prop_map(|room| Op::Offer { room }),
        4 => (1..6_usize).prop_map(|count| Op::Deliver { count }),
        1 => (1..15_u64).prop_map(|ms| Op::Pass { ms }),
    ];
    prop::collection::vec(op, 1..200)
}

/// What must hold, told by simpler means: who is in which room, by which membership, and who got which broadcast.
#[derive(Default)]
struct Model {
    generations: BTreeMap<u32, u32>,
    members: BTreeMap<(u32, u32), u32>,
    next_membership: u32,
    /// The last request of a session about a room.
    asked: BTreeMap<(u32, u32), RequestId>,
    requests: u32,
    /// Of each broadcast: its room, and the memberships there were when it was offered.
    offered: Vec<(u32, Vec<u32>)>,
    /// Broadcast and session, in the order of delivery.
    delivered: Vec<(u32, Place)>,
    served: BTreeSet<(u32, u32)>,
}

impl Model {
    fn place(&self, slot: u32) -> Place {
        Place {
            slot,
            generation: self.generations.get(&slot).copied().unwrap_or(1),
        }
    }

    /// A session asks something about a room: the request's number.
    fn asks(&mut self, slot: u32, room: u32) -> Option<RequestId> {
        self.requests += 2;
        self.asked.insert((slot, room), RequestId(self.requests));
        Some(RequestId(self.requests))
    }

    fn count(&self, room: u32) -> u32 {
        u32::try_from(self.members.keys().filter(|(_, of)| *of == room).count()).unwrap()
    }

    fn deliver(&mut self, rooms: &mut Rooms<u32>, now_ms: u64, count: usize) {
        for _ in 0..count {
            let Some(due) = rooms.next(now_ms) else { break };
            let broadcast = *rooms.front(due.room).unwrap();
            let (room, _) = &self.offered[broadcast as usize];
            assert_eq!(due.place, self.place(due.place.slot), "a session that has ended");
            let membership = self.members.get(&(due.place.slot, *room));
            let membership = *membership.expect("only members are served");
            assert!(!self.delivered.contains(&(broadcast, due.place)), "served twice");
            self.delivered.push((broadcast, due.place));
            self.served.insert((broadcast, membership));
        }
        rooms.end_slice();
    }
}

proptest! {
    #[test]
    fn a_walk_skips_nobody_who_stays_and_serves_nobody_twice_whoever_comes_and_goes(
        ops in ops(),
        tokens in prop_oneof![Just(3_u64), Just(9)],
    ) {
        let limits = RoomLimits { tokens, ..RoomLimits::default() };
        let (mut rooms, mut model, mut now_ms) = (Rooms::new(limits), Model::default(), 0);
        for op in ops {
            match op {
                Op::Join { slot, room } => {
                    // Few buckets, so that tokens run out.
                    let joined = rooms.join(&name(&room), model.place(slot), PacedBy(slot % 2), model.asks(slot, room), now_ms);
                    let next = model.next_membership;
                    model.members.entry((slot, room)).or_insert(next);
                    model.next_membership += 1;
                    prop_assert_eq!(joined, Ok(model.count(room)));
                }
                Op::Leave { slot, room } => {
                    let asked_by = model.asks(slot, room);
                    rooms.leave(&name(&room), model.place(slot), asked_by);
                    model.members.remove(&(slot, room));
                }
                Op::LeaveLate { slot, room } => {
                    // As asked for before whatever was asked last of this room.
                    let asked_by = model.asked.get(&(slot, room)).map(|last| RequestId(last.0 - 1));
                    if asked_by.is_some() {
                        rooms.leave(&name(&room), model.place(slot), asked_by);
                    }
                }
                Op::End { slot } => {
                    rooms.end(model.place(slot));
                    model.members.retain(|(of, _), _| *of != slot);
                    *model.generations.entry(slot).or_insert(1) += 1;
                }
                Op::Offer { room } => {
                    let broadcast = u32::try_from(model.offered.len()).unwrap();
                    prop_assert_eq!(
                        rooms.offer(&name(&room), broadcast, now_ms),
                        Offered::Taken(model.count(room))
                    );
                    let there = model.members.iter().filter(|((_, of), _)| *of == room);
                    model.offered.push((room, there.map(|(_, membership)| *membership).collect()));
                }
                Op::Deliver { count } => model.deliver(&mut rooms, now_ms, count),
                Op::Pass { ms } => now_ms += ms,
            }
            for room in 0..3 {
                prop_assert_eq!(rooms.members(&name(&room)), model.count(room));
            }
            prop_assert_eq!(rooms.memberships(), model.members.len());
        }
        while let Some(at_ms) = rooms.due_at_ms() {
            now_ms = now_ms.max(at_ms) + 1;
            model.deliver(&mut rooms, now_ms, 64);
        }
        let alive: BTreeSet<u32> = model.members.values().copied().collect();
        let due = (0..).zip(&model.offered).flat_map(|(broadcast, (_, there))| {
            there.iter().map(move |membership| (broadcast, *membership))
        });
        let skipped = due.filter(|due| alive.contains(&due.1) && !model.served.contains(due)).count() as u64;
        let drops = rooms.take_drops();
        prop_assert!(skipped <= drops.paced && drops.late == 0, "{} were skipped: {:?}", skipped, drops);
        // What one session gets of one room comes in the order in which it was offered.
        for (index, (earlier, place)) in model.delivered.iter().enumerate() {
            for (later, other) in &model.delivered[index..] {
                let same_room = model.offered[*earlier as usize].0 == model.offered[*later as usize].0;
                prop_assert!(!same_room || place != other || earlier <= later);
            }
        }
    }
}

#[test]
fn rooms_take_turns_slice_by_slice() {
    let (mut rooms, hall) = room_of(10, RoomLimits::default());
    let bar = name("bar");
    (100..103).for_each(|slot| assert!(join(&mut rooms, &bar, slot).is_ok()));
    rooms.offer(&hall, 1, 0);
    rooms.offer(&bar, 2, 0);
    let broadcasts =
        |delivered: Vec<(u32, u32)>| delivered.into_iter().map(|(what, _)| what).collect::<Vec<_>>();
    assert_eq!(broadcasts(deliver(&mut rooms, 0, 4)), [1, 1, 1, 1]);
    assert_eq!(broadcasts(deliver(&mut rooms, 0, 4)), [2, 2, 2, 1]);
    assert_eq!(deliver(&mut rooms, 0, 64).len(), 5);
    assert_eq!(rooms.due_at_ms(), None);
}

#[test]
fn a_crowded_bucket_waits_for_tokens_while_the_others_are_served_and_is_given_up_at_last() {
    let limits = RoomLimits {
        tokens: 2,
        ..RoomLimits::default()
    };
    let (mut rooms, hall) = (Rooms::new(limits), name("hall"));
    for slot in 0..6_000 {
        rooms.join(&hall, place(slot), PacedBy(0), None, 0).unwrap();
    }
    (6_000..6_002).for_each(|slot| _ = rooms.join(&hall, place(slot), PacedBy(1), None, 0).unwrap());
    rooms.offer(&hall, 1, 0);
    assert_eq!(deliver(&mut rooms, 0, 64).len(), 4, "two tokens of each bucket");
    assert_eq!(rooms.due_at_ms(), Some(20));
    assert_eq!(deliver(&mut rooms, 10, 64), []);
    assert_eq!(
        deliver(&mut rooms, 20, 64).len(),
        2,
        "no more than a bucket saves up"
    );
    assert_eq!(deliver(&mut rooms, 2_000, 64).len(), 2);
    assert_eq!(rooms.due_at_ms(), None);
    assert_eq!(rooms.take_drops().paced, 6_002 - 8);
    assert_eq!(rooms.take_drops().paced, 0);
}

/// Members of one bucket, and then as many that each have their own.
fn crowded(members: u32) -> (Rooms<u32>, Arc<RoomName>) {
    let (mut rooms, hall) = (Rooms::new(RoomLimits::default()), name("hall"));
    for slot in 0..2 * members {
        let bucket = PacedBy((slot + 1).saturating_sub(members));
        rooms.join(&hall, place(slot), bucket, None, 0).unwrap();
    }
    (rooms, hall)
}

#[test]
fn a_bucket_kept_dry_costs_its_own_members_in_turn_and_the_others_nothing() {
    const MEMBERS: u32 = 200;
    const BROADCASTS: u32 = 1_000;
    // Ten times what the bucket has tokens for, and a hundred times.
    for every_ms in [10, 1] {
        let (mut rooms, hall) = crowded(MEMBERS);
        let (mut got, mut late_ms, mut offered) = (vec![0; 2 * MEMBERS as usize], 0, 0);
        for now_ms in 0..13_000 {
            if now_ms % every_ms == 0 && offered < BROADCASTS {
                assert_eq!(rooms.offer(&hall, offered, now_ms), Offered::Taken(2 * MEMBERS));
                offered += 1;
            }
            while let Some(due) = rooms.next(now_ms) {
                got[due.place.slot as usize] += 1;
                if due.place.slot >= MEMBERS {
                    let since_ms = every_ms * u64::from(*rooms.front(due.room).unwrap());
                    late_ms = late_ms.max(now_ms - since_ms);
                }
            }
            rooms.end_slice();
        }
        let (crowd, others) = got.split_at(MEMBERS as usize);
        assert!(others.iter().all(|got| *got == BROADCASTS), "{others:?}");
        assert!(late_ms <= 270, "the others waited {late_ms} ms");
        let served: u32 = crowd.iter().sum();
        let drops = rooms.take_drops();
        assert_eq!(
            (drops.paced, drops.late),
            (u64::from(MEMBERS * BROADCASTS - served), 0)
        );
        assert!(
            u64::from(served) >= 2 * every_ms * 1_000,
            "{served} tokens were used"
        );
        let fair = served / MEMBERS;
        assert!(
            crowd.iter().all(|got| *got >= fair / 2),
            "{fair} each would be fair: {crowd:?}"
        );
    }
}

#[test]
fn messages_close_together_reach_a_crowded_bucket_too() {
    let (mut rooms, hall) = crowded(300);
    (0..3).for_each(|broadcast| _ = rooms.offer(&hall, broadcast, 0));
    let delivered: usize = (0..1_000)
        .map(|now_ms| deliver(&mut rooms, now_ms, 1_800).len())
        .sum();
    assert_eq!(delivered, 3 * 600);
    assert_eq!(rooms.take_drops().paced, 0);
}

#[test]
fn broadcasts_are_bounded_by_number_and_by_work_and_a_rooms_first_may_be_larger() {
    let limits = RoomLimits {
        deliveries: 100,
        broadcasts: 8,
        ..RoomLimits::default()
    };
    let (mut rooms, hall) = room_of(10, limits);
    let offer_until_dropped = |rooms: &mut Rooms<u32>, name: &Arc<RoomName>| {
        let offers = std::iter::repeat_with(|| rooms.offer(name, 1, 0));
        offers
            .take_while(|offered| matches!(offered, Offered::Taken(_)))
            .count()
    };
    assert_eq!(offer_until_dropped(&mut rooms, &hall), 4, "half of the places");
    assert_eq!(rooms.offer(&hall, 1, 0), Offered::Dropped(10));
    let lobby = name("lobby");
    (100..300).for_each(|slot| _ = join(&mut rooms, &lobby, slot).unwrap());
    assert_eq!(rooms.offer(&lobby, 2, 0), Offered::Taken(200));
    assert_eq!(
        rooms.offer(&lobby, 3, 0),
        Offered::Dropped(200),
        "its second waits"
    );
    for room in ["a", "b", "c"] {
        join(&mut rooms, &name(room), 300).unwrap();
        assert_eq!(rooms.offer(&name(room), 4, 0), Offered::Taken(1));
    }
    join(&mut rooms, &name("d"), 300).unwrap();
    assert_eq!(
        rooms.offer(&name("d"), 5, 0),
        Offered::Dropped(1),
        "too many by number"
    );
    assert_eq!(deliver(&mut rooms, 0, 1_000).len(), 40 + 200 + 3);
    assert_eq!(offer_until_dropped(&mut rooms, &lobby), 1);
    assert_eq!(rooms.offer(&name("nobody"), 7, 0), Offered::Taken(0));
}

#[test]
fn a_room_that_is_sent_to_without_end_leaves_places_to_every_other() {
    let (mut rooms, hot) = (Rooms::new(RoomLimits::default()), name("hot"));
    (0..100).for_each(|slot| _ = rooms.join(&hot, place(slot), PacedBy(slot), None, 0).unwrap());
    let mut full = 0;
    for now_ms in 0..5_000 {
        // One and a half times what is served in that time.
        full += u32::from(rooms.offer(&hot, 0, now_ms) == Offered::Dropped(100));
        if now_ms % 50 == 0 {
            let other = name(&format!("other-{now_ms}"));
            rooms
                .join(&other, place(1_000), PacedBy(5), None, now_ms)
                .unwrap();
            assert_eq!(rooms.offer(&other, 1, now_ms), Offered::Taken(1));
            let heard = (0..2).any(|_| deliver(&mut rooms, now_ms, 64).iter().any(|(what, _)| *what == 1));
            assert!(heard, "it waits behind the hot one");
            rooms.leave(&other, place(1_000), None);
        } else {
            deliver(&mut rooms, now_ms, 64);
        }
    }
    assert!(full > 0, "the hot room's queue is full");
}

#[test]
fn a_broadcast_that_waited_too_long_is_dropped_and_counted() {
    let (mut rooms, hall) = room_of(3, RoomLimits::default());
    rooms.offer(&hall, 1, 0);
    rooms.offer(&hall, 2, 4_000);
    let delivered = deliver(&mut rooms, 5_001, 64);
    assert_eq!(
        delivered.iter().map(|(what, _)| *what).collect::<Vec<_>>(),
        [2, 2, 2]
    );
    assert_eq!(rooms.take_drops().late, 3);
}

#[test]
fn memberships_are_bounded_per_session_per_room_and_in_all() {
    let limits = RoomLimits {
        members_per_room: 2,
        memberships: 20,
        ..RoomLimits::default()
    };
    let mut rooms = Rooms::new(limits);
    for room in 0..ROOMS_PER_SESSION_MAX {
        assert_eq!(join(&mut rooms, &name(&room), 1), Ok(1));
    }
    assert_eq!(join(&mut rooms, &name("more"), 1), Err(JoinError::TooManyRooms));
    assert_eq!(
        join(&mut rooms, &name(&0), 1),
        Ok(1),
        "where it is already it stays"
    );
    assert_eq!(join(&mut rooms, &name(&0), 2), Ok(2));
    assert_eq!(join(&mut rooms, &name(&0), 3), Err(JoinError::RoomFull));
    rooms.take_changes();
    (1..4).for_each(|room| assert_eq!(join(&mut rooms, &name(&room), 4), Ok(2)));
    assert_eq!(join(&mut rooms, &name(&9), 4), Err(JoinError::Full));
    rooms.end(place(1));
    assert_eq!(rooms.memberships(), 4);
    assert_eq!(join(&mut rooms, &name(&9), 4), Ok(1));
}

#[test]
fn a_leave_asked_for_before_the_last_join_ends_nothing_however_late_it_comes() {
    let (mut rooms, hall) = (Rooms::<u32>::new(RoomLimits::default()), name("hall"));
    let asked = |number| Some(RequestId(number));
    let enter = |rooms: &mut Rooms<u32>, by| rooms.join(&hall, place(1), PacedBy(0), by, 0);
    assert_eq!(enter(&mut rooms, asked(1)), Ok(1));
    rooms.leave(&hall, place(1), asked(3));
    assert_eq!(enter(&mut rooms, asked(5)), Ok(1));
    // The same leave, by a node that had stood still.
    rooms.leave(&hall, place(1), asked(3));
    assert_eq!(rooms.members(&hall), 1);
    // Nothing came of leave 7 until the session had asked to be in the room once more.
    assert_eq!(enter(&mut rooms, asked(9)), Ok(1));
    rooms.leave(&hall, place(1), asked(7));
    // An earlier join, come late, does not make the later one forgotten.
    assert_eq!(enter(&mut rooms, asked(5)), Ok(1));
    rooms.leave(&hall, place(1), asked(7));
    assert_eq!(rooms.members(&hall), 1);
    rooms.leave(&hall, place(1), asked(11));
    assert_eq!(rooms.members(&hall), 0);
    // A node that does not tell numbers is believed.
    assert_eq!(enter(&mut rooms, asked(13)), Ok(1));
    rooms.leave(&hall, place(1), None);
    assert_eq!(rooms.members(&hall), 0);
    assert_eq!(enter(&mut rooms, None), Ok(1));
    rooms.leave(&hall, place(1), asked(1));
    assert_eq!(rooms.members(&hall), 0);
}

#[test]
fn changes_are_told_once_with_the_number_of_then() {
    let (mut rooms, hall) = room_of(3, RoomLimits::default());
    assert_eq!(rooms.take_changes(), [(Arc::clone(&hall), 3)]);
    assert!(!rooms.has_changes());
    (0..3).for_each(|slot| rooms.end(place(slot)));
    let changes = rooms.take_changes();
    assert_eq!(changes, [(Arc::clone(&hall), 0)]);
    rooms.put_back(changes);
    join(&mut rooms, &hall, 9).unwrap();
    assert_eq!(rooms.take_changes(), [(hall, 1)]);
}

/// What the ledger wants told, as pairs of room and number.
fn poll(ledger: &mut Ledger<u32>, now_ms: u64) -> Option<Vec<(String, u32)>> {
    let counts = ledger.poll(now_ms, 1_000)?;
    let pair = |(name, members): (Arc<RoomName>, u32)| (name.room.to_string(), members);
    Some(counts.into_iter().map(pair).collect())
}

#[test]
fn a_rooms_first_member_is_told_at_once_and_waits_for_it() {
    let mut ledger = Ledger::new(2);
    assert_eq!(ledger.handle_join(&name("hall"), 0, 1, 7), None);
    assert_eq!(poll(&mut ledger, 5), Some(vec![("hall".to_owned(), 1)]));
    assert_eq!(
        ledger.handle_join(&name("hall"), 1, 1, 8),
        None,
        "it is not known yet"
    );
    assert_eq!(poll(&mut ledger, 5), None, "one request at a time");
    assert_eq!(ledger.handle_told(5, true).known, [7, 8]);
    assert_eq!(ledger.handle_join(&name("hall"), 1, 2, 9), Some(9), "now it is");
    assert_eq!(
        ledger.members(&name("hall")).collect::<Vec<_>>(),
        [(0, 1), (1, 2)]
    );
    // The number itself has time.
    assert_eq!(poll(&mut ledger, 900), None);
    let due_at_ms = ledger.due_at_ms().unwrap();
    assert_eq!(poll(&mut ledger, due_at_ms), Some(vec![("hall".to_owned(), 3)]));
}

#[test]
fn who_joins_while_the_room_is_being_forgotten_waits_until_it_is_told_again() {
    let mut ledger = Ledger::new(1);
    ledger.handle_join(&name("hall"), 0, 1, 1);
    poll(&mut ledger, 0);
    ledger.handle_told(0, true);
    ledger.handle_count(&name("hall"), 0, 0);
    assert_eq!(poll(&mut ledger, 1_000), Some(vec![("hall".to_owned(), 0)]));
    assert_eq!(ledger.handle_join(&name("hall"), 0, 1, 2), None);
    assert!(ledger.handle_told(1_001, true).known.is_empty());
    assert_eq!(poll(&mut ledger, 1_001), Some(vec![("hall".to_owned(), 1)]));
    assert_eq!(ledger.handle_told(1_002, true).known, [2]);
}

#[test]
fn a_request_that_failed_is_made_again_with_the_numbers_of_then_and_its_waiters_are_told() {
    let mut ledger = Ledger::new(1);
    ledger.handle_join(&name("hall"), 0, 1, 1);
    poll(&mut ledger, 0);
    ledger.handle_count(&name("hall"), 0, 4);
    assert_eq!(ledger.handle_told(0, false).unknown, [1]);
    assert_eq!(poll(&mut ledger, 100), None);
    assert_eq!(poll(&mut ledger, 1_000), Some(vec![("hall".to_owned(), 4)]));
    ledger.handle_count(&name("hall"), 0, 0);
    ledger.handle_told(1_000, false);
    assert_eq!(
        poll(&mut ledger, 9_000),
        Some(vec![("hall".to_owned(), 0)]),
        "it may have been told all the same"
    );
    ledger.handle_told(9_000, true);
    assert!(ledger.is_empty());
}

#[test]
fn a_registry_that_lost_everything_is_told_everything() {
    let mut ledger = Ledger::new(1);
    for room in ["bar", "hall"] {
        ledger.handle_join(&name(&room), 0, 2, 1);
    }
    poll(&mut ledger, 0);
    ledger.handle_lost();
    ledger.handle_told(10, true);
    let all = Some(vec![("bar".to_owned(), 2), ("hall".to_owned(), 2)]);
    assert_eq!(
        poll(&mut ledger, 10),
        all,
        "nobody knows which life took the first"
    );
    ledger.handle_told(11, true);
    assert_eq!(ledger.due_at_ms(), None);
    ledger.handle_lost();
    assert_eq!(poll(&mut ledger, 12), all);
}
