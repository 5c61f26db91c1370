//! The links of an LBS: it asks over them, serves nothing, and says whether it is ready, as its health page does.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use whimbrel_host::HostParts;
use whimbrel_link::{Endpoint, Handler, LinkEvent, Readiness, Reply, Uplink};
use whimbrel_protocol::cluster::{Envelope, Status};

/// An LBS asks over its links and answers nothing.
struct ServesNothing;

impl Handler for ServesNothing {
    fn handle(&self, _: Envelope, reply: Reply) {
        reply.fail(
            Status::BadRequest,
            "an LBS serves no requests over links".to_owned(),
            0,
        );
    }
}

/// Between two looks at an LBS's health; service nodes look as often.
const HEALTH_LOOK: Duration = Duration::from_millis(500);

/// Links of an LBS, by which it asks. Until the process ends, probes are told what `/readyz` says.
pub(crate) fn start(endpoint: Endpoint, events: mpsc::Receiver<LinkEvent>, host: &HostParts) -> Uplink {
    let links = Uplink::start(endpoint, events, Arc::new(ServesNothing));
    tokio::spawn(tell_health(links.clone(), host.clone()));
    links
}

/// Has probes told what `/readyz` says, until the process ends: what routers show of an LBS is what it says of itself.
async fn tell_health(links: Uplink, host: HostParts) {
    let mut looks = tokio::time::interval(HEALTH_LOOK);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = host.drain.finished() => return,
        }
        let why = host.health.why_not_ready();
        links.set_readiness(Readiness {
            ready: why.is_none(),
            reason: why.unwrap_or_default(),
            load_permille: 0,
            draining: host.drain.is_started(),
            utc_ms: host.clock.now_ms(),
        });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use prost::Message as _;
    use whimbrel_link::ClusterSecret;
    use whimbrel_protocol::cluster::{ProbeResponse, Role};

    use super::*;
    use crate::{config::NodeSection, roles::identity};

    #[tokio::test]
    async fn an_lbs_says_over_its_links_what_its_health_page_says() {
        let endpoint = |name: &str, role| {
            let node = NodeSection {
                name: name.to_owned(),
                ..NodeSection::default()
            };
            Endpoint::new(identity(&node, role).unwrap(), ClusterSecret::from_bytes([1; 32]))
        };
        let ((router, mut told), (lbs, events)) = (endpoint("r", Role::Router), endpoint("l", Role::Lbs));
        Endpoint::connect_in_memory(&lbs, &router);
        let host = HostParts::on_system_clock();
        let links = Uplink::start(lbs, events, Arc::new(ServesNothing));
        let telling = tokio::spawn(tell_health(links, host.clone()));
        // A link says at its start what was said before it.
        let mut hears = async |wanted: fn(&ProbeResponse) -> bool| {
            let heard = async {
                while let Some(event) = told.recv().await {
                    if let LinkEvent::Frame(_, envelope) = event
                        && wanted(&ProbeResponse::decode(envelope.body).unwrap())
                    {
                        return;
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(60), heard)
                .await
                .unwrap();
        };
        host.health.set_ready("lbs", whimbrel_host::Readiness::Ready);
        hears(|said| said.ready).await;
        let lost = whimbrel_host::Readiness::NotReady("nobody is there".to_owned());
        host.health.set_ready("lbs", lost);
        hears(|said| !said.ready && said.reason == "nobody is there").await;
        host.drain.start();
        hears(|said| said.draining).await;
        host.drain.finish();
        telling.await.unwrap();
        router.shut_down().await;
    }
}
