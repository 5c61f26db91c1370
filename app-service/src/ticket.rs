//! Knowing when the last of many pieces of work is done, whoever does them and however they are lost.
//!
//! A job is cut into tickets. Whoever has done a piece says [`Ticket::done`]; a ticket dropped in any other way (a full
//! queue, a refused commit, a task that ended) counts as lost. When the last one is gone, the job's end runs once and is told
//! whether all was done. Nothing has to remember to report a failure.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every piece is done.
    Done,
    /// At least one was lost.
    Lost,
}

type End = Box<dyn FnOnce(Outcome) + Send>;

struct Job {
    left: AtomicUsize,
    lost: AtomicBool,
    end: Mutex<Option<End>>,
}

/// One piece of a job.
#[must_use = "a ticket that is dropped counts as lost"]
pub struct Ticket {
    job: Arc<Job>,
    done: bool,
}

impl Ticket {
    /// `count` tickets of one job; `end` runs when the last is gone, at once when there are none. It must not block.
    pub fn issue(count: usize, end: impl FnOnce(Outcome) + Send + 'static) -> impl Iterator<Item = Self> {
        let end: Option<End> = if count == 0 {
            end(Outcome::Done);
            None
        } else {
            Some(Box::new(end))
        };
        let job = Arc::new(Job {
            left: AtomicUsize::new(count),
            lost: AtomicBool::new(false),
            end: Mutex::new(end),
        });
        // Made before the first is handed out: one that is taken and dropped must not end the job early, nor may one
        // that is never taken be forgotten.
        (0..count)
            .map(|_| Self {
                job: Arc::clone(&job),
                done: false,
            })
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// This piece is done.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.done {
            self.job.lost.store(true, Ordering::Relaxed);
        }
        // Release and acquire order every ticket's `lost` before the last one's look at it.
        if self.job.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let end = self.job.end.lock().unwrap_or_else(PoisonError::into_inner).take();
            let lost = self.job.lost.load(Ordering::Relaxed);
            if let Some(end) = end {
                end(if lost { Outcome::Lost } else { Outcome::Done });
            }
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({} left)", self.job.left.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn job(count: usize) -> (Vec<Ticket>, Arc<Mutex<Vec<Outcome>>>) {
        let ended = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&ended);
        let tickets = Ticket::issue(count, move |outcome| tell.lock().unwrap().push(outcome));
        (tickets.collect(), ended)
    }

    #[test]
    fn a_job_is_done_when_its_last_piece_is_and_not_before() {
        let (tickets, ended) = job(3);
        for ticket in tickets {
            assert!(ended.lock().unwrap().is_empty());
            ticket.done();
        }
        assert_eq!(*ended.lock().unwrap(), [Outcome::Done]);
    }

    #[test]
    fn one_dropped_ticket_loses_the_job_but_only_at_its_end() {
        let (mut tickets, ended) = job(3);
        drop(tickets.pop());
        tickets.pop().unwrap().done();
        assert!(ended.lock().unwrap().is_empty());
        tickets.pop().unwrap().done();
        assert_eq!(*ended.lock().unwrap(), [Outcome::Lost]);
    }

    #[test]
    fn a_job_without_pieces_is_done_at_once() {
        let (_, ended) = job(0);
        assert_eq!(*ended.lock().unwrap(), [Outcome::Done]);
    }
}
