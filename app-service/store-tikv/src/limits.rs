//! How long things may take, and how much is asked for at once. Sizes of keys, values and batches are
//! [`whimbrel_store::limits`].

use std::time::Duration;

/// The life of a lock that TiKV's client takes for batches up to 16 KiB. Larger ones live longer, 17 s at 8 MiB.
pub const LOCK_LIFE: Duration = Duration::from_secs(3);

/// Batches up to this live [`LOCK_LIFE`].
const LOCK_LIFE_BYTES: usize = 16 * 1024;
/// The life of the locks of one MiB; it grows with the square root.
const LOCK_LIFE_OF_A_MIB: Duration = Duration::from_secs(6);
/// No lock lives longer.
const LOCK_LIFE_MAX: Duration = Duration::from_secs(20);

/// The life of the locks that TiKV's client takes for a batch of this size.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a batch has some megabytes")]
pub fn lock_life(bytes: usize) -> Duration {
    if bytes <= LOCK_LIFE_BYTES {
        return LOCK_LIFE;
    }
    let mib = bytes as f64 / (1024.0 * 1024.0);
    LOCK_LIFE_OF_A_MIB
        .mul_f64(mib.sqrt())
        .clamp(LOCK_LIFE, LOCK_LIFE_MAX)
}

/// How much longer than its own locks live one attempt at a commit may take: whoever meets them then rolls them back, so that
/// it would be in vain. TiKV's client waits for the timestamp of a commit without an end, and PD may be gone by then.
pub const ATTEMPT_AFTER_LOCKS: Duration = Duration::from_secs(1);

/// How long a commit waits for others' locks before it gives up and says `Conflict`: two lives, since a dead
/// client's lock may be followed by another's.
pub const LOCK_WAIT: Duration = Duration::from_millis(6_500);

/// How long one read may take in all, waiting for locks, regions and leaders included. Longer than [`LOCK_WAIT`]: a reader
/// who resolves an unknown commit must outlast its lock.
pub const READ_TIME_MAX: Duration = Duration::from_secs(8);

/// How long one commit may take before it is [`Unknown`](whimbrel_store::Commit::Unknown). Longer than [`LOCK_WAIT`], and
/// short enough that the locks of the largest batch have not long expired.
pub const COMMIT_TIME_MAX: Duration = Duration::from_secs(10);

/// How long the rollback of a proven abort may take. It only spares others the wait for the locks' end.
pub const ROLLBACK_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a snapshot may wait for its timestamps. PD answers in a millisecond or is not well.
pub const TIMESTAMP_TIME_MAX: Duration = Duration::from_secs(2);

/// One call to a store: TiKV's own client gives up at 2 s too.
pub const CALL_TIME_MAX: Duration = Duration::from_secs(2);

/// One attempt to connect to PD and learn its members.
pub const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// Between two attempts at something that failed: about a raft tick.
pub const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Between two looks at each client of the pool.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Not ready once no client has had a timestamp for this long: a PD leader that dies is replaced sooner.
pub const PD_LOST_AFTER: Duration = Duration::from_secs(4);

/// Not ready once no client could read for this long: a region elects a new leader in about 10 s, and until then the
/// other regions still serve.
pub const READS_LOST_AFTER: Duration = Duration::from_secs(15);

/// A client that failed this many probes in a row is replaced: a connection whose other end vanished without a word is
/// noticed by nothing else.
pub const PROBES_FAILED_MAX: u32 = 2;

/// A snapshot older than this is gone, so that garbage collection never pulls one away unnoticed. One operation of
/// Whimbrel's takes seconds.
pub const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(120);

/// What garbage collection keeps at least, whatever is configured: twice the oldest snapshot and the longest commit.
pub const HISTORY_MIN: Duration = Duration::from_secs(300);

/// How long PD keeps what a long snapshot needs after it was last told so: no longer than [`HISTORY_MIN`], within which nobody has
/// collected when the first word is said.
pub const HOLD_TIME: Duration = Duration::from_secs(300);

/// Between two such words.
pub const HOLD_RENEWAL: Duration = Duration::from_secs(30);

/// Between two rounds of garbage collection: TiKV looks for a new safe point about as often.
pub const COLLECT_INTERVAL: Duration = Duration::from_secs(60);

/// How many commits may rely on one snapshot. Each needs a timestamp of its own that is not above the snapshot's; they are
/// taken together with the snapshot. Further commits conflict on all their keys.
pub const COMMITS_PER_SNAPSHOT: usize = 4;

/// Entries asked for in one call. Of the longest keys and largest values they are 17 MiB, under [`ANSWER_BYTES_MAX`].
pub const ENTRIES_PER_CALL: usize = 256;

/// The largest answer that is decoded.
pub const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A batch of more keys than this is searched for an orphaned lock as one span rather than key by key.
pub const KEYS_SEARCHED_APART: usize = 64;

/// Locks asked for in one call when one is searched.
pub const LOCKS_PER_CALL: u32 = 1024;
