//! An attacker's session: real keys, and whatever is put into its records.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use prost::Message;
use whimbrel_protocol::answer::{Answer, AnswerStep};
use whimbrel_protocol::client::{self, LoginAnswer, SyncRequest};
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::frame::{Frame, FrameReader, Request, RequestId};
use whimbrel_protocol::handshake::Initiator;
use whimbrel_protocol::method::Method;
use whimbrel_protocol::record::{CLIENT_PLAINTEXT_MAX, RecordStep, SERVER_PLAINTEXT_MAX, next_record};
use whimbrel_protocol::{SessionKeys, Side, varint};

use crate::peer::{Peer, REACTS_WITHIN, Seen};
use crate::table::Gets;

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) peer: Peer,
    keys: SessionKeys,
    /// What came and is not a whole record yet.
    sealed: Vec<u8>,
    /// Frames that came and were not looked at yet, in reverse order.
    frames: Vec<Frame>,
    reader: FrameReader,
    last_request: u32,
    /// Tracked pushes that came: each is acknowledged at once, or the session would be closed for that.
    pushes: u32,
}

/// A frame of any shape: `kind`, `flags`, and whatever fields and payload.
pub(crate) fn raw_frame(kind: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::encode(u32::try_from(rest.len() + 2).unwrap_or(u32::MAX), &mut out);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(rest);
    out
}

/// The frame of a request.
pub(crate) fn request(id: u32, method: u32, payload: Bytes) -> Frame {
    Frame::Request(Request {
        method,
        id: RequestId(id),
        affinity: None,
        deadline_ms: None,
        compressed: false,
        payload,
    })
}

impl Session {
    /// Finishes the handshake of a hello that was sent; `None` when the login was refused.
    pub(crate) fn accepted(mut peer: Peer, initiator: Initiator) -> anyhow::Result<Option<Self>> {
        let (keys, answer) = finish(&mut peer, initiator)?;
        if answer.code != 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            peer,
            keys,
            sealed: Vec::new(),
            frames: Vec::new(),
            reader: FrameReader::new(),
            last_request: 0,
            pushes: 0,
        }))
    }

    /// Says CONFIRM and waits for READY.
    pub(crate) fn confirm(&mut self) -> anyhow::Result<()> {
        self.say(&Frame::Confirm)?;
        match self.next(REACTS_WITHIN)? {
            Some(Frame::Ready) => Ok(()),
            other => bail!("expected READY, got {other:?}"),
        }
    }

    /// The next record, with this plaintext however long; not sent yet.
    pub(crate) fn seal(&mut self, plaintext: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut out = Vec::new();
        self.keys
            .sealer()
            .seal(plaintext, SERVER_PLAINTEXT_MAX, &mut out)?;
        Ok(out)
    }

    /// Sends this plaintext, in as many records as it takes.
    pub(crate) fn say_raw(&mut self, plaintext: &[u8]) -> anyhow::Result<()> {
        let mut records = Vec::new();
        self.keys
            .sealer()
            .seal(plaintext, CLIENT_PLAINTEXT_MAX, &mut records)?;
        self.peer.send(&records);
        Ok(())
    }

    /// Sends a frame.
    pub(crate) fn say(&mut self, frame: &Frame) -> anyhow::Result<()> {
        let mut plaintext = Vec::new();
        frame.encode(&mut plaintext)?;
        self.say_raw(&plaintext)
    }

    /// The next frame; `None` when the gateway has closed.
    pub(crate) fn next(&mut self, within: Duration) -> anyhow::Result<Option<Frame>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(frame) = self.frames.pop() {
                return Ok(Some(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.peer.look(&mut self.sealed, left)? {
                Seen::Bytes => self.open()?,
                Seen::Closed => return Ok(None),
                Seen::Nothing => ensure!(!left.is_zero(), "the gateway says nothing for {within:?}"),
            }
        }
    }

    /// What the session has come to, if it has.
    pub(crate) fn poll_end(&mut self, within: Duration) -> anyhow::Result<Option<Gets>> {
        match self.peer.look(&mut self.sealed, within)? {
            Seen::Nothing => return Ok(None),
            Seen::Closed => return Ok(Some(Gets::Silence)),
            Seen::Bytes => self.open()?,
        }
        while let Some(frame) = self.frames.pop() {
            if let Frame::Close { .. } = frame {
                self.frames.push(frame);
                return self.end().map(Some);
            }
        }
        Ok(None)
    }

    /// What the session gets in the end: a CLOSE with its usual retry, behind it nothing, and then the connection's end.
    pub(crate) fn end(&mut self) -> anyhow::Result<Gets> {
        loop {
            match self.next(REACTS_WITHIN)? {
                None => return Ok(Gets::Silence),
                Some(Frame::Close { reason, retry }) => {
                    let reason = CloseReason::from_number(reason)
                        .with_context(|| format!("CLOSE with the unknown reason {reason}"))?;
                    ensure!(
                        retry == reason.retry(),
                        "CLOSE {reason:?} with the retry {retry:?}"
                    );
                    let behind = self.next(REACTS_WITHIN)?;
                    ensure!(behind.is_none(), "{behind:?} came behind CLOSE");
                    return Ok(Gets::Close(reason));
                }
                Some(_) => {}
            }
        }
    }

    /// The number for the next request.
    pub(crate) fn next_request_id(&mut self) -> u32 {
        self.last_request = if self.last_request == 0 {
            1
        } else {
            self.last_request + 2
        };
        self.last_request
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask_raw(&mut self, method: u32, payload: Bytes) -> anyhow::Result<client::Response> {
        let id = self.next_request_id();
        self.say(&request(id, method, payload))?;
        self.response(id)
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, method: Method, message: &impl Message) -> anyhow::Result<client::Response> {
        self.ask_raw(method.number(), message.encode_to_vec().into())
    }

    /// Asks what must succeed.
    pub(crate) fn must<A: Message + Default>(
        &mut self,
        method: Method,
        message: &impl Message,
    ) -> anyhow::Result<A> {
        let response = self.ask(method, message)?;
        ensure!(
            response.code == 0,
            "{method:?} got code {}: {}",
            response.code,
            response.message
        );
        Ok(A::decode(response.body)?)
    }

    /// The answer to request `id`.
    pub(crate) fn response(&mut self, id: u32) -> anyhow::Result<client::Response> {
        loop {
            match self.next(REACTS_WITHIN)? {
                Some(Frame::Response(response)) if response.id.0 == id => {
                    return Ok(client::Response::decode(response.payload)?);
                }
                Some(Frame::Close { reason, .. }) => bail!("CLOSE {reason} instead of an answer to {id}"),
                None => bail!("the connection ended before the answer to {id}"),
                Some(_) => {}
            }
        }
    }

    /// That the session is as good as ever.
    pub(crate) fn still_serves(&mut self) -> anyhow::Result<Gets> {
        let synced: client::SyncResponse = self.must(Method::Sync, &SyncRequest::default())?;
        ensure!(!synced.cursor.is_empty(), "a sync without a cursor");
        Ok(Gets::Served)
    }

    fn open(&mut self) -> anyhow::Result<()> {
        let mut frames = Vec::new();
        while let RecordStep::Complete { len } = next_record(&self.sealed, Side::Server)? {
            let mut record: Vec<u8> = self.sealed.drain(..len).collect();
            let range = self.keys.opener().open_in_place(&mut record)?;
            let mut plaintext = record.get(range).unwrap_or_default();
            while let Some(frame) = self.reader.next(&mut plaintext)? {
                frames.push(frame.map_payload(Bytes::copy_from_slice));
            }
        }
        let tracked = |frame: &&Frame| matches!(frame, Frame::Push(push) if push.tracked);
        let pushes = u32::try_from(frames.iter().filter(tracked).count())?;
        frames.reverse();
        frames.append(&mut self.frames);
        self.frames = frames;
        if pushes > 0 {
            self.pushes += pushes;
            self.say(&Frame::PushAck { through: self.pushes })?;
        }
        Ok(())
    }
}

/// Reads the accept of a hello that was sent.
pub(crate) fn finish(peer: &mut Peer, initiator: Initiator) -> anyhow::Result<(SessionKeys, LoginAnswer)> {
    let deadline = Instant::now() + REACTS_WITHIN;
    let mut received = Vec::new();
    loop {
        match Answer::parse(&received)? {
            AnswerStep::Incomplete { .. } => {}
            AnswerStep::Complete {
                answer: Answer::Accept(message),
                ..
            } => {
                let (keys, answer) = initiator.finish(message)?;
                return Ok((keys, LoginAnswer::decode(&*answer)?));
            }
            AnswerStep::Complete { answer, .. } => bail!("{answer:?} instead of an accept"),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match peer.look(&mut received, left)? {
            Seen::Bytes => {}
            Seen::Closed => bail!("closed instead of an accept"),
            Seen::Nothing => ensure!(!left.is_zero(), "no answer to a hello"),
        }
    }
}
