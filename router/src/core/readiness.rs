//! What the router says of itself, and when it says so unasked. Pure.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_link::LinkId;
use whimbrel_protocol::cluster::{Envelope, Kind, Priority, ProbeResponse, Role};

use super::{Action, Core};

/// What a router says of itself while it knows no fit service node.
pub(crate) const NOBODY_SERVES: &str = "no service node is ready";

impl Core {
    /// Why this router is not to be asked, if so.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        match (self.draining, self.serves) {
            (true, _) => Some("draining"),
            (false, false) => Some(NOBODY_SERVES),
            (false, true) => None,
        }
    }

    /// This router is about to leave: whoever has another one shall use that.
    pub(crate) fn handle_drain(&mut self, out: &mut Vec<Action>) {
        self.draining = true;
        self.tell_all(out);
    }

    /// Tells every node when the first service node has become fit, or the last has ceased to be.
    pub(super) fn tell_changes(&mut self, now: Duration, out: &mut Vec<Action>) {
        let (_, fit) = self.nodes.count(now, Role::AppService);
        if std::mem::replace(&mut self.serves, fit > 0) != self.serves {
            self.tell_all(out);
        }
    }

    fn tell_all(&self, out: &mut Vec<Action>) {
        let links = self.nodes.links();
        out.extend(links.map(|link| Action::Send(link, self.readiness(link, 0))));
    }

    /// What this router says of itself to a node: the answer to probe `id`, or with 0 unasked. Other routers, which come
    /// for the registry, are not told that a service node is wanting.
    pub(super) fn readiness(&self, link: LinkId, id: u64) -> Envelope {
        let asks_for_service = self
            .nodes
            .get(link)
            .is_some_and(|node| node.identity.role != Role::Router);
        let reason = match self.unready() {
            Some(NOBODY_SERVES) if !asks_for_service => "",
            reason => reason.unwrap_or_default(),
        };
        let told = ProbeResponse {
            ready: reason.is_empty(),
            reason: reason.to_owned(),
            load_permille: self.pending.load_permille(),
            draining: self.draining,
            // The router's own clock is its shell's, and judged there.
            utc_ms: 0,
        };
        let body = Bytes::from(told.encode_to_vec());
        Envelope {
            id,
            response: true,
            kind: Kind::Probe.into(),
            priority: Priority::Control.into(),
            body,
            ..Envelope::default()
        }
    }
}
