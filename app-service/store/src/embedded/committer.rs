//! The committer: the one thread that writes.
//!
//! It ends in two ways: closed, with every accepted batch answered; or by a panic, which ends the process,
//! because a store whose committer is gone is neither up nor down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::PersistMode;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::engine::{EngineSlot, View};
use super::folder::Folder;
use super::journal::ITEM_OVERHEAD;
use super::{FjallConfig, Shared, State};
use crate::recent::RecentWrites;
use crate::{Batch, Commit, Op, StoreError};

/// Bytes in the journal at which a group is full: beyond this the sync itself takes longer than the wait it saves.
/// A single batch may hold as much.
pub(super) const GROUP_BYTES_MAX: usize =
    crate::limits::BATCH_BYTES_MAX + crate::limits::BATCH_OPS_MAX * ITEM_OVERHEAD;

/// Most batches that one fsync covers, so that the first of them is not kept waiting for long.
const GROUP_BATCHES_MAX: usize = 1024;

/// How often free space and the background threads' health are looked at.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(1);

/// Free space is looked at early when a commit has brought what was written since to this part of the watermark: the
/// rest of it stands for what tables and compactions take at the same time.
const SPACE_CHECKS_PER_WATERMARK: u64 = 8;

/// Pause before the first attempt to reopen after an error. Doubles up to [`REOPEN_AFTER_MAX`].
const REOPEN_AFTER_MIN: Duration = Duration::from_millis(50);

/// Longest pause between attempts to reopen: an operator who has just mended the disk watches this one.
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(5);

/// A store that goes down sooner than this after it was reopened waits longer before the next attempt.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// How long writing pauses before it looks again whether the background threads have caught up.
const BEHIND_PAUSE: Duration = Duration::from_millis(2);

pub(super) enum Message {
    Commit(Request),
    Close(oneshot::Sender<()>),
}

/// One batch on its way, with its room in the queue.
pub(super) struct Request {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Commit>,
    pub(super) _room: OwnedSemaphorePermit,
}

impl Request {
    fn journal_bytes(&self) -> usize {
        self.batch.bytes() + self.batch.len() * ITEM_OVERHEAD
    }

    fn answer(self, commit: Commit) {
        // The caller may have gone; its batch is undecided to it either way.
        _ = self.answer.send(commit);
    }
}

pub(super) struct Committer {
    shared: Arc<Shared>,
    waiting: mpsc::Receiver<Message>,
    folder: Folder,
    config: FjallConfig,
    phase: Phase,
    /// Of the newest group. Grows while the process lives, also over a reopening.
    version: u64,
    recent: RecentWrites,
    last_housekeeping: Instant,
    last_opened: Instant,
    /// The pause before the last attempt to reopen.
    last_pause: Duration,
    written_since_space_check: u64,
}

enum Phase {
    /// Reads are served. Writes too, unless `failed`: then the database is poisoned and would be reopened, were the
    /// disk not too full to replay a journal on.
    Open {
        engine: EngineSlot,
        view: View,
        failed: Option<StoreError>,
    },
    Down {
        reason: String,
        retry_at: Instant,
    },
}

impl Committer {
    pub(super) fn new(
        shared: Arc<Shared>,
        waiting: mpsc::Receiver<Message>,
        folder: Folder,
        config: FjallConfig,
        engine: EngineSlot,
        view: View,
    ) -> Self {
        let version = view.version;
        let mut committer = Self {
            shared,
            waiting,
            folder,
            config,
            phase: Phase::Open {
                engine,
                view,
                failed: None,
            },
            version,
            recent: RecentWrites::since(version),
            last_housekeeping: Instant::now(),
            last_opened: Instant::now(),
            last_pause: REOPEN_AFTER_MIN,
            written_since_space_check: 0,
        };
        committer.check_space();
        committer
    }

    pub(super) fn run(mut self) {
        let _abort = AbortOnPanic;
        loop {
            match self.waiting.recv_timeout(self.idle_timeout()) {
                Ok(Message::Commit(first)) => {
                    let (group, close) = self.gather(first);
                    self.commit_group(group);
                    if let Some(done) = close {
                        return self.close(Some(done));
                    }
                }
                Ok(Message::Close(done)) => return self.close(Some(done)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.close(None),
            }
            self.keep_house();
        }
    }

    fn idle_timeout(&self) -> Duration {
        match &self.phase {
            Phase::Open { .. } => HOUSEKEEPING_EVERY,
            Phase::Down { retry_at, .. } => retry_at.saturating_duration_since(Instant::now()),
        }
    }

    /// `first` and everything that waits behind it, up to the bounds of a group or a request to close.
    fn gather(&self, first: Request) -> (Vec<Request>, Option<oneshot::Sender<()>>) {
        let mut bytes = first.journal_bytes();
        let mut group = vec![first];
        while bytes < GROUP_BYTES_MAX && group.len() < GROUP_BATCHES_MAX {
            match self.waiting.try_recv() {
                Ok(Message::Commit(request)) => {
                    bytes += request.journal_bytes();
                    group.push(request);
                }
                Ok(Message::Close(done)) => return (group, Some(done)),
                Err(_) => break,
            }
        }
        (group, None)
    }

    fn commit_group(&mut self, group: Vec<Request>) {
        if let Some(refusal) = self.refusal() {
            return answer_all(group, &Commit::Refused(refusal));
        }
        if let Err(error) = self.wait_until_caught_up() {
            // Nothing of this group was handed over.
            let refusal = StoreError::NotReady {
                reason: error.to_string(),
            };
            self.fail(&error);
            return answer_all(group, &Commit::Refused(refusal));
        }
        let Phase::Open { engine, view, .. } = &self.phase else {
            return;
        };

        let version = self.version + 1;
        let mut writes: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
        let mut accepted = Vec::with_capacity(group.len());
        for mut request in group {
            if request.answer.is_closed() {
                continue;
            }
            let exists = |key: &Bytes| match writes.get(key) {
                Some(written) => Ok(written.is_some()),
                None => view.contains(key),
            };
            match self.recent.conflicts(&request.batch, exists) {
                Err(error) => request.answer(Commit::Refused(error)),
                Ok(keys) if !keys.is_empty() => request.answer(Commit::Conflict(keys)),
                Ok(_) => {
                    self.recent.record(&request.batch, version);
                    let batch = std::mem::replace(&mut request.batch, Batch::blind());
                    for (key, op) in batch.into_ops() {
                        match op {
                            Op::Put(value) | Op::Insert(value) => writes.insert(key, Some(value)),
                            Op::Delete => writes.insert(key, None),
                            Op::Guard => continue,
                        };
                    }
                    accepted.push(request);
                }
            }
        }
        if writes.is_empty() {
            return answer_all(accepted, &Commit::Committed);
        }
        let bytes: usize = writes
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len))
            .sum();
        self.written_since_space_check += bytes as u64;

        let written = self.planted_failure().and_then(|()| {
            engine.with(|handles| {
                handles
                    .write(writes, self.persist_mode())
                    .map_err(|error| StoreError::backend("writing to the journal", error))
            })
        });
        match written.and_then(|()| View::newest(engine, version)) {
            Ok(view) => {
                self.version = version;
                self.publish(view);
                answer_all(accepted, &Commit::Committed);
                self.recent.prune(self.shared.live.oldest().unwrap_or(version));
            }
            Err(error) => {
                self.fail(&error);
                answer_all(accepted, &Commit::Unknown(error));
            }
        }
    }

    /// Shows `view` to the next snapshots.
    fn publish(&mut self, view: View) {
        *self.shared.write() = State::Serving(view.clone());
        if let Phase::Open { view: current, .. } = &mut self.phase {
            *current = view;
        }
    }

    /// Why no batch can be taken at the moment.
    fn refusal(&self) -> Option<StoreError> {
        match &self.phase {
            Phase::Open { failed, .. } => {
                let not_ready = |error: &StoreError| StoreError::NotReady {
                    reason: error.to_string(),
                };
                self.shared
                    .writes_refused()
                    .or_else(|| failed.as_ref().map(not_ready))
            }
            Phase::Down { reason, .. } => Some(StoreError::NotReady {
                reason: reason.clone(),
            }),
        }
    }

    /// Pauses while the background threads are too far behind. Fails when one of them has failed: fjall's own
    /// back pressure would wait for it for ever.
    fn wait_until_caught_up(&self) -> Result<(), StoreError> {
        let Phase::Open { engine, .. } = &self.phase else {
            return Ok(());
        };
        while engine.with(|handles| Ok(handles.is_behind()))? {
            check_health(engine)?;
            std::thread::sleep(BEHIND_PAUSE);
        }
        Ok(())
    }

    fn keep_house(&mut self) {
        let due = self.last_housekeeping.elapsed() >= HOUSEKEEPING_EVERY;
        if due || self.written_since_space_check > self.config.min_free_bytes / SPACE_CHECKS_PER_WATERMARK {
            self.last_housekeeping = Instant::now();
            self.check_space();
            self.check_failures();
        }
        if let Phase::Down { retry_at, .. } = &self.phase
            && *retry_at <= Instant::now()
        {
            self.reopen();
        }
    }

    /// Notices background threads that failed, and reopens a poisoned database once the disk has room again.
    fn check_failures(&mut self) {
        let Phase::Open { engine, failed, .. } = &self.phase else {
            return;
        };
        match failed.clone() {
            None => {
                if let Err(error) = check_health(engine) {
                    self.fail(&error);
                }
            }
            Some(error) if self.shared.writes_refused().is_none() => self.go_down(&error),
            Some(_) => {}
        }
    }

    /// After an error of the database: it takes no more writes. Reopens it, or keeps it for reading while the
    /// disk is full.
    fn fail(&mut self, error: &StoreError) {
        self.check_space();
        match &mut self.phase {
            Phase::Open { failed, .. } if self.shared.writes_refused().is_some() => {
                tracing::error!(folder = %self.config.folder.display(), %error, "the store failed on a full disk and only serves reads");
                *failed = Some(error.clone());
            }
            _ => self.go_down(error),
        }
    }

    fn check_space(&mut self) {
        self.written_since_space_check = 0;
        let before = self.shared.writes_refused();
        let now = match self.folder.free_bytes() {
            Ok(free_bytes) if free_bytes < self.config.min_free_bytes => Some(StoreError::OutOfSpace {
                place: self.config.folder.display().to_string(),
                free_bytes,
                min_free_bytes: self.config.min_free_bytes,
            }),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(folder = %self.config.folder.display(), %error, "free space is unknown");
                before.clone()
            }
        };
        match (&before, &now) {
            (None, Some(error)) => tracing::error!(%error, "writes are refused"),
            (Some(_), None) => {
                tracing::info!(folder = %self.config.folder.display(), "writes are accepted again");
            }
            _ => {}
        }
        self.shared.set_writes_refused(now);
    }

    /// Gives the database up after `error` and plans the first attempt to reopen it.
    fn go_down(&mut self, error: &StoreError) {
        let reason = error.to_string();
        tracing::error!(folder = %self.config.folder.display(), %error, "the store went down and will be reopened");
        *self.shared.write() = State::Down {
            reason: reason.clone(),
        };
        let version = self.version;
        let gone = StoreError::SnapshotGone {
            version,
            reason: reason.clone(),
        };
        let settled = self.last_opened.elapsed() >= SETTLED_AFTER;
        let pause = if settled {
            REOPEN_AFTER_MIN
        } else {
            self.last_pause
        };
        self.last_pause = pause;
        let down = Phase::Down {
            reason,
            retry_at: Instant::now() + pause,
        };
        if let Phase::Open { engine, view, .. } = std::mem::replace(&mut self.phase, down) {
            drop(view);
            // Closing waits for fjall's threads; readers are already turned away.
            drop(engine.empty(gone));
        }
        // Batches whose answer was Unknown may have been applied: whatever was read before conflicts.
        self.version += 1;
        self.recent = RecentWrites::since(self.version);
    }

    fn reopen(&mut self) {
        let pause = (self.last_pause * 2).min(REOPEN_AFTER_MAX);
        self.last_pause = pause;
        self.last_opened = Instant::now();
        let opened = self
            .planted_reopen_failure()
            .and_then(|()| self.folder.open_engine(&self.config).map_err(|e| e.to_string()))
            .and_then(|handles| {
                let engine = EngineSlot::new(handles);
                let view = View::newest(&engine, self.version).map_err(|e| e.to_string())?;
                Ok((engine, view))
            });
        match opened {
            Ok((engine, view)) => {
                tracing::info!(folder = %self.config.folder.display(), "the store is open again");
                self.phase = Phase::Open {
                    engine,
                    view: view.clone(),
                    failed: None,
                };
                self.check_space();
                self.publish(view);
            }
            Err(reason) => {
                tracing::error!(folder = %self.config.folder.display(), reason, ?pause, "reopening the store failed");
                *self.shared.write() = State::Down {
                    reason: reason.clone(),
                };
                self.phase = Phase::Down {
                    reason,
                    retry_at: Instant::now() + pause,
                };
            }
        }
    }

    fn close(mut self, done: Option<oneshot::Sender<()>>) {
        let mut done = Vec::from_iter(done);
        self.shared.queue_room.close();
        // Batches that had their room before it closed are answered like any other.
        while let Ok(message) = self.waiting.try_recv() {
            match message {
                Message::Commit(first) => {
                    let (group, close) = self.gather(first);
                    self.commit_group(group);
                    done.extend(close);
                }
                Message::Close(also) => done.push(also),
            }
        }
        *self.shared.write() = State::Closed;
        if let Phase::Open { engine, view, failed } = self.phase {
            drop(view);
            drop(engine.empty(StoreError::Closed));
            if failed.is_none()
                && let Err(error) = self.folder.note_end()
            {
                tracing::warn!(%error, "how far the journal is synced could not be noted: the note before stands");
            }
        }
        drop(self.folder);
        for done in done {
            _ = done.send(());
        }
    }

    #[cfg(not(any(test, feature = "planted-faults")))]
    fn persist_mode(&self) -> PersistMode {
        PersistMode::SyncData
    }

    #[cfg(not(any(test, feature = "planted-faults")))]
    fn planted_failure(&self) -> Result<(), StoreError> {
        Ok(())
    }

    #[cfg(not(any(test, feature = "planted-faults")))]
    fn planted_reopen_failure(&self) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(any(test, feature = "planted-faults"))]
impl Committer {
    fn persist_mode(&self) -> PersistMode {
        if self.config.planted.no_fsync {
            PersistMode::Buffer
        } else {
            PersistMode::SyncData
        }
    }

    fn planted_failure(&self) -> Result<(), StoreError> {
        if take_one(&self.config.planted.fail_groups) {
            let error = std::io::Error::other("planted failure");
            return Err(StoreError::backend("writing to the journal", error));
        }
        Ok(())
    }

    fn planted_reopen_failure(&self) -> Result<(), String> {
        if take_one(&self.config.planted.fail_reopens) {
            return Err("planted failure".to_owned());
        }
        Ok(())
    }
}

#[cfg(any(test, feature = "planted-faults"))]
fn take_one(count: &std::sync::atomic::AtomicU32) -> bool {
    use std::sync::atomic::Ordering::SeqCst;
    count
        .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
        .is_ok()
}

fn check_health(engine: &EngineSlot) -> Result<(), StoreError> {
    engine.with(|handles| {
        handles
            .check_health()
            .map_err(|error| StoreError::backend("flushing or compacting in the background", error))
    })
}

fn answer_all(group: Vec<Request>, commit: &Commit) {
    for request in group {
        request.answer(commit.clone());
    }
}

/// Ends the process when the committer panics.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the store's committer panicked: ending the process");
            std::process::abort();
        }
    }
}
