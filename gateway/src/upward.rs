//! What reactors ask, asked of the cluster: service nodes over the uplink, sessions in the registry. Numbers of rooms go to
//! their desk.
//!
//! Called from reactors, answered from tokio: nothing here waits for anything on a reactor's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::runtime::Handle;
use whimbrel_host::{Clock, Sparing, Spawner};
use whimbrel_link::{CallError, Caller as _, Uplink};
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::cluster::{
    AuthenticateRequest, AuthenticateResponse, ClientRequest, ClientResponse, CloseSessions, Envelope, Kind,
    OpenSessionRequest, OpenSessionResponse, Priority, PushTarget, Role, SessionHandle, SessionRecord,
};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::TraceId;
use whimbrel_protocol::method::Method;
use whimbrel_registry::{Registry, RegistryError};

use crate::engine::{Asked, Authenticate, Place, Reach, Reply, Upstream};
use crate::rooms::{Desk, RoomName};
use crate::session::{Answer, Identity, Unanswered, UpRequest};

/// How long opening a session may take: well under the 20 s after which a client without READY tries elsewhere.
const OPEN_DEADLINE: Duration = Duration::from_secs(8);

/// A request that took longer is told in the log: a person waits for it.
const SLOW: Duration = Duration::from_secs(1);

/// How long the order to close displaced sessions may take; the registry has forgotten them already.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Sessions in one such order: a reactor closes them in one go.
const CLOSE_LEN_MAX: usize = 500;

/// The first pause before that order is given again, and the longest: links are dialled again within a second.
const CLOSE_AGAIN_AFTER: Duration = Duration::from_millis(250);
const CLOSE_AGAIN_AFTER_MAX: Duration = Duration::from_secs(2);

/// After this long it is given up: the lease of a gateway that cannot be reached has ended long before.
const CLOSE_WITHIN: Duration = Duration::from_secs(120);

/// The cluster, as this gateway reaches it.
pub(crate) struct Cluster {
    pub(crate) uplink: Uplink,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) tasks: Spawner,
    pub(crate) runtime: Handle,
    /// Set once the reactors run.
    pub(crate) reach: OnceLock<Reach>,
    /// This gateway's name.
    pub(crate) node: String,
    /// Where random numbers come from.
    pub(crate) random: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Where changes of rooms go.
    pub(crate) desk: Desk,
    /// How long requests take.
    pub(crate) clock: Arc<dyn Clock>,
    /// Lines of requests that got no answer,
    pub(crate) unanswered_lines: Sparing,
    /// and of those that took long.
    pub(crate) slow_lines: Sparing,
}

impl Cluster {
    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let _runtime = self.runtime.enter();
        self.tasks.spawn(name, future);
    }

    /// A request to any service node. Without an affinity of its own it is spread at random.
    fn to_app_service(&self, kind: Kind, app_key: &str, body: Bytes) -> Envelope {
        let trace_id = (self.random)();
        #[expect(clippy::cast_possible_truncation, reason = "any 32 bits spread as well")]
        let affinity = trace_id as u32;
        Envelope {
            kind: kind.into(),
            priority: Priority::Control.into(),
            to_role: Role::AppService.into(),
            affinity,
            trace_id,
            app_key: app_key.to_owned(),
            body,
            ..Envelope::default()
        }
    }

    /// Tells the log how a request ended: each at debug, those a person may have noticed at info.
    fn tell(&self, traced: Traced, unanswered: Option<&Unanswered>) {
        let Traced { trace, method, begun } = traced;
        let Some(begun) = begun else { return };
        let now = self.clock.monotonic();
        let took = now.saturating_sub(begun);
        match unanswered {
            Some(unanswered) => {
                if let Some(left_out) = self.unanswered_lines.allows(now) {
                    let Unanswered { code, message, .. } = unanswered;
                    tracing::info!(%trace, method, code, message, ?took, left_out, "a request got no answer");
                }
            }
            None if took >= SLOW => {
                if let Some(left_out) = self.slow_lines.allows(now) {
                    tracing::info!(%trace, method, ?took, left_out, "a request took long");
                }
            }
            None => tracing::debug!(%trace, method, ?took, "a request is answered"),
        }
    }

    /// Asks; the question waits for the reactor's flush.
    fn ask<R>(
        &self,
        request: Envelope,
        deadline: Duration,
        done: impl FnOnce(Result<R, Unanswered>) + Send + 'static,
    ) where
        R: prost::Message + Default,
    {
        self.uplink
            .queue(request, deadline, move |outcome| done(decoded(outcome)));
    }

    /// Registers a session that was opened; the sessions it displaces are still to be closed.
    async fn register(
        &self,
        opened: OpenSessionResponse,
        mut record: SessionRecord,
    ) -> Result<(OpenSessionResponse, SessionRecord, Vec<SessionRecord>), Unanswered> {
        if opened.code != 0 {
            return Err(Unanswered {
                code: opened.code,
                message: opened.message,
                retry_after_ms: 0,
            });
        }
        record.user_id = opened.user_id;
        #[cfg(feature = "planted-faults")]
        if crate::planted::is(crate::planted::Fault::RegistrationAfterSync) {
            return Ok((opened, self.register_late(record), Vec::new()));
        }
        let registered = self
            .registry
            .register(record.clone())
            .await
            .map_err(|error| unregistered(&error))?;
        if !registered.accepted {
            return Err(Unanswered {
                code: Code::SupersededLogin.number(),
                message: "a newer login of this device is there".to_owned(),
                retry_after_ms: 0,
            });
        }
        Ok((opened, record, registered.displaced))
    }

    /// With [`Fault::RegistrationAfterSync`](crate::planted::Fault::RegistrationAfterSync): some time from now.
    #[cfg(feature = "planted-faults")]
    fn register_late(&self, record: SessionRecord) -> SessionRecord {
        let (registry, late) = (Arc::clone(&self.registry), record.clone());
        self.spawn("register-late", async move {
            tokio::time::sleep(crate::planted::REGISTERED_LATE).await;
            if let Err(error) = registry.register(late).await {
                tracing::warn!(%error, "a session is not registered");
            }
        });
        record
    }

    /// Has sessions closed that lost their place to `newer` ones, wherever they are. One that stayed would get no pushes
    /// and not know. Those of one gateway that are closed for one reason share orders: an announcement may hear of thousands.
    fn close_displaced(self: &Arc<Self>, newer: &[SessionRecord], displaced: &[SessionRecord]) {
        let newer: BTreeSet<_> = newer.iter().map(device_of).collect();
        let mut orders: BTreeMap<_, Vec<PushTarget>> = BTreeMap::new();
        for record in displaced {
            let reason = reason_of(&newer, record).number();
            let Some(handle) = &record.session else { continue };
            orders
                .entry((&handle.gateway, handle.incarnation, reason))
                .or_default()
                .push(target(handle, record.user_id));
        }
        for ((gateway, gateway_incarnation, reason), targets) in orders {
            for targets in targets.chunks(CLOSE_LEN_MAX) {
                let order = CloseSessions {
                    targets: targets.to_vec(),
                    gateway_incarnation,
                    reason,
                };
                let (cluster, gateway) = (Arc::clone(self), gateway.clone());
                self.spawn("close-displaced", async move {
                    cluster.close_on(&gateway, &order).await;
                });
            }
        }
    }

    /// Gives `gateway` the order until it has taken it or is gone. While it cannot be reached its lease goes on for a while
    /// and then ends; with the lease go its sessions, and should it come back it announces those it still has, which
    /// displaces them again.
    async fn close_on(&self, gateway: &str, order: &CloseSessions) {
        let close = async {
            let mut pause = CLOSE_AGAIN_AFTER;
            while !self.order_close(gateway, order).await {
                tracing::debug!(
                    gateway,
                    sessions = order.targets.len(),
                    "displaced sessions are not closed yet"
                );
                tokio::time::sleep(pause).await;
                pause = CLOSE_AGAIN_AFTER_MAX.min(pause * 2);
            }
        };
        if tokio::time::timeout(CLOSE_WITHIN, close).await.is_err() {
            tracing::warn!(
                gateway,
                sessions = order.targets.len(),
                "displaced sessions could not be closed: their gateway lives and is not reached; they get no pushes"
            );
        }
    }

    /// Whether `gateway` has taken the order, or is gone with its sessions.
    async fn order_close(&self, gateway: &str, order: &CloseSessions) -> bool {
        if gateway == self.node {
            let Some(reach) = self.reach.get() else {
                return false;
            };
            return reach.close(order.gateway_incarnation, order.targets.clone(), order.reason);
        }
        let envelope = Envelope {
            kind: Kind::CloseSessions.into(),
            priority: Priority::Control.into(),
            to_node: gateway.to_owned(),
            body: order.encode_to_vec().into(),
            ..Envelope::default()
        };
        match self.uplink.call(envelope, CLOSE_DEADLINE).await {
            Ok(_) => true,
            // Said as well by a router to which the gateway is just dialling again.
            Err(CallError::UnknownNode) => self.has_ended(gateway, order.gateway_incarnation).await,
            Err(_) => false,
        }
    }

    /// Whether the registry knows that this life of a gateway is over.
    async fn has_ended(&self, gateway: &str, incarnation: u64) -> bool {
        let leases = self.registry.nodes(Some(Role::Gateway)).await;
        leases.is_ok_and(|leases| {
            !leases
                .iter()
                .any(|lease| lease.node == gateway && lease.incarnation == incarnation)
        })
    }
}

/// What is known of a request while it is out.
#[derive(Clone, Copy)]
struct Traced {
    trace: TraceId,
    method: u32,
    /// Since when, on the monotonic clock; `None` when nobody wants to know.
    begun: Option<Duration>,
}

/// A device of a user.
fn device_of(record: &SessionRecord) -> (&str, u64, &str) {
    (&record.app_key, record.user_id, &record.device_id)
}

/// Why `displaced` lost its place when sessions of `newer` devices were registered.
fn reason_of(newer: &BTreeSet<(&str, u64, &str)>, displaced: &SessionRecord) -> CloseReason {
    // One that was announced itself was refused because a newer login of its device is there.
    if newer.contains(&device_of(displaced)) {
        CloseReason::Superseded
    } else {
        CloseReason::Displaced
    }
}

/// The reactors' view of the cluster.
#[derive(Clone)]
pub(crate) struct Upward(pub(crate) Arc<Cluster>);

impl Upstream for Upward {
    fn flush(&self) {
        self.0.uplink.flush();
    }

    fn authenticate(&self, question: Authenticate, asked: Asked) {
        let Authenticate {
            login,
            app,
            remote_address,
            again,
            deadline_ms,
        } = question;
        let request = AuthenticateRequest {
            login: login.into_bytes(),
            remote_address,
        };
        let envelope = self
            .0
            .to_app_service(Kind::Authenticate, &app, request.encode_to_vec().into());
        self.0
            .ask::<AuthenticateResponse>(envelope, millis(deadline_ms), move |judged| {
                asked.reply(if again {
                    Reply::Reauthenticated(judged)
                } else {
                    Reply::Authenticated(judged)
                });
            });
    }

    fn open(&self, record: SessionRecord, uid: &str, asked: Asked) {
        let request = OpenSessionRequest {
            app_key: record.app_key.clone(),
            uid: uid.to_owned(),
            device_id: record.device_id.clone(),
            login_epoch: record.login_epoch,
            platform: record.platform.clone(),
            session: record.session.clone(),
        };
        let body = request.encode_to_vec().into();
        let envelope = self.0.to_app_service(Kind::OpenSession, &record.app_key, body);
        let cluster = Arc::clone(&self.0);
        self.0.ask(envelope, OPEN_DEADLINE, move |opened| {
            let opened = match opened {
                Ok(opened) => opened,
                Err(unanswered) => return asked.reply(Reply::Opened(Err(unanswered))),
            };
            let registering = Arc::clone(&cluster);
            cluster.spawn("register-session", async move {
                match registering.register(opened, record).await {
                    Ok((opened, record, displaced)) => {
                        registering.close_displaced(std::slice::from_ref(&record), &displaced);
                        asked.reply(Reply::Opened(Ok((opened, Box::new(record)))));
                    }
                    Err(unanswered) => asked.reply(Reply::Opened(Err(unanswered))),
                }
            });
        });
    }

    fn request(
        &self,
        from: &Identity,
        session: SessionHandle,
        request: UpRequest,
        deadline_ms: u32,
        asked: Asked,
    ) {
        let id = request.id;
        let body = ClientRequest {
            app_key: from.app().to_owned(),
            uid: from.uid().to_owned(),
            user_id: from.user_id,
            device_id: from.device().to_owned(),
            session: Some(session),
            method: request.method,
            payload: request.payload,
            request_id: id.0,
        };
        let envelope = Envelope {
            priority: priority_of(request.method).into(),
            affinity: request.affinity,
            asker: from.user_id,
            ..self
                .0
                .to_app_service(Kind::ClientRequest, from.app(), body.encode_to_vec().into())
        };
        let traced = Traced {
            trace: TraceId(envelope.trace_id),
            method: request.method,
            begun: tracing::enabled!(tracing::Level::INFO).then(|| self.0.clock.monotonic()),
        };
        tracing::debug!(
            trace = %traced.trace,
            method = traced.method,
            app = from.app(),
            uid = from.uid(),
            device = from.device(),
            request = id.0,
            "a request goes up"
        );
        let cluster = Arc::clone(&self.0);
        self.0
            .ask::<ClientResponse>(envelope, millis(deadline_ms), move |answered| {
                cluster.tell(traced, answered.as_ref().err());
                let answer = match answered {
                    Ok(response) => Answer::Passed(response.payload),
                    Err(unanswered) => Answer::Refused(unanswered),
                };
                asked.reply(Reply::Answered(id, answer));
            });
    }

    fn ended(&self, record: SessionRecord) {
        #[cfg(feature = "planted-faults")]
        if crate::planted::is(crate::planted::Fault::PushToReusedSlot) {
            return;
        }
        let registry = Arc::clone(&self.0.registry);
        self.0.spawn("unregister-session", async move {
            // What stays behind is found to be gone by the next push.
            if let Err(error) = registry.unregister(record).await {
                tracing::debug!(%error, "a session that ended stays registered");
            }
        });
    }

    fn announce(&self, sessions: Vec<(Place, SessionRecord)>, asked: Asked) {
        let cluster = Arc::clone(&self.0);
        self.0.spawn("announce-sessions", async move {
            let (places, records): (Vec<_>, Vec<_>) = sessions.into_iter().unzip();
            match cluster.registry.announce(records.clone()).await {
                Ok(displaced) => {
                    cluster.close_displaced(&records, &displaced);
                    asked.reply(Reply::Announced { places, done: true });
                }
                Err(error) => {
                    tracing::warn!(%error, sessions = places.len(), "sessions could not be announced; trying again");
                    asked.reply(Reply::Announced { places, done: false });
                }
            }
        });
    }

    fn room_counts(
        &self,
        reactor: u16,
        counts: Vec<(Arc<RoomName>, u32)>,
    ) -> Result<(), Vec<(Arc<RoomName>, u32)>> {
        self.0.desk.counts(reactor, counts)
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

/// History waits behind everything else: nobody notices a page that comes a little later.
fn priority_of(method: u32) -> Priority {
    match Method::from_number(method) {
        Some(Method::Pull | Method::PullChanges | Method::ListMembers) => Priority::History,
        Some(Method::SendRoom | Method::CountRoom) => Priority::Room,
        _ => Priority::Direct,
    }
}

fn decoded<R: prost::Message + Default>(outcome: Result<Envelope, CallError>) -> Result<R, Unanswered> {
    let envelope = outcome.map_err(|error| unanswered(&error))?;
    R::decode(envelope.body).map_err(|error| Unanswered {
        code: Code::Internal.number(),
        message: format!("a service node's answer does not parse: {error}"),
        retry_after_ms: 0,
    })
}

fn unanswered(error: &CallError) -> Unanswered {
    let (code, retry_after_ms) = match error {
        CallError::Unavailable { retry_after_ms } => (Code::Unavailable, *retry_after_ms),
        CallError::Overloaded { retry_after_ms } => (Code::Overloaded, *retry_after_ms),
        // It may have been carried out: the same request with the same operation id tells.
        CallError::Lost | CallError::Deadline => (Code::DeadlineExceeded, 0),
        CallError::UnknownNode => (Code::Unavailable, 0),
        CallError::BadRequest(_) | CallError::Internal(_) => (Code::Internal, 0),
    };
    Unanswered {
        code: code.number(),
        message: error.to_string(),
        retry_after_ms,
    }
}

fn unregistered(error: &RegistryError) -> Unanswered {
    let (code, retry_after_ms) = match error {
        RegistryError::Unavailable { retry_after_ms, .. } => (Code::Unavailable, *retry_after_ms),
        RegistryError::Invalid(_) | RegistryError::Superseded { .. } => (Code::Internal, 0),
    };
    Unanswered {
        code: code.number(),
        message: error.to_string(),
        retry_after_ms,
    }
}

fn target(handle: &SessionHandle, user_id: u64) -> PushTarget {
    PushTarget {
        reactor: handle.reactor,
        slot: handle.slot,
        generation: handle.generation,
        user_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(user_id: u64, device: &str, login_epoch: u64) -> SessionRecord {
        SessionRecord {
            app_key: "demo".to_owned(),
            user_id,
            device_id: device.to_owned(),
            login_epoch,
            ..SessionRecord::default()
        }
    }

    #[test]
    fn a_newer_login_of_the_device_supersedes_and_one_session_too_many_displaces() {
        let phone = session(7, "phone", 2);
        let newer = BTreeSet::from([device_of(&phone)]);
        let reason = |displaced| reason_of(&newer, &displaced);
        assert_eq!(reason(session(7, "phone", 1)), CloseReason::Superseded);
        assert_eq!(reason(session(7, "tablet", 1)), CloseReason::Displaced);
        assert_eq!(reason(session(8, "phone", 1)), CloseReason::Displaced);
    }
}
