//! All clients drop at once, come back and sync, again and again: what a gateway's restart or a network's hiccup costs.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use whimbrel_protocol::client::{SyncRequest, SyncResponse};
use whimbrel_protocol::client_session::Failure;
use whimbrel_protocol::frame::RequestId;
use whimbrel_protocol::method::Method;

use super::connecting::Connecting;
use super::{Common, WAIT_STEP};
use crate::engine::{Engine, Happening, Leave, SeatId, Timers, What};
use crate::lead::{Lead, Phase};
use crate::run::{Scenario, Step};
use crate::tally::Tally;
use crate::wire::{self, request, retry_after};

/// Rows asked for at once.
const SYNC_PAGE: u32 = 100;

/// Between two looks at who is back.
const LOOK_EVERY: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct Client {
    cursor: Bytes,
    asked: Option<RequestId>,
    ready: bool,
    synced: bool,
    /// When a sync that failed is tried again, and how many have.
    sync_at: Option<Duration>,
    failures: u32,
}

impl Client {
    /// A sync failed: when it is tried again. `jitter` is a random number from 0 up to 1.
    fn fail(&mut self, retry_after: Duration, jitter: f64, now: Duration) -> Duration {
        let at = now.saturating_add(wire::pause(self.failures, retry_after, jitter));
        self.failures = self.failures.saturating_add(1);
        self.sync_at = Some(at);
        at
    }

    /// There is no connection any more, and nothing to wait for.
    fn lose(&mut self) {
        (self.ready, self.asked, self.sync_at) = (false, None, None);
        self.failures = 0;
    }
}

#[derive(Debug)]
enum State {
    New,
    Connecting(Connecting),
    /// The first sync of all.
    Syncing {
        deadline: Duration,
    },
    Synced,
    Round {
        number: u32,
        began: Duration,
        deadline: Duration,
    },
    Over {
        number: u32,
    },
    /// Some did not come back: nothing more is asked of anybody. The other processes are led on through these.
    GaveUp {
        phases: VecDeque<Phase>,
    },
}

/// How clients drop, and when they come back.
#[derive(Debug, Clone, Copy)]
pub struct Drop {
    /// FIN or RST.
    pub how: Leave,
    /// They come back at a random moment within this.
    pub spread: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct ReconnectScenario {
    common: Common,
    rounds: u32,
    drop: Drop,
    rng: StdRng,
    clients: Vec<Client>,
    timers: Timers,
    synced: usize,
    rounds_ms: Vec<f64>,
    lost: u64,
    state: State,
}

impl ReconnectScenario {
    /// So many rounds.
    #[must_use]
    pub fn new(common: Common, rounds: u32, drop: Drop) -> Self {
        Self {
            rng: StdRng::seed_from_u64(common.seed()),
            clients: (0..common.count()).map(|_| Client::default()).collect(),
            common,
            rounds,
            drop,
            timers: Timers::default(),
            synced: 0,
            rounds_ms: Vec::new(),
            lost: 0,
            state: State::New,
        }
    }

    fn sync(&mut self, seat: SeatId, engine: &mut Engine, now: Duration) {
        let Some(client) = self.clients.get_mut(seat.index()) else {
            return;
        };
        let message = SyncRequest {
            cursor: client.cursor.clone(),
            limit: SYNC_PAGE,
        };
        client.sync_at = None;
        client.asked = engine
            .request(seat, request(Method::Sync, None, &message), now)
            .ok();
        if client.asked.is_none() {
            self.sync_later(seat, Duration::ZERO, now);
        }
    }

    /// A sync failed.
    fn sync_later(&mut self, seat: SeatId, retry_after: Duration, now: Duration) {
        let jitter = self.rng.random_range(0.0..1.0);
        if let Some(client) = self.clients.get_mut(seat.index()) {
            let at = client.fail(retry_after, jitter, now);
            self.timers.arm(seat.0, at);
        }
    }

    /// Some have not come back, or not synced, before the end of `round` (0: of the first sync). What was measured
    /// until then is told all the same.
    fn give_up(&mut self, round: u32, engine: &mut Engine) {
        self.lost = self.missing();
        engine.counter.tally.last_setback = Some(format!(
            "{} of {} clients are not back and synced within {} s (--connect-within): {}",
            self.lost,
            self.clients.len(),
            self.common.connect_within.as_secs(),
            engine.last_setback().unwrap_or("their syncs were not answered")
        ));
        let connected = (round == 0).then_some(Phase::Connected);
        let rounds = (round.max(1)..self.rounds).map(Phase::Round);
        let phases = connected.into_iter().chain(rounds).chain([Phase::Ran]).collect();
        self.state = State::GaveUp { phases };
    }

    /// Clients that are not there, or have not synced.
    fn missing(&self) -> u64 {
        (self.clients.len() - self.synced) as u64
    }

    fn drop_all(&mut self, number: u32, engine: &mut Engine, now: Duration) {
        for index in 0..self.common.count() {
            engine.leave(SeatId(index), self.drop.how);
        }
        for client in &mut self.clients {
            client.synced = false;
            client.lose();
        }
        self.synced = 0;
        for index in 0..self.common.count() {
            let wait = self.drop.spread.mul_f64(self.rng.random_range(0.0..1.0));
            engine.come(SeatId(index), now + wait);
        }
        self.state = State::Round {
            number,
            began: now,
            deadline: now + self.drop.spread + self.common.connect_within,
        };
    }
}

impl Scenario for ReconnectScenario {
    fn handle(&mut self, happening: Happening, engine: &mut Engine) {
        let (seat, now) = (happening.seat, happening.at);
        let Some(client) = self.clients.get_mut(seat.index()) else {
            return;
        };
        match happening.what {
            What::Hello => self.sync(seat, engine, now),
            What::Ready { .. } => {
                client.ready = true;
                if client.asked.is_none() && client.sync_at.is_none() && !client.synced {
                    self.sync(seat, engine, now);
                }
            }
            What::Response { id, result } if client.asked == Some(id) => {
                client.asked = None;
                let answer =
                    result.and_then(|body| SyncResponse::decode(body).map_err(|_| Failure::Malformed));
                match answer {
                    Ok(answer) => {
                        client.failures = 0;
                        client.cursor = answer.cursor;
                        if answer.more {
                            return self.sync(seat, engine, now);
                        }
                        self.synced += usize::from(!std::mem::replace(&mut client.synced, true));
                    }
                    Err(failure) => {
                        engine.counter.tally.retries += 1;
                        self.sync_later(seat, retry_after(&failure), now);
                    }
                }
            }
            What::Lost { .. } => {
                self.synced -= usize::from(std::mem::take(&mut client.synced));
                client.lose();
            }
            What::Response { .. } | What::Push { .. } | What::SyncHint { .. } => {}
        }
    }

    fn tick(&mut self, now: Duration, engine: &mut Engine, lead: &mut dyn Lead) -> anyhow::Result<Step> {
        while let Some(seat) = self.timers.take(now) {
            let seat = SeatId(seat);
            let client = self.clients.get(seat.index());
            if client.is_some_and(|client| client.sync_at.is_some_and(|at| at <= now)) {
                self.sync(seat, engine, now);
            }
        }
        match &mut self.state {
            State::New => {
                let rate = (self.common.connect_per_s, self.common.share);
                let (first, count) = (self.common.first(), self.common.count());
                let connecting =
                    Connecting::start(engine, first, count, rate, self.common.connect_within, now);
                self.state = State::Connecting(connecting);
                Ok(Step::Until(now))
            }
            State::Connecting(connecting) => match connecting.poll(engine, now)? {
                Err(look_at) => Ok(Step::Until(look_at)),
                Ok(()) => {
                    if engine.counter.tally.failed > 0 {
                        self.give_up(0, engine);
                        return Ok(Step::Until(now));
                    }
                    let deadline = now + self.common.connect_within;
                    self.state = State::Syncing { deadline };
                    Ok(Step::Until(now))
                }
            },
            State::Syncing { deadline } => {
                if self.synced == self.clients.len() {
                    self.state = State::Synced;
                    return Ok(Step::Until(now));
                }
                if now >= *deadline {
                    self.give_up(0, engine);
                }
                Ok(Step::Until(now + LOOK_EVERY))
            }
            State::Synced => {
                if lead.pass(Phase::Connected).is_some() {
                    self.drop_all(1, engine, now);
                }
                Ok(Step::Until(now + WAIT_STEP))
            }
            State::Round {
                number,
                began,
                deadline,
            } => {
                if self.synced == self.clients.len() {
                    self.rounds_ms
                        .push((now.saturating_sub(*began)).as_secs_f64() * 1_000.0);
                    let number = *number;
                    self.state = State::Over { number };
                    return Ok(Step::Until(now));
                }
                if now >= *deadline {
                    let number = *number;
                    self.give_up(number, engine);
                }
                Ok(Step::Until(now + LOOK_EVERY))
            }
            State::Over { number } => {
                let number = *number;
                if number < self.rounds {
                    if lead.pass(Phase::Round(number)).is_some() {
                        self.drop_all(number + 1, engine, now);
                    }
                } else if lead.pass(Phase::Ran).is_some() {
                    self.lost = self.missing();
                    return Ok(Step::Done);
                }
                Ok(Step::Until(now + WAIT_STEP))
            }
            State::GaveUp { phases } => {
                if phases.front().is_some_and(|phase| lead.pass(*phase).is_some()) {
                    phases.pop_front();
                }
                if phases.is_empty() {
                    return Ok(Step::Done);
                }
                Ok(Step::Until(now + WAIT_STEP))
            }
        }
    }

    fn close(&mut self, tally: &mut Tally) {
        tally.lost += self.lost;
        tally.rounds_ms.append(&mut self.rounds_ms);
    }

    fn cut(&mut self, tally: &mut Tally) {
        tally.rounds_ms.append(&mut self.rounds_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_failed_waits_as_long_as_the_server_asks_and_longer_each_time() {
        let (ms, now) = (Duration::from_millis, Duration::from_secs(9));
        let mut client = Client::default();
        assert_eq!(client.fail(ms(0), 0.0, now), now + ms(125), "never at once");
        assert_eq!(client.fail(ms(0), 1.0, now), now + ms(500));
        assert_eq!(client.fail(ms(7_000), 1.0, now), now + ms(7_000));
        assert_eq!(client.sync_at, Some(now + ms(7_000)));
        client.lose();
        assert_eq!(client.sync_at, None);
        assert_eq!(client.fail(ms(0), 1.0, now), now + ms(250));
    }
}
