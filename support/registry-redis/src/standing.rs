//! What this process knows of terms: how long they last, and which have ended. Pure: `now` is handed in.
//!
//! A term that has ended does not come back as long as Redis forgets nothing, so that is known for one life of its place: a copy of before
//! has it again. That one goes on is believed for a second at most, and no longer than its lease lasts; a notice that something has
//! changed ends all belief.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use whimbrel_registry::validity::Life;

use crate::value::Term;

/// How long a term is believed to go on without asking again, when no notice says otherwise: a gateway that died is found out at
/// its next push anyway.
const BELIEVED_FOR: Duration = Duration::from_secs(1);
/// Terms remembered to have ended; then it begins anew. Far more than die while anything of them is left.
const ENDED_MAX: usize = 16_384;

/// When an answer was asked for, and what was believed then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    at: Instant,
    doubts: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Standings {
    /// Terms that go on, until when this is believed.
    going_on: BTreeMap<Term, Instant>,
    ended: BTreeSet<Term>,
    /// The terms of lives that said something here.
    terms: BTreeMap<Life, Term>,
    doubts: u64,
}

impl Standings {
    /// Whether a term goes on; `None` when Redis must be asked.
    pub(crate) fn goes_on(&self, term: Term, now: Instant) -> Option<bool> {
        if self.ended.contains(&term) {
            return Some(false);
        }
        self.going_on
            .get(&term)
            .is_some_and(|until| now < *until)
            .then_some(true)
    }

    /// The term of a life, while it is believed to go on.
    pub(crate) fn term_of(&self, life: &Life, now: Instant) -> Option<Term> {
        let term = *self.terms.get(life)?;
        (self.goes_on(term, now) == Some(true)).then_some(term)
    }

    /// Before Redis is asked.
    pub(crate) fn asking(&self, now: Instant) -> Asked {
        Asked {
            at: now,
            doubts: self.doubts,
        }
    }

    /// Redis has said that a term lasts so much longer, or with nothing left that it has ended.
    pub(crate) fn learn(&mut self, asked: Asked, term: Term, left: Duration) {
        if asked.doubts != self.doubts {
            return;
        }
        if left.is_zero() {
            if self.ended.len() >= ENDED_MAX {
                self.ended.clear();
            }
            self.going_on.remove(&term);
            self.ended.insert(term);
        } else {
            self.going_on.retain(|_, until| asked.at < *until);
            self.going_on.insert(term, asked.at + left.min(BELIEVED_FOR));
        }
    }

    /// Redis has said which term a life has.
    pub(crate) fn learn_term(&mut self, asked: Asked, life: &Life, term: Term, left: Duration) {
        self.learn(asked, term, left);
        let known = &self.going_on;
        self.terms.retain(|_, term| known.contains_key(term));
        if known.contains_key(&term) {
            self.terms.insert(life.clone(), term);
        }
    }

    /// Redis has lost something, or is a copy of before: nothing that it said counts any more.
    pub(crate) fn begin_anew(&mut self) {
        self.doubt();
        self.ended.clear();
    }

    /// Something has changed: nothing is believed to go on any more.
    pub(crate) fn doubt(&mut self) {
        self.doubts += 1;
        self.going_on.clear();
        self.terms.clear();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use whimbrel_protocol::ids::{Incarnation, NodeId};

    use super::*;

    const TERM: Term = Term(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_term_is_believed_for_a_second_and_no_longer_than_it_lasts() {
        let (mut standings, start) = (Standings::default(), Instant::now());
        assert_eq!(standings.goes_on(TERM, start), None);
        standings.learn(standings.asking(start), TERM, ms(60_000));
        assert_eq!(standings.goes_on(TERM, start + ms(999)), Some(true));
        assert_eq!(standings.goes_on(TERM, start + ms(1_000)), None);
        standings.learn(standings.asking(start), TERM, ms(200));
        assert_eq!(standings.goes_on(TERM, start + ms(200)), None);
    }

    #[test]
    fn what_has_ended_is_known_until_redis_may_be_another() {
        let (mut standings, start) = (Standings::default(), Instant::now());
        let asked = standings.asking(start);
        standings.learn(asked, TERM, Duration::ZERO);
        standings.doubt();
        assert_eq!(standings.goes_on(TERM, start + ms(60_000)), Some(false));
        standings.begin_anew();
        assert_eq!(standings.goes_on(TERM, start + ms(60_000)), None);
        // The one of before has answered late.
        standings.learn(asked, TERM, Duration::ZERO);
        assert_eq!(standings.goes_on(TERM, start + ms(60_000)), None);
    }

    #[test]
    fn an_answer_that_was_asked_for_before_a_notice_is_not_believed() {
        let (mut standings, start) = (Standings::default(), Instant::now());
        let life = (NodeId::new("g1").unwrap(), Incarnation(1));
        let asked = standings.asking(start);
        standings.doubt();
        standings.learn_term(asked, &life, TERM, ms(60_000));
        assert_eq!(standings.term_of(&life, start), None);
        standings.learn_term(standings.asking(start), &life, TERM, ms(60_000));
        assert_eq!(standings.term_of(&life, start), Some(TERM));
        assert_eq!(standings.term_of(&life, start + ms(1_000)), None);
    }
}
