//! What one operation may ask for. Each bound stands with its reason.

/// Messages in one send: what an SDK gathers while its last batch is in flight, and what shows in order or not at all.
pub const SEND_MESSAGES_MAX: usize = 32;

/// Bytes of one message, content and options as encoded: with its entry's other fields it fits a stored value and one push
/// (64 KiB each), with room for twice as much again.
pub const MESSAGE_BYTES_MAX: usize = 24 * 1024;

/// Bytes of all messages of a send: their entries fit one push, whose frame holds 64 KiB.
pub const SEND_BYTES_MAX: usize = 48 * 1024;

/// Bytes of the text that an offline push shows: APNs takes 4 KiB for everything.
pub const PUSH_TEXT_BYTES_MAX: usize = 1024;

/// Bytes of a custom content's type, which is a name.
pub const CUSTOM_TYPE_BYTES_MAX: usize = 64;

/// Bytes of a group's name: a line of a conversation list, in any script.
pub const GROUP_NAME_BYTES_MAX: usize = 256;

/// Members of a group. Every change of such a group rewrites a row of each member; larger groups need another way.
pub const GROUP_MEMBERS_MAX: u32 = 2_000;

/// Users named in one change of a group: the entry that tells of it names them all, 66 bytes each, and fits one push.
pub const CHANGE_USERS_MAX: usize = 500;

/// How long an operation id is good and remembered for, milliseconds: a phone comes back from a week without network.
pub const OPERATION_HORIZON_MS: u64 = 7 * 24 * 3_600_000;

/// How far ahead of the server's time an operation id may be, milliseconds: clients use the server's time as of their
/// login, and clocks drift.
pub const OPERATION_AHEAD_MAX_MS: u64 = 5 * 60_000;

/// How long past the horizon operations are kept, milliseconds: they are then dropped a day at a time, and nodes whose clocks
/// differ agree about all that are dropped.
pub const OPERATION_SLACK_MS: u64 = 24 * 3_600_000;

/// Intervals of visibility kept per member. Whoever left and came back more often no longer sees the oldest.
pub const INTERVALS_MAX: usize = 16;
