//! How long things may take, and how much is asked for at once. Sizes of keys, values and batches are
//! [`whimbrel_store::limits`].

use std::time::Duration;

use whimbrel_store::Grouping;

/// How callers are to put commits together. A commit is five round trips (a timestamp, a read, the locks, another timestamp, the
/// primary), whatever it holds, some 5 ms where the network is quick: eight in flight keep a node's processor busy meanwhile,
/// and with 16 things each make for 25,000 a second. Who meets a lock that a dead node left waits for about a second,
/// and what shares a commit with it waits along: 15 at most, while the seven others go on; where eight wait, so do all. In
/// larger commits more would wait, and the chance to meet such a lock grows with each key.
pub const GROUPING: Grouping = Grouping {
    in_flight: 8,
    unrelated_max: 16,
};

/// The life of a lock that TiKV's client takes for batches up to 256 KiB. Those of larger ones live longer, 17 s at 8 MiB.
pub const LOCK_LIFE: Duration = Duration::from_secs(3);

/// Up to this the client does not ask for a batch's size; beyond, the root of it counts, which is less than [`LOCK_LIFE`] up to
/// 256 KiB.
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

/// How old a lock is before whoever meets it pushes it out of the way, at the least. A commit has locks for two round trips, some
/// milliseconds, so that one of this age has most likely lost its owner; and what a dead node leaves behind is to hold up nobody
/// for 2 s in all, a few tries and another lock behind the first included.
pub const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// It is as long as this many usual commits where those are slow: whoever is pushed out has to start again, and if all
/// were pushed out that are merely slow, none would come to an end.
pub const PATIENCE_IN_COMMITS: u32 = 8;

/// As long, too, as this many of the calls that looking for such locks takes: they say what calls take at this very moment,
/// before any commit can. More than a commit makes in all while it holds locks and waits for others' (`pool`): 27.
pub const PATIENCE_IN_CALLS: u32 = 40;

/// And it is never longer than this: then the lock's life is over, and TiKV's client itself ends it.
pub const PATIENCE_MAX: Duration = LOCK_LIFE;

/// So many looks for others' locks a store takes at once, whoever waits.
pub const LOOKS_AT_ONCE: usize = 2;

/// So many calls one look has in flight: with 256 keys of which none is named it takes 17 round trips.
pub const CALLS_AT_ONCE: usize = 16;

/// Between two looks of one who waits; it doubles up to [`LOOK_PAUSE_MAX`], and is never shorter than the look was.
pub const LOOK_PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest pause between two looks.
pub const LOOK_PAUSE_MAX: Duration = Duration::from_millis(250);

/// How many of the last commits say what is usual.
pub const PACE_COMMITS: usize = 15;

/// With fewer than this nothing is usual yet.
pub const PACE_COMMITS_MIN: usize = 5;

/// What took place longer ago says nothing of now.
pub const PACE_AGE_MAX: Duration = Duration::from_secs(10);

/// How long one read may take in all, waiting for locks, regions and leaders included: two lives of a lock and more, for what holds
/// the locks of large batches, and for several dead one behind the other.
pub const READ_TIME_MAX: Duration = Duration::from_secs(8);

/// How long one commit may take before it is [`Unknown`](whimbrel_store::Commit::Unknown): short enough that the locks of the
/// largest batch have not long expired.
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

/// A client that failed this many probes in a row is replaced, if a new one fares better: a connection whose other end vanished
/// without a word is noticed by nothing else.
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

/// Locks asked for in one call when they are looked for.
pub const LOCKS_PER_CALL: u32 = 1024;
