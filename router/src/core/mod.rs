//! The router's decisions as one state machine. Pure: links, frames and time go in, [`Action`]s come out.
//!
//! Legal order, per link: `handle_link_up`, any number of `handle_frame` and `handle_send_failed`, `handle_link_down`.
//! `handle_timeout` is called when [`Core::next_timeout`] has come; calling it early is harmless. `now` never goes back.
//!
//! A request is retried here once, on another node, when the node that had it dies, falls silent, is full or says that
//! it cannot serve: only a request placed by role, and only by the first router it meets (`hops` 0). Whatever else
//! befalls it is told to the asker, who knows whether asking again is safe.

mod clock;
mod nodes;
mod readiness;
mod refusal;
#[cfg(test)]
mod tests;
mod told;
mod view;

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_link::{Identity, LinkId};
use whimbrel_protocol::cluster::{Envelope, Kind, Priority, Probe, ProbeResponse, Role, Status};
use whimbrel_registry::rendezvous::mix;

use self::clock::clock_ms;
use self::nodes::{NoPlace, Nodes, Wanted};
pub(crate) use self::readiness::NOBODY_SERVES;
use self::refusal::Refusal;
use self::told::Told;
use crate::config::RouterConfig;
use crate::health::Due;
use crate::pending::{Asked, Pending, PendingTable};

/// Routers one request may pass: from its own to the one that has the addressed node, with one to spare.
const HOPS_MAX: u32 = 4;
/// The longest a request may wait, whatever its asker says: what it holds here is bounded in time, too.
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Hand an envelope to a link; when it refuses, say so by `handle_send_failed`.
    Send(LinkId, Envelope),
    /// Ask the registry at home here, and answer this request of `asker`.
    Registry { asker: LinkId, request: Envelope },
}

/// Why a link did not take an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendFailure {
    /// Its queue is full.
    Full,
    /// It is down.
    Closed,
    /// The envelope is more than any link carries.
    TooLarge,
}

/// What the outcome of a request says of the node that had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Served,
    /// It says that it cannot serve, and has not begun.
    TurnedAway,
    Failed,
}

/// What has happened so far; the shell publishes it. See `meter` for the meanings.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) switched: u64,
    pub(crate) answered: u64,
    pub(crate) retried: u64,
    pub(crate) lost: u64,
    pub(crate) expired: u64,
    pub(crate) refused_overloaded: u64,
    pub(crate) refused_unavailable: u64,
    pub(crate) refused_unknown_node: u64,
    pub(crate) refused_bad_request: u64,
    pub(crate) dropped: u64,
    pub(crate) ejections: u64,
    pub(crate) silences: u64,
}

/// One router.
#[derive(Debug)]
pub(crate) struct Core {
    config: RouterConfig,
    own: Identity,
    /// Whether the registry's home is here.
    serves_registry: bool,
    nodes: Nodes,
    pending: PendingTable,
    draining: bool,
    /// Whether there was a fit service node when the linked nodes were last told.
    serves: bool,
    /// How far this machine's clock is ahead of most, ms, if that is too much; else 0.
    own_ahead_ms: i64,
    counts: Counts,
    /// What the log is told of requests.
    told: Told,
}

impl Core {
    pub(crate) fn new(config: RouterConfig, own: Identity, serves_registry: bool) -> Self {
        let pending = PendingTable::new(config.pending_max);
        let (nodes, counts) = (Nodes::in_zone(own.zone.clone()), Counts::default());
        Self {
            config,
            own,
            serves_registry,
            nodes,
            pending,
            draining: false,
            serves: false,
            own_ahead_ms: 0,
            counts,
            told: Told::default(),
        }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many requests are out.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many nodes of a role are linked, and how many of them are fit.
    pub(crate) fn nodes(&self, now: Duration, role: Role) -> (usize, usize) {
        self.nodes.count(now, role)
    }

    /// A node is there.
    pub(crate) fn handle_link_up(
        &mut self,
        now: Duration,
        link: LinkId,
        peer: Identity,
        out: &mut Vec<Action>,
    ) {
        self.nodes.insert(now, link, peer);
        out.push(Action::Send(link, self.readiness(link, 0)));
        self.tell_changes(now, out);
        self.probe(now, link, out);
    }

    /// A node is gone: what it had goes elsewhere or is lost, what it asked nobody waits for.
    pub(crate) fn handle_link_down(&mut self, now: Duration, link: LinkId, out: &mut Vec<Action>) {
        self.nodes.remove(now, link);
        for pending in self.pending.remove_all_of_asker(link) {
            self.forget_outstanding(pending.target);
        }
        self.fail_over_all(now, link, out);
        self.tell_changes(now, out);
    }

    /// A node said something.
    pub(crate) fn handle_frame(
        &mut self,
        now: Duration,
        link: LinkId,
        envelope: Envelope,
        out: &mut Vec<Action>,
    ) {
        if envelope.response {
            self.handle_response(now, link, envelope, out);
            return;
        }
        let is_for_this_node = envelope.to_node.is_empty() || envelope.to_node == self.own.node.as_str();
        match Kind::try_from(envelope.kind) {
            Ok(Kind::Probe) => out.push(Action::Send(link, self.readiness(link, envelope.id))),
            Ok(Kind::Registry) if is_for_this_node && self.serves_registry => {
                let (asker, request) = (link, envelope);
                out.push(Action::Registry { asker, request });
            }
            _ => self.switch(now, link, envelope, out),
        }
    }

    /// A link did not take what an action gave it.
    pub(crate) fn handle_send_failed(
        &mut self,
        now: Duration,
        link: LinkId,
        envelope: &Envelope,
        failure: SendFailure,
        out: &mut Vec<Action>,
    ) {
        if envelope.response || envelope.id == 0 {
            self.counts.dropped += 1;
            // It would go by what it was told before until that changes again.
            if envelope.kind() == Kind::Probe
                && let Some(node) = self.nodes.get_mut(link)
            {
                node.is_untold = true;
            }
            return;
        }
        // Probes have no entry: their silence speaks for itself.
        let Some(pending) = self.pending.remove_of(envelope.id, link) else {
            return;
        };
        self.forget_outstanding(link);
        let refusal = match failure {
            SendFailure::Full => Refusal::overloaded("the node's link is full"),
            SendFailure::Closed => Refusal::unavailable("the node's link is down"),
            SendFailure::TooLarge => {
                // No other node's link carries it either.
                let detail = "the request is over the bound of a link";
                let refusal = Refusal::of(Status::BadRequest, detail);
                self.refuse_pending(now, &pending, refusal, out);
                return;
            }
        };
        self.fail_over(now, pending, refusal, out);
    }

    /// When `handle_timeout` next has something to do.
    pub(crate) fn next_timeout(&mut self) -> Option<Duration> {
        let probes = self
            .nodes
            .iter_mut()
            .map(|(_, node)| node.health.next_timeout())
            .min();
        [probes, self.pending.next_deadline()].into_iter().flatten().min()
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Duration, out: &mut Vec<Action>) {
        while let Some(pending) = self.pending.pop_expired(now) {
            self.counts.expired += 1;
            self.forget_outstanding(pending.target);
            if self.had_time(&pending) {
                self.judge(now, pending.target, Verdict::Failed);
            }
            let refusal = Refusal::of(Status::Deadline, "no answer in time");
            self.refuse_pending(now, &pending, refusal, out);
        }
        let mut due = Vec::new();
        for (link, node) in self.nodes.iter_mut() {
            due.extend(node.health.handle_timeout(now).into_iter().map(|due| (link, due)));
        }
        for (link, due) in due {
            match due {
                Due::Probe => self.probe(now, link, out),
                Due::WentSilent => {
                    self.counts.silences += 1;
                    if let Some(node) = self.nodes.get(link) {
                        tracing::warn!(node = %node.identity, "the node answers no probes: it gets no work");
                    }
                    self.fail_over_all(now, link, out);
                }
            }
        }
        self.tell_changes(now, out);
    }

    /// Whether being late says something about the node: who gives it less time than a probe gets learns nothing.
    fn had_time(&self, pending: &Pending) -> bool {
        pending.given >= self.config.probe_timeout
    }

    /// Finds a node for a request and passes it on, or says why not.
    fn switch(&mut self, now: Duration, asker: LinkId, envelope: Envelope, out: &mut Vec<Action>) {
        let asked = Asked::of(asker, &envelope);
        if envelope.hops >= HOPS_MAX {
            let refusal = Refusal::of(Status::BadRequest, "the request went in circles between routers");
            self.refuse(now, &asked, refusal, out);
            return;
        }
        if !self.pending.has_room(envelope.priority) {
            let refusal = Refusal::overloaded("too many requests are waiting at the router");
            self.refuse(now, &asked, refusal, out);
            return;
        }
        let wait = match envelope.deadline_ms {
            0 => self.config.deadline_default,
            ms => Duration::from_millis(ms.into()).min(DEADLINE_MAX),
        };
        let target = match self.target(now, asker, None, &envelope) {
            Ok(target) => target,
            Err(refusal) => {
                self.refuse(now, &asked, refusal, out);
                return;
            }
        };
        let may_retry = asked.id != 0 && envelope.hops == 0 && envelope.to_node.is_empty();
        let mut pending = Pending {
            asked,
            target,
            deadline_at: now + wait,
            given: wait,
            kept: None,
        };
        let mut passed_on = envelope;
        if passed_on.from_node.is_empty()
            && let Some(node) = self.nodes.get(asker)
        {
            passed_on.from_node = node.identity.node.as_str().to_owned();
        }
        if may_retry {
            pending.kept = Some(Box::new(passed_on.clone()));
        }
        self.counts.switched += 1;
        self.pass_on(now, pending, passed_on, out);
    }

    /// Whom a request goes to.
    fn target(
        &mut self,
        now: Duration,
        asker: LinkId,
        avoid: Option<LinkId>,
        envelope: &Envelope,
    ) -> Result<LinkId, Refusal> {
        if !envelope.to_node.is_empty() {
            let link = self.nodes.named(&envelope.to_node);
            let node = link.and_then(|link| self.nodes.get(link));
            let (Some(link), Some(node)) = (link, node) else {
                return Err(Refusal::of(
                    Status::UnknownNode,
                    "the addressed node is not linked",
                ));
            };
            if node.health.is_silent() {
                return Err(Refusal::unavailable("the addressed node is silent"));
            }
            if node.is_full() {
                return Err(Refusal::overloaded(
                    "the addressed node has more than it can serve",
                ));
            }
            return Ok(link);
        }
        // Without affinity there is nothing to keep together: the id spreads.
        let key = match envelope.affinity {
            0 => mix(self.pending.new_id()),
            affinity => mix(affinity.into()),
        };
        // A router that passes on for want of a node must not hand it back.
        let back = (envelope.to_role == i32::from(Role::Router)).then_some(asker);
        let wanted = Wanted {
            role: envelope.to_role,
            app_key: &envelope.app_key,
            key,
            avoid: [avoid, back],
        };
        self.nodes.place(now, wanted).map_err(|reason| match reason {
            NoPlace::NobodyFit => Refusal::unavailable("no node of that role is ready"),
            NoPlace::AllFull => Refusal::overloaded("all nodes of that role have more than they can serve"),
        })
    }

    /// Sends a request to its target and remembers it.
    fn pass_on(
        &mut self,
        now: Duration,
        mut pending: Pending,
        mut envelope: Envelope,
        out: &mut Vec<Action>,
    ) {
        let target = pending.target;
        if tracing::enabled!(tracing::Level::DEBUG)
            && pending.asked.trace.is_some()
            && let Some(node) = self.nodes.get(target)
        {
            tracing::debug!(trace = %pending.asked.trace, to = %node.identity.node, hops = envelope.hops, "a request is passed on");
        }
        pending.given = pending.deadline_at.saturating_sub(now);
        let left_ms = pending.given.as_millis();
        envelope.deadline_ms = u32::try_from(left_ms).unwrap_or(u32::MAX).max(1);
        envelope.hops = envelope.hops.saturating_add(1);
        if pending.asked.id != 0 {
            let id = self.pending.new_id();
            envelope.id = id;
            self.pending.insert(id, pending);
            if let Some(node) = self.nodes.get_mut(target) {
                node.outstanding += 1;
            }
        }
        out.push(Action::Send(target, envelope));
    }

    fn handle_response(&mut self, now: Duration, link: LinkId, response: Envelope, out: &mut Vec<Action>) {
        let Some(node) = self.nodes.get_mut(link) else {
            return;
        };
        let unasked = response.id == 0 && response.kind == i32::from(Kind::Probe);
        if unasked || node.health.handle_probe_answered(response.id) {
            // A node that answers nonsense is not ready.
            let told = ProbeResponse::decode(response.body).unwrap_or_default();
            if told.utc_ms > 0 {
                node.clock_ms = Some(clock_ms(now, told.utc_ms));
            }
            node.health.handle_told(now, told);
            self.tell_changes(now, out);
            return;
        }
        // Late, or never asked: nobody waits for it.
        let Some(pending) = self.pending.remove_of(response.id, link) else {
            return;
        };
        self.forget_outstanding(link);
        let status = Status::try_from(response.status).unwrap_or(Status::Internal);
        let verdict = match status {
            Status::Unavailable => Verdict::TurnedAway,
            Status::Internal | Status::Deadline | Status::Lost => Verdict::Failed,
            _ => Verdict::Served,
        };
        if status != Status::Deadline || self.had_time(&pending) {
            self.judge(now, link, verdict);
        }
        if status == Status::Unavailable && pending.kept.is_some() {
            let refusal = Refusal {
                status,
                detail: response.detail.into(),
                retry_after_ms: response.retry_after_ms,
            };
            self.fail_over(now, pending, refusal, out);
            return;
        }
        self.counts.answered += 1;
        self.told.answered(now, &pending);
        let answer = Envelope {
            status: response.status,
            detail: response.detail,
            retry_after_ms: response.retry_after_ms,
            body: response.body,
            ..pending.asked.answer()
        };
        out.push(Action::Send(pending.asked.by, answer));
    }

    /// Everything `link` has goes elsewhere or is lost.
    fn fail_over_all(&mut self, now: Duration, link: LinkId, out: &mut Vec<Action>) {
        for pending in self.pending.remove_all_of_target(link) {
            self.forget_outstanding(link);
            let refusal = Refusal::of(Status::Lost, "the node that had the request is gone or silent");
            self.fail_over(now, pending, refusal, out);
        }
    }

    /// One request goes to another node, if it may; else its asker is told `refusal`.
    fn fail_over(&mut self, now: Duration, mut pending: Pending, refusal: Refusal, out: &mut Vec<Action>) {
        if let Some(kept) = pending.kept.take()
            && pending.deadline_at > now
            && let Ok(target) = self.target(now, pending.asked.by, Some(pending.target), &kept)
        {
            self.counts.retried += 1;
            self.told.goes_elsewhere(now, pending.asked.trace, &refusal);
            self.pass_on(now, Pending { target, ..pending }, *kept, out);
            return;
        }
        self.refuse_pending(now, &pending, refusal, out);
    }

    /// Refuses what was passed on, or was to be.
    fn refuse_pending(&mut self, now: Duration, pending: &Pending, refusal: Refusal, out: &mut Vec<Action>) {
        self.refuse(now, &pending.asked, refusal, out);
    }

    fn refuse(&mut self, now: Duration, asked: &Asked, refusal: Refusal, out: &mut Vec<Action>) {
        self.told.refused(now, asked.trace, &refusal);
        let counts = &mut self.counts;
        match refusal.status {
            Status::Overloaded => counts.refused_overloaded += 1,
            Status::Unavailable => counts.refused_unavailable += 1,
            Status::UnknownNode => counts.refused_unknown_node += 1,
            Status::BadRequest => counts.refused_bad_request += 1,
            Status::Lost => counts.lost += 1,
            Status::Ok | Status::Deadline | Status::Internal => {}
        }
        if asked.id != 0 {
            let Refusal {
                status,
                detail,
                retry_after_ms,
            } = refusal;
            let (status, detail) = (status.into(), detail.into_owned());
            let answer = Envelope {
                status,
                detail,
                retry_after_ms,
                ..asked.answer()
            };
            out.push(Action::Send(asked.by, answer));
        }
    }

    /// Books on a node's health what has become of a request.
    fn judge(&mut self, now: Duration, link: LinkId, verdict: Verdict) {
        let Some(role) = self.nodes.get(link).map(|node| node.identity.role) else {
            return;
        };
        if verdict == Verdict::Served {
            if let Some(node) = self.nodes.get_mut(link) {
                node.health.handle_success(now);
            }
            return;
        }
        let pool = self.nodes.pool_of(link, role);
        let Some(node) = self.nodes.get_mut(link) else {
            return;
        };
        let ejected = if verdict == Verdict::TurnedAway {
            node.health.handle_turned_away(now, pool)
        } else {
            node.health.handle_failure(now, pool)
        };
        if ejected {
            self.counts.ejections += 1;
            tracing::warn!(node = %node.identity, "the node failed requests in a row: it rests a while, and is then tried");
        }
    }

    fn forget_outstanding(&mut self, link: LinkId) {
        if let Some(node) = self.nodes.get_mut(link) {
            node.outstanding = node.outstanding.saturating_sub(1);
        }
    }

    fn probe(&mut self, now: Duration, link: LinkId, out: &mut Vec<Action>) {
        let id = self.pending.new_id();
        let Some(node) = self.nodes.get_mut(link) else {
            return;
        };
        node.health
            .handle_probe_sent(now, id, self.config.probe_interval, self.config.probe_timeout);
        let is_untold = std::mem::take(&mut node.is_untold);
        let (kind, priority) = (Kind::Probe.into(), Priority::Control.into());
        let clock_ahead_ms = node.health.clock_ahead_ms();
        let body = Bytes::from(Probe { clock_ahead_ms }.encode_to_vec());
        out.push(Action::Send(
            link,
            Envelope {
                id,
                kind,
                priority,
                body,
                ..Envelope::default()
            },
        ));
        if is_untold {
            out.push(Action::Send(link, self.readiness(link, 0)));
        }
    }
}
