//! The inbox against a model of the server's log, under every order of arrival.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use whimbrel_protocol::client::{Entry, PullChangesResponse, PullResponse};

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn entry(seq: u64) -> Entry {
    Entry {
        seq,
        time_ms: seq,
        ..Entry::default()
    }
}

fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

fn placed(shown: u64) -> Inbox {
    Inbox::restored(Position {
        start: 1,
        shown,
        rev: 0,
    })
}

#[test]
fn entries_in_order_are_shown_at_once_and_ask_nothing() {
    let mut inbox = placed(0);
    for seq in 1..=3 {
        inbox.handle_pushed(entry(seq), ms(0));
        assert_eq!(seqs(&inbox.take_ready()), [seq]);
    }
    assert_eq!(inbox.due(), None);
    assert!(inbox.is_at_head());
}

#[test]
fn a_hole_waits_three_hundred_milliseconds_for_pushes_that_overtook_each_other_then_pulls() {
    let mut inbox = placed(0);
    inbox.handle_pushed(entry(2), ms(1_000));
    assert_eq!(inbox.take_ready(), []);
    assert_eq!(inbox.poll_want(ms(1_299)), None);
    assert_eq!(inbox.due(), Some(ms(1_300)));
    assert_eq!(inbox.poll_want(ms(1_300)), Some(Want::Pull { from_seq: 1 }));
    assert_eq!(inbox.poll_want(ms(1_400)), None, "one question at a time");
    let page = PullResponse {
        entries: vec![entry(1), entry(2)],
        head_seq: 2,
        ..PullResponse::default()
    };
    inbox.handle_pulled(1, page, ms(1_500));
    assert_eq!(seqs(&inbox.take_ready()), [1, 2]);
    assert_eq!(inbox.due(), None);
}

#[test]
fn a_hole_that_fills_itself_is_not_pulled() {
    let mut inbox = placed(0);
    inbox.handle_pushed(entry(2), ms(0));
    inbox.handle_pushed(entry(1), ms(200));
    assert_eq!(seqs(&inbox.take_ready()), [1, 2]);
    assert_eq!(inbox.poll_want(ms(5_000)), None);
}

#[test]
fn seqs_that_a_complete_answer_leaves_out_are_passed_over() {
    let mut inbox = placed(0);
    inbox.handle_head(9, 0, true, ms(0));
    assert_eq!(inbox.poll_want(ms(0)), Some(Want::Pull { from_seq: 1 }));
    let page = PullResponse {
        entries: vec![entry(1), entry(7)],
        head_seq: 9,
        more: true,
        ..PullResponse::default()
    };
    inbox.handle_pulled(1, page, ms(1));
    assert_eq!(seqs(&inbox.take_ready()), [1, 7]);
    assert_eq!(inbox.poll_want(ms(1)), Some(Want::Pull { from_seq: 8 }));
    inbox.handle_pulled(
        8,
        PullResponse {
            head_seq: 9,
            ..PullResponse::default()
        },
        ms(2),
    );
    assert_eq!(inbox.take_ready(), []);
    assert!(inbox.is_at_head());
}

#[test]
fn a_head_the_user_may_not_see_is_not_asked_for_again_and_again() {
    let mut inbox = placed(5);
    inbox.handle_head(9, 0, true, ms(0));
    assert!(inbox.poll_want(ms(0)).is_some());
    inbox.handle_pulled(
        6,
        PullResponse {
            head_seq: 5,
            ..PullResponse::default()
        },
        ms(1),
    );
    assert_eq!(inbox.take_ready(), []);
    assert_eq!(inbox.poll_want(ms(60_000)), None);
}

#[test]
fn a_head_learnt_while_an_older_answer_was_on_its_way_is_still_reached() {
    let mut inbox = placed(0);
    inbox.handle_head(5, 0, true, ms(0));
    inbox.poll_want(ms(0)).unwrap();
    inbox.handle_head(7, 0, false, ms(1));
    let answer = PullResponse {
        entries: (1..=5).map(entry).collect(),
        head_seq: 5,
        ..PullResponse::default()
    };
    inbox.handle_pulled(1, answer, ms(2));
    assert_eq!(inbox.take_ready().len(), 5);
    assert_eq!(inbox.poll_want(ms(2)), Some(Want::Pull { from_seq: 6 }));
}

#[test]
fn malformed_pages_are_not_taken_and_not_asked_for_in_a_loop() {
    let backwards = vec![entry(2), entry(1)];
    let below = vec![entry(0)];
    for (entries, more) in [(backwards, false), (below, false), (Vec::new(), true)] {
        let mut inbox = placed(0);
        inbox.handle_head(2, 0, true, ms(0));
        inbox.poll_want(ms(0)).unwrap();
        inbox.handle_pulled(
            1,
            PullResponse {
                entries,
                more,
                head_seq: 2,
                ..PullResponse::default()
            },
            ms(0),
        );
        assert_eq!(inbox.take_ready(), []);
        assert_eq!(inbox.poll_want(ms(0)), None);
        assert!(inbox.due().unwrap() >= ms(100));
    }
}

#[test]
fn pushes_before_the_row_wait_until_it_says_where_the_log_begins() {
    let mut inbox = Inbox::new();
    inbox.handle_pushed(entry(41), ms(0));
    assert_eq!(inbox.take_ready(), []);
    assert_eq!(inbox.due(), None);
    inbox.place(41, 41, 0, 50);
    inbox.handle_head(41, 0, true, ms(1));
    assert_eq!(seqs(&inbox.take_ready()), [41]);
    assert_eq!(inbox.due(), None);
}

#[test]
fn a_new_device_begins_at_the_last_page() {
    let mut inbox = Inbox::new();
    inbox.place(1, 1_000, 7, 50);
    assert_eq!(
        inbox.position(),
        Some(Position {
            start: 951,
            shown: 950,
            rev: 7
        })
    );
    let mut short = Inbox::new();
    short.place(3, 10, 0, 50);
    assert_eq!(short.position().unwrap().start, 3);
    let mut nothing = Inbox::new();
    nothing.place(0, 10, 0, 50);
    nothing.handle_head(10, 0, true, ms(0));
    assert_eq!(nothing.due(), None, "nothing is visible, nothing is asked");
}

#[test]
fn a_change_that_overtakes_its_entry_is_not_undone_by_the_older_entry() {
    let mut inbox = placed(1);
    inbox.handle_head(1, 4, true, ms(0));
    assert_eq!(inbox.poll_want(ms(0)), Some(Want::Changes { after_rev: 0 }));
    let changed = Entry { rev: 4, ..entry(3) };
    let page = PullChangesResponse {
        entries: vec![changed],
        next_after_rev: 4,
        head_rev: 4,
        more: false,
    };
    assert_eq!(inbox.handle_changes(0, page, ms(1)), []);
    inbox.handle_pushed(entry(3), ms(2));
    assert_eq!(inbox.held[&3].rev, 4);
    let mut restarted = Inbox::restored(inbox.position().unwrap());
    restarted.handle_pushed(entry(2), ms(3));
    assert_eq!(
        restarted.take_ready(),
        [],
        "it may have changed before the restart"
    );
    assert_eq!(restarted.poll_want(ms(303)), Some(Want::Pull { from_seq: 2 }));
}

#[test]
fn entries_committed_after_all_changes_taken_in_are_shown_at_once() {
    let mut inbox = Inbox::restored(Position {
        start: 1,
        shown: 5,
        rev: 4,
    });
    inbox.handle_head(5, 4, true, ms(0));
    inbox.handle_pushed(entry(6), ms(1));
    assert_eq!(seqs(&inbox.take_ready()), [6]);
}

#[test]
fn a_rev_learnt_while_an_older_answer_was_on_its_way_is_still_reached() {
    let mut inbox = placed(3);
    inbox.handle_head(3, 5, true, ms(0));
    assert_eq!(inbox.poll_want(ms(0)), Some(Want::Changes { after_rev: 0 }));
    let page = |rev: u64| PullChangesResponse {
        entries: vec![Entry { rev, ..entry(3) }],
        next_after_rev: rev,
        head_rev: rev,
        more: false,
    };
    inbox.handle_head(3, 6, false, ms(1));
    assert_eq!(inbox.handle_changes(0, page(5), ms(2)).len(), 1);
    assert_eq!(inbox.poll_want(ms(2)), Some(Want::Changes { after_rev: 5 }));
    assert_eq!(inbox.handle_changes(5, page(6), ms(3)).len(), 1);
    assert!(inbox.is_at_head());
}

#[test]
fn a_rev_the_user_may_not_see_is_not_asked_for_again_and_again() {
    let mut inbox = placed(3);
    inbox.handle_head(3, 6, true, ms(0));
    assert_eq!(inbox.poll_want(ms(0)), Some(Want::Changes { after_rev: 0 }));
    let page = PullChangesResponse {
        next_after_rev: 5,
        head_rev: 5,
        ..PullChangesResponse::default()
    };
    inbox.handle_changes(0, page, ms(1));
    assert_eq!(inbox.due(), None);
}

#[test]
fn what_is_held_above_a_hole_is_bounded() {
    let mut inbox = placed(0);
    for seq in 2..5_000 {
        inbox.handle_pushed(entry(seq), ms(0));
    }
    assert_eq!(inbox.held.len(), HELD_MAX);
    assert_eq!(inbox.head, 4_999);
}

#[test]
fn what_is_doubted_shows_and_asks_nothing_until_a_row_says_where_the_log_ends() {
    let mut inbox = placed(10);
    inbox.doubt();
    inbox.handle_pushed(entry(11), ms(0));
    assert_eq!(inbox.take_ready(), []);
    assert_eq!((inbox.due(), inbox.poll_want(ms(9_000))), (None, None));
    inbox.handle_head(11, 0, true, ms(9_000));
    let want = Want::Compare {
        from_seq: 10,
        limit: 1,
    };
    assert_eq!(inbox.poll_want(ms(9_000)), Some(want));
    let page = PullResponse {
        entries: vec![entry(10)],
        head_seq: 11,
        more: true,
        ..PullResponse::default()
    };
    inbox.handle_compared(10, &page, ms(9_000), |_| true);
    assert_eq!(
        inbox.take_settled(),
        Some(Settled {
            agreed: 10,
            lost: false
        })
    );
    inbox.expect_changes(BTreeSet::new());
    assert!(!inbox.is_doubted());
    assert_eq!(seqs(&inbox.take_ready()), [11]);
}

#[test]
fn a_row_that_is_behind_its_log_makes_nothing_lost() {
    let mut inbox = placed(10);
    inbox.doubt();
    inbox.handle_head(8, 0, true, ms(0));
    let page = |last: u64| PullResponse {
        entries: vec![entry(last)],
        head_seq: 9,
        more: true,
        ..PullResponse::default()
    };
    for from_seq in [8, 9] {
        let want = Want::Compare { from_seq, limit: 1 };
        assert_eq!(inbox.poll_want(ms(0)), Some(want));
        inbox.handle_compared(from_seq, &page(from_seq), ms(0), |_| true);
    }
    let settled = Settled {
        agreed: 9,
        lost: true,
    };
    assert_eq!(inbox.take_settled(), Some(settled), "the tenth alone");
}

#[test]
fn a_page_that_does_not_descend_is_not_compared() {
    let mut inbox = placed(10);
    inbox.doubt();
    inbox.handle_head(10, 0, true, ms(0));
    assert!(inbox.poll_want(ms(0)).is_some());
    let page = PullResponse {
        entries: vec![entry(3), entry(10)],
        head_seq: 10,
        ..PullResponse::default()
    };
    inbox.handle_compared(10, &page, ms(0), |_| true);
    assert_eq!(inbox.take_settled(), None);
    assert!(inbox.due().unwrap() > ms(0), "after a pause");
}

/// One thing that may happen to the client.
#[derive(Debug, Clone)]
enum Step {
    Commit,
    Change(prop::sample::Index),
    Push(prop::sample::Index),
    /// The row arrives, late or early.
    Row,
    Pass(u64),
    Ask,
    Answer,
    Lose,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Commit),
        2 => any::<prop::sample::Index>().prop_map(Step::Change),
        4 => any::<prop::sample::Index>().prop_map(Step::Push),
        2 => Just(Step::Row),
        3 => (1_u64..700).prop_map(Step::Pass),
        3 => Just(Step::Ask),
        3 => Just(Step::Answer),
        1 => Just(Step::Lose),
        1 => Just(Step::Restart),
    ]
}

/// The server's log: per seq the rev of its last change, `None` where the user may not see.
#[derive(Default)]
struct Log {
    revs: Vec<Option<u64>>,
    rev: u64,
}

impl Log {
    fn entry(&self, seq: u64) -> Option<Entry> {
        let rev = (*self.revs.get(usize::try_from(seq.checked_sub(1)?).unwrap())?)?;
        Some(Entry { rev, ..entry(seq) })
    }

    fn head(&self) -> u64 {
        self.revs.len() as u64
    }

    fn pull(&self, from: u64, limit: usize) -> PullResponse {
        let mut entries: Vec<_> = (from..=self.head()).filter_map(|seq| self.entry(seq)).collect();
        let more = entries.len() > limit;
        entries.truncate(limit);
        PullResponse {
            entries,
            head_seq: self.head(),
            head_rev: self.rev,
            more,
        }
    }

    fn changes(&self, after: u64, limit: usize) -> PullChangesResponse {
        let mut entries: Vec<_> = (1..=self.head())
            .filter_map(|seq| self.entry(seq))
            .filter(|entry| entry.rev > after)
            .collect();
        entries.sort_by_key(|entry| entry.rev);
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next_after_rev = entries.last().map_or(self.rev, |entry| entry.rev);
        PullChangesResponse {
            entries,
            next_after_rev,
            head_rev: self.rev,
            more,
        }
    }
}

/// A client whose disk survives.
struct Client {
    inbox: Inbox,
    shown: Vec<Entry>,
    /// The answer on its way, as of when the server made it.
    answer: Option<Answer>,
}

enum Answer {
    Pull(u64, PullResponse),
    Changes(u64, PullChangesResponse),
}

impl Client {
    fn show(&mut self) {
        self.shown.extend(self.inbox.take_ready());
    }

    fn change(&mut self, changed: impl IntoIterator<Item = Entry>) {
        for entry in changed {
            let shown = self
                .shown
                .iter_mut()
                .find(|shown| shown.seq == entry.seq)
                .unwrap();
            if shown.rev < entry.rev {
                *shown = entry;
            }
        }
    }

    fn ask(&mut self, log: &Log, now: Duration) {
        self.answer = match self.inbox.poll_want(now) {
            Some(Want::Pull { from_seq }) => Some(Answer::Pull(from_seq, log.pull(from_seq, 3))),
            Some(Want::Changes { after_rev }) => Some(Answer::Changes(after_rev, log.changes(after_rev, 2))),
            Some(Want::Compare { .. } | Want::Recheck { .. }) | None => return,
        };
    }

    fn take_answer(&mut self, now: Duration) {
        match self.answer.take() {
            Some(Answer::Pull(from, page)) => self.inbox.handle_pulled(from, page, now),
            Some(Answer::Changes(after, page)) => {
                let changed = self.inbox.handle_changes(after, page, now);
                self.change(changed);
            }
            None => {}
        }
        self.show();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// However commits, changes, pushes, rows, answers, losses and restarts interleave: each visible entry is shown
    /// once, in order, and once nothing happens any more the client has all of them as they are now.
    #[test]
    fn any_interleaving_shows_each_entry_once_in_order_and_reaches_the_head(
        steps in prop::collection::vec(step(), 1..120),
        hidden in prop::collection::hash_set(1_u64..40, 0..6),
    ) {
        let mut log = Log::default();
        let mut sent: Vec<Entry> = Vec::new();
        let mut client = Client { inbox: placed(0), shown: Vec::new(), answer: None };
        let mut now = ms(0);
        for step in steps {
            match step {
                Step::Commit => {
                    let seq = log.head() + 1;
                    log.revs.push((!hidden.contains(&seq)).then_some(0));
                    sent.extend(log.entry(seq));
                }
                Step::Change(which) if !log.revs.is_empty() => {
                    let index = which.index(log.revs.len());
                    if log.revs[index].is_some() {
                        log.rev += 1;
                        log.revs[index] = Some(log.rev);
                        sent.extend(log.entry(index as u64 + 1));
                    }
                }
                // A push arrives now, later, never, or again.
                Step::Push(which) if !sent.is_empty() => {
                    let pushed = sent[which.index(sent.len())].clone();
                    let changed = client.inbox.handle_pushed(pushed, now);
                    client.change(changed);
                    client.show();
                }
                Step::Change(_) | Step::Push(_) => {}
                Step::Row => client.inbox.handle_head(log.head(), log.rev, false, now),
                Step::Pass(for_ms) => now += ms(for_ms),
                Step::Ask => if client.answer.is_none() { client.ask(&log, now) },
                Step::Answer => client.take_answer(now),
                Step::Lose => if client.answer.take().is_some() { client.inbox.handle_lost() },
                Step::Restart => {
                    client.inbox = Inbox::restored(client.inbox.position().unwrap());
                    client.answer = None;
                }
            }
        }
        client.take_answer(now);
        client.inbox.handle_lost();
        client.inbox.handle_head(log.head(), log.rev, true, now);
        for _ in 0..400 {
            now += ms(1_000);
            client.ask(&log, now);
            client.take_answer(now);
        }
        let expected: Vec<_> = (1..=log.head()).filter_map(|seq| log.entry(seq)).collect();
        prop_assert_eq!(&client.shown, &expected);
        prop_assert!(client.inbox.is_at_head());
    }
}
