//! Links between two endpoints of one process: the same queues, bounds and events, nothing encoded.

use std::sync::Arc;

use crate::endpoint::{Admission, Shared};
use crate::link::{DownReason, Link, LinkEvent};

/// Bytes of envelopes taken from the peer's queue at a time, as a TCP link's writer would.
const BURST_BYTES: usize = 128 * 1024;

/// Carries one end of a link: what `peer` queued becomes this endpoint's events. Both ends run this.
pub(crate) async fn carry(shared: Arc<Shared>, admission: Admission, peer: Link) {
    let own = admission.link().clone();
    if shared.events.send(LinkEvent::Up(own.clone())).await.is_ok() {
        own.meter().up();
        let reason = deliver(&shared, &own, &peer).await;
        own.meter().down();
        // The other end still empties what this one has queued.
        own.seal();
        own.end().cancel();
        shared.tell_down(&own, reason).await;
    }
    own.end().cancel();
    peer.close();
    drop(admission);
}

async fn deliver(shared: &Shared, own: &Link, peer: &Link) -> DownReason {
    let mut burst = Vec::new();
    loop {
        peer.take(BURST_BYTES, &mut burst);
        if burst.is_empty() {
            tokio::select! {
                () = peer.filled() => {}
                reason = own.is_cut() => return reason,
                () = own.end().cancelled() => return DownReason::ShutDown,
                () = peer.end().cancelled() => {
                    peer.seal();
                    if peer.is_drained() {
                        return DownReason::PeerClosed;
                    }
                }
            }
        }
        for envelope in burst.drain(..) {
            own.meter().received(&envelope);
            if shared
                .events
                .send(LinkEvent::Frame(own.id(), envelope))
                .await
                .is_err()
            {
                return DownReason::ShutDown;
            }
        }
    }
}
