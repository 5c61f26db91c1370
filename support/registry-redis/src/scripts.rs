//! The scripts, each run as one step by the server, and their answers.
//!
//! All but [`Scripts::life`] and [`Scripts::own`] begin by comparing the life of their place with the one the caller knows, so that
//! no call misses that its place has lost everything.

use redis::{Script, Value};

/// A script's answer: a word, and what belongs to it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) word: String,
    pub(crate) rest: Vec<Value>,
}

impl Answer {
    /// Reads an answer; `None` when it is none of ours.
    pub(crate) fn of(value: Value) -> Option<Self> {
        let Value::Array(mut rest) = value else {
            return None;
        };
        if rest.is_empty() {
            return None;
        }
        let word = text(&rest.remove(0))?;
        Some(Self { word, rest })
    }

    /// The text at a place.
    pub(crate) fn text(&self, place: usize) -> Option<String> {
        text(self.rest.get(place)?)
    }

    /// The number at a place.
    pub(crate) fn number(&self, place: usize) -> Option<u64> {
        number(self.rest.get(place)?)
    }

    /// The list at a place.
    pub(crate) fn list(&self, place: usize) -> Option<&[Value]> {
        list(self.rest.get(place)?)
    }
}

pub(crate) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

pub(crate) fn text(value: &Value) -> Option<String> {
    if matches!(value, Value::Okay) {
        return Some("OK".to_owned());
    }
    String::from_utf8(bytes(value)?.to_vec()).ok()
}

pub(crate) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        value => text(value)?.parse().ok(),
    }
}

pub(crate) fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// All of them, with their digests.
pub(crate) struct Scripts {
    pub(crate) life: Script,
    pub(crate) own: Script,
    // Of the nodes.
    pub(crate) put_node: Script,
    pub(crate) remove_node: Script,
    pub(crate) nodes: Script,
    pub(crate) believe: Script,
    pub(crate) standing: Script,
    pub(crate) claim: Script,
    pub(crate) swept: Script,
    // Of a part.
    pub(crate) register: Script,
    pub(crate) unregister: Script,
    pub(crate) look_up: Script,
    pub(crate) look_up_room: Script,
    pub(crate) put_rooms: Script,
    pub(crate) sweep: Script,
}

impl Scripts {
    pub(crate) fn new() -> Self {
        Self {
            life: Script::new(include_str!("scripts/life.lua")),
            own: Script::new(include_str!("scripts/own.lua")),
            put_node: of_nodes(include_str!("scripts/put_node.lua")),
            remove_node: of_nodes(include_str!("scripts/remove_node.lua")),
            nodes: of_nodes(include_str!("scripts/nodes.lua")),
            believe: of_nodes(include_str!("scripts/believe.lua")),
            standing: of_nodes(include_str!("scripts/standing.lua")),
            claim: of_nodes(include_str!("scripts/claim.lua")),
            swept: of_nodes(include_str!("scripts/swept.lua")),
            register: of_part(include_str!("scripts/register.lua")),
            unregister: of_part(include_str!("scripts/unregister.lua")),
            look_up: of_part(include_str!("scripts/look_up.lua")),
            look_up_room: of_part(include_str!("scripts/look_up_room.lua")),
            put_rooms: of_part(include_str!("scripts/put_rooms.lua")),
            sweep: of_part(include_str!("scripts/sweep.lua")),
        }
    }
}

fn of_nodes(script: &str) -> Script {
    let (known, clock) = (
        include_str!("scripts/known.lua"),
        include_str!("scripts/clock.lua"),
    );
    Script::new(&format!("{known}\n{clock}\n{script}"))
}

fn of_part(script: &str) -> Script {
    Script::new(&format!("{}\n{script}", include_str!("scripts/known.lua")))
}
