//! The client of a script: what it says to the gateway, and what it holds the gateway's words to.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::answer::{Answer, AnswerStep};
use whimbrel_protocol::client::{Login, LoginAnswer, MessagesPush, NoticePush, RoomPush};
use whimbrel_protocol::frame::{Frame, FrameReader};
use whimbrel_protocol::handshake::Initiator;
use whimbrel_protocol::ids::RoomId;
use whimbrel_protocol::method::PushMethod;
use whimbrel_protocol::record::{RecordStep, next_record};
use whimbrel_protocol::{SessionKeys, Side, Suite};

use super::{ON_THE_WAY_MAX, Run};
use crate::records;
use crate::source::Fixed;

/// The client's end, as far as it has come.
pub(super) enum Client {
    /// Nobody who speaks Whimbrel.
    Stranger,
    /// The hello is out.
    Greeting(Box<Initiator>),
    /// The login was answered.
    In(Box<Talking>),
    /// What came was no accept.
    Turned,
}

/// A client with keys, which checks what it hears.
pub(super) struct Talking {
    keys: SessionKeys,
    frames: FrameReader,
    /// Over what was said, as the gateway reads it.
    said: FrameReader,
    ready: bool,
    closed: bool,
    pub(super) next_request: u32,
    asked: BTreeSet<u32>,
    pub(super) tracked: u32,
}

impl Run<'_> {
    pub(super) fn greet(&mut self, login: &Login) {
        if !matches!(self.client, Client::Stranger) {
            return;
        }
        let suite = Suite::ALL[usize::from(self.source.flag())];
        let (key, mut hello) = (self.gateway.gateway_key(), Vec::new());
        let login = login.encode_to_vec();
        if let Ok(initiator) = Initiator::start(suite, &key, &login, &mut Fixed(4), &mut hello) {
            self.client = Client::Greeting(Box::new(initiator));
            self.upward.extend(hello);
        }
    }

    pub(super) fn say(&mut self, said: &[Frame]) {
        let mut plaintext = Vec::new();
        for frame in said {
            // What cannot be written is not said.
            _ = frame.encode(&mut plaintext);
        }
        self.seal(&plaintext);
    }

    pub(super) fn seal(&mut self, plaintext: &[u8]) {
        if let Client::In(talking) = &mut self.client
            && self.upward.len() + plaintext.len() < ON_THE_WAY_MAX
        {
            self.upward.extend(records::sealed(&mut talking.keys, plaintext));
            talking.note_said(plaintext);
        }
    }

    /// The client takes in what was written.
    pub(super) fn hear(&mut self) {
        if let Client::Greeting(_) = &self.client {
            let consumed = match Answer::parse(&self.downward).expect("a gateway's answer parses") {
                AnswerStep::Incomplete { .. } => return,
                AnswerStep::Complete {
                    answer: Answer::Accept(message),
                    consumed,
                } => {
                    let Client::Greeting(initiator) = std::mem::replace(&mut self.client, Client::Turned)
                    else {
                        return;
                    };
                    let (keys, answer) = initiator.finish(message).expect("the gateway's accept opens");
                    let answer = LoginAnswer::decode(&*answer).expect("a login's answer parses");
                    if answer.code == 0 {
                        self.client = Client::In(Box::new(Talking {
                            keys,
                            frames: FrameReader::new(),
                            said: FrameReader::new(),
                            ready: false,
                            closed: false,
                            next_request: 1,
                            asked: BTreeSet::new(),
                            tracked: 0,
                        }));
                    }
                    consumed
                }
                AnswerStep::Complete { consumed, .. } => {
                    self.client = Client::Turned;
                    consumed
                }
            };
            self.downward.drain(..consumed);
        }
        if let Client::In(talking) = &mut self.client {
            talking.hear(&mut self.downward);
        }
    }
}

impl Talking {
    /// Keeps the numbers of requests in a stream that may cease to be one of frames; the gateway answers none behind that.
    fn note_said(&mut self, plaintext: &[u8]) {
        let mut rest = plaintext;
        while let Ok(Some(frame)) = self.said.next(&mut rest) {
            if let Frame::Request(request) = frame {
                self.asked.insert(request.id.0);
            }
        }
    }

    fn hear(&mut self, downward: &mut Vec<u8>) {
        while let RecordStep::Complete { len } =
            next_record(downward, Side::Server).expect("a gateway's records are within their bounds")
        {
            let mut record: Vec<u8> = downward.drain(..len).collect();
            let range = self
                .keys
                .opener()
                .open_in_place(&mut record)
                .expect("what a gateway writes opens, in its order");
            let mut plaintext = &record[range];
            while let Some(frame) = self.frames.next(&mut plaintext).expect("a gateway writes frames") {
                assert!(!self.closed, "nothing follows a CLOSE");
                assert!(
                    frame.kind().legal_from(Side::Server),
                    "{} from a gateway",
                    frame.kind()
                );
                match &frame {
                    Frame::Ready => {
                        assert!(!self.ready, "a session is ready once");
                        self.ready = true;
                    }
                    Frame::Response(response) => {
                        assert!(
                            self.asked.remove(&response.id.0),
                            "{:?} was not asked, or is answered twice",
                            response.id
                        );
                    }
                    Frame::Push(push) => {
                        assert!(self.ready, "a push before READY");
                        client_reads(push.method, Bytes::copy_from_slice(push.payload));
                        self.tracked += u32::from(push.tracked);
                    }
                    Frame::SyncHint { .. } | Frame::GoAway { .. } | Frame::Reauth { .. } => {
                        assert!(self.ready, "{} before READY", frame.kind());
                    }
                    Frame::Close { .. } => self.closed = true,
                    _ => {}
                }
            }
        }
    }
}

/// A client takes a push for what its method says, or leaves it.
pub(super) fn client_reads(method: u32, payload: Bytes) {
    let read = match PushMethod::from_number(method) {
        Some(PushMethod::Messages) => MessagesPush::decode(payload).map(drop),
        Some(PushMethod::Notice) => NoticePush::decode(payload).map(drop),
        Some(PushMethod::Room) => RoomPush::decode(payload).map(|push| {
            if let Ok(room) = RoomId::new(&push.room) {
                assert_eq!(room.as_str(), push.room);
            }
        }),
        None => Ok(()),
    };
    if let Err(error) = read {
        assert!(!error.to_string().is_empty());
    }
}

pub(super) fn login() -> Login {
    Login {
        app_key: "demo".to_owned(),
        uid: "alice".to_owned(),
        token: "token".to_owned(),
        device_id: "phone".to_owned(),
        login_epoch: 1,
        platform: "fuzz".to_owned(),
        ..Login::default()
    }
}
