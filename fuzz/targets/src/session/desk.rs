//! What the gateway's room desk hands to the session's reactor: orders, messages to rooms; and who else comes and goes.

use bytes::Bytes;
use prost::Message as _;
use whimbrel_gateway::fuzzing::{DeskOrder, Obeyed};
use whimbrel_protocol::client::{Content, RoomPush, Text, content::Content as Kind};
use whimbrel_protocol::method::PushMethod;

use super::{ALICE, NOW_UNIX_MS, Run};

impl Run<'_> {
    /// An order to put the session into a room or take it out; or one that is meant for another user, the slot's owner of
    /// before, another app, or a neighbour.
    pub(super) fn desk_order(&mut self) {
        let flags = self.source.u8();
        let is = |bit: u8| flags & bit != 0;
        let (room, leave) = (self.source.u8(), is(1));
        if is(16) {
            return self.gateway.neighbour(flags >> 5, room, leave);
        }
        let order = DeskOrder {
            room,
            leave,
            user_id: if is(2) { 8 } else { ALICE },
            is_current: !is(4),
            is_own_app: !is(8),
        };
        let obeyed = self.gateway.desk_order(order);
        assert!(
            obeyed == Obeyed::Gone || self.gateway.is_ready(),
            "{order:?} for a session that is not ready: {obeyed:?}"
        );
    }

    /// A message to a room, whoever is in it.
    pub(super) fn broadcast(&mut self) {
        let room = self.source.u8();
        let payload = self.room_message();
        self.gateway.broadcast(PushMethod::Room.number(), payload, room);
    }

    /// A slice of the broadcasts under way, on a socket that takes all, a part, or nothing.
    pub(super) fn serve_rooms(&mut self) {
        let takes = self.socket();
        let burst = self.gateway.serve_rooms(takes);
        self.downward.extend_from_slice(&burst);
        self.hear();
    }

    /// A message to a room on its last step, whether the session is in a room or not: good or of anything.
    pub(super) fn room_push(&mut self) {
        let takes = self.socket();
        let payload = self.room_message();
        let burst = self.gateway.room_push(PushMethod::Room.number(), payload, takes);
        self.downward.extend_from_slice(&burst);
        self.hear();
    }

    /// What the socket takes now.
    fn socket(&mut self) -> Option<usize> {
        match self.source.below(4) {
            0 => None,
            1 => Some(usize::from(self.source.u16())),
            _ => Some(usize::MAX),
        }
    }

    fn room_message(&mut self) -> Bytes {
        match self.source.below(3) {
            0 => Bytes::from(self.source.filler()),
            _ => Bytes::from(
                RoomPush {
                    room: self.source.text(),
                    sender_uid: "bob".to_owned(),
                    client_msg_id: Bytes::from_static(&[7; 16]),
                    time_ms: NOW_UNIX_MS,
                    content: Some(Content {
                        content: Some(Kind::Text(Text {
                            text: self.source.text(),
                        })),
                    }),
                }
                .encode_to_vec(),
            ),
        }
    }
}

/// Inputs to begin with: joins, messages, leaves; orders for somebody else; bounds; walks that are met by time, by who comes and goes, by a socket
/// that takes nothing.
pub(super) fn seeds(head: impl Fn(u8, u8, u8) -> Vec<u8>) -> Vec<Vec<u8>> {
    let join = |room: u8| vec![244, 0, room];
    let leave = |room: u8| vec![244, 1, room];
    let others = |who: u8, leave: u8, room: u8| vec![244, who << 5 | 16 | leave, room];
    let say = |room: u8, text: u8| vec![245, room, 1, 5, b'l', b'o', b'b', b'b', b'y', 1, text];
    let serve = || vec![252, 2];
    let seed = |small: u8, opening: u8, steps: &[Vec<u8>]| [head(small, 9, opening), steps.concat()].concat();
    vec![
        seed(
            0,
            3,
            &[
                join(0),
                say(0, b'a'),
                serve(),
                say(0, b'b'),
                others(0, 0, 0),
                join(1),
                say(1, b'c'),
                serve(),
                leave(0),
                say(0, b'd'),
                serve(),
                vec![7],
            ],
        ),
        // For another user, who had the slot before, another app, all of these, and to leave.
        seed(
            0,
            3,
            &[
                vec![244, 2, 0],
                vec![244, 4, 0],
                vec![244, 8, 0],
                vec![244, 14, 0],
                join(0),
                vec![244, 3, 0],
                say(0, b'a'),
                serve(),
            ],
        ),
        // Before the session is ready, and when it is ending.
        seed(0, 0, &[join(0), say(0, b'a'), serve()]),
        seed(0, 2, &[join(0), others(0, 0, 0), say(0, b'a'), serve()]),
        seed(
            0,
            3,
            &[
                join(0),
                say(0, b'a'),
                vec![16, 0],
                serve(),
                join(1),
                leave(0),
                vec![7, 9],
            ],
        ),
        // As many rooms as may be, and one more; a room that is full, a table that is full.
        seed(
            0,
            3,
            &[(0..18).flat_map(join).collect(), leave(3), join(17), join(17)],
        ),
        seed(
            0,
            3,
            &[
                others(0, 0, 0),
                others(1, 0, 0),
                others(2, 0, 0),
                join(0),
                others(2, 1, 0),
                join(0),
            ],
        ),
        seed(
            0,
            3,
            &[
                (0..16).flat_map(|room| others(room % 4, 0, room)).collect(),
                (0..9).flat_map(join).collect(),
            ],
        ),
        // More than the table takes, and more than the buckets have tokens for; too late for some.
        seed(
            0,
            3,
            &[
                join(0),
                others(0, 0, 0),
                others(1, 0, 0),
                say(0, b'a').repeat(3),
                serve().repeat(2),
                vec![8, 0, 0, 0, 30],
                serve(),
                vec![8, 0, 0, 0x20, 0],
                serve(),
            ],
        ),
        // Who leaves and comes back in the middle of a walk.
        seed(
            0,
            3,
            &[
                others(0, 0, 0),
                join(0),
                others(1, 0, 0),
                say(0, b'a'),
                say(0, b'b'),
                serve(),
                leave(0),
                others(0, 1, 0),
                join(0),
                others(0, 0, 0),
                vec![8, 0, 0, 0, 30],
                serve(),
                serve(),
            ],
        ),
        // A slow reader's rooms: nothing taken, a part taken, then all.
        seed(
            1,
            3,
            &[
                join(0),
                join(1),
                say(0, b'a'),
                say(1, b'b'),
                vec![252, 0],
                say(0, b'c'),
                vec![252, 1, 0, 9],
                [245, 0, 0, 7, 0x0f, 0].repeat(3),
                vec![252, 0, 7, 252, 2, 7],
            ],
        ),
    ]
}
