//! What is logged of links that were not made: each reason of each peer once in a while, however often it tries. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Refusals of one kind are logged at most this often: whoever reaches the port can cause them without end.
const OF_ONE_KIND_AFTER: Duration = Duration::from_secs(1);
/// The same refusal of the same peer is logged again after this long: a node that is set up wrongly dials every second, and
/// whoever reads the log an hour later must still find it.
const OF_ONE_PEER_AFTER: Duration = Duration::from_secs(600);
/// Peers remembered; beyond, all are forgotten, and the bound of one kind holds alone.
const PEERS_MAX: usize = 1_024;

/// When refusals were last logged loudly.
#[derive(Debug, Default)]
pub(crate) struct Told {
    kinds: BTreeMap<&'static str, Instant>,
    peers: BTreeMap<(&'static str, String), Instant>,
}

impl Told {
    /// Whether this was logged not long ago; if not, it is now. `who` is the peer's name, where it is known, else its
    /// address.
    pub(crate) fn lately(&mut self, label: &'static str, who: String, now: Instant) -> bool {
        let passed =
            |at: Option<&Instant>, bound| at.is_none_or(|at| now.saturating_duration_since(*at) >= bound);
        let peer = (label, who);
        if !passed(self.kinds.get(label), OF_ONE_KIND_AFTER)
            || !passed(self.peers.get(&peer), OF_ONE_PEER_AFTER)
        {
            return true;
        }
        if self.peers.len() >= PEERS_MAX {
            self.peers.clear();
        }
        self.kinds.insert(label, now);
        self.peers.insert(peer, now);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn a_peer_that_tries_again_and_again_is_logged_once_in_a_while() {
        let (mut told, start) = (Told::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let logged: Vec<u64> = (0..1_300)
            .filter(|second| !told.lately("version", who("app-1"), at(*second)))
            .collect();
        assert_eq!(logged, [0, 600, 1_200]);
        assert!(
            !told.lately("wrong_secret", who("app-1"), at(1_300)),
            "another reason is news"
        );
        assert!(
            !told.lately("version", who("app-2"), at(1_300)),
            "and another peer"
        );
    }

    #[test]
    fn a_crowd_of_strangers_is_logged_once_a_second_and_takes_bounded_memory() {
        let (mut told, start) = (Told::default(), Instant::now());
        let logged = (0..20_000_u64)
            .filter(|nth| {
                !told.lately(
                    "not_a_link",
                    nth.to_string(),
                    start + Duration::from_millis(10 * nth),
                )
            })
            .count();
        assert_eq!(logged, 200);
        assert!(told.peers.len() <= PEERS_MAX);
    }
}
