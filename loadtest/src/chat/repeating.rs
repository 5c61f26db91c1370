//! In a checked run some acknowledged messages are sent once more, with the same ids, some seconds later and whenever a
//! connection is there again: they must be answered as they were (invariant 3). The answers go to the recorder.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rand::RngExt as _;
use whimbrel_protocol::client::SendResponse;
use whimbrel_protocol::client_session::Failure;

use super::person::{Ask, Person};
use super::{Chat, Outgoing};
use crate::engine::SeatId;
use crate::record::Again;
use crate::wire::{Wire, final_code, retry_after};

/// Of so many acknowledged messages of a process one is sent again.
const ONE_OF: u64 = 50;

/// How long after it was acknowledged.
const LATER_MS: std::ops::Range<u64> = 500..8_000;

/// How long after a connection is there again the last acknowledged one is sent.
const BACK_MS: std::ops::Range<u64> = 0..2_000;

/// Messages that one person is to send again; a few, so that they are looked through.
const REPEATS_MAX: usize = 8;

/// Before a repetition that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

impl Person {
    fn repeat(&mut self, at: Duration, outgoing: Outgoing) {
        if self.repeats.len() < REPEATS_MAX {
            self.repeats.push((at, outgoing));
        }
    }

    /// When the next repetition is due.
    pub(super) fn repeat_due(&self) -> Option<Duration> {
        self.repeats.iter().map(|(at, _)| *at).min()
    }

    /// Repetitions whose answers are not in.
    pub(super) fn open_repeats(&self) -> usize {
        let asked = self.asks.iter();
        let asked = asked.filter(|(_, ask)| matches!(ask, Ask::Repeat(_)));
        self.repeats.len() + asked.count()
    }
}

impl Chat {
    /// The load is over: what is to be sent again is sent now.
    pub fn hasten_repeats(&mut self, now: Duration) {
        self.hastened = true;
        for index in 0..self.people.len() {
            if let Some(person) = self.people.get_mut(index) {
                person.repeats.iter_mut().for_each(|(at, _)| *at = (*at).min(now));
            }
            self.arm(SeatId(u32::try_from(index).unwrap_or_default()));
        }
    }

    /// A message was acknowledged: perhaps it is to be sent again.
    pub(super) fn plan_repeat(&mut self, seat: SeatId, outgoing: Outgoing, now: Duration) {
        if !self.recorder.wants_everything_read() {
            return;
        }
        self.answered += 1;
        let chosen = self.answered.is_multiple_of(ONE_OF);
        let later = Duration::from_millis(self.rng.random_range(LATER_MS));
        let at = if self.hastened { now } else { now + later };
        if let Some(person) = self.people.get_mut(seat.index()) {
            person.last_answered = Some(outgoing);
            if chosen {
                person.repeat(at, outgoing);
            }
        }
    }

    /// A connection is there again: whoever answered before may be another.
    pub(super) fn plan_repeat_after_fault(&mut self, seat: SeatId, now: Duration) {
        let wait = Duration::from_millis(self.rng.random_range(BACK_MS));
        if let Some(person) = self.people.get_mut(seat.index())
            && let Some(outgoing) = person.last_answered
        {
            person.repeat(now + wait, outgoing);
        }
    }

    /// Sends again what is due.
    pub(super) fn send_repeats(&mut self, seat: SeatId, now: Duration, wire: &mut dyn Wire) {
        loop {
            let Some(person) = self.people.get_mut(seat.index()).filter(|person| person.ready) else {
                return;
            };
            let due = person.repeats.iter().position(|(at, _)| *at <= now);
            let Some((_, outgoing)) = due.map(|index| person.repeats.swap_remove(index)) else {
                return;
            };
            let device = person.device;
            let Some(id) = self.conversations.get(person.talk).and_then(|talk| talk.id) else {
                return;
            };
            let made = self.send_request(id, device, &[outgoing], 0);
            let asked = wire.ask(seat, made, now);
            let Some(person) = self.people.get_mut(seat.index()) else {
                return;
            };
            match asked {
                Ok(asked) => person.asks.push((asked, Ask::Repeat(outgoing))),
                Err(_) => person.repeats.push((now + AGAIN_AFTER, outgoing)),
            }
        }
    }

    /// A message that was answered before is answered again.
    pub(super) fn tell_again(
        &mut self,
        seat: SeatId,
        outgoing: Outgoing,
        answer: Result<(u64, u64), u32>,
        now: Duration,
    ) {
        let Some(person) = self.people.get(seat.index()) else {
            return;
        };
        let Some(conversation) = self.id_of(person) else {
            return;
        };
        let text = self.text(conversation, person.device, outgoing);
        self.recorder.answered_again(&Again {
            conversation,
            text: &text,
            answer,
            at: now,
        });
    }

    /// What was sent again got other acknowledgements than one for each message.
    pub(super) fn tell_miscounted(&self, seat: SeatId, asked: usize, got: usize, wire: &mut dyn Wire) {
        let uid = self
            .people
            .get(seat.index())
            .map_or("?", |person| person.uid.as_str());
        wire.counter().tally.violate(3, || {
            format!("{uid} sent {asked} messages again and {got} are acknowledged")
        });
    }

    pub(super) fn take_repeated(
        &mut self,
        seat: SeatId,
        outgoing: Outgoing,
        result: Result<Bytes, Failure>,
        now: Duration,
        wire: &mut dyn Wire,
    ) {
        let answer = result.and_then(|body| SendResponse::decode(body).map_err(|_| Failure::Malformed));
        match answer {
            Ok(answer) => {
                let [accepted] = answer.accepted.as_slice() else {
                    return self.tell_miscounted(seat, 1, answer.accepted.len(), wire);
                };
                wire.counter().tally.repeated += 1;
                self.tell_again(seat, outgoing, Ok((accepted.seq, accepted.time_ms)), now);
            }
            Err(failure) => match final_code(&failure) {
                // For the judge to see: it was acknowledged before.
                Some(code) => self.tell_again(seat, outgoing, Err(code), now),
                None => {
                    let again_at = now + retry_after(&failure).max(AGAIN_AFTER);
                    if let Some(person) = self.people.get_mut(seat.index()) {
                        person.repeats.push((again_at, outgoing));
                    }
                }
            },
        }
    }
}
