//! What a peer gets, as far as the shared modules ask for it: the attacks here are judged by what others notice.

use whimbrel_protocol::answer::RejectReason;
use whimbrel_protocol::close::CloseReason;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gets {
    /// The connection ended without a word.
    Silence,
    /// A reject.
    Reject(RejectReason),
    /// The descriptor.
    StaleKey,
    /// A CLOSE.
    Close(CloseReason),
    /// Service as ever.
    Served,
}
