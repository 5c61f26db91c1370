//! Lines of a log that many events would write at once: so many a second, and how many more there were.
//!
//! A cluster under overload refuses thousands of requests a second, and a line for each would be work of its own.

use std::sync::Mutex;
use std::time::Duration;

/// Lines a second: enough to see what kinds there are, and a few KiB of log.
const LINES_A_SECOND: u32 = 20;

/// One kind of line. Whoever writes it asks first.
#[derive(Debug, Default)]
pub struct Sparing(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    second: u64,
    written: u32,
    /// Not written since the last that was.
    left_out: u64,
}

impl Sparing {
    /// Whether one more line may be written at `now`, on any clock that never goes back; if so, how many were left out before it.
    pub fn allows(&self, now: Duration) -> Option<u64> {
        let mut window = self.0.lock().expect("nothing panics while it holds this lock");
        if window.second != now.as_secs() {
            window.second = now.as_secs();
            window.written = 0;
        }
        if window.written >= LINES_A_SECOND {
            window.left_out += 1;
            return None;
        }
        window.written += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_are_written_and_the_others_counted() {
        let (sparing, now) = (Sparing::default(), Duration::from_millis(7_300));
        let written = (0..50).filter(|_| sparing.allows(now).is_some()).count();
        assert_eq!(written, 20);
        assert_eq!(sparing.allows(now + Duration::from_secs(1)), Some(30));
        assert_eq!(sparing.allows(now + Duration::from_secs(1)), Some(0));
    }
}
