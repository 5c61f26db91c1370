//! When each user of a group may have been out of it, as far as one can tell from outside: from when their removal was asked
//! for until their return was answered. Pure.

use std::collections::HashMap;
use std::time::Duration;

use whimbrel_protocol::client::ChangeKind;

use super::history::ChangeAsked;
use super::names::User;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Absences(HashMap<User, Vec<(Duration, Duration)>>);

impl Absences {
    /// What the changes of one group, in their order, say.
    pub(super) fn of(changes: &[ChangeAsked]) -> Self {
        let mut absences: HashMap<User, Vec<(Duration, Duration)>> = HashMap::new();
        for change in changes {
            let of_user = absences.entry(change.user).or_default();
            match change.kind {
                ChangeKind::Removed | ChangeKind::Left => of_user.push((change.asked_at, Duration::MAX)),
                ChangeKind::Invited => {
                    let back_at = change.done.map_or(Duration::MAX, |done| done.at);
                    match of_user.last_mut() {
                        Some((_, until)) => *until = back_at,
                        // They were out from the beginning.
                        None => of_user.push((Duration::ZERO, back_at)),
                    }
                }
                _ => {}
            }
        }
        Self(absences)
    }

    /// Whether a user may have been out at some moment between these. Takes the logarithm of how often they came and went.
    pub(super) fn meet(&self, user: User, from: Duration, to: Duration) -> bool {
        let of_user = self.0.get(&user).map_or(&[][..], Vec::as_slice);
        let next = of_user.partition_point(|(_, until)| *until < from);
        of_user.get(next).is_some_and(|(since, _)| *since <= to)
    }
}
