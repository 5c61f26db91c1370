//! Clients log in at a rate and stay. They do nothing else, not even sync: this is what a login and an idle connection cost.

use std::time::Duration;

use super::connecting::Connecting;
use super::{Common, WAIT_STEP, lost};
use crate::engine::{Engine, Happening};
use crate::lead::{Lead, Phase};
use crate::run::{Scenario, Step};
use crate::tally::Tally;

#[derive(Debug)]
enum State {
    New,
    Connecting(Connecting),
    /// The others are still connecting.
    Connected,
    Holding {
        until: Duration,
    },
    /// The others are still holding.
    Held,
}

/// See the module.
#[derive(Debug)]
pub struct ConnectScenario {
    common: Common,
    hold: Duration,
    state: State,
    lost: u64,
}

impl ConnectScenario {
    /// Clients that stay for `hold`.
    #[must_use]
    pub const fn new(common: Common, hold: Duration) -> Self {
        Self {
            common,
            hold,
            state: State::New,
            lost: 0,
        }
    }
}

impl Scenario for ConnectScenario {
    fn handle(&mut self, _: Happening, _: &mut Engine) {}

    fn tick(&mut self, now: Duration, engine: &mut Engine, lead: &mut dyn Lead) -> anyhow::Result<Step> {
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
                    self.state = State::Connected;
                    Ok(Step::Until(now))
                }
            },
            State::Connected => {
                if lead.pass(Phase::Connected).is_some() {
                    let until = now + self.hold;
                    self.state = State::Holding { until };
                }
                Ok(Step::Until(now + WAIT_STEP))
            }
            State::Holding { until } if now < *until => Ok(Step::Until(*until)),
            State::Holding { .. } => {
                self.lost = lost(engine);
                self.state = State::Held;
                Ok(Step::Until(now))
            }
            State::Held => match lead.pass(Phase::Ran) {
                Some(_) => Ok(Step::Done),
                None => Ok(Step::Until(now + WAIT_STEP)),
            },
        }
    }

    fn close(&mut self, tally: &mut Tally) {
        tally.lost += self.lost;
    }
}
