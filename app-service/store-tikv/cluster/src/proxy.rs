//! A proxy before a gRPC server that fails as networks do: it cuts, refuses, delays, freezes, and loses or holds single requests
//! or answers that are recognised by what they carry.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::frames::{Frame, Frames};

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// What is lost of a request that a rule recognises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The request itself: the connection ends before it is passed on.
    Request,
    /// The answer: the request is passed on, and the connection ends when the server has answered.
    Answer,
}

/// What happens to a request that a rule recognises.
#[derive(Debug, Clone, Copy)]
enum Strike {
    /// It is lost; all others like it too, if `each`.
    Lose {
        loss: Loss,
        refuse_afterwards: bool,
        each: bool,
    },
    /// It waits, and its connection with it, until faults are healed; all others like it too, if `each`.
    Hold { each: bool },
}

/// A request to strike.
#[derive(Debug)]
struct Rule {
    strike: Strike,
    carrying: Vec<u8>,
    /// The end of a span that holds the one key which is carried: whoever looks for locks on a key carries this too, and comes at
    /// any time.
    end_of_a_span: Vec<u8>,
    /// Requests that carry it and pass before one is struck.
    passing: usize,
}

#[derive(Debug, Default)]
struct State {
    server: Option<SocketAddr>,
    delay: Duration,
    frozen: bool,
    /// Those among the first so many connections pass nothing on for now.
    frozen_first: u64,
    /// Connections so far.
    accepted: u64,
    /// Those among the first so many pass nothing on for ever.
    abandoned: u64,
    refusing: bool,
    rule: Option<Rule>,
    losses: usize,
    /// The connections of these numbers wait with a request.
    held: BTreeSet<u64>,
    /// What requests carry that are counted once they are passed on.
    watched: Vec<u8>,
    /// How many were.
    passed: usize,
    ended: bool,
    /// Both ends of every connection, to cut them.
    connections: Vec<TcpStream>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Whether it comes to be within `patience`.
    fn wait_for(&self, patience: Duration, is_so: impl Fn(&State) -> bool) -> bool {
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), patience, |state| !is_so(state))
            .expect("nothing panics while it holds this lock");
        is_so(&state)
    }

    /// Waits while the connection of this number is frozen; then gives the delay that is in force.
    fn pass(&self, number: u64) -> Duration {
        let thawed = self
            .changed
            .wait_while(self.lock(), |state| {
                let frozen = state.frozen || number <= state.frozen_first;
                (frozen || number <= state.abandoned) && !state.ended
            })
            .expect("nothing panics while it holds this lock");
        thawed.delay
    }
}

/// A listener on a free loopback port that passes connections on to a server.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FaultProxy {
    /// Listens. Connections are refused until [`forward_to`](Self::forward_to).
    ///
    /// # Errors
    /// The port's.
    pub fn listen() -> io::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { address, shared })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes new connections on to `server`.
    pub fn forward_to(&self, server: SocketAddr) {
        self.shared.change(|state| state.server = Some(server));
    }

    /// Holds every read of either side up by this long before it is passed on.
    pub fn delay(&self, delay: Duration) {
        self.shared.change(|state| state.delay = delay);
    }

    /// Ends all connections; new ones are passed on.
    pub fn cut(&self) {
        self.shared.change(State::cut);
    }

    /// Ends all connections and refuses new ones until [`heal`](Self::heal).
    pub fn refuse(&self) {
        self.shared.change(|state| {
            state.refusing = true;
            state.cut();
        });
    }

    /// Passes nothing on any more, and tells nobody: connections stay, as when the other end's power fails.
    pub fn freeze(&self) {
        self.shared.change(|state| state.frozen = true);
    }

    /// The connections that are there pass nothing on until [`heal`](Self::heal), and tell nobody; new ones work: so one node
    /// stands still and another comes.
    pub fn freeze_those_there(&self) {
        self.shared.change(|state| state.frozen_first = state.accepted);
    }

    /// The connections that are there pass nothing on any more, for ever, and tell nobody; new ones work.
    pub fn abandon(&self) {
        self.shared.change(|state| state.abandoned = state.accepted);
    }

    /// No fault from now on. What was held back is passed on.
    pub fn heal(&self) {
        self.shared.change(|state| {
            state.frozen = false;
            state.frozen_first = 0;
            state.refusing = false;
            state.delay = Duration::ZERO;
            state.rule = None;
            state.held.clear();
        });
    }

    /// After `passing` requests that carry these bytes have passed, and do not look for locks on them, loses `loss` of the next;
    /// then refuses connections until [`heal`](Self::heal), if told so.
    pub fn lose(&self, loss: Loss, carrying: &[u8], passing: usize, refuse_afterwards: bool) {
        let strike = Strike::Lose {
            loss,
            refuse_afterwards,
            each: false,
        };
        self.strike(strike, carrying, passing);
    }

    /// Loses every request that carries these bytes, and its connection with it, until [`heal`](Self::heal).
    pub fn lose_each(&self, carrying: &[u8]) {
        let strike = Strike::Lose {
            loss: Loss::Request,
            refuse_afterwards: false,
            each: true,
        };
        self.strike(strike, carrying, 0);
    }

    /// After `passing` requests that carry these bytes have passed, holds the next one, and all that follows over its
    /// connection, until [`heal`](Self::heal); then they are passed on.
    pub fn hold(&self, carrying: &[u8], passing: usize) {
        self.strike(Strike::Hold { each: false }, carrying, passing);
    }

    /// Holds every request that carries these bytes, and all that follows over its connection, until [`heal`](Self::heal); then
    /// they are passed on.
    pub fn hold_each(&self, carrying: &[u8]) {
        self.strike(Strike::Hold { each: true }, carrying, 0);
    }

    /// From now on counts the requests that carry these bytes and are passed on.
    pub fn watch(&self, carrying: &[u8]) {
        self.shared.change(|state| {
            state.watched = carrying.to_vec();
            state.passed = 0;
        });
    }

    /// Waits until a request that is [watched](Self::watch) for has been passed on; false if none is within `patience`.
    #[must_use]
    pub fn passes_one(&self, patience: Duration) -> bool {
        self.shared.wait_for(patience, |state| state.passed > 0)
    }

    /// How many requests that are [watched](Self::watch) for have been passed on.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.shared.lock().passed
    }

    fn strike(&self, strike: Strike, carrying: &[u8], passing: usize) {
        let rule = Rule {
            strike,
            carrying: carrying.to_vec(),
            end_of_a_span: [carrying, &[0]].concat(),
            passing,
        };
        self.shared.change(|state| state.rule = Some(rule));
    }

    /// Waits until a request is held by [`hold`](Self::hold) or [`hold_each`](Self::hold_each); false if none is within
    /// `patience`.
    #[must_use]
    pub fn holds_one(&self, patience: Duration) -> bool {
        self.shared.wait_for(patience, |state| !state.held.is_empty())
    }

    /// How often something was lost by [`lose`](Self::lose).
    #[must_use]
    pub fn losses(&self) -> usize {
        self.shared.lock().losses
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.ended = true;
            state.cut();
        });
        // Wakes the listener, so that it sees the end.
        drop(TcpStream::connect(self.address));
    }
}

impl State {
    fn cut(&mut self) {
        for connection in self.connections.drain(..) {
            // It may have ended by itself.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn lost(&mut self, refuse: bool) {
        self.losses += 1;
        self.refusing |= refuse;
        if refuse {
            self.cut();
        }
    }

    /// No request is waited for, neither to strike it nor to count it.
    fn lets_all_pass(&self) -> bool {
        self.rule.is_none() && self.watched.is_empty()
    }

    /// The rule, once its turn has come for a request that carries its bytes; it counts on otherwise.
    fn rule_for(&mut self, frame: &Frame) -> Option<Strike> {
        let rule = self.rule.as_mut()?;
        if !frame.carries(&rule.carrying) || frame.carries(&rule.end_of_a_span) {
            return None;
        }
        if rule.passing > 0 {
            rule.passing -= 1;
            return None;
        }
        let strike = rule.strike;
        let (Strike::Lose { each, .. } | Strike::Hold { each }) = strike;
        if !each {
            self.rule = None;
        }
        Some(strike)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let server = {
            let state = shared.lock();
            if state.ended {
                return;
            }
            if state.refusing { None } else { state.server }
        };
        let (Ok(client), Some(server)) = (client, server) else {
            continue;
        };
        let shared = Arc::clone(shared);
        // A server that does not answer the connect holds up nobody else.
        thread::spawn(move || {
            // What a connection ends with is of no interest: both sides see its end.
            let _ = connect(client, server, &shared);
        });
    }
}

/// One connection: what the client's side and the server's side must tell one another.
struct Link {
    shared: Arc<Shared>,
    number: u64,
    /// The request whose answer is to be lost, by its stream; 0: none.
    awaited: AtomicU32,
    refuse_afterwards: Mutex<bool>,
}

fn connect(client: TcpStream, server: SocketAddr, shared: &Arc<Shared>) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let number = shared.change(|state| {
        for stream in [&client, &server] {
            if let Ok(stream) = stream.try_clone() {
                state.connections.push(stream);
            }
        }
        state.accepted += 1;
        state.accepted
    });
    let link = Arc::new(Link {
        shared: Arc::clone(shared),
        number,
        awaited: AtomicU32::new(0),
        refuse_afterwards: Mutex::new(false),
    });
    let back = Arc::clone(&link);
    let (answers_from, answers_to) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = back.pass_answers(answers_from, answers_to);
    });
    link.pass_requests(client, server)
}

impl Link {
    fn pass_requests(&self, mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
        let mut frames = Frames::of_a_client();
        let result = each_read(&mut client, |bytes| {
            thread::sleep(self.shared.pass(self.number));
            let frames = frames.take(bytes);
            // What was read at once goes on at once, but for what is being waited for.
            if self.shared.lock().lets_all_pass() {
                server.write_all(&joined(&frames))?;
                return Ok(true);
            }
            for frame in frames {
                if self.request(&frame) {
                    server.write_all(&frame.bytes)?;
                    self.shared.change(|state| {
                        state.passed += usize::from(frame.carries(&state.watched));
                    });
                } else {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        end(&client, &server);
        result
    }

    /// Whether the request goes on.
    fn request(&self, frame: &Frame) -> bool {
        let number = self.number;
        let struck = self.shared.change(|state| {
            let strike = state.rule_for(frame)?;
            if let Strike::Hold { .. } = strike {
                state.held.insert(number);
            }
            Some(strike)
        });
        match struck {
            None => true,
            Some(Strike::Hold { .. }) => {
                drop(
                    self.shared
                        .changed
                        .wait_while(self.shared.lock(), |state| {
                            state.held.contains(&number) && !state.ended
                        })
                        .expect("nothing panics while it holds this lock"),
                );
                true
            }
            Some(Strike::Lose {
                loss: Loss::Request,
                refuse_afterwards,
                ..
            }) => {
                self.shared.change(|state| state.lost(refuse_afterwards));
                false
            }
            Some(Strike::Lose {
                loss: Loss::Answer,
                refuse_afterwards,
                ..
            }) => {
                *self
                    .refuse_afterwards
                    .lock()
                    .expect("nothing panics while it holds this lock") = refuse_afterwards;
                self.awaited.store(frame.stream(), Ordering::SeqCst);
                true
            }
        }
    }

    fn pass_answers(&self, mut server: TcpStream, mut client: TcpStream) -> io::Result<()> {
        let mut frames = Frames::of_a_server();
        let result = each_read(&mut server, |bytes| {
            thread::sleep(self.shared.pass(self.number));
            let frames = frames.take(bytes);
            // An answer follows its request: which one is awaited is known before it comes.
            if self.awaited.load(Ordering::SeqCst) == 0 {
                client.write_all(&joined(&frames))?;
                return Ok(true);
            }
            for frame in frames {
                let awaited = self.awaited.load(Ordering::SeqCst);
                if awaited != 0 && frame.begins_an_answer() && frame.stream() == awaited {
                    let refuse = *self
                        .refuse_afterwards
                        .lock()
                        .expect("nothing panics while it holds this lock");
                    self.shared.change(|state| state.lost(refuse));
                    return Ok(false);
                }
                client.write_all(&frame.bytes)?;
            }
            Ok(true)
        });
        end(&client, &server);
        result
    }
}

fn joined(frames: &[Frame]) -> Vec<u8> {
    let bytes = frames.iter().map(|frame| frame.bytes.as_slice());
    bytes.collect::<Vec<_>>().concat()
}

/// Gives each read to `take` until the end, an error, or `false`.
fn each_read(from: &mut TcpStream, mut take: impl FnMut(&[u8]) -> io::Result<bool>) -> io::Result<()> {
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 || !take(&bytes[..count])? {
            return Ok(());
        }
    }
}

fn end(client: &TcpStream, server: &TcpStream) {
    for stream in [client, server] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}
