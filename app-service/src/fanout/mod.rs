//! Push at once: what was committed goes to the sessions of those concerned, looked up after the commit.
//!
//! [`Fanout`] is the way in and never waits; one task behind it looks sessions up for many pushes together and sends what
//! there is for a gateway in one frame. Each gateway has places of its own (`gateways`), so that one that is frozen delays no push to another.
//! What is dropped is counted. Messages are made up for by the rows and their notices; whoever misses a notice is remembered
//! (`owed`) and asked to sync, again and again until a gateway has taken that or the session is gone.
//!
//! Not here: the members' rows ([`crate::user_lane`]), and offline push.

mod gateways;
mod last_seen;
mod owed;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use whimbrel_link::{CallError, Caller};
use whimbrel_protocol::cluster::{Priority, PushResponse, SessionRecord, UserKey};
use whimbrel_protocol::ids::{AppKey, UserId};
use whimbrel_registry::Registry;

use crate::env::{BoxFuture, Clock, Timers};
use gateways::{Gateways, Offered};
use last_seen::{LastSeen, User};
use owed::Owed;
use plan::{GatewayPush, frames, stale};
pub use plan::{PUSH_BYTES_MAX, Payload, PushJob, message_jobs, notice_job, priority_of};

/// Pushes whose sessions are looked up together. A look-up in another process takes some 200 us: this many at a time keep
/// it off the critical path.
const JOBS_PER_LOOK_UP: usize = 128;
/// Users in one look-up.
const USERS_PER_LOOK_UP: usize = 1000;
/// How often a frame is handed over that came to nothing on its way: a router or link that broke under it has been replaced by
/// another within this many times the pause. More would hold places in flight for a gateway that is dead.
const HAND_OVERS_MAX: u32 = 3;
/// The pause between two of them.
const HAND_OVER_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long a gateway may take to accept a frame.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);
/// After which pause users are asked to sync who missed a notice, [`USERS_PER_LOOK_UP`] at a time: what was too much for the
/// pushes must not come back at once as syncs.
const OWED_AFTER: Duration = Duration::from_millis(500);
/// Within what time they are to sync.
const OWED_SPREAD_MS: u32 = 500;

/// The way in: takes pushes without ever waiting. Clones share.
#[derive(Clone, Debug)]
pub struct Fanout {
    queue: mpsc::Sender<PushJob>,
    owed: SharedOwed,
    closing: CancellationToken,
}

/// The task behind a [`Fanout`].
pub struct FanoutTask {
    queue: mpsc::Receiver<PushJob>,
    owed: SharedOwed,
    closing: CancellationToken,
    registry: Arc<dyn Registry>,
    caller: Arc<dyn Caller>,
    clock: Arc<dyn Clock>,
    timers: Arc<dyn Timers>,
}

/// Those who are to be asked to sync. Filled from both sides of the queue.
#[derive(Clone, Debug, Default)]
struct SharedOwed(Arc<Mutex<Owed>>);

impl SharedOwed {
    fn lock(&self) -> MutexGuard<'_, Owed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, users: impl IntoIterator<Item = User>) {
        let mut owed = self.lock();
        let untold = users.into_iter().filter(|user| !owed.add(user.clone())).count();
        count_dropped("owed", untold as u64);
    }
}

/// Pushes, and the sessions of their users.
struct LookedUp {
    jobs: Vec<PushJob>,
    sessions: BTreeMap<User, Vec<Arc<SessionRecord>>>,
    /// Users of whom the registry spoke.
    answered: Vec<User>,
    /// Users of whom it did not.
    unanswered: Vec<User>,
}

impl Fanout {
    /// A fan-out with room for `queue_max` pushes, and its task, to be run.
    #[must_use]
    pub fn new(
        queue_max: usize,
        registry: Arc<dyn Registry>,
        caller: Arc<dyn Caller>,
        clock: Arc<dyn Clock>,
        timers: Arc<dyn Timers>,
    ) -> (Self, FanoutTask) {
        let (sender, receiver) = mpsc::channel(queue_max.max(1));
        let closing = CancellationToken::new();
        let owed = SharedOwed::default();
        let task = FanoutTask {
            queue: receiver,
            owed: owed.clone(),
            closing: closing.clone(),
            registry,
            caller,
            clock,
            timers,
        };
        (
            Self {
                queue: sender,
                owed,
                closing,
            },
            task,
        )
    }

    /// Pushes when there is room; else drops, and counts it. Those who miss a notice by that are asked to sync later on.
    pub fn push(&self, job: PushJob) {
        if let Err(refused) = self.queue.try_send(job) {
            count_dropped("queue", 1);
            let PushJob {
                app, users, payload, ..
            } = refused.into_inner();
            if payload.is_last_word() {
                self.owed.add(users.into_iter().map(|user| (app.clone(), user)));
            }
        }
    }

    /// Takes nothing more; the task sends what it has and ends.
    pub fn close(&self) {
        self.closing.cancel();
    }
}

impl FanoutTask {
    /// Runs until the fan-out is closed, or dropped, and what it was given is sent.
    pub async fn run(mut self) {
        let mut gateways = Gateways::default();
        let mut in_flight = FuturesUnordered::new();
        // One at a time: pushes of one conversation keep their order, and while it waits others gather for the next.
        let mut look_up = FuturesUnordered::new();
        let mut jobs = Vec::with_capacity(JOBS_PER_LOOK_UP);
        let mut more_to_come = true;
        let mut last_seen = LastSeen::default();
        let mut pause = None;
        // Whom the last word of the last round of asking was for.
        let mut asked: Option<User> = None;
        while more_to_come || !look_up.is_empty() || !in_flight.is_empty() {
            if pause.is_none() && more_to_come && !self.owed.lock().is_empty() {
                pause = Some(self.timers.sleep(OWED_AFTER));
            }
            tokio::select! {
                biased;
                Some(ended) = in_flight.next(), if !in_flight.is_empty() => {
                    let Ended { gateway, untold } = ended;
                    self.owed.add(untold);
                    let (next, late) = gateways.handle_end(&gateway, self.clock.monotonic());
                    count_dropped("late", late.len() as u64);
                    self.owed.add(late.into_iter().flat_map(|frame| frame.untold));
                    in_flight.extend(next.map(|frame| self.hand_over(frame)));
                }
                Some(looked_up) = look_up.next(), if !look_up.is_empty() => {
                    self.owed.add(untold(&looked_up));
                    let (jobs, sessions) = with_last_seen(looked_up, &mut last_seen);
                    let now = self.clock.monotonic();
                    for frame in frames(&jobs, &sessions) {
                        match gateways.offer(frame, now) {
                            Offered::Goes(frame) => in_flight.push(self.hand_over(frame)),
                            Offered::Waits => {}
                            Offered::Full(frame) => {
                                count_dropped("gateway_full", 1);
                                self.owed.add(frame.untold);
                            }
                        }
                    }
                }
                () = self.closing.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                () = after(&mut pause), if look_up.is_empty() => {
                    pause = None;
                    let users = self.owed.lock().take(asked.as_ref(), USERS_PER_LOOK_UP);
                    if let Some(job) = missed_job(&users) {
                        let registry = Arc::clone(&self.registry);
                        look_up.push(sessions_of(registry, vec![job]));
                    }
                    asked = users.into_iter().next_back();
                }
                taken = self.queue.recv_many(&mut jobs, JOBS_PER_LOOK_UP), if look_up.is_empty() && more_to_come => {
                    more_to_come = taken > 0;
                    if more_to_come {
                        let registry = Arc::clone(&self.registry);
                        look_up.push(sessions_of(registry, std::mem::take(&mut jobs)));
                    }
                }
            }
        }
    }

    /// Hands a frame to its gateway. The gateway may have the frame twice then: clients know what they were shown. A last
    /// notice is worth that; those it was for, if it is given up, come back at the end.
    fn hand_over(&self, frame: GatewayPush) -> impl Future<Output = Ended> + Send + 'static {
        let caller = Arc::clone(&self.caller);
        let registry = Arc::clone(&self.registry);
        let timers = Arc::clone(&self.timers);
        async move {
            let envelope = &frame.envelope;
            let gateway = envelope.to_node.clone();
            let mut outcome = caller.call(envelope.clone(), ACCEPT_TIMEOUT).await;
            for _ in 1..HAND_OVERS_MAX {
                if !matches!(
                    outcome,
                    Err(CallError::Lost | CallError::UnknownNode | CallError::Unavailable { .. })
                ) {
                    break;
                }
                timers.sleep(HAND_OVER_AGAIN_AFTER).await;
                outcome = caller.call(envelope.clone(), ACCEPT_TIMEOUT).await;
            }
            let answer = match outcome {
                Ok(answer) => PushResponse::decode(answer.body).unwrap_or_default(),
                Err(error) => {
                    count_dropped("gateway", 1);
                    tracing::debug!(%error, sessions = frame.sessions.len(), "a push was not accepted; clients will sync");
                    let untold = frame.untold;
                    return Ended { gateway, untold };
                }
            };
            metrics::counter!("whimbrel_pushes_accepted_total").increment(u64::from(answer.accepted));
            for record in stale(&frame.sessions, &answer.gone) {
                if let Err(error) = registry.unregister(SessionRecord::clone(record)).await {
                    tracing::debug!(%error, "a stale session stays in the registry until its gateway's lease ends");
                }
            }
            let untold = Vec::new();
            Ended { gateway, untold }
        }
    }
}

/// A frame was handed over, or given up.
struct Ended {
    gateway: String,
    /// Whom it was for, if it was given up and nothing else tells them.
    untold: Vec<User>,
}

/// Returns when the pause is over; never without one.
async fn after(pause: &mut Option<BoxFuture<()>>) {
    match pause {
        Some(pause) => pause.await,
        None => std::future::pending().await,
    }
}

/// The word for those who missed something, all of one app.
fn missed_job(users: &[User]) -> Option<PushJob> {
    let (app, _) = users.first()?;
    Some(PushJob {
        app: app.clone(),
        users: users.iter().map(|(_, user)| *user).collect(),
        payload: Payload::Missed {
            spread_ms: OWED_SPREAD_MS,
        },
        priority: Priority::Control,
    })
}

/// Looks up where the users of these pushes are.
async fn sessions_of(registry: Arc<dyn Registry>, jobs: Vec<PushJob>) -> LookedUp {
    let users: BTreeSet<(&AppKey, UserId)> = jobs
        .iter()
        .flat_map(|job| job.users.iter().map(|user| (&job.app, *user)))
        .collect();
    let users: Vec<User> = users.into_iter().map(|(app, user)| (app.clone(), user)).collect();
    let mut looked_up = LookedUp {
        jobs,
        sessions: BTreeMap::new(),
        answered: Vec::with_capacity(users.len()),
        unanswered: Vec::new(),
    };
    for users in users.chunks(USERS_PER_LOOK_UP) {
        let key = |(app, user): &User| UserKey {
            app_key: app.as_str().to_owned(),
            user_id: user.0,
        };
        match registry.look_up(users.iter().map(key).collect()).await {
            Ok(found) => {
                for record in found {
                    let Ok(app) = AppKey::new(&record.app_key) else {
                        continue;
                    };
                    let user = (app, UserId(record.user_id));
                    looked_up.sessions.entry(user).or_default().push(Arc::new(record));
                }
                looked_up.answered.extend_from_slice(users);
            }
            Err(error) => {
                tracing::debug!(%error, users = users.len(), "sessions could not be looked up; going by those of before");
                looked_up.unanswered.extend_from_slice(users);
            }
        }
    }
    looked_up
}

/// Those of whom the registry said nothing and who have a last word coming: where they were before is not all, for sessions may
/// have begun since, which gateways that reach the registry have no cause to have sync.
fn untold(looked_up: &LookedUp) -> BTreeSet<User> {
    if looked_up.unanswered.is_empty() {
        return BTreeSet::new();
    }
    let last_words = looked_up.jobs.iter().filter(|job| job.payload.is_last_word());
    let users: BTreeSet<User> = last_words
        .flat_map(|job| job.users.iter().map(|user| (job.app.clone(), *user)))
        .collect();
    let unanswered = looked_up.unanswered.iter();
    unanswered.filter(|user| users.contains(user)).cloned().collect()
}

/// Remembers what the registry said, and goes by what it said before where it said nothing. Not to ask anybody to sync: that
/// waits until the registry answers, or those whom it does not name would sync twice a second.
fn with_last_seen(
    looked_up: LookedUp,
    last_seen: &mut LastSeen,
) -> (Vec<PushJob>, BTreeMap<User, Vec<Arc<SessionRecord>>>) {
    let LookedUp {
        jobs,
        mut sessions,
        answered,
        unanswered,
    } = looked_up;
    for user in answered {
        let now = sessions.get(&user).map_or(&[][..], Vec::as_slice);
        last_seen.learn(user, now);
    }
    let mut unknown = 0;
    let asks_to_sync = jobs
        .iter()
        .any(|job| matches!(job.payload, Payload::Missed { .. }));
    for user in unanswered {
        match last_seen.of(&user) {
            _ if asks_to_sync => {}
            Some(before) => {
                metrics::counter!("whimbrel_pushes_by_last_view_total").increment(1);
                sessions.insert(user, before.to_vec());
            }
            None => unknown += 1,
        }
    }
    count_dropped("registry", unknown);
    (jobs, sessions)
}

fn count_dropped(why: &'static str, count: u64) {
    if count > 0 {
        metrics::counter!("whimbrel_pushes_dropped_total", "why" => why).increment(count);
    }
}

#[cfg(test)]
mod tests;
