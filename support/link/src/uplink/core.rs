//! The uplink's table: which requests are out on which of the [`Routers`]. Pure; `now`, randomness and the way out are
//! handed in.
//!
//! When the router of a request goes away, or has nobody to serve it, it is sent once more through another. What is sent
//! again carries `hops` 1: a router may have passed it on already, so the next one does not retry it on its own account.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;
use whimbrel_protocol::cluster::Envelope;
use whimbrel_protocol::ids::NodeId;

use super::call::CallError;
use super::routers::Routers;
use crate::identity::LinkId;
use crate::link::SendError;

/// Requests that may be out at once: a gateway's whole burst of a second or two. Each holds its envelope.
pub(crate) const PENDING_MAX: usize = 65_536;
/// What is told to whoever finds no router: about the time a dialler needs to find one again.
const RETRY_AFTER_MS: u32 = 500;
/// What is told to whoever finds every queue full: queues drain in tens of milliseconds.
const OVERLOADED_RETRY_AFTER_MS: u32 = 200;

/// The way out: hands an envelope to a router's link.
pub(crate) type Outlet<'a> = dyn FnMut(LinkId, Envelope) -> Result<(), SendError> + 'a;

/// `D` is what waits for an answer.
#[derive(Debug)]
pub(crate) struct Core<D> {
    routers: Routers,
    pending: BTreeMap<u64, Pending<D>>,
    deadlines: BTreeSet<(Duration, u64)>,
    next_id: u64,
}

#[derive(Debug)]
struct Pending<D> {
    request: Envelope,
    router: LinkId,
    sent_again: bool,
    deadline_at: Duration,
    done: D,
}

/// An answer, or why there is none, for whoever waits.
pub(crate) type Settled<D> = (D, Result<Envelope, CallError>);

impl<D> Core<D> {
    pub(crate) fn new() -> Self {
        Self {
            routers: Routers::default(),
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_id: 1,
        }
    }

    pub(crate) fn routers(&self) -> usize {
        self.routers.len()
    }

    /// Those of them that say that they can serve.
    pub(crate) fn ready_routers(&self) -> usize {
        self.routers.ready()
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(crate) fn handle_router_up(&mut self, link: LinkId, node: NodeId, own_zone: bool) {
        self.routers.add(link, node, own_zone);
    }

    /// A router says whether it wants new work.
    pub(crate) fn handle_readiness(&mut self, link: LinkId, ready: bool) {
        self.routers.set_ready(link, ready);
    }

    /// Sends a request that waits at most `wait`; gives `done` back when it could not be sent.
    pub(crate) fn submit(
        &mut self,
        now: Duration,
        request: Envelope,
        wait: Duration,
        done: D,
        rng: &mut (impl Rng + ?Sized),
        outlet: &mut Outlet<'_>,
    ) -> Option<Settled<D>> {
        if self.pending.len() >= PENDING_MAX {
            return Some((done, Err(overloaded())));
        }
        let deadline_at = now.saturating_add(wait);
        match self.send(now, deadline_at, &request, 0, None, rng, outlet) {
            Ok((id, router)) => {
                let pending = Pending {
                    request,
                    router,
                    sent_again: false,
                    deadline_at,
                    done,
                };
                self.remember(id, pending);
                None
            }
            Err(error) => Some((done, Err(error))),
        }
    }

    /// An answer came. `None` for one that nobody waits for any more, or that came the wrong way.
    pub(crate) fn handle_response(
        &mut self,
        now: Duration,
        link: LinkId,
        response: Envelope,
        rng: &mut (impl Rng + ?Sized),
        outlet: &mut Outlet<'_>,
    ) -> Option<Settled<D>> {
        if self.pending.get(&response.id)?.router != link {
            return None;
        }
        let pending = self.forget(response.id)?;
        let outcome = match CallError::of(&response) {
            None => Ok(response),
            // A router that has just started knows nobody yet; another may know whom the request is for.
            Some(error @ (CallError::Unavailable { .. } | CallError::UnknownNode)) => {
                return self.send_again(now, pending, error, rng, outlet);
            }
            Some(error) => Err(error),
        };
        Some((pending.done, outcome))
    }

    /// A router is gone: what it had is sent again or settled.
    pub(crate) fn handle_router_down(
        &mut self,
        now: Duration,
        link: LinkId,
        rng: &mut (impl Rng + ?Sized),
        outlet: &mut Outlet<'_>,
    ) -> Vec<Settled<D>> {
        self.routers.remove(link);
        let orphans: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.router == link)
            .map(|(id, _)| *id)
            .collect();
        orphans
            .into_iter()
            .filter_map(|id| {
                let pending = self.forget(id)?;
                self.send_again(now, pending, CallError::Lost, rng, outlet)
            })
            .collect()
    }

    /// Settles what has waited long enough.
    pub(crate) fn handle_timeout(&mut self, now: Duration) -> Vec<Settled<D>> {
        let mut settled = Vec::new();
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
            && let Some(pending) = self.forget(id)
        {
            settled.push((pending.done, Err(CallError::Deadline)));
        }
        settled
    }

    /// Settles everything: the endpoint is gone.
    pub(crate) fn handle_closed(&mut self) -> Vec<Settled<D>> {
        self.routers = Routers::default();
        self.deadlines.clear();
        std::mem::take(&mut self.pending)
            .into_values()
            .map(|pending| (pending.done, Err(CallError::Lost)))
            .collect()
    }

    /// Once more through another router, or `error` for whoever waits.
    fn send_again(
        &mut self,
        now: Duration,
        pending: Pending<D>,
        error: CallError,
        rng: &mut (impl Rng + ?Sized),
        outlet: &mut Outlet<'_>,
    ) -> Option<Settled<D>> {
        if pending.sent_again || pending.deadline_at <= now {
            return Some((pending.done, Err(error)));
        }
        let avoid = Some(pending.router);
        match self.send(now, pending.deadline_at, &pending.request, 1, avoid, rng, outlet) {
            Ok((id, router)) => {
                self.remember(
                    id,
                    Pending {
                        router,
                        sent_again: true,
                        ..pending
                    },
                );
                None
            }
            Err(_) => Some((pending.done, Err(error))),
        }
    }

    /// Hands a copy of the request to a router other than `avoid`; its id and that router.
    #[expect(
        clippy::too_many_arguments,
        reason = "the inputs of one decision; a struct would only rename them"
    )]
    fn send(
        &mut self,
        now: Duration,
        deadline_at: Duration,
        request: &Envelope,
        hops: u32,
        avoid: Option<LinkId>,
        rng: &mut (impl Rng + ?Sized),
        outlet: &mut Outlet<'_>,
    ) -> Result<(u64, LinkId), CallError> {
        let (first, second) = self.routers.choose(&request.to_node, avoid, rng);
        let Some(first) = first else {
            return Err(CallError::Unavailable {
                retry_after_ms: RETRY_AFTER_MS,
            });
        };
        let id = self.next_id;
        self.next_id += 1;
        let left_ms = deadline_at.saturating_sub(now).as_millis();
        let mut copy = request.clone();
        copy.id = id;
        copy.hops = hops;
        copy.deadline_ms = u32::try_from(left_ms).unwrap_or(u32::MAX).max(1);
        let mut error = match outlet(first, copy) {
            Ok(()) => return Ok((id, first)),
            Err(error) => error,
        };
        if let Some(second) = second
            && !matches!(error, SendError::TooLarge(_))
        {
            error = match outlet(second, error.into_envelope()) {
                Ok(()) => return Ok((id, second)),
                Err(error) => error,
            };
        }
        Err(match error {
            SendError::Full(_) => overloaded(),
            SendError::Closed(_) => CallError::Unavailable {
                retry_after_ms: RETRY_AFTER_MS,
            },
            SendError::TooLarge(_) => CallError::BadRequest(error.to_string()),
        })
    }

    fn remember(&mut self, id: u64, pending: Pending<D>) {
        self.routers.note_sent(pending.router);
        self.deadlines.insert((pending.deadline_at, id));
        self.pending.insert(id, pending);
    }

    fn forget(&mut self, id: u64) -> Option<Pending<D>> {
        let pending = self.pending.remove(&id)?;
        self.deadlines.remove(&(pending.deadline_at, id));
        self.routers.note_settled(pending.router);
        Some(pending)
    }
}

fn overloaded() -> CallError {
    CallError::Overloaded {
        retry_after_ms: OVERLOADED_RETRY_AFTER_MS,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
