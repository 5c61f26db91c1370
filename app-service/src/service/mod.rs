//! What other roles ask of this one, taken off the link and answered.
//!
//! [`Service`] is the link's handler: it admits by priority, drops what has expired, and runs each request as a task of its
//! own. `client` knows the clients' methods, `session` logins; work on users' rows goes straight to the lanes. Whatever a
//! client may have done wrong is answered by a code inside a good answer; a bad status is for what did not start.

mod admission;
mod client;
mod session;
mod told;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use prost::Message;
use tracing::Instrument as _;
use whimbrel_link::{Handler, Reply};
use whimbrel_protocol::cluster::{self, Envelope, Kind, Status};
use whimbrel_protocol::ids::TraceId;
use whimbrel_store::{Epoch, Readiness, Store};

use crate::auth::Apps;
use crate::env::Env;
use crate::log::{Deadline, Log};
use crate::rooms::Rooms;
use crate::ticket::{Outcome, Ticket};
use crate::user_lane::{self, Lanes, Tell};
use admission::Admission;
use told::Told;

/// When to come back to a node that is full: a few requests' time.
const OVERLOADED_RETRY_AFTER_MS: u32 = 200;
/// When to come back to one that drains or whose store is not ready.
const UNAVAILABLE_RETRY_AFTER_MS: u32 = 500;
/// The longest a request is worked on, whatever its asker says.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(30);

/// What requests are answered with.
pub struct ServiceParts {
    /// Conversations.
    pub log: Log,
    /// Where everything is.
    pub store: Arc<dyn Store>,
    /// Its epoch, for cursors.
    pub epoch: Epoch,
    /// Whose tokens count.
    pub apps: Apps,
    /// Rooms.
    pub rooms: Rooms,
    /// Rows that other nodes ask for.
    pub lanes: Arc<Lanes>,
    /// Time and tasks.
    pub env: Env,
    /// Requests in progress at most.
    pub requests_in_progress_max: usize,
    /// For requests that name no deadline.
    pub default_deadline: Duration,
}

/// The link's handler. Clones share.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    parts: ServiceParts,
    admission: Arc<Admission>,
    draining: AtomicBool,
    /// Why another node's store keeps this one from serving, if it does.
    aside: RwLock<Option<String>>,
    /// What the log is told of requests.
    told: Told,
}

/// How a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// By the body its kind calls for.
    Body(Bytes),
    /// By a status: it was not carried out.
    Refused {
        /// Which.
        status: Status,
        /// For whoever debugs the asker.
        detail: String,
        /// When to try again; 0 says nothing.
        retry_after_ms: u32,
    },
}

impl Answer {
    fn of(message: &impl Message) -> Self {
        Self::Body(message.encode_to_vec().into())
    }

    fn bad_request(detail: impl Into<String>) -> Self {
        Self::Refused {
            status: Status::BadRequest,
            detail: detail.into(),
            retry_after_ms: 0,
        }
    }

    fn internal(detail: impl Into<String>) -> Self {
        Self::Refused {
            status: Status::Internal,
            detail: detail.into(),
            retry_after_ms: 0,
        }
    }

    fn unavailable(detail: impl Into<String>) -> Self {
        let retry_after_ms = UNAVAILABLE_RETRY_AFTER_MS;
        Self::Refused {
            status: Status::Unavailable,
            detail: detail.into(),
            retry_after_ms,
        }
    }

    /// For what may have been carried out: an uplink sends it nowhere else on its own account.
    fn lost(detail: impl Into<String>) -> Self {
        Self::Refused {
            status: Status::Lost,
            detail: detail.into(),
            retry_after_ms: 0,
        }
    }

    fn give(self, reply: Reply) {
        match self {
            Self::Body(body) => reply.ok(body),
            Self::Refused {
                status,
                detail,
                retry_after_ms,
            } => reply.fail(status, detail, retry_after_ms),
        }
    }
}

impl Service {
    /// A service that takes requests at once.
    #[must_use]
    pub fn new(parts: ServiceParts) -> Self {
        let admission = Admission::new(parts.requests_in_progress_max);
        Self(Arc::new(Inner {
            parts,
            admission,
            draining: AtomicBool::new(false),
            aside: RwLock::new(None),
            told: Told::default(),
        }))
    }

    /// Takes nothing more; what is in progress is finished.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it takes nothing more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Takes nothing while there is a reason for that other than its own state.
    pub fn stand_aside(&self, why: Option<String>) {
        *self.0.aside.write().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why it stands aside, if it does.
    #[must_use]
    pub fn aside(&self) -> Option<String> {
        self.0
            .aside
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns once no request is in progress. New ones put it off, so drain first.
    pub async fn idle(&self) {
        self.0.admission.idle().await;
    }

    /// How full this node is, 0 to 1000: by requests in progress or by the committer's queues, whichever is fuller.
    #[must_use]
    pub fn load_permille(&self) -> u32 {
        self.0
            .admission
            .load_permille()
            .max(self.0.parts.log.load_permille())
    }

    /// What the store serves, as `whimbrel_store_serves` shows it.
    #[must_use]
    pub fn store_serves(&self) -> f64 {
        match self.0.parts.store.readiness() {
            Readiness::Ready => 2.0,
            Readiness::WritesRefused { .. } => 1.0,
            Readiness::NotReady { .. } => 0.0,
        }
    }

    /// Why requests are not taken now, if so.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        if self.is_draining() {
            return Some("this node is draining".to_owned());
        }
        if let Some(why) = self.aside() {
            return Some(why);
        }
        match self.0.parts.store.readiness() {
            Readiness::NotReady { reason } => Some(format!("the store is not ready: {reason}")),
            // Reads go on, and sends are told by a code of their own.
            Readiness::Ready | Readiness::WritesRefused { .. } => None,
        }
    }

    /// Takes a request and has `answer` called once, soon or at its end. Never waits.
    pub fn handle_request(&self, request: Envelope, answer: impl FnOnce(Answer) + Send + 'static) {
        if let Some(reason) = self.not_ready() {
            return answer(Answer::unavailable(reason));
        }
        if request.kind() == Kind::UserWork {
            // Bounded by the lanes' queues; waits for no one here.
            return self.take_user_work(&request.body, answer);
        }
        let Some(place) = self.0.admission.enter(request.priority(), request.asker) else {
            metrics::counter!("whimbrel_requests_overloaded_total").increment(1);
            return answer(Answer::Refused {
                status: Status::Overloaded,
                detail: format!(
                    "{} requests are in progress",
                    self.0.parts.requests_in_progress_max
                ),
                retry_after_ms: OVERLOADED_RETRY_AFTER_MS,
            });
        };
        let service = self.clone();
        // Everything that is logged on behalf of the request carries its trace id. Disabled, it is nothing.
        let span = tracing::debug_span!("request", trace = %TraceId(request.trace_id));
        let task = async move {
            // One request's fault is not the others'. What it was about to change is either committed or not.
            let answered = AssertUnwindSafe(service.answer(request)).catch_unwind().await;
            drop(place);
            let answered = answered.unwrap_or_else(|_| {
                metrics::counter!("whimbrel_request_panics_total").increment(1);
                tracing::error!("a request panicked; the panic's own message says where");
                Answer::internal("a fault of this node")
            });
            answer(answered);
        };
        self.0
            .parts
            .env
            .spawner
            .spawn("request", Box::pin(task.instrument(span)));
    }

    async fn answer(&self, request: Envelope) -> Answer {
        let parts = &self.0.parts;
        let wait = match request.deadline_ms {
            0 => parts.default_deadline,
            ms => Duration::from_millis(u64::from(ms)),
        };
        let deadline = Deadline::after(&parts.env, wait.min(DEADLINE_MAX));
        match request.kind() {
            Kind::ClientRequest => match cluster::ClientRequest::decode(request.body) {
                Ok(client) => self.client_request(client, deadline, request.trace_id).await,
                Err(error) => Answer::bad_request(format!("ClientRequest: {error}")),
            },
            Kind::Authenticate => match cluster::AuthenticateRequest::decode(request.body) {
                Ok(authenticate) => Answer::of(&self.authenticate(authenticate).await),
                Err(error) => Answer::bad_request(format!("AuthenticateRequest: {error}")),
            },
            Kind::OpenSession => match cluster::OpenSessionRequest::decode(request.body) {
                Ok(open) => Answer::of(&self.open_session(open).await),
                Err(error) => Answer::bad_request(format!("OpenSessionRequest: {error}")),
            },
            other => Answer::bad_request(format!("an app-service does not answer {}", other.as_str_name())),
        }
    }

    /// Rows of users whom another node takes to be ours. Answered once they are durable. If not all are, some may be, and
    /// their users untold: only who asked knows that it is not the first to try, so it must hear of it.
    fn take_user_work(&self, body: &Bytes, answer: impl FnOnce(Answer) + Send + 'static) {
        let rows = cluster::UserWork::decode(body.clone())
            .map_err(|error| format!("UserWork: {error}"))
            .and_then(|work| user_lane::parse(&work).map_err(|failure| failure.message));
        let rows = match rows {
            Ok(rows) => rows,
            Err(detail) => return answer(Answer::bad_request(detail)),
        };
        let end = |outcome| {
            answer(match outcome {
                Outcome::Done => Answer::Body(Bytes::new()),
                Outcome::Lost => Answer::lost("not all rows could be written"),
            });
        };
        for (row, ticket) in rows.iter().zip(Ticket::issue(rows.len(), end)) {
            self.0
                .parts
                .lanes
                .submit_here(row.clone(), Tell::IfChanged, ticket);
        }
    }
}

impl Handler for Service {
    fn handle(&self, request: Envelope, reply: Reply) {
        self.handle_request(request, move |answer| answer.give(reply));
    }
}
