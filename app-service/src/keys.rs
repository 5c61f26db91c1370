//! Where everything lies in the Store: the one place that knows how keys are built.
//!
//! Keys are entity-first, so that one send touches one place and writes of different conversations spread:
//! `w | app_len | app | space | hash16 | entity | row | suffix`. Numbers are fixed-width big-endian, so keys sort as their
//! numbers do. `hash16` is the low 16 bits of the entity's CityHash. An app key is never empty, so the second byte 0 is free
//! for what belongs to the cluster: markers and node lives.
//!
//! What this module is not for: values, see [`crate::values`].

use bytes::{BufMut as _, Bytes, BytesMut};
use whimbrel_protocol::bucket::city_hash;
use whimbrel_protocol::ids::{
    AppKey, ConversationId, Incarnation, OperationId, Rev, Seq, SyncVersion, Uid, UserId,
};
use whimbrel_store::KeyRange;

/// First byte of every key: Whimbrel's own, should the store be shared.
const OWNER: u8 = b'w';
/// Second byte of keys that belong to no app. Behind it a store over TiKV has the row `s` for its own.
const CLUSTER: u8 = 0;

/// How many places markers of one node are spread over. Each is a range that a sweeper must scan, and each takes that share
/// of a node's commits.
pub const MARKER_SHARDS: u8 = 16;

#[derive(Clone, Copy)]
enum Space {
    Conversation = b'c' as isize,
    User = b'u' as isize,
    Name = b'n' as isize,
}

mod row {
    pub(super) const HEAD: u8 = b'h';
    pub(super) const ENTRY: u8 = b'e';
    pub(super) const OPERATION: u8 = b'i';
    pub(super) const MEMBER: u8 = b'm';
    pub(super) const ROSTER: u8 = b'l';
    pub(super) const REV: u8 = b'r';

    pub(super) const PROFILE: u8 = b'p';
    pub(super) const SYNC_COUNTER: u8 = b's';
    pub(super) const CONVERSATION_ROW: u8 = b'c';
    pub(super) const VERSION: u8 = b'v';

    pub(super) const USER_ID: u8 = b'u';

    pub(super) const MARKER: u8 = b'm';
    pub(super) const NODE_LIFE: u8 = b'n';
    /// A restore under way.
    pub(super) const RESTORE: u8 = b'r';
    /// A store over TiKV keeps its own here.
    pub(super) const OF_THE_STORE: u8 = b's';
}

/// Room for the longest suffix without growing.
const SUFFIX_LEN_MAX: usize = 24;

fn entity_key(app: &AppKey, space: Space, entity: &[u8], row: u8) -> BytesMut {
    let app = app.as_str().as_bytes();
    let mut key = BytesMut::with_capacity(6 + app.len() + entity.len() + SUFFIX_LEN_MAX);
    key.put_u8(OWNER);
    put_short(&mut key, app);
    key.put_u8(space as u8);
    let [.., high, low] = city_hash(entity).to_be_bytes();
    key.put_slice(&[high, low]);
    key.put_slice(entity);
    key.put_u8(row);
    key
}

/// At most 255 bytes behind their length.
fn put_short(key: &mut BytesMut, bytes: &[u8]) {
    key.put_u8(u8::try_from(bytes.len()).expect("app keys and uids are at most 64 bytes"));
    key.put_slice(bytes);
}

fn prefix_range(prefix: BytesMut) -> KeyRange {
    KeyRange::prefix(prefix.freeze()).expect("a prefix of ours is short and begins with 'w'")
}

/// The keys from `low` to `high`, both inclusive; `low <= high`, both of one length.
fn inclusive_range(low: Bytes, high: &Bytes) -> KeyRange {
    let mut end = BytesMut::with_capacity(high.len() + 1);
    end.put_slice(high);
    end.put_u8(0);
    KeyRange::new(low, end.freeze()).expect("the caller orders the bounds")
}

/// The number that a key ends with.
///
/// # Panics
/// Never for keys built here that end with a number.
#[must_use]
pub fn trailing_u64(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The keys of one conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationKeys {
    app: AppKey,
    conversation: ConversationId,
}

impl ConversationKeys {
    /// The keys of `conversation` of `app`.
    #[must_use]
    pub fn new(app: &AppKey, conversation: ConversationId) -> Self {
        Self {
            app: app.clone(),
            conversation,
        }
    }

    /// The app.
    #[must_use]
    pub fn app(&self) -> &AppKey {
        &self.app
    }

    /// The conversation.
    #[must_use]
    pub fn conversation(&self) -> ConversationId {
        self.conversation
    }

    fn key(&self, row: u8) -> BytesMut {
        entity_key(&self.app, Space::Conversation, self.conversation.as_bytes(), row)
    }

    fn numbered(&self, row: u8, number: u64) -> Bytes {
        let mut key = self.key(row);
        key.put_u64(number);
        key.freeze()
    }

    /// `storage.Head`.
    #[must_use]
    pub fn head(&self) -> Bytes {
        self.key(row::HEAD).freeze()
    }

    /// `storage.Entry`.
    #[must_use]
    pub fn entry(&self, seq: Seq) -> Bytes {
        self.numbered(row::ENTRY, seq.0)
    }

    /// Entries from `from` to `to`, both inclusive; empty when `from > to`.
    #[must_use]
    pub fn entries(&self, from: Seq, to: Seq) -> KeyRange {
        if from > to {
            let at = self.entry(from);
            return KeyRange::new(at.clone(), at).expect("equal bounds are an empty range");
        }
        inclusive_range(self.entry(from), &self.entry(to))
    }

    /// `storage.Operation`. The user is part of the key: nobody meets another user's ids.
    #[must_use]
    pub fn operation(&self, operation: OperationId, user: UserId) -> Bytes {
        let mut key = self.key(row::OPERATION);
        key.put_slice(operation.as_bytes());
        key.put_u64(user.0);
        key.freeze()
    }

    /// Operations whose ids were made before `time_ms`, oldest first.
    #[must_use]
    pub fn operations_before(&self, time_ms: u64) -> KeyRange {
        let bound = |time_ms: u64| {
            let [_, _, time @ ..] = time_ms.min((1 << 48) - 1).to_be_bytes();
            let mut key = self.key(row::OPERATION);
            key.put_slice(&time);
            key.freeze()
        };
        KeyRange::new(bound(0), bound(time_ms)).expect("0 is not above any time")
    }

    /// When the operation of this key was made, by its id; `None` for another kind of key.
    #[must_use]
    pub fn operation_time_ms(key: &[u8]) -> Option<u64> {
        let (id, _user) = key.last_chunk::<24>()?.split_first_chunk::<16>()?;
        Some(OperationId::from_wire(id).ok()?.time_ms())
    }

    /// `storage.Member`.
    #[must_use]
    pub fn member(&self, user: UserId) -> Bytes {
        self.numbered(row::MEMBER, user.0)
    }

    /// `storage.RosterItem`; groups only.
    #[must_use]
    pub fn roster_item(&self, user: UserId) -> Bytes {
        self.numbered(row::ROSTER, user.0)
    }

    /// The current members of a group, by user id.
    #[must_use]
    pub fn roster(&self) -> KeyRange {
        prefix_range(self.key(row::ROSTER))
    }

    /// The current members of a group whose user ids are above `after`.
    #[must_use]
    pub fn roster_after(&self, after: UserId) -> KeyRange {
        let roster = self.roster();
        roster.after(&self.roster_item(after), whimbrel_store::Direction::Forward)
    }

    /// `storage.Changed`.
    #[must_use]
    pub fn rev(&self, rev: Rev) -> Bytes {
        self.numbered(row::REV, rev.0)
    }

    /// Changes above `after`, ascending.
    #[must_use]
    pub fn revs_after(&self, after: Rev) -> KeyRange {
        let from = Rev(after.0.saturating_add(1));
        inclusive_range(self.rev(from), &self.rev(Rev(u64::MAX)))
    }
}

/// The keys of one user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKeys {
    app: AppKey,
    user: UserId,
}

impl UserKeys {
    /// The keys of `user` of `app`.
    #[must_use]
    pub fn new(app: &AppKey, user: UserId) -> Self {
        Self {
            app: app.clone(),
            user,
        }
    }

    fn key(&self, row: u8) -> BytesMut {
        entity_key(&self.app, Space::User, &self.user.0.to_be_bytes(), row)
    }

    /// `storage.Profile`.
    #[must_use]
    pub fn profile(&self) -> Bytes {
        self.key(row::PROFILE).freeze()
    }

    /// `storage.SyncCounter`.
    #[must_use]
    pub fn sync_counter(&self) -> Bytes {
        self.key(row::SYNC_COUNTER).freeze()
    }

    /// `storage.Row`.
    #[must_use]
    pub fn row(&self, conversation: &ConversationId) -> Bytes {
        let mut key = self.key(row::CONVERSATION_ROW);
        key.put_slice(conversation.as_bytes());
        key.freeze()
    }

    /// `storage.RowRef`.
    #[must_use]
    pub fn version(&self, version: SyncVersion) -> Bytes {
        let mut key = self.key(row::VERSION);
        key.put_u64(version.0);
        key.freeze()
    }

    /// Row references above `after`, ascending by version.
    #[must_use]
    pub fn versions_after(&self, after: SyncVersion) -> KeyRange {
        let from = SyncVersion(after.0.saturating_add(1));
        inclusive_range(self.version(from), &self.version(SyncVersion(u64::MAX)))
    }
}

/// `storage.Name`: from a uid to the user id.
#[must_use]
pub fn name(app: &AppKey, uid: &Uid) -> Bytes {
    let mut entity = BytesMut::with_capacity(1 + uid.as_str().len());
    put_short(&mut entity, uid.as_str().as_bytes());
    entity_key(app, Space::Name, &entity, row::USER_ID).freeze()
}

/// `storage.NodeLife`.
#[must_use]
pub fn node_life(incarnation: Incarnation) -> Bytes {
    let mut key = BytesMut::with_capacity(11);
    key.put_slice(&[OWNER, CLUSTER, row::NODE_LIFE]);
    key.put_u64(incarnation.0);
    key.freeze()
}

/// All node lives, by incarnation, which is the number their keys end with.
#[must_use]
pub fn node_lives() -> KeyRange {
    prefix_range(BytesMut::from(&[OWNER, CLUSTER, row::NODE_LIFE][..]))
}

/// Where a restore says that it is under way. While anything is there nobody may serve from the store.
#[must_use]
pub fn restore_mark() -> Bytes {
    Bytes::from_static(&[OWNER, CLUSTER, row::RESTORE])
}

/// Everything that is Whimbrel's in a store but for what the store keeps for itself: what a backup holds.
#[must_use]
pub fn everything() -> Vec<KeyRange> {
    let range = |from: &'static [u8], to: &'static [u8]| KeyRange::new(from, to).expect("bounds in order");
    vec![
        range(&[OWNER, CLUSTER], &[OWNER, CLUSTER, row::OF_THE_STORE]),
        range(&[OWNER, CLUSTER, row::OF_THE_STORE + 1], &[OWNER + 1]),
    ]
}

/// Who works markers off; each has its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Consumer {
    /// The users' rows and their notices.
    Rows = 1,
}

impl Consumer {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Rows),
            _ => None,
        }
    }
}

/// What of a conversation a marker speaks of. No two commits of one node write the same: each for everyone moves seq or rev,
/// each for one user moves the user's read_seq.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum MarkerSubject {
    /// The log or the members changed; all members' rows follow.
    Everyone {
        /// The head after the commit.
        seq: Seq,
        /// The rev after the commit.
        rev: Rev,
    },
    /// One user's row follows.
    OneUser {
        /// Whose.
        user: UserId,
        /// Read up to here.
        read_seq: Seq,
    },
}

/// A marker's place: `w | 0 | 'm' | shard | owner | consumer | app_len | app | conversation | subject`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct MarkerKey {
    /// The life of the node that must work it off.
    pub owner: Incarnation,
    /// Who works it off there.
    pub consumer: Consumer,
    /// The app.
    pub app: AppKey,
    /// The conversation.
    pub conversation: ConversationId,
    /// What happened.
    pub subject: MarkerSubject,
}

const SUBJECT_EVERYONE: u8 = b'e';
const SUBJECT_ONE_USER: u8 = b'u';

impl MarkerKey {
    fn shard(&self) -> u8 {
        let [.., low] = city_hash(self.conversation.as_bytes()).to_be_bytes();
        low % MARKER_SHARDS
    }

    fn owner_prefix(shard: u8, owner: Incarnation) -> BytesMut {
        let mut key = BytesMut::with_capacity(96);
        key.put_slice(&[OWNER, CLUSTER, row::MARKER, shard]);
        key.put_u64(owner.0);
        key
    }

    /// The key of `storage.Marker`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut key = Self::owner_prefix(self.shard(), self.owner);
        key.put_u8(self.consumer as u8);
        put_short(&mut key, self.app.as_str().as_bytes());
        key.put_slice(self.conversation.as_bytes());
        let (kind, first, second) = match self.subject {
            MarkerSubject::Everyone { seq, rev } => (SUBJECT_EVERYONE, seq.0, rev.0),
            MarkerSubject::OneUser { user, read_seq } => (SUBJECT_ONE_USER, user.0, read_seq.0),
        };
        key.put_u8(kind);
        key.put_u64(first);
        key.put_u64(second);
        key.freeze()
    }

    /// The marker whose key this is; `None` when it is none, or of a consumer that this version does not know.
    #[must_use]
    pub fn decode(key: &[u8]) -> Option<Self> {
        let rest = key.strip_prefix(&[OWNER, CLUSTER, row::MARKER])?;
        let (_shard, rest) = rest.split_first()?;
        let (owner, rest) = rest.split_first_chunk::<8>()?;
        let (consumer, rest) = rest.split_first()?;
        let (app_len, rest) = rest.split_first()?;
        let (app, rest) = rest.split_at_checked(usize::from(*app_len))?;
        let (conversation, rest) = rest.split_first_chunk::<16>()?;
        let (kind, rest) = rest.split_first()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let second: &[u8; 8] = rest.try_into().ok()?;
        let (first, second) = (u64::from_be_bytes(*first), u64::from_be_bytes(*second));
        Some(Self {
            owner: Incarnation(u64::from_be_bytes(*owner)),
            consumer: Consumer::from_number(*consumer)?,
            app: AppKey::new(std::str::from_utf8(app).ok()?).ok()?,
            conversation: ConversationId::from_wire(conversation).ok()?,
            subject: match *kind {
                SUBJECT_EVERYONE => MarkerSubject::Everyone {
                    seq: Seq(first),
                    rev: Rev(second),
                },
                SUBJECT_ONE_USER => MarkerSubject::OneUser {
                    user: UserId(first),
                    read_seq: Seq(second),
                },
                _ => return None,
            },
        })
    }

    /// Where all markers of one node's life are: one range per shard.
    pub fn ranges_of(owner: Incarnation) -> impl Iterator<Item = KeyRange> {
        (0..MARKER_SHARDS).map(move |shard| prefix_range(Self::owner_prefix(shard, owner)))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use whimbrel_protocol::ids::ConversationKind;

    fn app() -> AppKey {
        AppKey::new("demo").unwrap()
    }

    fn conversation() -> ConversationId {
        ConversationId::from_parts(ConversationKind::Group, [7; 15])
    }

    fn keys() -> ConversationKeys {
        ConversationKeys::new(&app(), conversation())
    }

    #[test]
    fn a_head_key_has_its_golden_bytes() {
        let [.., high, low] = city_hash(conversation().as_bytes()).to_be_bytes();
        let mut expected = b"w\x04democ".to_vec();
        expected.extend([high, low]);
        expected.extend(conversation().as_bytes());
        expected.push(b'h');
        assert_eq!(&keys().head()[..], &expected[..]);
    }

    #[test]
    fn everything_is_backed_up_but_what_the_store_keeps_for_itself() {
        let covered = |key: &[u8]| everything().iter().any(|range| range.contains(key));
        let name = name(&app(), &Uid::new("alice").unwrap());
        for key in [
            keys().head(),
            node_life(Incarnation(u64::MAX)),
            restore_mark(),
            name,
        ] {
            assert!(covered(&key), "{key:?}");
        }
        let long = ConversationKeys::new(&AppKey::new(&"z".repeat(32)).unwrap(), conversation());
        assert!(covered(&long.entry(Seq(u64::MAX))));
        assert!(!covered(b"w\0sidentity") && !covered(b"v") && !covered(b"x"));
    }

    #[test]
    fn entries_sort_by_seq_and_ranges_hold_both_ends() {
        let range = keys().entries(Seq(255), Seq(256));
        assert!(keys().entry(Seq(255)) < keys().entry(Seq(256)));
        assert!(range.contains(&keys().entry(Seq(255))) && range.contains(&keys().entry(Seq(256))));
        assert!(!range.contains(&keys().entry(Seq(254))) && !range.contains(&keys().entry(Seq(257))));
        assert!(keys().entries(Seq(5), Seq(4)).is_empty());
        assert!(
            keys()
                .entries(Seq(1), Seq(u64::MAX))
                .contains(&keys().entry(Seq(u64::MAX)))
        );
    }

    #[test]
    fn no_conversation_key_lies_in_anothers_ranges() {
        let other = ConversationKeys::new(&AppKey::new("demo2").unwrap(), conversation());
        assert!(!keys().roster().contains(&other.roster_item(UserId(1))));
        assert!(!keys().roster().contains(&keys().member(UserId(1))));
        assert!(!keys().revs_after(Rev(0)).contains(&keys().roster_item(UserId(1))));
    }

    #[test]
    fn paging_the_roster_skips_what_was_seen() {
        let rest = keys().roster_after(UserId(7));
        assert!(!rest.contains(&keys().roster_item(UserId(7))));
        assert!(rest.contains(&keys().roster_item(UserId(8))));
        assert!(
            keys().roster_after(UserId(u64::MAX)).is_empty()
                || !rest.contains(&keys().roster_item(UserId(6)))
        );
    }

    #[test]
    fn operations_are_found_by_the_time_in_their_ids() {
        let old = keys().operation(OperationId::new(1_000, [3; 10]), UserId(9));
        let new = keys().operation(OperationId::new(2_000, [3; 10]), UserId(9));
        let range = keys().operations_before(2_000);
        assert!(range.contains(&old) && !range.contains(&new));
        assert_eq!(ConversationKeys::operation_time_ms(&old), Some(1_000));
    }

    #[test]
    fn markers_survive_their_key_and_lie_in_their_owners_ranges() {
        for subject in [
            MarkerSubject::Everyone {
                seq: Seq(3),
                rev: Rev(9),
            },
            MarkerSubject::OneUser {
                user: UserId(3),
                read_seq: Seq(9),
            },
        ] {
            let marker = MarkerKey {
                owner: Incarnation(0xABCD),
                consumer: Consumer::Rows,
                app: app(),
                conversation: conversation(),
                subject,
            };
            let key = marker.encode();
            assert_eq!(MarkerKey::decode(&key), Some(marker));
            assert_eq!(
                MarkerKey::ranges_of(Incarnation(0xABCD))
                    .filter(|r| r.contains(&key))
                    .count(),
                1
            );
            assert_eq!(
                MarkerKey::ranges_of(Incarnation(0xABCE))
                    .filter(|r| r.contains(&key))
                    .count(),
                0
            );
        }
    }

    #[test]
    fn bytes_that_are_no_marker_are_refused() {
        let marker = MarkerKey {
            owner: Incarnation(1),
            consumer: Consumer::Rows,
            app: app(),
            conversation: conversation(),
            subject: MarkerSubject::Everyone {
                seq: Seq(1),
                rev: Rev(0),
            },
        };
        let key = marker.encode();
        for len in 0..key.len() {
            assert_eq!(MarkerKey::decode(&key[..len]), None);
        }
        let mut longer = key.to_vec();
        longer.push(0);
        assert_eq!(MarkerKey::decode(&longer), None);
        assert_eq!(MarkerKey::decode(&node_life(Incarnation(1))), None);
    }

    #[test]
    fn uids_of_one_prefix_have_apart_names() {
        let name = |uid: &str| name(&app(), &Uid::new(uid).unwrap());
        assert_ne!(name("al"), name("alu"));
        assert!(!name("alu").starts_with(&name("al")));
    }
}
