//! People chat in pairs or groups, at a rate that the server has no say in.

use std::time::Duration;

use super::connecting::Connecting;
use super::{Common, HEAD_START, WAIT_STEP};
use crate::chat::{Chat, ChatOptions};
use crate::doubles::Doubles;
use crate::engine::{Engine, Happening, Leave};
use crate::lead::{Lead, Phase};
use crate::reading::Reading;
use crate::record::Recorder;
use crate::run::{Scenario, Step};
use crate::schedule::Schedule;
use crate::tally::Tally;

/// Between two looks at what is still open.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug)]
enum State {
    New,
    Connecting(Connecting),
    Connected,
    Preparing { deadline: Duration },
    Prepared,
    Sending { sends: Schedule, changes: Schedule },
    Settling { deadline: Duration, look_at: Duration },
    Settled,
    Reading { reading: Reading, deadline: Duration },
}

/// What happens how often, a second, over all processes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChatRates {
    /// Messages.
    pub sends: f64,
    /// Changes of groups' members.
    pub changes: f64,
}

/// See the module.
#[derive(Debug)]
pub struct ChatScenario {
    common: Common,
    rates: ChatRates,
    lasting: Duration,
    chat: Chat,
    /// Of a checked run.
    doubles: Doubles,
    state: State,
    reading_failed: Option<String>,
}

impl ChatScenario {
    /// A chat at these rates, for so long, told to `recorder`.
    #[must_use]
    pub fn new(
        common: Common,
        options: ChatOptions,
        rates: ChatRates,
        lasting: Duration,
        recorder: Box<dyn Recorder>,
    ) -> Self {
        let (first, count) = (common.first(), common.count());
        Self {
            chat: Chat::new(options, first, count, recorder),
            common,
            rates,
            lasting,
            doubles: Doubles::default(),
            state: State::New,
            reading_failed: None,
        }
    }

    /// Gives the recorder back.
    #[must_use]
    pub fn into_recorder(self) -> Box<dyn Recorder> {
        self.chat.into_recorder()
    }

    fn step(&self, at: Duration) -> Step {
        Step::Until(self.chat.due().map_or(at, |due| due.min(at)))
    }
}

impl Scenario for ChatScenario {
    fn handle(&mut self, happening: Happening, engine: &mut Engine) {
        if let State::Reading { reading, .. } = &mut self.state
            && reading.owns(happening.seat)
        {
            return reading.handle(happening, self.chat.recorder(), engine);
        }
        if self.doubles.owns(happening.seat) {
            return self.doubles.handle(happening, self.chat.recorder(), engine);
        }
        self.chat.handle(happening, engine);
    }

    fn tick(&mut self, now: Duration, engine: &mut Engine, lead: &mut dyn Lead) -> anyhow::Result<Step> {
        self.chat.tick(now, engine);
        self.doubles.tick(now, engine);
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
                Err(look_at) => Ok(self.step(look_at)),
                Ok(()) => {
                    self.state = State::Connected;
                    Ok(Step::Until(now))
                }
            },
            State::Connected => {
                if lead.pass(Phase::Connected).is_some() {
                    let deadline = now + self.common.connect_within;
                    self.state = State::Preparing { deadline };
                }
                Ok(self.step(now + WAIT_STEP))
            }
            State::Preparing { deadline } => {
                let deadline = *deadline;
                if self.chat.prepare(now, engine) {
                    self.state = State::Prepared;
                    return Ok(Step::Until(now));
                }
                if now >= deadline {
                    self.chat.all_prepared()?;
                }
                Ok(self.step(self.chat.prepare_due(now)))
            }
            State::Prepared => {
                if let Some(start) = lead.pass(Phase::Prepared) {
                    let start = start + HEAD_START;
                    let at = |per_s| Schedule::new(start, self.lasting, per_s, self.common.share);
                    engine.counter.tally.began = start;
                    if self.chat.recorder().wants_everything_read() {
                        let users = self.common.first()..self.common.first() + self.common.count();
                        self.doubles = Doubles::start(users, now, engine);
                    }
                    self.state = State::Sending {
                        sends: at(self.rates.sends),
                        changes: at(self.rates.changes),
                    };
                    return Ok(Step::Until(now));
                }
                Ok(self.step(now + WAIT_STEP))
            }
            State::Sending { sends, changes } => {
                for due in sends.take_some(now) {
                    self.chat.send(due, now, engine);
                }
                for _ in changes.take_some(now) {
                    self.chat.change_members(now, engine);
                }
                if let Some(due) = sends.due().into_iter().chain(changes.due()).min() {
                    return Ok(self.step(due));
                }
                self.chat.hasten_repeats(now);
                self.doubles.rest();
                self.state = State::Settling {
                    deadline: now + self.common.grace,
                    look_at: now,
                };
                Ok(Step::Until(now))
            }
            State::Settling { deadline, look_at } => {
                if now >= *look_at {
                    *look_at = now + LOOK_EVERY;
                    let settled = self.chat.is_settled() && self.doubles.is_settled(engine);
                    if settled || now >= *deadline {
                        self.state = State::Settled;
                        return Ok(Step::Until(now));
                    }
                }
                let look_at = *look_at;
                Ok(self.step(look_at))
            }
            State::Settled => {
                if lead.pass(Phase::Ran).is_none() {
                    return Ok(self.step(now + WAIT_STEP));
                }
                if !self.chat.recorder().wants_everything_read() {
                    return Ok(Step::Done);
                }
                let users = self.common.first()..self.common.first() + self.common.count();
                let deadline = now + self.common.grace + Duration::from_secs(60);
                let reading = Reading::new(users);
                self.state = State::Reading { reading, deadline };
                Ok(Step::Until(now))
            }
            State::Reading { reading, deadline } => {
                let is_read = reading.tick(now, engine);
                // What readers have been told of is on its way to those who chat.
                if is_read && (self.chat.rows_are_level() || !reading.may_trail(now)) {
                    self.chat.tell_unread(&[]);
                    return Ok(Step::Done);
                }
                if !is_read && now >= *deadline && reading.is_stuck(now) {
                    self.chat.tell_unread(&reading.unread());
                    self.reading_failed = Some(reading.progress());
                    return Ok(Step::Done);
                }
                Ok(self.step(now + LOOK_EVERY))
            }
        }
    }

    fn backlog(&self) -> u64 {
        self.chat.backlog() as u64
    }

    fn close(&mut self, tally: &mut Tally) {
        self.chat.close(tally);
        if let Some(progress) = self.reading_failed.take() {
            let what = "not everything could be read by new devices at the end";
            tally.last_setback = Some(match tally.last_setback.take() {
                Some(setback) => format!("{what}: {progress}. Before: {setback}"),
                None => format!("{what}: {progress}"),
            });
        }
    }
}

impl ChatScenario {
    /// Ends all sessions politely.
    pub fn leave(&self, engine: &mut Engine) {
        for index in 0..self.common.count() {
            engine.leave(crate::engine::SeatId(index), Leave::Close);
        }
    }
}
