//! User lanes: the rows of conversation lists, brought up to date after commits.
//!
//! "This user, this conversation, has moved" goes to the node that owns the user ([`crate::placement`]). There each lane
//! takes what has gathered for its users, rewrites all those rows in one commit under each user's next sync version
//! ([`row`] computes them, from one snapshot), and tells the users by a notice. A [`Ticket`] is
//! done only when its row is durable.
//!
//! Not here: which rows a commit concerns, or what happens when work is lost ([`crate::markers`]).

mod forward;
mod queue;
pub mod row;
mod write;

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use whimbrel_link::Caller;
use whimbrel_store::{Epoch, Store};

use crate::config::RowsConfig;
use crate::env::Env;
use crate::fanout::Fanout;
use crate::placement::{Place, Placement};
use crate::ticket::Ticket;
use forward::{ForwardTask, Forwarded};
pub use forward::{ITEMS_PER_REQUEST_MAX, parse};
use queue::LaneQueue;
pub use queue::{RowKey, Tell};
pub(crate) use write::COMMIT_ROWS_MAX;
use write::RowWriter;

/// Rows waiting to be sent to other nodes; with more, they are written here. Some 200 bytes each.
const FORWARD_QUEUE_MAX: usize = 16 * 1024;

/// What lanes work with.
pub struct LaneParts {
    /// Where rows are.
    pub store: Arc<dyn Store>,
    /// Its epoch, for cursors.
    pub epoch: Epoch,
    /// Time, randomness, tasks.
    pub env: Env,
    /// Tells users.
    pub fanout: Fanout,
    /// Reaches other nodes.
    pub caller: Arc<dyn Caller>,
    /// Says which.
    pub placement: Placement,
}

/// All user lanes of a node.
pub struct Lanes {
    queues: Vec<Arc<LaneQueue>>,
    placement: Placement,
    forward: mpsc::Sender<Forwarded>,
    closing: CancellationToken,
    /// Ends when the last lane's task does, for each holds a sender.
    ended: Mutex<mpsc::Receiver<Infallible>>,
}

impl Lanes {
    /// Starts the lanes' tasks. They end once the lanes are closed, or dropped, and what waits is done.
    #[must_use]
    pub fn start(config: &RowsConfig, parts: LaneParts) -> Arc<Self> {
        let LaneParts {
            store,
            epoch,
            env,
            fanout,
            caller,
            placement,
        } = parts;
        let rows_max = config.commit_rows_max.clamp(1, COMMIT_ROWS_MAX);
        let (forward, forwarded) = mpsc::channel(FORWARD_QUEUE_MAX);
        let (running, ended) = mpsc::channel(1);
        let closing = CancellationToken::new();
        let queues = (0..config.lanes.max(1)).map(|_| Arc::new(LaneQueue::new(config.queue_max)));
        let lanes = Arc::new(Self {
            queues: queues.collect(),
            placement,
            forward,
            closing: closing.clone(),
            ended: Mutex::new(ended),
        });
        let task = ForwardTask {
            queue: forwarded,
            closing,
            caller,
            lanes: Arc::downgrade(&lanes),
        };
        env.spawner.spawn("user-lanes-forward", Box::pin(task.run()));
        for queue in &lanes.queues {
            let queue = Arc::clone(queue);
            let writer = RowWriter {
                store: Arc::clone(&store),
                env: env.clone(),
                epoch,
                fanout: fanout.clone(),
            };
            let running = running.clone();
            let lane = async move {
                let _running = running;
                while let Some(work) = queue.take(rows_max).await {
                    #[cfg(feature = "planted-faults")]
                    crate::planted::rows_late(&writer.env).await;
                    queue.doubt(writer.rewrite(work).await);
                }
            };
            env.spawner.spawn("user-lane", Box::pin(lane));
        }
        lanes
    }

    /// Has a row brought up to date by the node that owns its user.
    pub fn submit(&self, key: RowKey, ticket: Ticket) {
        match self.placement.owner_of_user(&key.app, key.user) {
            Place::Here => self.submit_here(key, Tell::IfChanged, ticket),
            Place::There(to) => {
                if let Err(full) = self.forward.try_send(Forwarded { to, key, ticket }) {
                    let Forwarded { key, ticket, .. } = full.into_inner();
                    self.submit_here(key, Tell::IfChanged, ticket);
                }
            }
        }
    }

    /// Has a row brought up to date by this node, whoever owns its user.
    pub fn submit_here(&self, key: RowKey, tell: Tell, ticket: Ticket) {
        let lanes = self.queues.len() as u64;
        // User ids are random, so their remainders spread.
        let lane = usize::try_from(key.user.0 % lanes)
            .ok()
            .and_then(|lane| self.queues.get(lane));
        if let Some(lane) = lane {
            lane.submit(key, tell, ticket);
        }
    }

    /// Rows waiting here.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.len()).sum()
    }

    /// Takes no more work. What waits is done, then the lanes end.
    pub fn close(&self) {
        self.closing.cancel();
        self.queues.iter().for_each(|queue| queue.close());
    }
}

impl Lanes {
    /// Returns once the lanes were closed and all that waited is done.
    pub async fn ended(&self) {
        self.ended.lock().await.recv().await;
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.close();
    }
}
