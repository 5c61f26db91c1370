//! This life of the node, written down before any marker of it is.
//!
//! Whoever sweeps after dead nodes goes by these records: a marker of a life without one would never be looked for. A node that
//! starts while its store takes no writes serves reads all the same, and writes its life before its first commit.

use std::time::Duration;

use tokio::sync::OnceCell;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_store::{Batch, Commit, Store};

use crate::env::Env;
use crate::failure::Failure;
use crate::keys;
use crate::values::{encode, storage};

/// Attempts to write it down before whoever waits hears of it.
const ATTEMPTS_MAX: u32 = 20;
/// The pause between them.
const PAUSE: Duration = Duration::from_millis(50);

/// One life, and whether it is written.
#[derive(Debug)]
pub(super) struct Life {
    node: NodeId,
    incarnation: Incarnation,
    written: OnceCell<()>,
}

impl Life {
    pub(super) fn new(node: NodeId, incarnation: Incarnation) -> Self {
        Self {
            node,
            incarnation,
            written: OnceCell::new(),
        }
    }

    /// Whose life it is.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// At the start: writes it down, or leaves that to the first commit where the store only serves reads.
    ///
    /// # Errors
    /// When the store cannot be written for another reason than want of room.
    pub(super) async fn begin(&self, store: &dyn Store, env: &Env) -> Result<(), Failure> {
        match self.ensure(store, env).await {
            Err(failure) if failure.code == Code::StoreReadOnly => {
                tracing::warn!("the store takes no writes: this node starts, and serves reads until it does");
                Ok(())
            }
            written => written,
        }
    }

    /// Before a commit with markers: it is written down, now or long ago.
    ///
    /// # Errors
    /// What the store said; nothing of this life is committed then.
    pub(super) async fn ensure(&self, store: &dyn Store, env: &Env) -> Result<(), Failure> {
        self.written
            .get_or_try_init(|| self.write(store, env))
            .await
            .copied()
    }

    async fn write(&self, store: &dyn Store, env: &Env) -> Result<(), Failure> {
        let life = storage::NodeLife {
            node: self.node.as_str().to_owned(),
            started_ms: env.clock.now_ms(),
            ended_ms: 0,
        };
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            // Always the same: doing it twice is doing it once. Nothing is served while half of a backup is in the store.
            let snapshot = store.snapshot().await?;
            if snapshot.get(&keys::restore_mark()).await?.is_some() {
                return Err(Failure::new(
                    Code::Internal,
                    "the store holds a restore that is under way, or was never finished: let it end, or begin it again",
                ));
            }
            let mut batch = Batch::at(&*snapshot);
            batch.put(keys::node_life(self.incarnation), encode(&life));
            batch.guard(keys::restore_mark());
            match store.commit(batch).await {
                Commit::Committed => return Ok(()),
                Commit::Conflict(_) => {}
                Commit::Unknown(error) => last = Some(Failure::from(error)),
                Commit::Refused(error) => return Err(error.into()),
            }
            env.timers.sleep(env.jittered(PAUSE)).await;
        }
        Err(last.unwrap_or_else(|| {
            Failure::later(
                Code::Unavailable,
                "this node's life could not be written down",
                1_000,
            )
        }))
    }
}
