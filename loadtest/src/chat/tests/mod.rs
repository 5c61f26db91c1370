//! People who chat over an imitation of a server, under a virtual clock.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod closing;
mod governing;
mod receiving;
mod repeating;
mod sending;

use std::collections::VecDeque;

use whimbrel_protocol::client::{
    Accepted, ChangeKind, Conversation as Opened, Entry, GroupChange, GroupChangeResponse, MessagesPush,
    SyncResponse, entry,
};
use whimbrel_protocol::client_session::{Refusal, RequestError};
use whimbrel_protocol::ids::ConversationKind;
use whimbrel_protocol::method::PushMethod;

use super::*;
use crate::record::NoRecord;
use crate::tally::{Counter, Tally};

/// Takes requests, and has the answers that a test gives.
#[derive(Default)]
struct Imitation {
    asked: VecDeque<(SeatId, RequestId, OutgoingRequest)>,
    next_id: u32,
    counter: Counter,
}

impl Wire for Imitation {
    fn ask(
        &mut self,
        seat: SeatId,
        request: OutgoingRequest,
        _: Duration,
    ) -> Result<RequestId, RequestError> {
        self.next_id += 2;
        let id = RequestId(self.next_id + 1);
        self.asked.push_back((seat, id, request));
        Ok(id)
    }

    fn server_ms(&self, now: Duration) -> u64 {
        1_795_219_200_000 + u64::try_from(now.as_millis()).unwrap()
    }

    fn counter(&mut self) -> &mut Counter {
        &mut self.counter
    }
}

const HEAD: u64 = 40;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn conversation_id() -> ConversationId {
    ConversationId::from_parts(ConversationKind::Direct, [7; 15])
}

struct Scene {
    chat: Chat,
    wire: Imitation,
}

impl Scene {
    /// Two people in a conversation with 40 entries of earlier runs.
    fn new() -> Self {
        let options = ChatOptions {
            run: 1,
            payload: 40,
            group_size: 0,
            governed: false,
            user_prefix: "load-".into(),
            seed: 1,
        };
        let mut scene = Self {
            chat: Chat::new(options, 1, 2, Box::new(NoRecord)),
            wire: Imitation::default(),
        };
        for seat in 0..2 {
            scene.happen(seat, 0, What::Hello);
            scene.happen(seat, 0, What::Ready { epoch: 1 });
            scene.answer(Method::Sync, 0, Ok(SyncResponse::default().encode_to_vec()));
        }
        assert!(!scene.chat.prepare(ms(0), &mut scene.wire));
        let opened = Opened {
            conversation: Bytes::copy_from_slice(conversation_id().as_bytes()),
            head_seq: HEAD,
            ..Opened::default()
        };
        scene.answer(Method::OpenDirect, 0, Ok(opened.encode_to_vec()));
        assert!(scene.chat.prepare(ms(0), &mut scene.wire));
        scene
    }

    /// Three people in a group whose members come and go.
    fn group() -> Self {
        let options = ChatOptions {
            run: 1,
            payload: 60,
            group_size: 3,
            governed: true,
            user_prefix: "load-".into(),
            seed: 1,
        };
        let mut scene = Self {
            chat: Chat::new(options, 1, 3, Box::new(NoRecord)),
            wire: Imitation::default(),
        };
        for seat in 0..3 {
            scene.happen(seat, 0, What::Hello);
            scene.happen(seat, 0, What::Ready { epoch: 1 });
            scene.answer(Method::Sync, 0, Ok(SyncResponse::default().encode_to_vec()));
        }
        assert!(!scene.chat.prepare(ms(0), &mut scene.wire));
        scene.answer(Method::CreateGroup, 0, Ok(changed(1)));
        assert!(scene.chat.prepare(ms(0), &mut scene.wire));
        scene
    }

    fn happen(&mut self, seat: u32, at_ms: u64, what: What) {
        let happening = Happening {
            seat: SeatId(seat),
            at: ms(at_ms),
            what,
        };
        self.chat.handle(happening, &mut self.wire);
    }

    /// The next request, which is of this kind.
    fn asked(&mut self, method: Method) -> (SeatId, RequestId, Bytes) {
        let (seat, id, request) = self
            .wire
            .asked
            .pop_front()
            .unwrap_or_else(|| panic!("no {method:?}"));
        assert_eq!(request.method, method.number());
        (seat, id, request.payload)
    }

    fn answer(&mut self, method: Method, at_ms: u64, result: Result<Vec<u8>, Failure>) -> Bytes {
        let (seat, id, payload) = self.asked(method);
        let result = result.map(Bytes::from);
        self.happen(seat.0, at_ms, What::Response { id, result });
        payload
    }

    fn push(&mut self, seat: u32, at_ms: u64, entries: Vec<Entry>) {
        let push = MessagesPush {
            conversation: Bytes::copy_from_slice(conversation_id().as_bytes()),
            entries,
        };
        let payload = push.encode_to_vec().into();
        self.happen(
            seat,
            at_ms,
            What::Push {
                method: PushMethod::Messages.number(),
                payload,
            },
        );
    }
}

fn accepted(seq: u64) -> Vec<u8> {
    let accepted = vec![Accepted { seq, time_ms: 1 }];
    SendResponse { accepted }.encode_to_vec()
}

fn changed(seq: u64) -> Vec<u8> {
    let conversation = Bytes::copy_from_slice(conversation_id().as_bytes());
    GroupChangeResponse { conversation, seq }.encode_to_vec()
}

/// The entry that tells of a change.
fn change_entry(seq: u64, kind: ChangeKind, uid: &str) -> Entry {
    let change = GroupChange {
        kind: kind.into(),
        uids: vec![uid.to_owned()],
        ..GroupChange::default()
    };
    Entry {
        seq,
        body: Some(entry::Body::Change(change)),
        ..Entry::default()
    }
}

/// The entry that a send of one message becomes.
fn entry_of(payload: Bytes, seq: u64) -> Entry {
    let message = SendRequest::decode(payload).unwrap().messages.remove(0);
    Entry {
        seq,
        client_msg_id: message.client_msg_id,
        body: message.content.map(entry::Body::Message),
        ..Entry::default()
    }
}
