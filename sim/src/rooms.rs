//! Rooms of a run: who is in which, what was sent to them, and what came of it. Pure: an account of its own, since a room is no
//! conversation and the checker of `loadtest` knows nothing of it.
//!
//! What must hold: nothing that was sent to a room comes to a session that never was in it (invariant 10), nor in another
//! room's name; and when everything has come to rest, the registry counts as many members as there are. What a session was in
//! ends with its connection.

use std::collections::{BTreeMap, BTreeSet};

use whimbrel_loadtest::check::{Invariant, Violation};
use whimbrel_protocol::client::{RoomPush, content::Content as Kind};
use whimbrel_protocol::ids::RoomId;

/// Rooms of a run.
const ROOMS: [&str; 2] = ["lobby", "hall"];

/// A device, by its place in the world.
type DeviceAt = usize;

/// See the module. Rooms are numbered.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    /// Who is in a room, or has asked to be.
    inside: BTreeSet<(usize, DeviceAt)>,
    /// Whose client joins a room with every new session. The simulated client keeps its rooms when its app starts anew, which then
    /// believes itself in none.
    kept: BTreeSet<(usize, DeviceAt)>,
    /// Who has been, over the connection that the device has now, or had last.
    been: BTreeSet<(usize, DeviceAt)>,
    /// Which connection of each device that is.
    connections: BTreeMap<DeviceAt, u64>,
    /// Into which room each text was sent.
    sent: BTreeMap<String, usize>,
    /// Members that answered sends were said to reach.
    taken: u64,
    heard: u64,
    violations: Vec<Violation>,
}

impl Rooms {
    /// How many there are.
    pub(crate) const COUNT: usize = ROOMS.len();

    /// The id of a room.
    pub(crate) fn id(room: usize) -> RoomId {
        RoomId::new(ROOMS[room]).expect("the id of a room")
    }

    /// A text for a room that was not sent before.
    pub(crate) fn send(&mut self, room: usize, device: DeviceAt) -> String {
        let text = format!("{} {} of {device}", ROOMS[room], self.sent.len());
        self.sent.insert(text.clone(), room);
        text
    }

    /// Gateways took a message for so many members.
    pub(crate) fn took(&mut self, members: u32) {
        self.taken += u64::from(members);
    }

    /// A device asks to be in a room.
    pub(crate) fn enter(&mut self, room: usize, device: DeviceAt) {
        self.inside.insert((room, device));
        self.kept.insert((room, device));
        self.been.insert((room, device));
    }

    /// A device is not in a room any more, as far as it knows.
    pub(crate) fn leave(&mut self, room: usize, device: DeviceAt) {
        self.inside.remove(&(room, device));
        self.kept.remove(&(room, device));
    }

    /// A device's app has started anew, and is in no room as far as it knows.
    pub(crate) fn leave_all(&mut self, device: DeviceAt) {
        self.inside.retain(|(_, of)| *of != device);
    }

    /// A device is at its connection of this number. Over a new one it is in no room but those that it has its client join again.
    pub(crate) fn connected(&mut self, device: DeviceAt, connection: u64) {
        if self.connections.insert(device, connection) != Some(connection) {
            let kept = &self.kept;
            self.been.retain(|of| of.1 != device || kept.contains(of));
        }
    }

    pub(crate) fn is_inside(&self, room: usize, device: DeviceAt) -> bool {
        self.inside.contains(&(room, device))
    }

    /// What a device's connection brought.
    pub(crate) fn hear(&mut self, device: DeviceAt, push: Option<&RoomPush>) {
        self.heard += 1;
        let known = push.and_then(|push| {
            let room = ROOMS.iter().position(|room| *room == push.room)?;
            let Kind::Text(text) = push.content.as_ref()?.content.as_ref()? else {
                return None;
            };
            Some((room, self.sent.get(&text.text).copied()))
        });
        let wrong = match known {
            None => "what nobody sends".to_owned(),
            Some((room, sent)) if sent != Some(room) => {
                format!("in the name of {} what was not sent to it", ROOMS[room])
            }
            Some((room, _)) if !self.been.contains(&(room, device)) => {
                format!("a message to {}, in which its session never was", ROOMS[room])
            }
            Some(_) => return,
        };
        self.violations.push(Violation {
            invariant: Invariant::Foreign,
            what: format!("device {device} was brought {wrong}"),
        });
    }

    /// What is wrong at rest, when the registry counts so many members in a room; `None`: it is away.
    pub(crate) fn judge(&self, members: impl Fn(&str) -> Option<u64>) -> Vec<Violation> {
        let mut violations = self.violations.clone();
        for (room, name) in ROOMS.into_iter().enumerate() {
            let of_room = |set: &BTreeSet<(usize, DeviceAt)>| {
                u64::try_from(set.iter().filter(|(of, _)| *of == room).count()).unwrap_or(u64::MAX)
            };
            // An attempt to join that was given up for lost may be carried out behind the leaving: then the session is in
            // the room until it ends, and its app is shown nothing.
            let (inside, been) = (of_room(&self.kept), of_room(&self.been));
            let counted = members(name);
            if !counted.is_some_and(|counted| (inside..=been).contains(&counted)) {
                violations.push(Violation {
                    invariant: Invariant::DevicePolicy,
                    what: format!(
                        "the registry counts {counted:?} members in {name}: {inside} are in it, {been} have been over their connections"
                    ),
                });
            }
        }
        violations
    }

    /// Messages sent, members whose gateways took one, and messages that arrived.
    pub(crate) fn counts(&self) -> (usize, u64, u64) {
        (self.sent.len(), self.taken, self.heard)
    }
}

#[cfg(test)]
mod tests {
    use whimbrel_protocol::client::{Content, Text};

    use super::*;

    fn push(room: &str, text: &str) -> RoomPush {
        RoomPush {
            room: room.to_owned(),
            content: Some(Content {
                content: Some(Kind::Text(Text {
                    text: text.to_owned(),
                })),
            }),
            ..RoomPush::default()
        }
    }

    fn foreign(rooms: &Rooms) -> usize {
        let found = rooms.judge(|_| Some(0));
        let is_foreign = |violation: &&Violation| violation.invariant == Invariant::Foreign;
        found.iter().filter(is_foreign).count()
    }

    #[test]
    fn what_comes_to_a_member_is_right_and_to_a_stranger_wrong() {
        let mut rooms = Rooms::default();
        let text = rooms.send(0, 7);
        rooms.enter(0, 7);
        rooms.hear(7, Some(&push("lobby", &text)));
        // On its way when the app left.
        rooms.leave(0, 7);
        rooms.hear(7, Some(&push("lobby", &text)));
        assert_eq!(foreign(&rooms), 0);
        rooms.hear(8, Some(&push("lobby", &text)));
        assert_eq!(foreign(&rooms), 1);
    }

    #[test]
    fn what_a_session_was_in_ends_with_its_connection() {
        let mut rooms = Rooms::default();
        let text = rooms.send(0, 7);
        rooms.connected(7, 1);
        rooms.enter(0, 7);
        rooms.enter(1, 7);
        rooms.leave(0, 7);
        let count = |rooms: &Rooms, lobby, hall| {
            let found = rooms.judge(|room| Some(if room == "lobby" { lobby } else { hall }));
            found.len()
        };
        rooms.connected(7, 1);
        rooms.hear(7, Some(&push("lobby", &text)));
        assert_eq!(count(&rooms, 0, 1), 0);
        assert_eq!(count(&rooms, 1, 1), 0, "a join that came late");
        rooms.connected(7, 2);
        assert_eq!(count(&rooms, 0, 1), 0);
        assert_eq!(count(&rooms, 1, 1), 1, "of a session that is gone");
        rooms.hear(7, Some(&push("lobby", &text)));
        assert_eq!(foreign(&rooms), 1);
    }

    #[test]
    fn a_message_in_another_rooms_name_or_of_nobody_is_wrong() {
        let mut rooms = Rooms::default();
        rooms.enter(0, 7);
        rooms.enter(1, 7);
        let text = rooms.send(0, 7);
        for wrong in [
            push("hall", &text),
            push("lobby", "never sent"),
            push("attic", &text),
        ] {
            rooms.hear(7, Some(&wrong));
        }
        rooms.hear(7, None);
        assert_eq!(foreign(&rooms), 4);
    }

    #[test]
    fn members_that_the_registry_does_not_count_or_made_up_are_found() {
        let mut rooms = Rooms::default();
        rooms.enter(0, 1);
        rooms.enter(0, 2);
        let judged = |rooms: &Rooms, lobby| {
            let found = rooms.judge(|room| if room == "lobby" { lobby } else { Some(0) });
            found.len()
        };
        assert_eq!(judged(&rooms, Some(2)), 0);
        assert_eq!(judged(&rooms, Some(1)), 1);
        assert_eq!(judged(&rooms, Some(3)), 1);
        assert_eq!(judged(&rooms, None), 1);
        rooms.leave_all(2);
        rooms.connected(2, 2);
        assert!(!rooms.is_inside(0, 2));
        assert_eq!(judged(&rooms, Some(2)), 0, "its client joins again");
        assert_eq!(judged(&rooms, Some(1)), 1);
    }
}
