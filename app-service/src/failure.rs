//! Why an operation was not carried out, as its asker is told.

use whimbrel_protocol::code::{Code, Retry};
use whimbrel_protocol::ids::IdError;
use whimbrel_store::StoreError;

use crate::values::ValueError;

/// Told to those whom the store refuses: long enough for it to be reopened.
const STORE_RETRY_AFTER_MS: u32 = 1_000;

/// An operation that failed: the code for the client's program, the message for its developer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (code {})", code.number())]
pub struct Failure {
    /// What the client acts upon.
    pub code: Code,
    /// English, for developers: names the thing, the value and what was expected.
    pub message: String,
    /// When to try again; 0 leaves it to the client.
    pub retry_after_ms: u32,
}

impl Failure {
    /// A failure that says no when to try again.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after_ms: 0,
        }
    }

    /// A failure that may pass.
    pub fn later(code: Code, message: impl Into<String>, retry_after_ms: u32) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after_ms,
        }
    }

    /// A field out of its bounds.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// No such conversation, or none of the asker's: the two must look alike.
    pub(crate) fn unknown_conversation() -> Self {
        Self::new(
            Code::UnknownConversation,
            "no such conversation among those you are or were in: ask for its id again, or open it first",
        )
    }

    /// Once a member, and no more.
    pub(crate) fn not_member() -> Self {
        Self::new(
            Code::NotMember,
            "you are no member of this conversation any more: somebody must invite you again",
        )
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.code.retry() == Retry::Later
    }
}

impl From<IdError> for Failure {
    fn from(error: IdError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        // Folders, addresses and bytes of the store are the operator's business, not an asker's.
        match error {
            StoreError::OutOfSpace { .. } => Self::later(
                Code::StoreReadOnly,
                "nothing can be written now, reads go on: try again later",
                STORE_RETRY_AFTER_MS,
            ),
            _ if error.is_transient() || matches!(error, StoreError::Closed) => {
                tracing::debug!(%error, "the store does not serve this now");
                Self::later(
                    Code::Unavailable,
                    "the store cannot be reached now: try again later",
                    STORE_RETRY_AFTER_MS,
                )
            }
            _ => {
                tracing::error!(%error, "the store refused what it never should have been asked, or is damaged");
                Self::new(Code::Internal, "a fault of the server; its log says more")
            }
        }
    }
}

impl From<ValueError> for Failure {
    fn from(error: ValueError) -> Self {
        tracing::error!(%error, "a stored value cannot be read");
        Self::new(Code::Internal, "a fault of the server; its log says more")
    }
}
