//! Tracked pushes and the careful clock over them.
//!
//! Pushes that want an acknowledgement count from 1 in the order they are sealed. The clock runs only while the client
//! owes an acknowledgement *and* nothing is waiting here for it to read: a client on a slow network is never closed for
//! what still sits in our own queue, and pushes that keep coming cannot wind the clock back.

use whimbrel_protocol::timing;

use super::fault::Fault;

/// The acknowledgements of one session.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    sent: u32,
    through: u32,
    /// Time the clock has run since the last progress, before it last stopped.
    spent_ms: u32,
    running_since_ms: Option<u64>,
}

impl Acks {
    /// A tracked push was sealed.
    pub(crate) fn handle_sent(&mut self) {
        self.sent = self.sent.saturating_add(1);
    }

    /// Everything, or not everything, that is meant for the client has been handed to the kernel.
    pub(crate) fn handle_owing(&mut self, we_owe_bytes: bool, now_ms: u64) {
        let runs = !we_owe_bytes && self.through < self.sent;
        match (self.running_since_ms, runs) {
            (None, true) => self.running_since_ms = Some(now_ms),
            (Some(since), false) => {
                let ran = u32::try_from(now_ms.saturating_sub(since)).unwrap_or(u32::MAX);
                self.spent_ms = self.spent_ms.saturating_add(ran);
                self.running_since_ms = None;
            }
            _ => {}
        }
    }

    /// The client has taken in every tracked push up to `through`.
    ///
    /// # Errors
    /// When there are not so many, or it had taken in more before.
    pub(crate) fn handle_ack(&mut self, through: u32, now_ms: u64) -> Result<(), Fault> {
        let (acknowledged, sent) = (self.through, self.sent);
        if !(acknowledged..=sent).contains(&through) {
            return Err(Fault::BadAck {
                through,
                acknowledged,
                sent,
            });
        }
        if through > acknowledged {
            self.through = through;
            self.spent_ms = 0;
            self.running_since_ms = self.running_since_ms.filter(|_| through < sent).map(|_| now_ms);
        }
        Ok(())
    }

    /// When the client will have owed for too long, if the clock runs.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let left = timing::PUSH_ACK_OWED_MAX_MS.saturating_sub(u64::from(self.spent_ms));
        self.running_since_ms.map(|since| since.saturating_add(left))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn sent(count: u32) -> Acks {
        let mut acks = Acks::default();
        (0..count).for_each(|_| acks.handle_sent());
        acks
    }

    #[test]
    fn the_clock_stands_while_we_owe_bytes() {
        let mut acks = sent(1);
        acks.handle_owing(true, 0);
        assert_eq!(acks.deadline_ms(), None);
        acks.handle_owing(false, 50_000);
        assert_eq!(acks.deadline_ms(), Some(60_000));
    }

    #[test]
    fn pushes_that_keep_coming_do_not_wind_the_clock_back() {
        let mut acks = sent(1);
        acks.handle_owing(false, 0);
        acks.handle_owing(true, 6_000);
        acks.handle_sent();
        acks.handle_owing(false, 7_000);
        assert_eq!(acks.deadline_ms(), Some(11_000));
    }

    #[test]
    fn progress_starts_the_clock_again_and_the_last_acknowledgement_stops_it() {
        let mut acks = sent(3);
        acks.handle_owing(false, 0);
        acks.handle_ack(2, 9_000).unwrap();
        assert_eq!(acks.deadline_ms(), Some(19_000));
        acks.handle_ack(2, 9_500).unwrap();
        assert_eq!(
            acks.deadline_ms(),
            Some(19_000),
            "the same acknowledgement again is no progress"
        );
        acks.handle_ack(3, 10_000).unwrap();
        assert_eq!(acks.deadline_ms(), None);
    }

    #[test]
    fn acknowledging_what_was_never_sent_or_less_than_before_is_a_fault() {
        let mut acks = sent(3);
        acks.handle_ack(2, 0).unwrap();
        for through in [1, 4] {
            let fault = Fault::BadAck {
                through,
                acknowledged: 2,
                sent: 3,
            };
            assert_eq!(acks.handle_ack(through, 0), Err(fault));
        }
    }
}
