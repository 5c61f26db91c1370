//! A client's connection to a gateway: bytes on their way both ways, in pieces, until somebody closes or the path breaks.

use std::collections::VecDeque;

use whimbrel_gateway::simulation::Wire;
use whimbrel_protocol::ids::NodeId;

use crate::dice::Dice;

/// What is on the way.
#[derive(Debug)]
enum Item {
    Bytes(Vec<u8>),
    /// The sender has closed its end.
    Closed,
    /// The connection was reset.
    Reset,
}

/// What comes out at the client's end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Bytes(Vec<u8>),
    Down,
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) gateway: NodeId,
    wire: Wire,
    up: VecDeque<(u64, Item)>,
    down: VecDeque<(u64, Item)>,
    /// Nothing passes, and nobody is told.
    black_hole: bool,
    /// The gateway's end has been seen to close.
    released: bool,
}

impl Connection {
    pub(crate) fn new(gateway: NodeId, wire: Wire) -> Self {
        Self {
            gateway,
            wire,
            up: VecDeque::new(),
            down: VecDeque::new(),
            black_hole: false,
            released: false,
        }
    }

    /// From now on everything is swallowed.
    pub(crate) fn swallow(&mut self) {
        self.black_hole = true;
        self.up.clear();
        self.down.clear();
    }

    /// Both ends are told that it is broken; what was on the way is lost.
    pub(crate) fn reset(&mut self, now_ms: u64) {
        self.up.clear();
        self.down.clear();
        self.wire.break_off();
        self.released = true;
        self.down.push_back((now_ms + 1, Item::Reset));
    }

    /// The client's bytes are on their way.
    pub(crate) fn send(&mut self, bytes: Vec<u8>, now_ms: u64, dice: &mut Dice) {
        if !self.black_hole {
            push(&mut self.up, bytes, now_ms, dice);
        }
    }

    /// The client has closed its end.
    pub(crate) fn finish(&mut self, now_ms: u64) {
        if !self.black_hole {
            let last_ms = self.up.back().map_or(0, |(at_ms, _)| *at_ms);
            self.up.push_back((last_ms.max(now_ms + 1), Item::Closed));
        }
    }

    /// Takes up what the gateway has written, hands it what has arrived. Says whether anything moved.
    pub(crate) fn pump(&mut self, now_ms: u64, dice: &mut Dice) -> bool {
        if self.black_hole {
            // The gateway's kernel goes on taking until its buffer is full; that is the gateway's to bear.
            return false;
        }
        let mut moved = false;
        let mut written = Vec::new();
        self.wire.take(&mut written);
        if !written.is_empty() {
            moved = true;
            push(&mut self.down, written, now_ms, dice);
        }
        if !self.released && self.wire.is_released() {
            self.released = true;
            moved = true;
            let last_ms = self.down.back().map_or(0, |(at_ms, _)| *at_ms);
            self.down.push_back((last_ms.max(now_ms + 1), Item::Closed));
        }
        while let Some((at_ms, _)) = self.up.front()
            && *at_ms <= now_ms
            && let Some((_, item)) = self.up.pop_front()
        {
            moved = true;
            match item {
                Item::Bytes(bytes) => self.wire.deliver(&bytes),
                Item::Closed => self.wire.finish(),
                Item::Reset => self.wire.break_off(),
            }
        }
        moved
    }

    /// What has arrived at the client.
    pub(crate) fn hear(&mut self, now_ms: u64) -> Option<Heard> {
        let (at_ms, _) = self.down.front()?;
        if *at_ms > now_ms {
            return None;
        }
        match self.down.pop_front()?.1 {
            Item::Bytes(bytes) => Some(Heard::Bytes(bytes)),
            Item::Closed | Item::Reset => Some(Heard::Down),
        }
    }

    /// When something arrives next.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        let firsts = [self.up.front(), self.down.front()];
        firsts.into_iter().flatten().map(|(at_ms, _)| *at_ms).min()
    }

    /// Whether the client, having closed, has nothing on its way any more.
    pub(crate) fn is_done(&self) -> bool {
        self.black_hole || self.up.is_empty()
    }
}

/// Puts bytes on their way, now and then in two pieces.
fn push(queue: &mut VecDeque<(u64, Item)>, mut bytes: Vec<u8>, now_ms: u64, dice: &mut Dice) {
    let last_ms = queue.back().map_or(0, |(at_ms, _)| *at_ms);
    let at_ms = last_ms.max(now_ms + latency_ms(dice));
    if bytes.len() > 1 && dice.chance(50) {
        let rest = bytes.split_off(1 + dice.below(bytes.len() - 1));
        queue.push_back((at_ms, Item::Bytes(bytes)));
        queue.push_back((at_ms + latency_ms(dice), Item::Bytes(rest)));
    } else {
        queue.push_back((at_ms, Item::Bytes(bytes)));
    }
}

/// A client's way is longer than that between nodes, ms.
fn latency_ms(dice: &mut Dice) -> u64 {
    match dice.below(40) {
        0 => dice.within(1..=300),
        1..=9 => dice.within(1..=40),
        _ => dice.within(1..=5),
    }
}
