//! Who is in which conversation, as of an info version: spares a commit the reading of its members.
//!
//! A conversation's members are what they are at its info version, whichever node changed them, so a cached list is either
//! exact or of another version. Bounded by the members it holds; least recently used lists go first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::committed::Members;
use crate::keys::ConversationKeys;

/// Members held in all: about 100 bytes each.
const MEMBERS_MAX: usize = 200_000;
/// What a list takes besides its members, in members.
const LIST_OVERHEAD: usize = 4;

struct Cached {
    info_version: u64,
    members: Arc<Members>,
    used: u64,
}

/// The cache.
pub(super) struct MembersCache {
    lists: HashMap<ConversationKeys, Cached>,
    by_use: BTreeMap<u64, ConversationKeys>,
    uses: u64,
    held: usize,
    held_max: usize,
}

impl MembersCache {
    pub(super) fn new() -> Self {
        Self::holding(MEMBERS_MAX)
    }

    fn holding(held_max: usize) -> Self {
        Self {
            lists: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            held: 0,
            held_max,
        }
    }

    /// The members at this info version, when they are known.
    pub(super) fn find(&mut self, keys: &ConversationKeys, info_version: u64) -> Option<Arc<Members>> {
        let cached = self
            .lists
            .get_mut(keys)
            .filter(|cached| cached.info_version == info_version)?;
        self.by_use.remove(&cached.used);
        self.uses += 1;
        cached.used = self.uses;
        self.by_use.insert(cached.used, keys.clone());
        Some(Arc::clone(&cached.members))
    }

    /// Keeps the members at this info version. An older version than is there is not kept.
    pub(super) fn keep(&mut self, keys: &ConversationKeys, info_version: u64, members: Arc<Members>) {
        if self
            .lists
            .get(keys)
            .is_some_and(|cached| cached.info_version >= info_version)
        {
            return;
        }
        self.forget(keys);
        self.uses += 1;
        self.held += weight(&members);
        self.by_use.insert(self.uses, keys.clone());
        let cached = Cached {
            info_version,
            members,
            used: self.uses,
        };
        self.lists.insert(keys.clone(), cached);
        while self.held > self.held_max {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, keys: &ConversationKeys) {
        if let Some(cached) = self.lists.remove(keys) {
            self.by_use.remove(&cached.used);
            self.held -= weight(&cached.members);
        }
    }
}

fn weight(members: &Members) -> usize {
    members.list.len() + LIST_OVERHEAD
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::committed::Recipient;
    use whimbrel_protocol::client::Role;
    use whimbrel_protocol::ids::{AppKey, ConversationId, ConversationKind, Seq, Uid, UserId};

    fn keys(n: u8) -> ConversationKeys {
        let id = ConversationId::from_parts(ConversationKind::Group, [n; 15]);
        ConversationKeys::new(&AppKey::new("demo").unwrap(), id)
    }

    fn members(count: u64) -> Arc<Members> {
        let one = |user| Recipient {
            user: UserId(user),
            uid: Uid::new("ann").unwrap(),
            role: Role::Member,
            first_visible_seq: Seq(1),
            last_visible_seq: Seq(u64::MAX),
        };
        Arc::new(Members {
            list: (0..count).map(one).collect(),
        })
    }

    #[test]
    fn only_the_very_version_is_found() {
        let mut cache = MembersCache::new();
        cache.keep(&keys(1), 3, members(2));
        assert!(cache.find(&keys(1), 3).is_some());
        assert!(cache.find(&keys(1), 2).is_none() && cache.find(&keys(1), 4).is_none());
        cache.keep(&keys(1), 2, members(9));
        assert_eq!(cache.find(&keys(1), 3).unwrap().list.len(), 2);
    }

    #[test]
    fn the_least_recently_used_lists_go_first() {
        let mut cache = MembersCache::holding(3 * (10 + LIST_OVERHEAD));
        for n in 1..=3 {
            cache.keep(&keys(n), 1, members(10));
        }
        cache.find(&keys(1), 1).unwrap();
        cache.keep(&keys(4), 1, members(10));
        assert!(cache.find(&keys(2), 1).is_none());
        assert!(cache.find(&keys(1), 1).is_some() && cache.find(&keys(4), 1).is_some());
        assert_eq!(cache.held, 3 * (10 + LIST_OVERHEAD));
        assert_eq!(cache.by_use.len(), cache.lists.len());
    }
}
