//! Asking and answering over an uplink: what the roles above program against.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use std::time::Duration;
use whimbrel_protocol::cluster::{Envelope, Status};

use crate::link::{Link, SendError};

/// Why a request has no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody to serve it; it was not started.
    #[error("nobody can serve the request now; try again in {retry_after_ms} ms")]
    Unavailable {
        /// When to try again, ms.
        retry_after_ms: u32,
    },
    /// A queue is full; it was not started.
    #[error("the cluster is overloaded; try again in {retry_after_ms} ms")]
    Overloaded {
        /// When to try again, ms.
        retry_after_ms: u32,
    },
    /// Whoever had it is gone; it may have been carried out.
    #[error(
        "the node that had the request is gone; whether it was carried out, a retry with the same operation id tells"
    )]
    Lost,
    /// No answer in time; it may have been carried out.
    #[error("the request was not answered within its deadline")]
    Deadline,
    /// The node it was addressed to is not linked.
    #[error("the addressed node is not linked")]
    UnknownNode,
    /// The request is at fault.
    #[error("the request was refused: {0}")]
    BadRequest(String),
    /// The server is at fault.
    #[error("the server failed: {0}")]
    Internal(String),
}

impl CallError {
    /// The error a response stands for; `None` when it went well.
    #[must_use]
    pub fn of(response: &Envelope) -> Option<Self> {
        let retry_after_ms = response.retry_after_ms;
        let detail = || response.detail.clone();
        Some(match Status::try_from(response.status) {
            Ok(Status::Ok) => return None,
            Ok(Status::Unavailable) => Self::Unavailable { retry_after_ms },
            Ok(Status::Overloaded) => Self::Overloaded { retry_after_ms },
            Ok(Status::Lost) => Self::Lost,
            Ok(Status::Deadline) => Self::Deadline,
            Ok(Status::UnknownNode) => Self::UnknownNode,
            Ok(Status::BadRequest) => Self::BadRequest(detail()),
            Ok(Status::Internal) => Self::Internal(detail()),
            Err(_) => Self::Internal(format!("status {} is of a later version", response.status)),
        })
    }
}

/// The way to ask the cluster something and wait for the answer.
#[async_trait]
pub trait Caller: Send + Sync {
    /// Sends `request` (its id and deadline are filled in) and returns the good answer.
    async fn call(&self, request: Envelope, deadline: Duration) -> Result<Envelope, CallError>;
}

/// Serves what routers send to this node.
pub trait Handler: Send + Sync {
    /// Takes a request. Runs on the uplink's task: it must spawn or queue, never block.
    fn handle(&self, request: Envelope, reply: Reply);
}

/// The one answer to one request. Dropped unanswered, it says INTERNAL, so that no asker waits in vain.
pub struct Reply {
    to: Option<(Link, Asked)>,
}

/// What an answer says of its request.
#[derive(Debug, Clone, Copy)]
struct Asked {
    id: u64,
    kind: i32,
    priority: i32,
}

impl Reply {
    /// The reply to a `request` that came by `link`, as urgent as that; id 0 wants none.
    #[must_use]
    pub fn new(link: Link, request: &Envelope) -> Self {
        let Envelope {
            id, kind, priority, ..
        } = *request;
        Self {
            to: (id != 0).then_some((link, Asked { id, kind, priority })),
        }
    }

    /// Answers well.
    pub fn ok(mut self, body: Bytes) {
        self.send(Envelope {
            body,
            ..Envelope::default()
        });
    }

    /// Answers badly; `retry_after_ms` 0 says nothing about when.
    pub fn fail(mut self, status: Status, detail: impl Into<String>, retry_after_ms: u32) {
        self.send(Envelope {
            status: status.into(),
            detail: detail.into(),
            retry_after_ms,
            ..Envelope::default()
        });
    }

    fn send(&mut self, response: Envelope) {
        let Some((link, Asked { id, kind, priority })) = self.to.take() else {
            return;
        };
        match link.try_send(Envelope {
            id,
            response: true,
            kind,
            priority,
            ..response
        }) {
            Ok(()) => {}
            Err(SendError::TooLarge(_)) => {
                let detail = "the answer is over the bound of a link".to_owned();
                let status = Status::Internal.into();
                // The asker's deadline covers an answer that finds the link full.
                let _ = link.try_send(Envelope {
                    id,
                    response: true,
                    kind,
                    priority,
                    status,
                    detail,
                    ..Envelope::default()
                });
            }
            Err(error) => tracing::debug!(%error, peer = %link.peer(), "an answer was not sent"),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let (status, detail) = (
            Status::Internal.into(),
            "the request was dropped unanswered".to_owned(),
        );
        self.send(Envelope {
            status,
            detail,
            ..Envelope::default()
        });
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reply").field(&self.to).finish()
    }
}
