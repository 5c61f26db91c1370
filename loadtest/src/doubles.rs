//! Some users of a checked run log in again with the same device while its earlier connection is open, over and over: the server
//! must close the older one. Beside it another device of theirs stays in, and must be let stay. What is live in the end
//! is in the ledger, for the judge of the device policy (invariant 9).

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_protocol::close::CloseReason;

use crate::engine::{Engine, Happening, SeatId, What};
use crate::pushed;
use crate::record::{Device, Recorder, UserNumber};
use crate::tally::Tally;

/// Of so many users one does this, the first among them.
const ONE_OF: usize = 50;

/// In each process no more than these: three connections each.
pub(crate) const DOUBLES_MAX: usize = 20;

/// From one login to the next.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is needed of whatever holds the connections: the engine, or a test's imitation.
pub(crate) trait Seats {
    /// See [`Engine::add_seat`].
    fn add_seat(&mut self, device: Device) -> SeatId;
    /// See [`Engine::come`].
    fn come(&mut self, id: SeatId, due: Duration);
    /// See [`Engine::stay_out`].
    fn stay_out(&mut self, id: SeatId);
    /// See [`Engine::outrank`].
    fn outrank(&mut self, id: SeatId, other: SeatId);
    /// See [`Engine::is_ready`].
    fn is_ready(&self, id: SeatId) -> bool;
    /// Where things are counted.
    fn tally(&mut self) -> &mut Tally;
}

impl Seats for Engine {
    fn add_seat(&mut self, device: Device) -> SeatId {
        self.add_seat(device)
    }

    fn come(&mut self, id: SeatId, due: Duration) {
        self.come(id, due);
    }

    fn stay_out(&mut self, id: SeatId) {
        self.stay_out(id);
    }

    fn outrank(&mut self, id: SeatId, other: SeatId) {
        self.outrank(id, other);
    }

    fn is_ready(&self, id: SeatId) -> bool {
        self.is_ready(id)
    }

    fn tally(&mut self) -> &mut Tally {
        &mut self.counter.tally
    }
}

/// A user with two connections of one device, and one of another.
#[derive(Debug)]
struct Double {
    /// The seat that is to stay, and the one that it took, or will take, the place of.
    newest: SeatId,
    older: SeatId,
    beside: SeatId,
    /// When the next login is due; `None` while one is under way.
    again_at: Option<Duration>,
    /// The device has logged in while it was in.
    has_doubled: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Doubles {
    doubles: Vec<Double>,
    /// Which one a seat is of, and of which device.
    seats: BTreeMap<SeatId, (usize, Device)>,
    at_rest: bool,
}

impl Doubles {
    /// Has some of these users come in with their other devices.
    pub(crate) fn start(users: std::ops::Range<u32>, now: Duration, seats: &mut dyn Seats) -> Self {
        let mut all = Self::default();
        for user in users.step_by(ONE_OF).take(DOUBLES_MAX) {
            let index = all.doubles.len();
            let mut add = |number| {
                let device = Device {
                    user: UserNumber(user),
                    number,
                };
                let seat = seats.add_seat(device);
                all.seats.insert(seat, (index, device));
                seat
            };
            let double = Double {
                newest: add(2),
                older: add(2),
                beside: add(3),
                again_at: None,
                has_doubled: false,
            };
            seats.come(double.newest, now);
            seats.come(double.beside, now);
            all.doubles.push(double);
        }
        all
    }

    pub(crate) fn owns(&self, seat: SeatId) -> bool {
        self.seats.contains_key(&seat)
    }

    pub(crate) fn handle(
        &mut self,
        happening: Happening,
        recorder: &mut dyn Recorder,
        seats: &mut dyn Seats,
    ) {
        let (seat, now) = (happening.seat, happening.at);
        let Some((index, device)) = self.seats.get(&seat).copied() else {
            return;
        };
        let Some(double) = self.doubles.get_mut(index) else {
            return;
        };
        match happening.what {
            What::Ready { epoch } => {
                recorder.login(device, epoch, now);
                if seat == double.newest {
                    double.again_at = Some(now + AGAIN_AFTER);
                }
            }
            What::Lost {
                epoch,
                was_ready,
                why,
                closed_for,
            } => {
                if was_ready {
                    recorder.disconnected(device, epoch, &why, now);
                }
                let gave_way = [CloseReason::Superseded, CloseReason::Displaced]
                    .iter()
                    .any(|reason| closed_for == Some(reason.number()));
                if gave_way && seat != double.older {
                    seats.tally().violate(9, || {
                        let (user, number) = (device.user.0, device.number);
                        format!(
                            "device {number} of user {user} had the newest session of its own, and was closed: {why}"
                        )
                    });
                }
            }
            What::Push { method, payload } => {
                pushed::note(device, (method, payload), now, recorder, seats.tally());
            }
            What::Hello | What::Response { .. } | What::SyncHint { .. } => {}
        }
    }

    /// Has those log in again whose time has come, until all is to rest; each at least once.
    pub(crate) fn tick(&mut self, now: Duration, seats: &mut dyn Seats) {
        let at_rest = self.at_rest;
        for double in &mut self.doubles {
            if at_rest && double.has_doubled {
                continue;
            }
            let is_due = double.again_at.is_some_and(|at| at <= now);
            // As long as the older one is there it is the server's turn.
            if !is_due || !seats.is_ready(double.newest) || seats.is_ready(double.older) {
                continue;
            }
            std::mem::swap(&mut double.newest, &mut double.older);
            double.again_at = None;
            double.has_doubled = true;
            // Whatever ends the older connection, it does not come back by itself.
            seats.stay_out(double.older);
            seats.outrank(double.newest, double.older);
            seats.come(double.newest, now);
        }
    }

    /// Nobody logs in any more.
    pub(crate) fn rest(&mut self) {
        self.at_rest = true;
    }

    /// Whether of each device the newest session is there, and no other.
    pub(crate) fn is_settled(&self, seats: &dyn Seats) -> bool {
        self.doubles.iter().all(|double| {
            double.has_doubled
                && seats.is_ready(double.newest)
                && seats.is_ready(double.beside)
                && !seats.is_ready(double.older)
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;
    use whimbrel_protocol::client::{ConversationRow, Entry, MessagesPush, NoticePush};
    use whimbrel_protocol::ids::{ConversationId, ConversationKind};
    use whimbrel_protocol::method::PushMethod;

    use super::*;
    use crate::check::{Judged, LedgerRecorder};
    use crate::record::Violation;
    use crate::schedule::Share;

    /// A server that lets everybody in at once, and closes the older session of a device, or forgets to.
    #[derive(Default)]
    struct Imitation {
        seats: Vec<(Device, u64, bool)>,
        happened: Vec<(SeatId, What)>,
        keeps_older: bool,
        closes_others: bool,
        tally: Tally,
    }

    impl Imitation {
        fn close(&mut self, index: usize, reason: CloseReason) {
            let (_, epoch, ready) = &mut self.seats[index];
            *ready = false;
            let lost = What::Lost {
                epoch: *epoch,
                was_ready: true,
                why: format!("{reason:?}"),
                closed_for: Some(reason.number()),
            };
            self.happened.push((SeatId(u32::try_from(index).unwrap()), lost));
        }
    }

    impl Seats for Imitation {
        fn add_seat(&mut self, device: Device) -> SeatId {
            self.seats.push((device, 0, false));
            SeatId(u32::try_from(self.seats.len() - 1).unwrap())
        }

        fn come(&mut self, id: SeatId, _: Duration) {
            let (device, epoch, ready) = &mut self.seats[id.index()];
            let device = *device;
            *epoch += 1;
            *ready = true;
            let ready = What::Ready { epoch: *epoch };
            self.happened.push((id, ready));
            for index in 0..self.seats.len() {
                let (other, _, ready) = self.seats[index];
                if index == id.index() || !ready || other.user != device.user {
                    continue;
                }
                if other == device && !self.keeps_older {
                    self.close(index, CloseReason::Superseded);
                } else if other != device && self.closes_others {
                    self.close(index, CloseReason::Displaced);
                }
            }
        }

        fn stay_out(&mut self, _: SeatId) {}

        fn outrank(&mut self, id: SeatId, other: SeatId) {
            self.seats[id.index()].1 = self.seats[other.index()].1.max(self.seats[id.index()].1);
        }

        fn is_ready(&self, id: SeatId) -> bool {
            self.seats[id.index()].2
        }

        fn tally(&mut self) -> &mut Tally {
            &mut self.tally
        }
    }

    /// Ten seconds of it: what the judge finds in the ledger, what was told at once, and whether it came to rest.
    fn run(server: Imitation) -> (Vec<Violation>, u64, bool) {
        run_with(server, None)
    }

    /// The same, and one of the devices is pushed something.
    fn run_with(mut server: Imitation, pushed: Option<(PushMethod, Vec<u8>)>) -> (Vec<Violation>, u64, bool) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = folder.path().join("ledger");
        let mut recorder = LedgerRecorder::create(&ledger, Share::WHOLE, Judged::Here).unwrap();
        (1..101).for_each(|user| recorder.user(UserNumber(user), &format!("user{user}")));
        let mut doubles = Doubles::start(1..101, Duration::ZERO, &mut server);
        for at in 0..10 {
            let at = Duration::from_secs(at);
            for (seat, what) in std::mem::take(&mut server.happened) {
                doubles.handle(Happening { seat, at, what }, &mut recorder, &mut server);
            }
            doubles.tick(at, &mut server);
        }
        doubles.rest();
        if let Some((method, payload)) = pushed {
            let (method, payload) = (method.number(), payload.into());
            server.happened.push((SeatId(0), What::Push { method, payload }));
        }
        for (seat, what) in std::mem::take(&mut server.happened) {
            let at = Duration::from_secs(10);
            doubles.handle(Happening { seat, at, what }, &mut recorder, &mut server);
        }
        let settled = doubles.is_settled(&server);
        let found = Box::new(recorder).finish().unwrap();
        (found, server.tally.violations, settled)
    }

    #[test]
    fn a_server_that_closes_the_older_session_keeps_the_policy() {
        let (found, told, settled) = run(Imitation::default());
        assert_eq!((found, told, settled), (vec![], 0, true));
    }

    #[test]
    fn an_older_session_that_stays_is_found_in_the_ledger() {
        let server = Imitation {
            keeps_older: true,
            ..Imitation::default()
        };
        let (found, _, settled) = run(server);
        assert!(!settled);
        let invariants: Vec<u8> = found.iter().map(|found| found.invariant).collect();
        assert_eq!(invariants, [9, 9], "two of a hundred users do it: {found:?}");
    }

    #[test]
    fn what_is_pushed_to_them_and_is_not_theirs_is_found_in_the_ledger() {
        let id = ConversationId::from_parts(ConversationKind::Direct, [9; 15]);
        let conversation = Bytes::copy_from_slice(id.as_bytes());
        let messages = MessagesPush {
            conversation: conversation.clone(),
            entries: vec![Entry::default()],
        };
        let notice = NoticePush {
            rows: vec![ConversationRow {
                conversation,
                ..ConversationRow::default()
            }],
            ..NoticePush::default()
        };
        for (method, payload) in [
            (PushMethod::Messages, messages.encode_to_vec()),
            (PushMethod::Notice, notice.encode_to_vec()),
        ] {
            let (found, told, settled) = run_with(Imitation::default(), Some((method, payload)));
            let foreign = found.iter().filter(|found| found.invariant == 10);
            assert_eq!(
                (foreign.count(), told, settled),
                (1, 0, true),
                "{method:?}: {found:?}"
            );
        }
        for method in [PushMethod::Messages, PushMethod::Notice, PushMethod::Room] {
            let garbled = b"\xff\xffSECRET".to_vec();
            let (_, told, _) = run_with(Imitation::default(), Some((method, garbled)));
            assert_eq!(told, 1, "{method:?}");
        }
    }

    #[test]
    fn another_device_that_is_made_to_leave_is_told() {
        let server = Imitation {
            closes_others: true,
            ..Imitation::default()
        };
        let (_, told, settled) = run(server);
        assert!(told > 0 && !settled);
    }
}
