//! How many of a user's own counted entries lie at or below a seq: what MarkRead needs when it lands below them.
//!
//! Each counted entry stores its sender's running count, so one entry of theirs on either side of the seq tells. The two
//! sides are searched in turn, page by page, until one is met: the log below the head never changes in this respect, so it
//! may take its time outside the commit.

use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{Seq, UserId};
use whimbrel_store::{Direction, Snapshot};

use crate::env::Env;
use crate::failure::Failure;
use crate::keys::ConversationKeys;
use crate::log::decision::ReadPoint;
use crate::log::{Deadline, LogEntry};
use crate::values::decode;
use crate::values::storage::Member;

/// Entries read at a time.
const PAGE: usize = 256;

/// The read point of `user` at `seq`.
pub(crate) async fn read_point(
    snapshot: &dyn Snapshot,
    env: &Env,
    keys: &ConversationKeys,
    user: UserId,
    seq: Seq,
    deadline: Deadline,
) -> Result<ReadPoint, Failure> {
    let member = snapshot.get(&keys.member(user)).await?;
    let member: Member = decode(&member.ok_or_else(Failure::unknown_conversation)?)?;
    let last_own = Seq(member.last_own_seq);
    let at = |own_counted| Ok(ReadPoint { seq, own_counted });
    if last_own <= seq {
        return at(member.own_counted);
    }
    let mut above = Some(keys.entries(Seq(seq.0 + 1), last_own));
    let mut below = Some(keys.entries(Seq(1), seq));
    loop {
        if env.clock.monotonic() > deadline.0 {
            return Err(Failure::new(
                Code::DeadlineExceeded,
                format!(
                    "counting your entries up to {} took too long: mark a later entry",
                    seq.0
                ),
            ));
        }
        if let Some(range) = above.take() {
            let page = snapshot.scan(range, PAGE, Direction::Forward).await?;
            if let Some(own) = first_own(&page.entries, user)? {
                return at(own.sender_counted.saturating_sub(1));
            }
            above = page.next;
        }
        if let Some(range) = below.take() {
            let page = snapshot.scan(range, PAGE, Direction::Reverse).await?;
            if let Some(own) = first_own(&page.entries, user)? {
                return at(own.sender_counted);
            }
            below = page.next;
            if below.is_none() {
                return at(0);
            }
        }
    }
}

fn first_own(entries: &[(bytes::Bytes, bytes::Bytes)], user: UserId) -> Result<Option<LogEntry>, Failure> {
    for (_, value) in entries {
        let entry = LogEntry::decode(value)?;
        if entry.sender == user && entry.counts() {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}
