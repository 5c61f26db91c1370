//! What rows of the conversation list must say; the judge's part that looks at them.

use super::history::{Entry, Row, Showing, Talk};
use super::invariant::Invariant;
use super::judge::Judge;
use super::log::{Log, Membership};
use super::names::User;

impl Judge<'_> {
    pub(super) fn check_rows(
        &mut self,
        name: &str,
        log: &Log,
        membership: &Membership,
        (user, rows, showing, was_read): (User, &[Row], Option<Showing>, bool),
    ) {
        for pair in rows.windows(2) {
            if let [before, after] = pair
                && (after.head_seq < before.head_seq || after.read_seq < before.read_seq)
            {
                let what = format!("{name}: {before:?} went back to {after:?}");
                self.wrong(Invariant::Cursors, what);
            }
        }
        // A device of a user shows its own marks before the server has them, with what it guesses is unread.
        let exact = match showing {
            Some(Showing::AsItComes) => rows,
            _ => rows.last_chunk::<1>().map_or(&[][..], |last| last),
        };
        self.check_unread(name, log, (user, exact));
        self.check_whose(name, log, membership, (user, rows));
        let Some(row) = rows.last() else {
            if membership.end_seq > 0 {
                let what = format!("{name}: not in the conversation list");
                self.missing(was_read, Invariant::ReachesHead, what);
            }
            return;
        };
        if (row.head_seq, row.member) != (membership.end_seq, membership.current) {
            let what = format!("{name}: {row:?} of {membership:?}");
            self.missing(was_read, Invariant::ReachesHead, what);
        }
        let marked = self.conversation.marks.get(&user).copied().unwrap_or(0);
        let read_seq = marked.max(membership.joined_seq).min(membership.end_seq);
        // Of earlier runs' marks only the sum is known.
        let earlier = row.read_seq.min(self.conversation.base_seq);
        if row.read_seq != read_seq.max(earlier) {
            let what =
                format!("{name}: {row:?}, but read up to {read_seq} (marked {marked}, {membership:?})");
            self.missing(was_read, Invariant::Cursors, what);
        }
        if row.first_visible_seq != membership.first_visible_seq() {
            let what = format!("{name}: {row:?} of {membership:?}");
            self.missing(was_read, Invariant::Cursors, what);
        }
    }

    /// Of any row, applied or left out and in whatever order: it tells its user of what is theirs.
    pub(super) fn check_whose(
        &mut self,
        name: &str,
        log: &Log,
        membership: &Membership,
        (user, rows): (User, &[Row]),
    ) {
        let unseen = |seq: u64| seq > 0 && (!membership.sees(seq) || membership.back_from(seq).is_some());
        let is_foreign = |row: &&Row| unseen(row.head_seq);
        if let Some(row) = rows.iter().find(is_foreign) {
            let what = format!("{name}: {row:?} of an entry that is not the user's to see: {membership:?}");
            self.wrong(Invariant::Removal, what);
        }
        self.check_shows(name, log, membership, (user, rows));
    }

    /// Whatever a row says is unread it says of its head and its read mark.
    fn check_unread(&mut self, name: &str, log: &Log, (user, rows): (User, &[Row])) {
        let unread = |row: &Row| log.unread(user, row.read_seq, row.head_seq);
        let mut miscounted = rows.iter().filter(|row| row.unread != unread(row));
        if let Some(row) = miscounted.next() {
            let (unread, more) = (unread(row), miscounted.count());
            let what = format!("{name}: {row:?}, but {unread} are unread; and {more} more such rows");
            self.missing(self.is_known, Invariant::Cursors, what);
        }
    }

    /// What a row shows beside numbers is of this conversation and for this user.
    fn check_shows(&mut self, name: &str, log: &Log, membership: &Membership, (user, rows): (User, &[Row])) {
        let other = match self.conversation.talk {
            Some(Talk::Direct([one, other])) => Some(if one == user { other } else { one }),
            _ => None,
        };
        for shows in rows.iter().filter_map(|row| row.shows.as_ref()) {
            if shows.peer != other {
                let of = |user: Option<User>| {
                    user.map_or_else(
                        || "nobody".to_owned(),
                        |user| self.history.names.user(user).to_string(),
                    )
                };
                let what = format!(
                    "{name}: a row says it is with {}, not {}",
                    of(shows.peer),
                    of(other)
                );
                return self.wrong(Invariant::Foreign, what);
            }
            let called = match self.conversation.talk {
                Some(Talk::Direct(_)) => None,
                _ => self.conversation.name.or(shows.name),
            };
            if shows.name != called {
                let what = format!("{name}: a row has the name {:?}, not {called:?}", shows.name);
                return self.wrong(Invariant::Foreign, what);
            }
            let Some(preview) = &shows.preview else {
                continue;
            };
            let entry = log.entries().get(&preview.seq);
            // Of earlier runs' entries nobody was shown all.
            let known = entry.is_some() || (self.is_known && preview.seq > self.conversation.base_seq);
            let is = |entry: &Entry| {
                (entry.time_ms, entry.sender, entry.rest) == (preview.time_ms, preview.sender, preview.rest)
            };
            let stray = preview.meant_for.is_some_and(|id| id != self.id);
            if stray || (known && !entry.is_some_and(is)) {
                let what = format!("{name}: a row shows {preview:?}, which is {entry:?} there");
                return self.wrong(Invariant::Foreign, what);
            }
            if !membership.sees(preview.seq) || membership.back_from(preview.seq).is_some() {
                let what = format!(
                    "{name}: a row shows {preview:?}, which is not the user's to see: {membership:?}"
                );
                return self.wrong(Invariant::Removal, what);
            }
        }
    }
}
