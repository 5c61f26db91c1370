//! One conversation while a group commit is being decided: what was loaded of it, and what the decisions so far change.
//!
//! A decision reads the state and gives back [`Changes`]; applying them makes the state that the next decision reads. Nothing
//! here touches the store.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use whimbrel_protocol::client;
use whimbrel_protocol::ids::{OperationId, Rev, Seq, UserId};

use super::entry::LogEntry;
use crate::committed::Changed;
use crate::keys::ConversationKeys;
use crate::values::storage::{Head, Member, Operation};
use crate::values::{ValueError, decode};

/// An operation, as the store knows it: by its id and its maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OperationKey {
    pub(crate) id: OperationId,
    pub(crate) user: UserId,
}

/// What decisions about one conversation need to know, besides its head.
#[derive(Debug, Default, Clone)]
pub(crate) struct ReadSet {
    pub(crate) members: BTreeSet<UserId>,
    pub(crate) operations: BTreeSet<OperationKey>,
    pub(crate) entries: BTreeSet<Seq>,
}

impl ReadSet {
    /// The keys to read: the head's first, then in the order of the fields.
    pub(crate) fn keys(&self, keys: &ConversationKeys) -> Vec<Bytes> {
        let mut all = Vec::with_capacity(1 + self.members.len() + self.operations.len() + self.entries.len());
        all.push(keys.head());
        all.extend(self.members.iter().map(|user| keys.member(*user)));
        all.extend(
            self.operations
                .iter()
                .map(|operation| keys.operation(operation.id, operation.user)),
        );
        all.extend(self.entries.iter().map(|seq| keys.entry(*seq)));
        all
    }
}

/// What one decision changes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Changes {
    pub(crate) head: Option<Head>,
    pub(crate) members: Vec<MemberChange>,
    /// New and changed entries.
    pub(crate) entries: Vec<LogEntry>,
    /// What each rev points to from now on; `None` for a rev that its entry has left.
    pub(crate) revs: Vec<(Rev, Option<Seq>)>,
    pub(crate) operations: Vec<(OperationKey, Operation)>,
    pub(crate) changed: Changed,
}

/// A member row to write.
#[derive(Debug, Clone)]
pub(crate) struct MemberChange {
    pub(crate) user: UserId,
    pub(crate) member: Member,
    /// The roster follows: membership or role changed.
    pub(crate) roster: bool,
}

/// A conversation as loaded and changed so far.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// As loaded; the roster of the store belongs to it.
    pub(crate) loaded_head: Option<Head>,
    pub(crate) head: Option<Head>,
    members: BTreeMap<UserId, Member>,
    operations: BTreeMap<OperationKey, Operation>,
    entries: BTreeMap<Seq, LogEntry>,
    pub(crate) written: Written,
}

/// Which parts of a state differ from the store, and how.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) head: bool,
    pub(crate) members: BTreeSet<UserId>,
    pub(crate) roster: BTreeSet<UserId>,
    pub(crate) readers: BTreeSet<UserId>,
    pub(crate) entries: BTreeSet<Seq>,
    pub(crate) revs: BTreeMap<Rev, Option<Seq>>,
    pub(crate) operations: Vec<OperationKey>,
    pub(crate) changed: Changed,
}

impl Written {
    /// Whether all members are concerned.
    pub(crate) fn for_everyone(&self) -> bool {
        self.changed.entries || self.changed.rev
    }
}

impl State {
    /// The state that `values` show, which are those of `reads.keys()` in their order.
    pub(crate) fn load(reads: &ReadSet, values: &[Option<Bytes>]) -> Result<Self, ValueError> {
        let mut values = values.iter().map(Option::as_ref);
        let mut next = || values.next().flatten();
        let head: Option<Head> = next().map(decode).transpose()?;
        let mut state = Self {
            loaded_head: head.clone(),
            head,
            ..Self::default()
        };
        for user in &reads.members {
            if let Some(value) = next() {
                state.members.insert(*user, decode(value)?);
            }
        }
        for operation in &reads.operations {
            if let Some(value) = next() {
                state.operations.insert(*operation, decode(value)?);
            }
        }
        for seq in &reads.entries {
            if let Some(value) = next() {
                state.entries.insert(*seq, LogEntry::decode(value)?);
            }
        }
        Ok(state)
    }

    pub(crate) fn member(&self, user: UserId) -> Option<&Member> {
        self.members.get(&user)
    }

    pub(crate) fn operation(&self, operation: OperationKey) -> Option<&Operation> {
        self.operations.get(&operation)
    }

    pub(crate) fn entry(&self, seq: Seq) -> Option<&LogEntry> {
        self.entries.get(&seq)
    }

    /// New and changed entries as members will see them, ascending.
    pub(crate) fn written_entries(&self) -> impl Iterator<Item = &LogEntry> {
        self.written
            .entries
            .iter()
            .filter_map(|seq| self.entries.get(seq))
    }

    /// The first entry that the store does not have yet.
    pub(crate) fn first_new_seq(&self) -> Option<Seq> {
        let stored = self.loaded_head.as_ref().map_or(0, |head| head.seq);
        let now = self.head.as_ref().map_or(0, |head| head.seq);
        (now > stored).then_some(Seq(stored + 1))
    }

    /// Takes over what a decision changes.
    pub(crate) fn apply(&mut self, changes: Changes) {
        let written = &mut self.written;
        if let Some(head) = changes.head {
            self.head = Some(head);
            written.head = true;
        }
        for change in changes.members {
            written.members.insert(change.user);
            if change.roster {
                written.roster.insert(change.user);
            }
            if changes.changed.read {
                written.readers.insert(change.user);
            }
            self.members.insert(change.user, change.member);
        }
        for entry in changes.entries {
            written.entries.insert(entry.seq());
            self.entries.insert(entry.seq(), entry);
        }
        written.revs.extend(changes.revs);
        for (key, operation) in changes.operations {
            written.operations.push(key);
            self.operations.insert(key, operation);
        }
        let (all, new) = (&mut written.changed, changes.changed);
        all.entries |= new.entries;
        all.rev |= new.rev;
        all.info |= new.info;
        all.read |= new.read;
    }
}

/// The role as asked for, when it is one that can be given.
pub(crate) fn given_role(number: i32) -> Option<client::Role> {
    client::Role::try_from(number)
        .ok()
        .filter(|role| matches!(role, client::Role::Member | client::Role::Admin))
}
