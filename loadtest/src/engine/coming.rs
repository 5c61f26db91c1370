//! How a device comes in, and comes again: a gateway is picked and dialled, the hello goes out; and when a connection comes
//! to its end, how long the device waits before the next attempt (docs/protocol.md, section 7).

use std::io;
use std::time::Duration;

use mio::Interest;
use rand::RngExt as _;
use whimbrel_protocol::SystemEntropy;
use whimbrel_protocol::client::Login;
use whimbrel_protocol::client_session::{ClientSession, End};
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::Retry;

use super::happening::{Happening, What};
use super::seat::{Line, LineState};
use super::tokens::{GENERATION_MASK, token_of};
use super::{Engine, SeatId, dial, uid};
use crate::clock;
use crate::directory::Target;

/// How long TCP may take.
const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// The longest random wait after the first failure, and after any number of them (docs/protocol.md, section 7).
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(20);
/// Before the next gateway of a round, after one that did not let in.
const STAGGER: Duration = Duration::from_millis(250);

/// Behind the reason, as the newer login is nobody's of this run.
const SUPERSEDED: &str =
    ": its user has logged in elsewhere; does another run go on with the same --user-prefix?";

/// Why an attempt failed, and what next.
pub(super) struct Setback {
    why: String,
    closed_for: Option<u32>,
    retry_after_ms: u32,
    /// It is of no use to try again.
    for_good: bool,
    /// No fault of anybody's: once more, at once.
    at_once: bool,
}

impl Setback {
    pub(super) fn of(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            closed_for: None,
            retry_after_ms: 0,
            for_good: false,
            at_once: false,
        }
    }
}

/// What a CLOSE says.
fn closed(reason: u32) -> String {
    match CloseReason::from_number(reason) {
        Some(known) => format!("the gateway closed the session, {known:?} (reason {reason})"),
        None => {
            format!("the gateway closed the session for reason {reason}, which this version does not know")
        }
    }
}

impl Engine {
    pub(super) fn dial(&mut self, id: SeatId, now: Duration) {
        let Some(seat) = self.seats.get_mut(id.index()) else {
            return;
        };
        let Some(target) = self.directory.pick(now, &seat.tried) else {
            return;
        };
        seat.tried.push(target.node.clone());
        seat.generation = seat.generation.wrapping_add(1) & GENERATION_MASK;
        let token = token_of(id, seat.generation);
        let source = self.sources.of(id.0, target.address);
        let dialed = dial(target.address, source).and_then(|mut stream| {
            self.poll
                .registry()
                .register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        match dialed {
            Ok(stream) => {
                let until = now.saturating_add(DIAL_WITHIN);
                seat.line = Some(Box::new(Line {
                    stream,
                    state: LineState::Dialing { target, until },
                    unsent: Vec::new(),
                    dirty: false,
                }));
                self.timers.arm(id.0, until);
            }
            Err(error) => {
                let failures = seat.failures.saturating_add(1);
                seat.failures = failures;
                self.counter.attempt_failed();
                self.last_setback = Some(format!(
                    "cannot dial {} at {}: {error}",
                    target.node, target.address
                ));
                let pause = PAUSE_FIRST.mul_f64(self.rng.random_range(0.0..1.0));
                seat.dial_at = Some(now.saturating_add(pause));
                self.timers.arm(id.0, now.saturating_add(pause));
            }
        }
    }

    pub(super) fn dial_failed(&mut self, id: SeatId, node: &str, error: &io::Error, now: Duration) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.directory.set_aside(node, now);
        }
        self.listings.ask();
        self.end_line(id, Setback::of(format!("cannot dial {node}: {error}")), now);
    }

    /// TCP is there: the hello, and whatever the scenario wants to ask first.
    pub(super) fn say_hello(&mut self, id: SeatId, target: &Target, now: Duration) {
        let Some(seat) = self.seats.get_mut(id.index()) else {
            return;
        };
        seat.epoch = clock::unix_ms().max(seat.epoch.saturating_add(1));
        let uid = uid(&self.user_prefix, seat.device);
        let login = Login {
            app_key: self.signer.app_key().to_owned(),
            token: self.signer.sign(&uid, clock::unix_ms()),
            uid,
            device_id: format!("load-{}", seat.device.number),
            login_epoch: seat.epoch,
            platform: "loadtest".to_owned(),
            ..Login::default()
        };
        match ClientSession::start(target.suite, &target.key, &login, now, &mut SystemEntropy) {
            Ok(session) => {
                if let Some(line) = seat.line.as_deref_mut() {
                    line.state = LineState::Open {
                        session,
                        ready: false,
                        leave_at: None,
                    };
                }
                self.happenings.push_back(Happening {
                    seat: id,
                    at: now,
                    what: What::Hello,
                });
                self.mark_dirty(id);
            }
            Err(error) => {
                let mut setback = Setback::of(format!("no hello can be made for {}: {error}", target.node));
                setback.for_good = true;
                self.end_line(id, setback, now);
            }
        }
    }

    /// What the end of a session means for the next attempt.
    pub(super) fn judge_end(&mut self, end: &End) -> Setback {
        let mut setback = Setback::of(match end {
            End::Closed { reason, .. } => closed(*reason),
            End::LoginRefused { refusal, .. } => format!("the login was {refusal}"),
            End::Rejected(reject) => format!("the gateway rejected the hello: {:?}", reject.reason),
            End::Faulty(fault) => format!("the gateway broke the protocol: {fault}"),
            other => format!("{other:?}"),
        });
        match end {
            End::Closed { retry, reason } => {
                setback.closed_for = Some(*reason);
                match retry {
                    Retry::Never => setback.for_good = true,
                    Retry::After { ms } => setback.retry_after_ms = *ms,
                    Retry::NewToken => {}
                    Retry::NewDirectory => self.listings.ask(),
                }
            }
            End::LoginRefused { refusal, .. } => {
                setback.retry_after_ms = refusal.retry_after_ms;
                let wrong_for_all = [
                    Code::TokenInvalid,
                    Code::TokenMismatch,
                    Code::UnknownApp,
                    Code::UserDisabled,
                ];
                setback.for_good = refusal
                    .known_code()
                    .is_some_and(|code| wrong_for_all.contains(&code));
            }
            End::Rejected(reject) => {
                setback.retry_after_ms = reject.retry_after_ms;
                self.listings.ask();
            }
            End::StaleKey { descriptor } => match self.directory.take_current(descriptor) {
                Ok(()) => setback.at_once = true,
                Err(error) => setback.why = format!("the gateway's new descriptor is not believed: {error}"),
            },
            _ => self.listings.ask(),
        }
        setback
    }

    /// Takes a connection down, and plans the next one if the device is wanted.
    pub(super) fn end_line(&mut self, id: SeatId, setback: Setback, now: Duration) {
        let Some(seat) = self.seats.get_mut(id.index()) else {
            return;
        };
        let Some(line) = seat.line.take() else {
            return;
        };
        let was_ready = line.is_ready();
        let had_hello = matches!(line.state, LineState::Open { .. });
        drop(line);
        if was_ready {
            self.online -= 1;
            if seat.wanted {
                self.counter.disconnected();
            }
        } else if !setback.at_once {
            self.counter.attempt_failed();
        }
        if had_hello {
            self.happenings.push_back(Happening {
                seat: id,
                at: now,
                what: What::Lost {
                    epoch: seat.epoch,
                    was_ready,
                    why: setback.why.clone(),
                    closed_for: setback.closed_for,
                },
            });
        }
        // Who is to stay out by now was to lose it: so do the doubles of a checked run.
        if seat.wanted {
            let is_superseded = setback.closed_for == Some(CloseReason::Superseded.number());
            let hint = if is_superseded { SUPERSEDED } else { "" };
            self.last_setback = Some(setback.why + hint);
        }
        if setback.for_good {
            seat.wanted = false;
        }
        if !seat.wanted {
            return;
        }
        let others = !was_ready && setback.retry_after_ms == 0 && seat.tried.len() < self.directory.len();
        let pause = if setback.at_once {
            Duration::ZERO
        } else if others {
            STAGGER
        } else {
            seat.tried.clear();
            seat.failures = seat.failures.saturating_add(1);
            let longest = PAUSE_FIRST
                .saturating_mul(1 << (seat.failures - 1).min(10))
                .min(PAUSE_LONGEST);
            let drawn = longest.mul_f64(self.rng.random_range(0.0..1.0));
            drawn.max(Duration::from_millis(setback.retry_after_ms.into()))
        };
        let at = now.saturating_add(pause);
        if was_ready {
            // A login of its own, due when the client means to make it.
            seat.due = at;
        }
        seat.dial_at = Some(at);
        self.timers.arm(id.0, at);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;
    use std::net::TcpListener;

    use whimbrel_protocol::descriptor::RootKey;
    use zeroize::Zeroizing;

    use super::*;
    use crate::deployment::{Deployment, DeploymentArgs};
    use crate::directory;
    use crate::engine::Sources;
    use crate::record::{Device, UserNumber};

    /// An engine whose only device dials a gateway that says nothing.
    fn dialing(gateway: &TcpListener) -> (Engine, SeatId) {
        let deployment = Deployment {
            lbs: vec!["http://127.0.0.1:1".to_owned()],
            app_key: "demo".to_owned(),
            secret: Zeroizing::new(b"s3cret".to_vec()),
            root: RootKey::from_seed(&[1; 32]).public(),
            pids: BTreeMap::new(),
        };
        let endpoint = gateway.local_addr().unwrap().to_string();
        let listing = vec![directory::tests::descriptor(
            1,
            "g1",
            &endpoint,
            5,
            clock::unix_ms(),
        )];
        let sources = Sources::new(0, 0, 1);
        let args = DeploymentArgs::default();
        let mut engine = Engine::new(&args, &deployment, &listing, "load-", sources, 1).unwrap();
        let seat = engine.add_seat(Device {
            user: UserNumber(1),
            number: 0,
        });
        engine.come(seat, clock::now());
        engine.dial(seat, clock::now());
        (engine, seat)
    }

    fn end(reason: u32) -> End {
        End::Closed {
            retry: Retry::Never,
            reason,
        }
    }

    #[test]
    fn a_connection_that_ends_without_a_word_has_the_lbs_asked() {
        let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut engine, _) = dialing(&gateway);
        drop(gateway.accept().unwrap());
        let until = clock::now() + Duration::from_secs(20);
        while !engine.listings.is_asked() {
            assert!(clock::now() < until, "it goes on with the gateways that it has");
            engine.turn(until).unwrap();
        }
    }

    #[test]
    fn a_close_is_told_by_name_and_what_was_to_end_is_no_setback() {
        let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
        for (reason, is_wanted, expected) in [
            (
                8,
                true,
                Some("Superseded (reason 8): its user has logged in elsewhere"),
            ),
            (7, true, Some("Silent (reason 7)")),
            (99, true, Some("reason 99, which this version")),
            (8, false, None),
        ] {
            let (mut engine, seat) = dialing(&gateway);
            if !is_wanted {
                engine.stay_out(seat);
            }
            let setback = engine.judge_end(&end(reason));
            engine.end_line(seat, setback, clock::now());
            let told = engine.last_setback();
            match expected {
                Some(expected) => assert!(told.unwrap().contains(expected), "{told:?}"),
                None => assert_eq!(told, None),
            }
        }
    }
}
