//! A whole server for the client's tests: an LBS and gateways over loopback, with a world behind them.

#[expect(dead_code, reason = "shared with the core's tests, which use other parts")]
pub(crate) mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use whimbrel_protocol::SystemEntropy;
use whimbrel_protocol::answer::{Answer, Reject, RejectReason};
use whimbrel_protocol::client::{Login, LoginAnswer};
use whimbrel_protocol::descriptor::{
    Address, Certificate, ExchangeKey, IdentityKey, RootKey, Statement, Transport, assemble,
};
use whimbrel_protocol::frame::{Frame, FrameReader, Push, RequestId, Response, Retry};
use whimbrel_protocol::handshake::Responder;
use whimbrel_protocol::hello::{Hello, HelloStep};
use whimbrel_protocol::ids::NodeId;
use whimbrel_protocol::keys::StaticKey;
use whimbrel_protocol::record::{self, RecordStep};
use whimbrel_protocol::side::Side;

use self::world::World;

pub(crate) const NOW_MS: u64 = 1_800_000_000_000;
const DAY_MS: u64 = 86_400_000;

/// What the server does wrong, on purpose.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Pushes that reach nobody.
    pub(crate) drop_pushes: bool,
    /// Sends carried out whose answers are lost with their connection.
    pub(crate) cut_answers: u32,
    /// Refuse this many logins with this code.
    pub(crate) refuse_logins: Option<(u32, u32)>,
    /// Answer hellos with a refusal in clear text.
    pub(crate) reject: bool,
    /// Accept connections and never answer.
    pub(crate) stall: bool,
}

struct Session {
    uid: String,
    out: mpsc::UnboundedSender<Out>,
}

enum Out {
    Frame(Frame),
    Cut,
}

pub(crate) struct Shared {
    pub(crate) world: World,
    pub(crate) faults: Faults,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
    pub(crate) logins: Vec<Login>,
    descriptors: Vec<Vec<u8>>,
    pub(crate) lbs_requests: usize,
    pub(crate) lbs_down: bool,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) shared: Arc<Mutex<Shared>>,
    pub(crate) lbs: SocketAddr,
    gateway: SocketAddr,
    key: Arc<Mutex<StaticKey>>,
    root: RootKeySeed,
}

type RootKeySeed = [u8; 32];

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with_addresses(|gateway| vec![gateway.to_string()]).await
    }

    /// `addresses` says what the descriptor names as endpoints.
    pub(crate) async fn start_with_addresses(addresses: impl FnOnce(SocketAddr) -> Vec<String>) -> Self {
        let gateway = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let lbs = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Mutex::new(Shared {
            world: World::at(NOW_MS),
            faults: Faults::default(),
            sessions: BTreeMap::new(),
            next_session: 0,
            logins: Vec::new(),
            descriptors: Vec::new(),
            lbs_requests: 0,
            lbs_down: false,
        }));
        let server = Self {
            shared,
            lbs: lbs.local_addr().unwrap(),
            gateway: gateway.local_addr().unwrap(),
            key: Arc::new(Mutex::new(StaticKey::from_secret(&[1; 32]))),
            root: [5; 32],
        };
        let descriptor = server.descriptor(NOW_MS, &addresses(server.gateway));
        server.shared.lock().unwrap().descriptors = vec![descriptor];
        tokio::spawn(server.clone().serve_lbs(lbs));
        tokio::spawn(server.clone().serve_gateway(gateway));
        server
    }

    pub(crate) fn root_key(&self) -> String {
        RootKey::from_seed(&self.root).public().to_string()
    }

    pub(crate) fn lbs_url(&self) -> String {
        format!("http://{}", self.lbs)
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Shared) -> T) -> T {
        let mut shared = self.shared.lock().unwrap();
        let value = change(&mut shared);
        shared.deliver();
        value
    }

    /// The gateway takes another key; the LBS goes on listing the old descriptor.
    pub(crate) fn rotate_key(&self) {
        *self.key.lock().unwrap() = StaticKey::from_secret(&[2; 32]);
    }

    pub(crate) fn cut_all(&self) {
        self.with(|shared| {
            for session in shared.sessions.values() {
                let _gone = session.out.send(Out::Cut);
            }
        });
    }

    pub(crate) fn send_to_all(&self, frame: &Frame) {
        self.with(|shared| {
            for session in shared.sessions.values() {
                let _gone = session.out.send(Out::Frame(frame.clone()));
            }
        });
    }

    pub(crate) fn session_count(&self) -> usize {
        self.shared.lock().unwrap().sessions.len()
    }

    fn descriptor(&self, made_ms: u64, endpoints: &[String]) -> Vec<u8> {
        let root = RootKey::from_seed(&self.root);
        let identity = IdentityKey::from_seed(&[7; 32]);
        let certificate = Certificate {
            node: NodeId::new("g1").unwrap(),
            identity: identity.public(),
            not_before_ms: NOW_MS - DAY_MS,
            not_after_ms: NOW_MS + 100 * DAY_MS,
        };
        let statement = Statement {
            node: NodeId::new("g1").unwrap(),
            not_before_ms: made_ms,
            not_after_ms: made_ms + 2 * DAY_MS,
            versions: vec![1],
            suites: vec![1, 2],
            keys: vec![ExchangeKey::x25519(
                self.key.lock().unwrap().public(),
                made_ms + 2 * DAY_MS,
            )],
            tls_key_sha256: None,
            addresses: endpoints
                .iter()
                .map(|endpoint| Address {
                    transport: Transport::Tcp,
                    endpoint: endpoint.clone(),
                })
                .collect(),
        };
        assemble(
            &root.certify(&certificate).unwrap(),
            &identity.sign_statement(&statement).unwrap(),
        )
        .unwrap()
    }

    async fn serve_lbs(self, listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let body = {
                let mut shared = self.shared.lock().unwrap();
                shared.lbs_requests += 1;
                if shared.lbs_down {
                    continue;
                }
                let gateways: Vec<_> = shared
                    .descriptors
                    .iter()
                    .map(|bytes| serde_json::json!({"node": "g1", "descriptor": data_encoding::BASE64URL_NOPAD.encode(bytes)}))
                    .collect();
                serde_json::json!({"gateways": gateways, "server_time_ms": NOW_MS, "refresh_after_s": 300})
                    .to_string()
            };
            tokio::spawn(async move {
                let mut request = [0; 2048];
                let len = stream.read(&mut request).await.unwrap_or(0);
                assert!(request[..len].starts_with(b"GET /v1/gateways?app_key=demo "));
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _gone = stream.write_all(answer.as_bytes()).await;
            });
        }
    }

    async fn serve_gateway(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let server = self.clone();
            tokio::spawn(async move { server.serve(stream).await });
        }
    }

    async fn serve(self, mut stream: TcpStream) -> Option<()> {
        let mut received = Vec::new();
        let (answer, login, responder) = loop {
            let len = stream.read_buf(&mut received).await.ok().filter(|len| *len > 0)?;
            let _read = len;
            if let HelloStep::Complete { hello, .. } = Hello::parse(&received).unwrap() {
                if self.shared.lock().unwrap().faults.stall {
                    std::future::pending::<()>().await;
                }
                if self.shared.lock().unwrap().faults.reject {
                    let mut out = Vec::new();
                    let reject = Reject {
                        reason: RejectReason::Overloaded,
                        retry_after_ms: 50,
                    };
                    Answer::Reject(reject).encode(&mut out).unwrap();
                    let _gone = stream.write_all(&out).await;
                    return None;
                }
                let key = self.key.lock().unwrap().clone();
                match Responder::read(&hello, &[key], &mut SystemEntropy) {
                    Ok((responder, login)) => {
                        let login = Login::decode(&*login).unwrap();
                        break (self.judge(&login), login, responder);
                    }
                    Err(error) => {
                        let current = self.descriptor(NOW_MS + 1, &[self.gateway.to_string()]);
                        let mut out = Vec::new();
                        error.answer(&current).encode(&mut out).unwrap();
                        let _gone = stream.write_all(&out).await;
                        return None;
                    }
                }
            }
        };
        let mut out = Vec::new();
        let mut keys = responder.answer(&answer.encode_to_vec(), &mut out).unwrap();
        stream.write_all(&out).await.ok()?;
        if answer.code != 0 {
            return None;
        }
        let (to_client, mut from_server) = mpsc::unbounded_channel::<Out>();
        let number = {
            let mut shared = self.shared.lock().unwrap();
            shared.next_session += 1;
            shared.next_session
        };
        let mut reader = FrameReader::new();
        let mut held: Vec<Frame> = Vec::new();
        let mut incoming = Vec::new();
        let mut ready = false;
        let mut plain = Vec::new();
        'serving: loop {
            tokio::select! {
                read = stream.read_buf(&mut incoming) => {
                    if read.ok().is_none_or(|len| len == 0) {
                        break;
                    }
                    let mut frames = Vec::new();
                    while let RecordStep::Complete { len } = record::next_record(&incoming, Side::Client).unwrap() {
                        let mut bytes: Vec<u8> = incoming.drain(..len).collect();
                        let range = keys.opener().open_in_place(&mut bytes).expect("an authentic record");
                        let mut plaintext = &bytes[range];
                        while let Some(frame) = reader.next(&mut plaintext).unwrap() {
                            frames.push(frame.to_owned());
                        }
                    }
                    for frame in frames {
                        match frame {
                            Frame::Confirm => {
                                Frame::<&[u8]>::Ready.encode(&mut plain).unwrap();
                                ready = true;
                                let session = Session { uid: login.uid.clone(), out: to_client.clone() };
                                self.shared.lock().unwrap().sessions.insert(number, session);
                            }
                            Frame::Request(_) if ready => held.push(frame),
                            Frame::Ping { token } => Frame::<&[u8]>::Pong { token }.encode(&mut plain).unwrap(),
                            Frame::Close { .. } => break 'serving,
                            Frame::PushAck { .. } => {}
                            Frame::Reauth { payload, .. } => {
                                let token = String::from_utf8(payload.to_vec()).unwrap();
                                self.shared.lock().unwrap().logins.push(Login { token, ..login.clone() });
                            }
                            other => panic!("a client sent {other:?}"),
                        }
                    }
                }
                Some(said) = from_server.recv() => match said {
                    Out::Frame(frame) => frame.encode(&mut plain).unwrap(),
                    Out::Cut => break,
                },
            }
            for frame in held.drain(..) {
                let Frame::Request(request) = frame else { continue };
                let answer = {
                    let mut shared = self.shared.lock().unwrap();
                    let answer = shared.world.handle(&login.uid, request.method, &request.payload);
                    if request.method == 2 && shared.faults.cut_answers > 0 {
                        shared.faults.cut_answers -= 1;
                        shared.world.take_pushes();
                        break 'serving;
                    }
                    shared.deliver();
                    answer
                };
                let payload = answer.encode_to_vec();
                Frame::Response(Response {
                    id: request.id,
                    compressed: false,
                    payload,
                })
                .encode(&mut plain)
                .unwrap();
            }
            let mut sealed = Vec::new();
            keys.sealer()
                .seal(
                    &std::mem::take(&mut plain),
                    record::SERVER_PLAINTEXT_MAX,
                    &mut sealed,
                )
                .unwrap();
            if stream.write_all(&sealed).await.is_err() {
                break;
            }
        }
        self.shared.lock().unwrap().sessions.remove(&number);
        Some(())
    }

    fn judge(&self, login: &Login) -> LoginAnswer {
        let mut shared = self.shared.lock().unwrap();
        shared.logins.push(login.clone());
        let mut answer = LoginAnswer {
            server_time_ms: NOW_MS,
            heartbeat_ms: 60_000,
            requests_max: 32,
            ..LoginAnswer::default()
        };
        if let Some((count, code)) = &mut shared.faults.refuse_logins
            && *count > 0
        {
            *count -= 1;
            answer.code = *code;
            answer.message = "refused by the test".into();
        }
        answer
    }
}

impl Shared {
    fn deliver(&mut self) {
        for push in self.world.take_pushes() {
            if self.faults.drop_pushes {
                continue;
            }
            for session in self.sessions.values().filter(|session| session.uid == push.uid) {
                let frame = Frame::Push(Push {
                    method: push.method.number(),
                    tracked: true,
                    compressed: false,
                    payload: push.payload.clone(),
                });
                let _gone = session.out.send(Out::Frame(frame));
            }
        }
    }
}

pub(crate) fn go_away(last_request: RequestId, delay_window_ms: u32) -> Frame {
    Frame::GoAway {
        last_request,
        delay_window_ms,
        refresh_directory: false,
    }
}

pub(crate) fn close(retry: Retry) -> Frame {
    Frame::Close { reason: 8, retry }
}

pub(crate) fn reauth() -> Frame {
    Frame::Reauth {
        within_ms: 1000,
        payload: bytes::Bytes::new(),
    }
}

pub(crate) fn sync_hint() -> Frame {
    Frame::SyncHint { spread_ms: 1 }
}
