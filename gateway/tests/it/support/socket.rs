//! A client on a real socket.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use prost::Message as _;
use whimbrel_protocol::client::{Login, LoginAnswer, Response};
use whimbrel_protocol::frame::Frame;
use whimbrel_protocol::keys::StaticPublicKey;

use super::client::{Client, Greeted, Greeting};

/// Longer than anything here takes, shorter than a person waits for a test that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads until the peer hangs up; everything it said.
pub(crate) fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the gateway neither answers nor hangs up: {error}"),
    }
    said
}

/// A client that was answered.
pub(crate) struct Socket {
    pub(crate) stream: TcpStream,
    pub(crate) client: Client,
}

impl Socket {
    /// Says hello and reads the answer to the login.
    pub(crate) fn greet(address: SocketAddr, key: &StaticPublicKey, login: &Login) -> (Self, LoginAnswer) {
        let mut greeting = Greeting::new(key, login);
        let mut stream = connect(address);
        stream.write_all(&greeting.hello).unwrap();
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the gateway hung up on a hello");
            bytes.extend_from_slice(&buffer[..read]);
            match greeting.answered(&mut bytes) {
                Err(again) => greeting = again,
                Ok(Greeted::Answered(mut client, answer)) => {
                    client.take_in(&bytes);
                    return (
                        Self {
                            stream,
                            client: *client,
                        },
                        answer,
                    );
                }
                Ok(Greeted::Refused(kind)) => panic!("the hello was answered with type {kind}"),
            }
        }
    }

    /// Logs in, confirms, and waits for READY.
    pub(crate) fn log_in(address: SocketAddr, key: &StaticPublicKey, login: &Login) -> Self {
        let (mut socket, answer) = Self::greet(address, key, login);
        assert_eq!(answer.code, 0, "{}", answer.message);
        socket.send(&[Frame::Confirm]);
        assert_eq!(socket.next(), Some(Frame::Ready));
        socket
    }

    pub(crate) fn send(&mut self, frames: &[Frame]) {
        let record = self.client.seal(frames);
        self.send_bytes(&record);
    }

    /// Writes; a gateway that hangs up meanwhile is read from next.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        let _hung_up = self.stream.write_all(bytes);
    }

    /// The next frame; `None` when the gateway has hung up.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let patience = Instant::now() + PATIENCE;
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(frame) = self.client.next() {
                return Some(frame);
            }
            assert!(Instant::now() < patience, "no frame came");
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => self.client.take_in(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no frame came: {error}"),
            }
        }
    }

    /// Asks and waits for the answer; other frames that come meanwhile are dropped.
    pub(crate) fn ask(&mut self, method: u32, payload: &[u8]) -> Response {
        let request = self.client.request(method, payload);
        let Frame::Request(asked) = &request else {
            unreachable!("a request is one")
        };
        let id = asked.id;
        self.send(&[request]);
        loop {
            match self.next().expect("the gateway answers") {
                Frame::Response(response) if response.id == id => {
                    return Response::decode(response.payload).unwrap();
                }
                _ => {}
            }
        }
    }

    /// The payload of the next push, which is acknowledged.
    pub(crate) fn next_push(&mut self) -> Vec<u8> {
        loop {
            match self.next().expect("a push comes") {
                Frame::Push(push) => {
                    if push.tracked {
                        self.send(&[Frame::PushAck {
                            through: self.client.tracked,
                        }]);
                    }
                    return push.payload.to_vec();
                }
                Frame::Response(_) | Frame::SyncHint { .. } => {}
                other => panic!("a push was expected, {other:?} came"),
            }
        }
    }

    /// The reason of the CLOSE that ends this session.
    pub(crate) fn close_reason(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some(frame) = self.next() {
            if let Frame::Close { reason: why, .. } = frame {
                reason = Some(why);
            }
        }
        reason
    }
}
