//! Finds markers nobody works on: those of dead nodes, and this node's own that were lost.
//!
//! A life of a node that the registry does not know is taken for dead. Its markers are worked off by whichever living node
//! rendezvous picks, and looked for again for a day, ever less often: a process that was frozen may wake and
//! commit. If the node lives after all, its rows are merely written by two.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use tokio_util::sync::CancellationToken;
use whimbrel_protocol::ids::Incarnation;
use whimbrel_store::{Batch, Commit, Direction, KeyRange, Store};

use super::Markers;
use super::redo::{Redo, RedoError};
use crate::config::SweepConfig;
use crate::env::{AgeClock, Env};
use crate::keys::{self, MarkerKey, trailing_u64};
use crate::placement::{Place, Placement};
use crate::ticket::Outcome;
use crate::values::{self, storage};

/// Between looks at this node's own lost work.
const TICK: Duration = Duration::from_secs(1);
/// A tick that took this long was a standstill of the process, longer than its lease.
const STANDSTILL: Duration = Duration::from_secs(10);
/// Markers worked on at a time: of the largest groups (2,000) these are 128,000 rows, which the lanes' queues hold.
const PAGE_LEN: usize = 64;
/// Rows waiting in the lanes beyond which lost work is not taken up: that of the living goes first.
const ROWS_WAITING_MAX: usize = 10_000;
/// Lives read at a time.
const LIVES_PAGE_LEN: usize = 1000;
/// The longest pause between two looks after one dead life.
const LIFE_PAUSE_MAX: Duration = Duration::from_secs(600);
/// Between looks at this node's own markers while some may have been left behind: longer than a marker stays whose work goes well.
const OWN_LOOK_SOON: Duration = Duration::from_secs(2);
/// So many looks find them: one takes note of what is there, the next takes up what is there still.
const OWN_LOOKS_SOON: u32 = 2;
/// Own markers that one look takes note of, some 100 bytes each.
const OWN_NOTED_MAX: usize = 20_000;
/// Own markers that one look takes up; such are rare.
const OWN_TAKEN_MAX: usize = 1000;

/// What the sweeper works with.
pub struct SweeperParts {
    /// Where markers are.
    pub store: Arc<dyn Store>,
    /// Time, and waiting.
    pub env: Env,
    /// Who lives, and who sweeps after whom.
    pub placement: Placement,
    /// Does the work.
    pub redo: Redo,
    /// Where it ends.
    pub markers: Markers,
    /// Intervals.
    pub config: SweepConfig,
    /// Ends the task.
    pub stop: CancellationToken,
}

/// The task.
pub struct Sweeper {
    parts: SweeperParts,
    /// When to look again after each dead life, and the pause after that.
    looks: BTreeMap<Incarnation, (Duration, Duration)>,
    /// Own markers that were there at the last look.
    own_noted: BTreeSet<MarkerKey>,
    /// The store could be read when lost work was looked for last.
    could_read: bool,
    ages: AgeClock,
}

impl Sweeper {
    /// A sweeper that has seen nothing yet.
    #[must_use]
    pub fn new(parts: SweeperParts) -> Self {
        Self {
            ages: AgeClock::start(Arc::clone(&parts.env.clock)),
            parts,
            looks: BTreeMap::new(),
            own_noted: BTreeSet::new(),
            could_read: true,
        }
    }

    fn me(&self) -> Incarnation {
        self.parts.placement.me().incarnation
    }

    fn now(&self) -> Duration {
        self.parts.env.clock.monotonic()
    }

    /// Runs until it is stopped.
    pub async fn run(mut self) {
        #[cfg(feature = "planted-faults")]
        if crate::planted::is(crate::planted::Fault::SweeperOff) {
            return self.parts.stop.cancelled().await;
        }
        let interval = Duration::from_secs(self.parts.config.interval_s.max(1));
        let own_age = Duration::from_secs(self.parts.config.own_age_s.max(1));
        let own_soon = OWN_LOOK_SOON.min(own_age);
        let (mut dead_due, mut own_due, mut looks_soon) = (self.now(), self.now() + own_age, 0_u32);
        let stop = self.parts.stop.clone();
        while !stop.is_cancelled() {
            self.retry_own().await;
            if self.now() >= dead_due && self.parts.placement.is_known() {
                if let Err(error) = self.sweep_dead().await {
                    tracing::warn!(%error, "looking for dead nodes' markers failed; trying again");
                }
                dead_due = self.now() + interval;
            }
            if self.parts.markers.take_left_behind() {
                looks_soon = OWN_LOOKS_SOON;
                own_due = own_due.min(self.now() + own_soon);
            }
            if self.now() >= own_due {
                match self.look_at_own().await {
                    // There may be more.
                    Ok(OWN_TAKEN_MAX) => {}
                    Ok(_) => looks_soon = looks_soon.saturating_sub(1),
                    Err(error) => {
                        tracing::warn!(%error, "looking at this node's own markers failed; trying again");
                    }
                }
                own_due = self.now() + if looks_soon > 0 { own_soon } else { own_age };
            }
            let slept_at = self.now();
            let tick = self.parts.env.timers.sleep(TICK);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tick => {}
            }
            if self.now().saturating_sub(slept_at) > STANDSTILL {
                // Others may have taken this life for ended, and forgotten it: it is said again before it is needed.
                own_due = self.now();
            }
        }
    }

    /// Takes up own lost work whose pause is over, as fast as the lanes take it: after an outage of the store there may be
    /// a great deal of it.
    async fn retry_own(&mut self) {
        if !self.parts.store.readiness().serves_reads() {
            self.could_read = false;
            return;
        }
        if !std::mem::replace(&mut self.could_read, true) {
            // Pauses that grew while nothing could be read say nothing of the work.
            self.parts.markers.retries().make_due(self.now());
        }
        while self.parts.redo.rows_waiting() < ROWS_WAITING_MAX && !self.parts.stop.is_cancelled() {
            let due = self.parts.markers.retries().take_due(self.now(), PAGE_LEN);
            if due.is_empty() {
                break;
            }
            for (marker, attempt) in due {
                self.redo_own(marker, attempt).await;
            }
        }
    }

    async fn redo_own(&self, marker: MarkerKey, attempt: u32) {
        let (markers, ended) = (self.parts.markers.clone(), marker.clone());
        let end = move |outcome| markers.ended(ended, attempt, outcome);
        if let Err(error) = self.parts.redo.redo(&marker, end).await {
            tracing::debug!(%error, conversation = %marker.conversation, "lost work cannot be taken up yet");
        }
    }

    /// Looks after every life that has ended and is this node's to look after. Gives back how many markers it found.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn sweep_dead(&mut self) -> Result<usize, RedoError> {
        let live: BTreeSet<Incarnation> = self
            .parts
            .placement
            .peers()
            .iter()
            .map(|peer| peer.incarnation)
            .collect();
        let lives = self.lives().await?;
        let known: BTreeSet<Incarnation> = lives.iter().map(|(life, _)| *life).collect();
        self.looks
            .retain(|life, _| known.contains(life) && !live.contains(life));
        let mut found = 0;
        for (life, value) in lives {
            if live.contains(&life) || self.parts.placement.sweeper_of(life) != Place::Here {
                continue;
            }
            let (due, pause) = self.looks.get(&life).copied().unwrap_or_default();
            if self.now() < due || self.parts.stop.is_cancelled() {
                continue;
            }
            let swept = self.sweep(life).await?;
            let pause = match swept.found {
                0 => (pause * 2).clamp(TICK, LIFE_PAUSE_MAX),
                _ => TICK,
            };
            self.looks.insert(life, (self.now() + pause, pause));
            if swept.found > 0 {
                let (found, done) = (swept.found, swept.done);
                tracing::info!(
                    node = value.as_ref().map(|life| &*life.node),
                    ?life,
                    found,
                    done,
                    "took up what a dead node left"
                );
            }
            if swept.found == swept.done && value.is_some() {
                self.close_life(life, swept.found == 0).await?;
            }
            found += swept.found;
        }
        Ok(found)
    }

    async fn lives(&self) -> Result<Vec<(Incarnation, Option<storage::NodeLife>)>, RedoError> {
        let snapshot = self.parts.store.snapshot().await?;
        let mut lives = Vec::new();
        let mut rest = Some(keys::node_lives());
        while let Some(range) = rest {
            let page = snapshot.scan(range, LIVES_PAGE_LEN, Direction::Forward).await?;
            for (key, value) in &page.entries {
                let Some(life) = trailing_u64(key).map(Incarnation) else {
                    continue;
                };
                let value = values::decode(value)
                    .inspect_err(|error| {
                        metrics::counter!("whimbrel_node_lives_unreadable_total").increment(1);
                        tracing::error!(%error, ?life, "a node's life cannot be read; its markers are swept, its record stays");
                    })
                    .ok();
                lives.push((life, value));
            }
            rest = page.next;
        }
        Ok(lives)
    }

    async fn sweep(&self, life: Incarnation) -> Result<Swept, RedoError> {
        let mut swept = Swept::default();
        for range in MarkerKey::ranges_of(life) {
            let mut rest = Some(range);
            while let Some(range) = rest {
                let (markers, next) = self.page(range, PAGE_LEN).await?;
                swept.found += markers.len();
                swept.done += self.work_off(markers).await;
                if self.parts.stop.is_cancelled() {
                    return Ok(swept);
                }
                rest = next;
            }
        }
        Ok(swept)
    }

    async fn page(
        &self,
        range: KeyRange,
        limit: usize,
    ) -> Result<(Vec<MarkerKey>, Option<KeyRange>), RedoError> {
        let snapshot = self.parts.store.snapshot().await?;
        let page = snapshot.scan(range, limit, Direction::Forward).await?;
        // A newer version's consumers are left to nodes that know them.
        let markers = page
            .entries
            .iter()
            .filter_map(|(key, _)| MarkerKey::decode(key))
            .collect();
        Ok((markers, page.next))
    }

    /// Works off a page of markers and waits for it, so that a million of them do not flood the lanes.
    async fn work_off(&self, markers: Vec<MarkerKey>) -> usize {
        let mut ends = Vec::with_capacity(markers.len());
        for marker in markers {
            let (tell, told) = oneshot::channel();
            ends.push((marker.clone(), told));
            let end = move |outcome| _ = tell.send(outcome);
            if let Err(error) = self.parts.redo.redo(&marker, end).await {
                tracing::warn!(%error, conversation = %marker.conversation, "a marker cannot be worked off; it stays");
            }
        }
        let mut done = 0;
        for (marker, told) in ends {
            if matches!(told.await, Ok(Outcome::Done)) {
                self.parts.markers.ended(marker, 0, Outcome::Done);
                done += 1;
            }
        }
        done
    }

    /// Notes when a life was first found ended, and forgets it once nothing has come from it for long.
    async fn close_life(&self, life: Incarnation, empty: bool) -> Result<(), RedoError> {
        // A clock that jumps ahead must not end the watch over a process that is only frozen.
        let now_ms = self.ages.now_ms();
        let late_ms = self.parts.config.late_hours.saturating_mul(3_600_000);
        let key = keys::node_life(life);
        let snapshot = self.parts.store.snapshot().await?;
        let Some(value) = snapshot.get(&key).await? else {
            return Ok(());
        };
        let value: storage::NodeLife = values::decode(&value)?;
        // At the snapshot: whoever lives after all may say so at the same moment.
        let mut batch = Batch::at(&*snapshot);
        if value.ended_ms == 0 {
            batch.put(
                key,
                values::encode(&storage::NodeLife {
                    ended_ms: now_ms.max(1),
                    ..value
                }),
            );
        } else if empty && now_ms.saturating_sub(value.ended_ms) > late_ms {
            batch.delete(key);
        } else {
            return Ok(());
        }
        self.write_life(batch).await
    }

    /// Says again that this life goes on, should others have taken it for ended. They do so whenever the registry forgets
    /// this node for a moment, and without its record nobody would look for the markers of its real end.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    async fn keep_own_life(&self) -> Result<(), RedoError> {
        let me = self.parts.placement.me();
        let key = keys::node_life(me.incarnation);
        let snapshot = self.parts.store.snapshot().await?;
        let stored = snapshot.get(&key).await?;
        // One that cannot be read is written again.
        let stored: Option<storage::NodeLife> = stored.and_then(|stored| values::decode(&stored).ok());
        if stored.as_ref().is_some_and(|life| life.ended_ms == 0) {
            return Ok(());
        }
        tracing::info!(life = ?me.incarnation, "others took this node for dead; it goes on");
        let life = storage::NodeLife {
            node: me.node.as_str().to_owned(),
            started_ms: stored.map_or_else(|| self.parts.env.clock.now_ms(), |life| life.started_ms),
            ended_ms: 0,
        };
        let mut batch = Batch::at(&*snapshot);
        batch.put(key, values::encode(&life));
        self.write_life(batch).await
    }

    async fn write_life(&self, batch: Batch) -> Result<(), RedoError> {
        match self.parts.store.commit(batch).await {
            Commit::Refused(error) => Err(error.into()),
            // Not applied, it is found to be needed again at the next look.
            Commit::Committed | Commit::Conflict(_) | Commit::Unknown(_) => Ok(()),
        }
    }

    /// Sees that this life's record is there, and takes up own markers that were there at the last look already, long ago,
    /// and that nobody is known to retry. Such are left by commits whose outcome stayed unknown.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn look_at_own(&mut self) -> Result<usize, RedoError> {
        self.keep_own_life().await?;
        let mut noted = BTreeSet::new();
        for range in MarkerKey::ranges_of(self.me()) {
            let mut rest = Some(range);
            while let Some(range) = rest {
                let (markers, next) = self.page(range, LIVES_PAGE_LEN).await?;
                noted.extend(markers);
                rest = next.filter(|_| noted.len() < OWN_NOTED_MAX);
            }
        }
        let old: Vec<MarkerKey> = noted
            .intersection(&self.own_noted)
            .filter(|marker| !self.parts.markers.retries().contains(marker))
            .take(OWN_TAKEN_MAX)
            .cloned()
            .collect();
        let found = old.len();
        for marker in old {
            noted.remove(&marker);
            self.redo_own(marker, 0).await;
        }
        self.own_noted = noted;
        Ok(found)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Swept {
    found: usize,
    done: usize,
}
