//! What the cluster sends to this gateway: pushes, and orders to close sessions.
//!
//! A push is acknowledged once the reactors have taken it, not when clients have: from there on a client either gets it or
//! syncs because of it.

use std::sync::OnceLock;

use prost::Message as _;
use whimbrel_link::{Handler, Reply};
use whimbrel_protocol::cluster::{CloseSessions, Envelope, Kind, PushRequest, PushResponse, Status};
use whimbrel_protocol::frame::PAYLOAD_LEN_MAX;

use crate::engine::Reach;

/// What is told to whoever comes before the reactors run, in milliseconds.
const STARTING_RETRY_AFTER_MS: u32 = 200;

/// What is told to whoever finds a reactor full of orders, in milliseconds.
const BUSY_RETRY_AFTER_MS: u32 = 100;

/// Sessions that one frame may name: a group of the largest size with several devices each.
const TARGETS_MAX: usize = 16_384;

/// Serves what routers pass on to this gateway.
#[derive(Default)]
pub(crate) struct Downward {
    reach: OnceLock<Reach>,
}

impl Downward {
    /// The reactors run.
    pub(crate) fn serve(&self, reach: Reach) {
        // Set once, at the start.
        let _first = self.reach.set(reach);
    }

    fn push(reach: &Reach, request: Envelope, reply: Reply) {
        let push = match PushRequest::decode(request.body) {
            Ok(push) => push,
            Err(error) => {
                return reply.fail(Status::BadRequest, format!("the push does not parse: {error}"), 0);
            }
        };
        if push.payload.len() > PAYLOAD_LEN_MAX || push.targets.len() > TARGETS_MAX {
            let detail = format!(
                "a push of {} bytes to {} sessions is over the bounds of {PAYLOAD_LEN_MAX} and {TARGETS_MAX}",
                push.payload.len(),
                push.targets.len(),
            );
            return reply.fail(Status::BadRequest, detail, 0);
        }
        if push.gateway_incarnation != reach.incarnation().0 {
            let response = PushResponse {
                accepted: 0,
                gone: push.targets,
            };
            return reply.ok(response.encode_to_vec().into());
        }
        reach.push(
            push.targets,
            (push.method, push.tracked),
            &push.payload,
            move |response| {
                reply.ok(response.encode_to_vec().into());
            },
        );
    }

    fn close(reach: &Reach, request: Envelope, reply: Reply) {
        let order = match CloseSessions::decode(request.body) {
            Ok(order) => order,
            Err(error) => {
                return reply.fail(
                    Status::BadRequest,
                    format!("the order does not parse: {error}"),
                    0,
                );
            }
        };
        if reach.close(order.gateway_incarnation, order.targets, order.reason) {
            reply.ok(bytes::Bytes::new());
        } else {
            reply.fail(
                Status::Overloaded,
                "a reactor has too many orders",
                BUSY_RETRY_AFTER_MS,
            );
        }
    }
}

impl Handler for Downward {
    fn handle(&self, request: Envelope, reply: Reply) {
        let Some(reach) = self.reach.get() else {
            return reply.fail(
                Status::Unavailable,
                "the gateway is starting",
                STARTING_RETRY_AFTER_MS,
            );
        };
        match request.kind() {
            Kind::Push => Self::push(reach, request, reply),
            Kind::CloseSessions => Self::close(reach, request, reply),
            kind => reply.fail(
                Status::BadRequest,
                format!("a gateway serves no {}", kind.as_str_name()),
                0,
            ),
        }
    }
}
