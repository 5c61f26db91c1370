//! Rewriting many users' rows in one commit.
//!
//! Everything is read from one snapshot and committed at it: a row, its user's counter or its index that somebody else
//! wrote since makes the commit conflict, and all is read again. So no stale row can overwrite a newer one, whoever
//! believes to own the user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client;
use whimbrel_protocol::cluster::Priority;
use whimbrel_protocol::ids::{AppKey, ConversationId, Seq, SyncVersion, UserId};
use whimbrel_store::{Batch, Commit, Epoch, Snapshot, Store, StoreError};

use super::queue::{RowKey, RowWork, Tell};
use super::row::{self, View};
use crate::env::Env;
use crate::fanout::{Fanout, notice_job, priority_of};
use crate::keys::{ConversationKeys, UserKeys};
use crate::sync::cursor;
use crate::values::{self, ValueError, storage};

/// Rows in one commit: four reads each stay within one multi-get, and the batch within a megabyte or so.
pub(crate) const COMMIT_ROWS_MAX: usize = 1000;
/// Conflicts in a row before a group is cut in halves, so that one contended user does not hold up the others.
const CONFLICTS_BEFORE_HALVING: u32 = 2;
/// Conflicts after which the rest is left to its markers. Halving takes ten for the largest group.
const CONFLICTS_MAX: u32 = 40;
/// Commits of unknown outcome after which the rest is left to its markers.
const UNKNOWNS_MAX: u32 = 3;
/// The first wait after a conflict; about one commit long.
const CONFLICT_WAIT: Duration = Duration::from_millis(4);
/// How long a lane rests when the store refuses: its queue must not be burnt through in the meantime.
const REFUSED_WAIT: Duration = Duration::from_millis(200);

/// Rewrites rows and tells their users.
pub(super) struct RowWriter {
    pub(super) store: Arc<dyn Store>,
    pub(super) env: Env,
    pub(super) epoch: Epoch,
    pub(super) fanout: Fanout,
}

enum Attempt {
    Committed,
    Conflict,
    Unknown(StoreError),
    Refused(StoreError),
}

/// What a user is told after the commit.
struct Told {
    from: SyncVersion,
    to: SyncVersion,
    rows: Vec<client::ConversationRow>,
    priority: Priority,
}

/// What one row's work reads.
struct Loaded {
    head: Arc<storage::Head>,
    member: storage::Member,
    before: Option<storage::Row>,
    newest: Option<client::Entry>,
}

type UserOf = (AppKey, UserId);

impl RowWriter {
    /// Brings these rows up to date. Tickets of those that are durable are done, the others' dropped. Gives back the rows
    /// that may be up to date and whose users nobody here has told of it.
    #[must_use]
    pub(super) async fn rewrite(&self, work: Vec<RowWork>) -> Vec<RowKey> {
        let mut groups = vec![work];
        let mut doubted = Vec::new();
        let (mut conflicts, mut unknowns) = (0, 0);
        while let Some(mut group) = groups.pop() {
            match self.attempt(&mut group).await {
                Attempt::Committed => {
                    conflicts = 0;
                    group
                        .into_iter()
                        .flat_map(|work| work.tickets)
                        .for_each(crate::ticket::Ticket::done);
                }
                Attempt::Conflict => {
                    conflicts += 1;
                    metrics::counter!("whimbrel_row_conflicts_total").increment(1);
                    if conflicts > CONFLICTS_MAX {
                        tracing::warn!(
                            rows = group.len(),
                            "rows are contended without end; their markers will retry"
                        );
                        doubted.extend(given_up(group));
                        continue;
                    }
                    if conflicts > CONFLICTS_BEFORE_HALVING && group.len() > 1 {
                        groups.push(group.split_off(group.len() / 2));
                    }
                    groups.push(group);
                    self.env
                        .timers
                        .sleep(self.env.jittered(CONFLICT_WAIT * conflicts.min(16)))
                        .await;
                }
                Attempt::Unknown(error) => {
                    unknowns += 1;
                    tracing::warn!(%error, rows = group.len(), "whether rows were committed is unknown; reading again");
                    // If they were, nobody has been told.
                    group.iter_mut().for_each(|work| work.tell = Tell::Always);
                    if unknowns > UNKNOWNS_MAX {
                        doubted.extend(given_up(group));
                        continue;
                    }
                    groups.push(group);
                    self.env.timers.sleep(self.env.jittered(REFUSED_WAIT)).await;
                }
                Attempt::Refused(error) => {
                    tracing::warn!(%error, rows = group.len(), "rows were not written; their markers will retry");
                    doubted.extend(given_up(group));
                    self.env.timers.sleep(self.env.jittered(REFUSED_WAIT)).await;
                }
            }
        }
        doubted
    }

    async fn attempt(&self, group: &mut Vec<RowWork>) -> Attempt {
        let snapshot = match self.store.snapshot().await {
            Ok(snapshot) => snapshot,
            Err(error) => return Attempt::Refused(error),
        };
        let (counters, loaded) = match self.load(&*snapshot, group).await {
            Ok(read) => read,
            Err(error) => return Attempt::Refused(error),
        };
        let mut batch = Batch::at(&*snapshot);
        let mut told: BTreeMap<UserOf, Told> = BTreeMap::new();
        let mut versions = counters.clone();
        let mut damaged = Vec::new();
        for (index, (work, loaded)) in group.iter().zip(loaded).enumerate() {
            let user = (work.key.app.clone(), work.key.user);
            let counter = versions.entry(user.clone()).or_default();
            match loaded.and_then(|loaded| write_row(&mut batch, work, loaded, counter)) {
                Ok(row) => tell(&mut told, &counters, user, work, *counter, row),
                Err(error) => {
                    let (app, conversation) = (&work.key.app, &work.key.conversation);
                    tracing::error!(%error, %app, %conversation, user = ?work.key.user, "a row cannot be computed");
                    damaged.push(index);
                }
            }
        }
        for (user, version) in &versions {
            // A counter that cannot be read is left as it is: from 0 on, versions would be given twice.
            if counters.get(user).is_some_and(|before| before != version) {
                let counter = storage::SyncCounter { version: version.0 };
                batch.put(
                    UserKeys::new(&user.0, user.1).sync_counter(),
                    values::encode(&counter),
                );
            }
        }
        if !batch.is_empty() {
            let rows = group.len();
            match self.store.commit(batch).await {
                Commit::Committed => metrics::histogram!("whimbrel_rows_per_commit").record(rows as f64),
                Commit::Conflict(_) => return Attempt::Conflict,
                Commit::Unknown(error) => return Attempt::Unknown(error),
                Commit::Refused(error) => return Attempt::Refused(error),
            }
        }
        // Their tickets are lost: what is damaged stays marked.
        for index in damaged.into_iter().rev() {
            group.remove(index);
        }
        self.send_notices(told);
        Attempt::Committed
    }

    /// Reads everything from one snapshot: counters, then per row what it needs, by the work's order.
    async fn load(
        &self,
        snapshot: &dyn Snapshot,
        group: &[RowWork],
    ) -> Result<
        (
            BTreeMap<UserOf, SyncVersion>,
            Vec<Result<Option<Loaded>, RowError>>,
        ),
        StoreError,
    > {
        let mut users: BTreeMap<UserOf, usize> = BTreeMap::new();
        let mut conversations: BTreeMap<(AppKey, ConversationId), usize> = BTreeMap::new();
        let mut keys: Vec<Bytes> = Vec::with_capacity(group.len() * 4);
        for RowWork { key, .. } in group {
            users.entry((key.app.clone(), key.user)).or_insert_with(|| {
                keys.push(UserKeys::new(&key.app, key.user).sync_counter());
                keys.len() - 1
            });
            conversations
                .entry((key.app.clone(), key.conversation))
                .or_insert_with(|| {
                    keys.push(ConversationKeys::new(&key.app, key.conversation).head());
                    keys.len() - 1
                });
        }
        let own_from = keys.len();
        for RowWork { key, .. } in group {
            keys.push(ConversationKeys::new(&key.app, key.conversation).member(key.user));
            keys.push(UserKeys::new(&key.app, key.user).row(&key.conversation));
        }
        let read = snapshot.multi_get(&keys).await?;
        let value = |index: usize| read.get(index).and_then(Option::as_ref);

        let mut counters = BTreeMap::new();
        let mut damaged: BTreeMap<UserOf, ValueError> = BTreeMap::new();
        for (user, index) in users {
            match parse::<storage::SyncCounter>(value(index)) {
                Ok(counter) => {
                    counters.insert(user, SyncVersion(counter.unwrap_or_default().version));
                }
                Err(error) => {
                    damaged.insert(user, error);
                }
            }
        }
        let heads: BTreeMap<_, Result<Option<Arc<storage::Head>>, ValueError>> = conversations
            .into_iter()
            .map(|(conversation, index)| (conversation, parse(value(index)).map(|head| head.map(Arc::new))))
            .collect();

        let mut loaded = Vec::with_capacity(group.len());
        for (nth, RowWork { key, .. }) in group.iter().enumerate() {
            let head = heads
                .get(&(key.app.clone(), key.conversation))
                .cloned()
                .unwrap_or(Ok(None));
            let (member, before) = (value(own_from + 2 * nth), value(own_from + 2 * nth + 1));
            let row = match damaged.get(&(key.app.clone(), key.user)) {
                Some(error) => Err(error.clone()),
                None => load_row(head, member, before),
            };
            loaded.push(row.map_err(RowError::from));
        }
        self.load_newest(snapshot, group, &mut loaded).await?;
        Ok((counters, loaded))
    }

    /// The entries that rows show: one read each, however many members a conversation has.
    async fn load_newest(
        &self,
        snapshot: &dyn Snapshot,
        group: &[RowWork],
        loaded: &mut [Result<Option<Loaded>, RowError>],
    ) -> Result<(), StoreError> {
        let mut wanted: BTreeMap<Bytes, usize> = BTreeMap::new();
        let mut keys = Vec::new();
        let key_of = |work: &RowWork, row: &Loaded| match row.member.last_visible_seq(&row.head) {
            Seq(0) => None,
            seq => Some(ConversationKeys::new(&work.key.app, work.key.conversation).entry(seq)),
        };
        for (work, loaded) in group.iter().zip(loaded.iter()) {
            let Ok(Some(row)) = loaded else { continue };
            if let Some(key) = key_of(work, row) {
                wanted.entry(key.clone()).or_insert_with(|| {
                    keys.push(key);
                    keys.len() - 1
                });
            }
        }
        let read = snapshot.multi_get(&keys).await?;
        for (work, loaded) in group.iter().zip(loaded.iter_mut()) {
            let Ok(Some(row)) = loaded else { continue };
            let Some(key) = key_of(work, row) else { continue };
            let value = wanted
                .get(&key)
                .and_then(|index| read.get(*index))
                .and_then(Option::as_ref);
            match parse_entry(value) {
                Ok(newest) => row.newest = newest,
                Err(error) => *loaded = Err(error),
            }
        }
        Ok(())
    }

    fn send_notices(&self, told: BTreeMap<UserOf, Told>) {
        for ((app, user), told) in told {
            let cursor = |version| cursor::encode(self.epoch, &app, user, version);
            let cursors = (cursor(told.from), cursor(told.to));
            self.fanout
                .push(notice_job(app, user, cursors, told.rows, told.priority));
        }
    }
}

/// Drops the tickets; gives back the rows whose users were to be told in any case, and were not.
fn given_up(group: Vec<RowWork>) -> impl Iterator<Item = RowKey> {
    group
        .into_iter()
        .filter(|work| work.tell == Tell::Always)
        .map(|work| work.key)
}

/// Why one row cannot be computed.
#[derive(Debug, thiserror::Error)]
enum RowError {
    #[error(transparent)]
    Value(#[from] ValueError),
    #[error("a stored message does not parse: {0}")]
    Message(#[from] prost::DecodeError),
}

fn parse<M: prost::Message + Default>(value: Option<&Bytes>) -> Result<Option<M>, ValueError> {
    value.map(values::decode).transpose()
}

fn parse_entry(value: Option<&Bytes>) -> Result<Option<client::Entry>, RowError> {
    let stored: Option<storage::Entry> = parse(value)?;
    Ok(stored
        .map(|stored| client::Entry::decode(stored.entry))
        .transpose()?)
}

/// `None` when the user never was in that conversation.
fn load_row(
    head: Result<Option<Arc<storage::Head>>, ValueError>,
    member: Option<&Bytes>,
    before: Option<&Bytes>,
) -> Result<Option<Loaded>, ValueError> {
    let (Some(head), Some(member)) = (head?, parse(member)?) else {
        return Ok(None);
    };
    Ok(Some(Loaded {
        head,
        member,
        before: parse(before)?,
        newest: None,
    }))
}

/// Writes a row under the user's next version when it differs from what is stored; gives it back when it does.
fn write_row(
    batch: &mut Batch,
    work: &RowWork,
    loaded: Option<Loaded>,
    counter: &mut SyncVersion,
) -> Result<Option<client::ConversationRow>, RowError> {
    let Some(Loaded {
        head,
        member,
        before,
        newest,
    }) = loaded
    else {
        return Ok(None);
    };
    let key = &work.key;
    let known = before.as_ref().map(row::parse).transpose()?;
    let row = row::compute(&View {
        conversation: key.conversation,
        head: &head,
        user: key.user,
        member: &member,
        newest: newest.as_ref(),
        before: known.as_ref(),
    });
    if known.as_ref() == Some(&row) {
        return Ok(None);
    }
    let keys = UserKeys::new(&key.app, key.user);
    if let Some(before) = before {
        batch.delete(keys.version(SyncVersion(before.version)));
    }
    *counter = SyncVersion(counter.0 + 1);
    let stored = storage::Row {
        version: counter.0,
        row: row.encode_to_vec().into(),
    };
    let reference = storage::RowRef {
        conversation: row.conversation.clone(),
    };
    batch.put(keys.row(&key.conversation), values::encode(&stored));
    batch.put(keys.version(*counter), values::encode(&reference));
    Ok(Some(row))
}

/// Notes what to tell a user. One whose rows were up to date all along may be told where that is, so that a client which
/// missed it syncs, and one which did not does nothing.
fn tell(
    told: &mut BTreeMap<UserOf, Told>,
    counters: &BTreeMap<UserOf, SyncVersion>,
    user: UserOf,
    work: &RowWork,
    now: SyncVersion,
    row: Option<client::ConversationRow>,
) {
    if row.is_none() && work.tell == Tell::IfChanged {
        return;
    }
    let from = counters.get(&user).copied().unwrap_or_default();
    let priority = priority_of(work.key.conversation);
    let told = told.entry(user).or_insert(Told {
        from,
        to: from,
        rows: Vec::new(),
        priority,
    });
    told.to = now;
    // The lower number goes first.
    if (priority as i32) < (told.priority as i32) {
        told.priority = priority;
    }
    told.rows.extend(row);
}
