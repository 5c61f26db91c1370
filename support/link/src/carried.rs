//! One end of a link whose envelopes its owner carries: what a simulation puts in place of a socket.
//!
//! Queue, bounds, admission and events are those of any other link; only the way between the two ends is the owner's,
//! who may delay what is on it, or lose it together with the link. Nothing here waits or needs a runtime.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use tokio::sync::mpsc::error::TrySendError;
use whimbrel_protocol::cluster::Envelope;

use crate::endpoint::{Admission, Endpoint};
use crate::error::LinkError;
use crate::identity::Identity;
use crate::link::{DownReason, LinkEvent};

/// One end of a carried link. Dropping it frees the peer's name, without a word to the endpoint's owner: as a process
/// that dies says nothing to itself.
pub struct CarriedLink {
    admission: Admission,
    told_up: bool,
}

impl Endpoint {
    /// This endpoint's end of a link with `peer`, to be carried by the caller. It tells of the link at once.
    ///
    /// # Errors
    /// When there is a link with that node already, or no room to tell of one.
    pub fn carry(&self, peer: Identity) -> Result<CarriedLink, LinkError> {
        let address = "carried";
        self.shared.may_link(&peer, address)?;
        let admission = self.shared.admit(peer, address)?;
        let mut carried = CarriedLink {
            admission,
            told_up: false,
        };
        let up = LinkEvent::Up(carried.admission.link().clone());
        carried.told_up = carried.admission.shared.events.try_send(up).is_ok();
        Ok(carried)
    }
}

impl CarriedLink {
    /// Whether the endpoint's owner has been told of the link: without room for that, it is best dropped.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.told_up && !self.admission.link().end().is_cancelled()
    }

    /// Whose end this is.
    #[must_use]
    pub fn own(&self) -> &Identity {
        &self.admission.shared.identity
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Identity {
        self.admission.link().peer()
    }

    /// Takes what this end has queued for its peer, most urgent first, until about `bytes` are taken.
    pub fn take(&self, bytes: usize, out: &mut Vec<Envelope>) {
        self.admission.link().take(bytes, out);
    }

    /// Hands over what has come from the peer; without room it comes back, and is to be handed over again later.
    ///
    /// # Errors
    /// With the envelope that found no room.
    pub fn deliver(&self, envelope: Envelope) -> Result<(), Box<Envelope>> {
        let link = self.admission.link();
        link.meter().received(&envelope);
        let frame = LinkEvent::Frame(link.id(), envelope);
        match self.admission.shared.events.try_send(frame) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(LinkEvent::Frame(_, envelope))) => Err(Box::new(envelope)),
            Err(TrySendError::Full(_)) => unreachable!("a frame was handed in"),
        }
    }

    /// Ends this end and tells the endpoint's owner why; gives itself back when there is no room to tell it yet.
    ///
    /// # Errors
    /// With the link, to be ended again later.
    pub fn end(self, reason: DownReason) -> Result<(), Self> {
        let link = self.admission.link();
        link.close();
        link.end().cancel();
        let down = LinkEvent::Down(link.id(), reason);
        match self.admission.shared.events.try_send(down) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(self),
        }
    }
}

impl std::fmt::Debug for CarriedLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CarriedLink").field(self.admission.link()).finish()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use whimbrel_protocol::cluster::Role;
    use whimbrel_protocol::ids::{Incarnation, NodeId};

    use super::*;
    use crate::{ClusterSecret, LinkOptions};

    fn identity(name: &str) -> Identity {
        Identity {
            node: NodeId::new(name).unwrap(),
            role: Role::Router,
            incarnation: Incarnation(1),
            cluster: "c".to_owned(),
            zone: String::new(),
            version_tag: String::new(),
            app_keys: Vec::new(),
            capacity: crate::Capacity::ORDINARY,
        }
    }

    #[test]
    fn what_is_carried_comes_out_as_events_and_what_finds_no_room_comes_back() {
        let options = LinkOptions {
            event_queue_len: 2,
            ..LinkOptions::default()
        };
        let (endpoint, mut events) =
            Endpoint::with_options(identity("a"), ClusterSecret::from_bytes([1; 32]), options);
        let carried = endpoint.carry(identity("b")).unwrap();
        assert!(endpoint.carry(identity("b")).is_err(), "one link per peer");
        carried.deliver(Envelope::default()).unwrap();
        assert!(carried.deliver(Envelope::default()).is_err());
        let carried = carried.end(DownReason::PeerClosed).unwrap_err();
        let Ok(LinkEvent::Up(link)) = events.try_recv() else {
            unreachable!("the link's first event")
        };
        assert!(
            link.try_send(Envelope::default()).is_err(),
            "it is closed already"
        );
        assert!(matches!(events.try_recv(), Ok(LinkEvent::Frame(..))));
        carried.end(DownReason::PeerClosed).unwrap();
        assert!(matches!(events.try_recv(), Ok(LinkEvent::Down(..))));
        assert!(endpoint.carry(identity("b")).is_ok(), "the name is free again");
    }
}
