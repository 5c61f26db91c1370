//! Whether everybody who is dialled refuses this process for a later one of its name, and since when. Pure.
//!
//! A single router can be wrong, and one that has the registry learns better within two looks at it. A process that is linked with
//! nobody believes those that refuse it only when they all do, for longer than that takes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// An address that is dialled, among those of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dialled(u64);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    next: u64,
    /// Whether the last answer was such a refusal.
    refused: BTreeMap<Dialled, bool>,
    /// Since when all have refused, and no link was up.
    all_since: Option<Instant>,
}

impl Refusals {
    /// One more is dialled; it has not answered yet.
    pub(crate) fn begin(&mut self) -> Dialled {
        let dialled = Dialled(self.next);
        self.next += 1;
        self.refused.insert(dialled, false);
        self.all_since = None;
        dialled
    }

    /// It is dialled no more.
    pub(crate) fn end(&mut self, dialled: Dialled) {
        self.refused.remove(&dialled);
    }

    /// What came of dialling: such a refusal, or anything else. How long all have refused by now.
    pub(crate) fn note(
        &mut self,
        dialled: Dialled,
        is_refusal: bool,
        is_any_linked: bool,
        now: Instant,
    ) -> Option<Duration> {
        if let Some(refused) = self.refused.get_mut(&dialled) {
            *refused = is_refusal;
        }
        if !is_refusal || is_any_linked || self.refused.values().any(|refused| !refused) {
            self.all_since = None;
            return None;
        }
        let since = *self.all_since.get_or_insert(now);
        Some(now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: bool = true;
    const LINKED: bool = true;

    #[test]
    fn all_that_are_dialled_must_refuse_without_a_link_in_between() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let since = |second| Some(Duration::from_secs(second));
        let (one, two) = (refusals.begin(), refusals.begin());
        assert_eq!(refusals.note(one, REFUSED, !LINKED, at(0)), None);
        assert_eq!(
            refusals.note(one, REFUSED, !LINKED, at(9)),
            None,
            "one is not all"
        );
        assert_eq!(refusals.note(two, REFUSED, !LINKED, at(10)), since(0));
        assert_eq!(refusals.note(one, REFUSED, !LINKED, at(13)), since(3));
        // One that is not reached says nothing.
        assert_eq!(refusals.note(two, !REFUSED, !LINKED, at(14)), None);
        assert_eq!(refusals.note(one, REFUSED, !LINKED, at(15)), None);
        assert_eq!(refusals.note(two, REFUSED, !LINKED, at(16)), since(0));
        assert_eq!(refusals.note(two, REFUSED, LINKED, at(17)), None, "it is linked");
        assert_eq!(refusals.note(two, REFUSED, !LINKED, at(18)), since(0));
        // One that is found later is waited for; one that is given up is not.
        let three = refusals.begin();
        assert_eq!(refusals.note(one, REFUSED, !LINKED, at(19)), None);
        refusals.end(three);
        assert_eq!(refusals.note(one, REFUSED, !LINKED, at(20)), since(0));
        assert_eq!(refusals.note(two, REFUSED, !LINKED, at(25)), since(5));
    }
}
