//! A client as bytes in and bytes out, for honest and for hostile tests alike.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::answer::{Answer, AnswerStep};
use whimbrel_protocol::client::{Login, LoginAnswer};
use whimbrel_protocol::frame::{Frame, FrameReader, Request, RequestId};
use whimbrel_protocol::handshake::Initiator;
use whimbrel_protocol::keys::StaticPublicKey;
use whimbrel_protocol::record::{RecordStep, next_record};
use whimbrel_protocol::{SessionKeys, Side, Suite, SystemEntropy};

/// The login of a user of the app `demo`.
pub(crate) fn login(uid: &str, token: &str, login_epoch: u64) -> Login {
    Login {
        app_key: "demo".to_owned(),
        uid: uid.to_owned(),
        token: token.to_owned(),
        device_id: "phone".to_owned(),
        login_epoch,
        platform: "test".to_owned(),
        ..Login::default()
    }
}

/// A client that has said hello.
pub(crate) struct Greeting {
    initiator: Initiator,
    /// The hello's bytes.
    pub(crate) hello: Vec<u8>,
}

/// What came of a hello.
pub(crate) enum Greeted {
    /// The login was answered, for good or ill.
    Answered(Box<Client>, LoginAnswer),
    /// An answer in clear text.
    Refused(u8),
}

impl Greeting {
    pub(crate) fn new(key: &StaticPublicKey, login: &Login) -> Self {
        let mut hello = Vec::new();
        let initiator = Initiator::start(
            Suite::AesGcm,
            key,
            &login.encode_to_vec(),
            &mut SystemEntropy,
            &mut hello,
        )
        .unwrap();
        Self { initiator, hello }
    }

    /// Reads the answer at the start of `bytes`.
    pub(crate) fn answered(self, bytes: &mut Vec<u8>) -> Result<Greeted, Self> {
        match Answer::parse(bytes).unwrap() {
            AnswerStep::Incomplete { .. } => Err(self),
            AnswerStep::Complete {
                answer: Answer::Accept(message),
                consumed,
            } => {
                let (keys, answer) = self.initiator.finish(message).unwrap();
                bytes.drain(..consumed);
                let answer = LoginAnswer::decode(&answer[..]).unwrap();
                Ok(Greeted::Answered(Box::new(Client::new(keys)), answer))
            }
            AnswerStep::Complete { .. } => Ok(Greeted::Refused(bytes[0])),
        }
    }
}

/// A client with keys.
pub(crate) struct Client {
    keys: SessionKeys,
    frames: FrameReader,
    buffer: Vec<u8>,
    received: VecDeque<Frame>,
    next_request: u32,
    /// Tracked pushes taken in.
    pub(crate) tracked: u32,
}

impl Client {
    fn new(keys: SessionKeys) -> Self {
        Self {
            keys,
            frames: FrameReader::new(),
            buffer: Vec::new(),
            received: VecDeque::new(),
            next_request: 1,
            tracked: 0,
        }
    }

    /// One record with these frames.
    pub(crate) fn seal(&mut self, frames: &[Frame]) -> Vec<u8> {
        let mut plaintext = Vec::new();
        frames
            .iter()
            .for_each(|frame| frame.encode(&mut plaintext).unwrap());
        self.seal_raw(&plaintext)
    }

    /// Records with these bytes, which need not be frames.
    pub(crate) fn seal_raw(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.keys.sealer().seal(plaintext, 16 * 1024, &mut out).unwrap();
        out
    }

    /// The next request.
    pub(crate) fn request(&mut self, method: u32, payload: &[u8]) -> Frame {
        let id = RequestId(self.next_request);
        self.next_request += 2;
        let payload = Bytes::copy_from_slice(payload);
        Frame::Request(Request {
            method,
            id,
            affinity: None,
            deadline_ms: None,
            compressed: false,
            payload,
        })
    }

    /// Takes bytes in; frames come out of [`Client::next`].
    pub(crate) fn take_in(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        while let RecordStep::Complete { len } = next_record(&self.buffer, Side::Server).unwrap() {
            let mut record: Vec<u8> = self.buffer.drain(..len).collect();
            let range = self.keys.opener().open_in_place(&mut record).unwrap();
            let mut plaintext = &record[range];
            while let Some(frame) = self.frames.next(&mut plaintext).unwrap() {
                if matches!(&frame, Frame::Push(push) if push.tracked) {
                    self.tracked += 1;
                }
                self.received.push_back(frame.to_owned());
            }
        }
    }

    /// The next frame from the gateway.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        self.received.pop_front()
    }
}
