//! Where everything lies in Redis. Pure. The layout is described at the head of the crate.

use std::fmt::Write as _;

use redis::cluster_routing::Slot;
use whimbrel_protocol::bucket::city_hash;
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::validity::Life;

use crate::UrlError;

/// The version of the layout: another one is another registry, and its entries are left alone.
const PREFIX: &str = "whimbrel:1:";
/// Parts into which users and rooms fall, each with one hash tag, so that one script serves all that a call has there: enough
/// to spread evenly over as many masters as a Cluster has reason to have, few enough to look at all of them every second.
pub(crate) const PARTS: usize = 64;
/// Slots of a Cluster.
const SLOTS: usize = 16_384;
/// Bytes of the longest name of a cluster, escaped: it is in every key.
const CLUSTER_LEN_MAX: usize = 128;

/// One of the places that can be lost by itself: the nodes, or a part of the users and rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// Leases, and which lives of nodes there are.
    Nodes,
    /// Users and rooms whose hash falls there; below [`PARTS`].
    Part(usize),
}

impl Place {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Nodes).chain((0..PARTS).map(Self::Part))
    }

    /// A number for each, from 0.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Nodes => 0,
            Self::Part(part) => part + 1,
        }
    }

    /// How many there are.
    pub(crate) const COUNT: usize = PARTS + 1;
}

/// The names of one cluster's keys.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// The part of a key up to and with its hash tag, by [`Place::index`].
    bases: Vec<String>,
    changes: String,
}

impl Keys {
    /// The keys of the cluster of this name.
    pub(crate) fn new(cluster: &str) -> Result<Self, UrlError> {
        let cluster = escaped(cluster);
        if cluster.is_empty() || cluster.len() > CLUSTER_LEN_MAX {
            return Err(UrlError::Cluster {
                len: cluster.len(),
                max: CLUSTER_LEN_MAX,
            });
        }
        let mut bases = vec![format!("{PREFIX}{{{cluster}.n}}")];
        bases.extend((0..PARTS).map(|part| base_of_part(&cluster, part)));
        Ok(Self {
            bases,
            changes: format!("{PREFIX}{cluster}:changes"),
        })
    }

    /// The channel of change notices.
    pub(crate) fn changes(&self) -> &str {
        &self.changes
    }

    fn base(&self, place: Place) -> &str {
        self.bases.get(place.index()).map_or("", String::as_str)
    }

    /// The life of a place: a number that another life of it never has.
    pub(crate) fn life(&self, place: Place) -> String {
        format!("{}:life", self.base(place))
    }

    /// The run of the server on which that life began.
    pub(crate) fn run(&self, place: Place) -> String {
        format!("{}:run", self.base(place))
    }

    /// Something of the nodes, by its name.
    pub(crate) fn of_nodes(&self, name: &str) -> String {
        format!("{}:{name}", self.base(Place::Nodes))
    }

    /// The sessions of a user, by device.
    pub(crate) fn user(&self, user: &User) -> String {
        self.entry(user.place(), &user.name())
    }

    /// The sessions that lost a place to logins of a user's device of late.
    pub(crate) fn lost(&self, user: &User, device: &str) -> String {
        let name = format!("l:{}/{:016x}/{device}", user.app, user.id);
        self.entry(user.place(), &name)
    }

    /// The members of a room, by gateway.
    pub(crate) fn room(&self, room: &Room) -> String {
        self.entry(room.place(), &room.name())
    }

    /// An entry of a part by the name it has in an index.
    pub(crate) fn entry(&self, place: Place, name: &str) -> String {
        format!("{}:{name}", self.base(place))
    }

    /// The names of the entries of a part that a life of a gateway has something in.
    pub(crate) fn index(&self, place: Place, life: &Life) -> String {
        format!("{}:i:{}", self.base(place), life_text(life))
    }

    /// The newest orders in which a life of a gateway has counted its rooms, by who told them.
    pub(crate) fn order(&self, place: Place, life: &Life) -> String {
        format!("{}:o:{}", self.base(place), life_text(life))
    }
}

/// A life as it stands in keys and values.
pub(crate) fn life_text(life: &Life) -> String {
    format!("{}/{:016x}", life.0, life.1.0)
}

/// A life from its text.
pub(crate) fn life_of_text(text: &str) -> Option<Life> {
    let (node, incarnation) = text.split_once('/')?;
    Some((
        NodeId::new(node).ok()?,
        Incarnation(u64::from_str_radix(incarnation, 16).ok()?),
    ))
}

/// A user, as keys name them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct User {
    pub(crate) app: String,
    pub(crate) id: u64,
}

impl User {
    /// Where the user's sessions are.
    pub(crate) fn place(&self) -> Place {
        part_of(&self.name())
    }

    pub(crate) fn name(&self) -> String {
        format!("u:{}/{:016x}", self.app, self.id)
    }
}

/// A room, as keys name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Room {
    pub(crate) app: String,
    pub(crate) room: String,
}

impl Room {
    /// Where the room's members are.
    pub(crate) fn place(&self) -> Place {
        part_of(&self.name())
    }

    pub(crate) fn name(&self) -> String {
        format!("r:{}/{}", self.app, self.room)
    }
}

fn part_of(name: &str) -> Place {
    let parts = PARTS as u64;
    Place::Part(usize::try_from(city_hash(name.as_bytes()) % parts).unwrap_or(0))
}

/// A part's hash tag lies in the part's own stretch of slots, so that masters with equally many slots have equally many parts.
fn base_of_part(cluster: &str, part: usize) -> String {
    let stretch = SLOTS / PARTS;
    let base = |salt: u32| format!("{PREFIX}{{{cluster}.{part}-{salt}}}");
    let fits = |salt: &u32| {
        let slot = Slot::for_key(base(*salt));
        (part * stretch..(part + 1) * stretch).any(|wanted| slot_is(slot, wanted))
    };
    // One in 64 fits; a hash that had none among so many would be no hash.
    base((0..100_000).find(fits).unwrap_or(0))
}

fn slot_is(slot: Slot, number: usize) -> bool {
    u16::try_from(number).ok().and_then(Slot::new) == Some(slot)
}

/// Letters, digits, `-`, `_` and `.` stand for themselves; other bytes are `%` and two digits, so that no name can open or close a
/// hash tag.
fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            text.push(byte.into());
        } else {
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn everything_of_a_part_is_in_one_slot_and_parts_are_in_stretches_of_their_own() {
        let keys = Keys::new("whimbrel").unwrap();
        let life = (NodeId::new("g1").unwrap(), Incarnation(7));
        for part in 0..PARTS {
            let place = Place::Part(part);
            let slot = Slot::for_key(keys.life(place));
            let stretch = part * 256..(part + 1) * 256;
            assert!(stretch.clone().any(|number| slot_is(slot, number)), "{part}");
            for key in [
                keys.run(place),
                keys.index(place, &life),
                keys.order(place, &life),
                keys.entry(place, "r:demo/a room with {braces} of its own"),
            ] {
                assert_eq!(Slot::for_key(&key), slot, "{key}");
            }
        }
        let nodes = Slot::for_key(keys.life(Place::Nodes));
        assert_eq!(Slot::for_key(keys.of_nodes("leases")), nodes);
    }

    #[test]
    fn users_and_rooms_spread_over_all_parts() {
        let mut users = [0_u32; PARTS];
        for id in 0..6_400 {
            let app = "demo".to_owned();
            users[User { app, id }.place().index() - 1] += 1;
        }
        assert!(users.iter().all(|count| (50..160).contains(count)), "{users:?}");
    }

    #[test]
    fn no_name_of_a_cluster_reaches_into_another() {
        for (one, other) in [("a", "a.n"), ("a}", "a"), ("a%7d", "a}"), ("A", "a")] {
            let (one, other) = (Keys::new(one).unwrap(), Keys::new(other).unwrap());
            for place in Place::all() {
                assert_ne!(one.life(place), other.life(place));
            }
            assert_ne!(one.changes(), other.changes());
        }
        assert!(Keys::new("").is_err() && Keys::new(&"x".repeat(129)).is_err());
    }

    #[test]
    fn the_layout_is_the_one_written_down() {
        let keys = Keys::new("whimbrel").unwrap();
        let user = User {
            app: "demo".to_owned(),
            id: 0x2a,
        };
        assert_eq!(keys.life(Place::Nodes), "whimbrel:1:{whimbrel.n}:life");
        assert_eq!(
            keys.user(&user),
            "whimbrel:1:{whimbrel.21-332}:u:demo/000000000000002a"
        );
        assert_eq!(keys.changes(), "whimbrel:1:whimbrel:changes");
        let life = (NodeId::new("g-1").unwrap(), Incarnation(0xff));
        assert_eq!(life_of_text(&life_text(&life)), Some(life));
    }
}
