//! How many descriptors this process may hold: what caps its connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// RLIMIT_NOFILE as the kernel has it now; `None` is "no limit".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawFdLimit {
    /// What holds now.
    pub soft: Option<u64>,
    /// How far this process may raise it.
    pub hard: Option<u64>,
}

impl RawFdLimit {
    /// The limit of this process.
    #[must_use]
    pub fn read() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        Self {
            soft: current,
            hard: maximum,
        }
    }

    /// Raises the soft limit to the hard one, as every server should at its start. Gives what holds afterwards, which is
    /// the old limit when the kernel refuses.
    #[must_use]
    pub fn raise_to_hard() -> Self {
        let before = Self::read();
        if before.soft != before.hard {
            let wanted = Rlimit {
                current: before.hard,
                maximum: before.hard,
            };
            if let Err(error) = setrlimit(Resource::Nofile, wanted) {
                tracing::warn!(soft = ?before.soft, hard = ?before.hard, %error, "RLIMIT_NOFILE stays as it was");
            }
        }
        Self::read()
    }

    /// Descriptors left for connections when `reserved` are kept for listeners, links, files and the runtime.
    #[must_use]
    pub fn for_connections(self, reserved: u64) -> u64 {
        self.soft.unwrap_or(u64::MAX).saturating_sub(reserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_reaches_the_hard_limit_and_never_lowers() {
        let before = RawFdLimit::read();
        let after = RawFdLimit::raise_to_hard();
        assert_eq!(after.soft, after.hard);
        assert!(after.soft.unwrap_or(u64::MAX) >= before.soft.unwrap_or(u64::MAX));
    }

    #[test]
    fn what_is_reserved_is_not_for_connections() {
        let limit = RawFdLimit {
            soft: Some(100),
            hard: Some(100),
        };
        assert_eq!(limit.for_connections(30), 70);
        assert_eq!(limit.for_connections(300), 0);
    }
}
