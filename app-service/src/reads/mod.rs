//! What is read of conversations: pages of entries and members, and one user's view of a conversation.
//!
//! Every read is of one snapshot and bounded, and shows a user what was there while they were a member, nothing else.

mod members;
mod own_counted;
mod pages;
mod view;

pub use members::list_members;
pub(crate) use members::{direct_members, load_roster, recipient, stored_uid};
pub(crate) use own_counted::read_point;
pub use pages::{pull, pull_changes};
pub use view::{View, conversation_info};

/// Bytes of entries in one page: with the answer's other fields they fit one frame (64 KiB).
const PAGE_BYTES_MAX: usize = 56 * 1024;

/// What was asked for, or `default` for 0, at most `max`.
fn page_limit(asked: u32, default: usize, max: usize) -> usize {
    match usize::try_from(asked) {
        Ok(0) => default,
        Ok(limit) => limit.min(max),
        Err(_) => max,
    }
}
