//! How processes ended: those that were told to while the run went on, which must go by themselves, in time and with success, and
//! those that ended otherwise.

use serde_json::{Value, json};
use whimbrel_cluster::{Drained, Member};

/// How the nodes' processes ended.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Lines of logs that say that something panicked.
    pub(super) panics: Vec<String>,
    /// Those that were told to end while the run went on.
    pub(super) drained: Vec<Drained>,
    /// Those that had to be killed at its end.
    pub(super) killed: Vec<Member>,
}

impl Ends {
    /// What was not as it is to be, a line each.
    pub(super) fn wrong(&self) -> impl Iterator<Item = String> {
        let panics = self.panics.iter().map(|line| format!("panicked: {line}"));
        let drains = self.drained.iter().filter(|one| !one.is_in_order());
        let drains = drains.map(|one| {
            let (member, status, took) = (one.member, one.status, one.took.as_secs_f64());
            match one.killed {
                true => format!("did not drain in time, and was killed after {took:.1} s: {member}"),
                false => format!("drained for {took:.1} s and ended with {status}: {member}"),
            }
        });
        let killed = self.killed.iter();
        let killed = killed.map(|member| format!("did not drain at the end: {member}"));
        panics.chain(drains).chain(killed)
    }

    /// Those that were told to end, and how they did.
    pub(super) fn drains_json(&self) -> Vec<Value> {
        let of = |one: &Drained| {
            json!({
                "node": one.member.to_string(),
                "took_s": one.took.as_secs_f64(),
                "in_order": one.is_in_order(),
            })
        };
        self.drained.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;
    use std::time::Duration;

    use whimbrel_cluster::Role;

    use super::*;

    #[test]
    fn who_was_told_to_end_must_do_so_by_itself_and_with_success() {
        let wrong = |status, killed| {
            let member = Member {
                role: Role::Gateway,
                nth: 1,
            };
            let drained = Drained {
                member,
                status: ExitStatus::from_raw(status),
                took: Duration::from_secs(2),
                killed,
            };
            let ends = Ends {
                drained: vec![drained],
                ..Ends::default()
            };
            ends.wrong().collect::<Vec<_>>()
        };
        assert!(wrong(0, false).is_empty());
        let killed = "did not drain in time, and was killed after 2.0 s: gateway-2";
        assert_eq!(wrong(9, true), [killed]);
        assert_eq!(wrong(0, true), [killed], "it went at the very last");
        let failed = "drained for 2.0 s and ended with exit status: 1: gateway-2";
        assert_eq!(wrong(256, false), [failed]);
    }
}
