//! What to push to whom, decided without touching anything: entries cut into payloads by who may see them, and
//! payloads joined with sessions into frames, each with what there is for one gateway. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client::{self, ConversationRow};
use whimbrel_protocol::cluster::{
    Envelope, Kind, Priority, PushRequest, PushTarget, PushesRequest, Role, SessionRecord,
};
use whimbrel_protocol::ids::{AppKey, ConversationId, ConversationKind, Seq, UserId};
use whimbrel_protocol::method::PushMethod;

use super::last_seen::User;
use crate::committed::{Committed, Recipient};

/// Bytes of entries in one push, so that it stays well below the largest frame (64 KiB). What alone is larger is not
/// pushed: the client finds the hole and pulls it.
pub const PUSH_BYTES_MAX: usize = 32 * 1024;

/// What is pushed. Encoded only once somebody is there to get it.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// Entries that were just committed.
    Messages(client::MessagesPush),
    /// Rows that changed.
    Notice(client::NoticePush),
    /// A notice before was dropped: sync within so many milliseconds.
    Missed {
        /// So that not everybody comes at once.
        spread_ms: u32,
    },
}

impl Payload {
    /// Whether nothing else tells the users of it: what messages bring, the notices behind them bring too.
    #[must_use]
    pub(super) const fn is_last_word(&self) -> bool {
        match self {
            Self::Messages(_) => false,
            Self::Notice(_) | Self::Missed { .. } => true,
        }
    }

    /// The request that has it brought to sessions of one life of a gateway.
    fn request(&self) -> PushRequest {
        let push = |method: PushMethod, payload: Vec<u8>| PushRequest {
            method: method.number(),
            payload: payload.into(),
            tracked: true,
            ..PushRequest::default()
        };
        match self {
            Self::Messages(messages) => push(PushMethod::Messages, messages.encode_to_vec()),
            Self::Notice(notice) => push(PushMethod::Notice, notice.encode_to_vec()),
            Self::Missed { spread_ms } => PushRequest {
                missed: true,
                spread_ms: *spread_ms,
                ..PushRequest::default()
            },
        }
    }
}

/// One payload for some users.
#[derive(Clone, Debug, PartialEq)]
pub struct PushJob {
    /// The users' app.
    pub app: AppKey,
    /// Who gets it, on all their devices.
    pub users: Vec<UserId>,
    /// What.
    pub payload: Payload,
    /// Before what it goes.
    pub priority: Priority,
}

/// The priority of what belongs to a conversation.
#[must_use]
pub fn priority_of(conversation: ConversationId) -> Priority {
    match conversation.kind() {
        ConversationKind::Direct => Priority::Direct,
        ConversationKind::Group => Priority::Group,
    }
}

/// The pushes of a commit's entries: everybody gets what they may see and nothing else. Most commits have one class of
/// recipients; joining and leaving makes more.
#[must_use]
pub fn message_jobs(committed: &Committed) -> Vec<PushJob> {
    if committed.entries.is_empty() {
        return Vec::new();
    }
    let mut classes: BTreeMap<(usize, usize), Vec<UserId>> = BTreeMap::new();
    for recipient in &committed.recipients.list {
        let (from, to) = visible_range(&committed.entries, recipient);
        if from < to {
            classes.entry((from, to)).or_default().push(recipient.user);
        }
    }
    let mut jobs = Vec::new();
    for ((from, to), users) in classes {
        let visible = committed.entries.get(from..to).unwrap_or_default();
        for entries in chunks(visible) {
            jobs.push(PushJob {
                app: committed.app.clone(),
                users: users.clone(),
                payload: Payload::Messages(client::MessagesPush {
                    conversation: Bytes::copy_from_slice(committed.conversation.as_bytes()),
                    entries,
                }),
                priority: priority_of(committed.conversation),
            });
        }
    }
    jobs
}

/// Which of the entries, ascending by seq, a recipient may see, as indices.
fn visible_range(entries: &[client::Entry], recipient: &Recipient) -> (usize, usize) {
    let from = entries.partition_point(|entry| Seq(entry.seq) < recipient.first_visible_seq);
    let to = entries.partition_point(|entry| Seq(entry.seq) <= recipient.last_visible_seq);
    (from, to)
}

fn chunks(entries: &[client::Entry]) -> Vec<Vec<client::Entry>> {
    let mut chunks: Vec<Vec<client::Entry>> = Vec::new();
    let mut chunk_bytes = usize::MAX;
    for entry in entries {
        let bytes = entry.encoded_len();
        if bytes > PUSH_BYTES_MAX {
            // The next chunk starts anew, so that no chunk spans the hole.
            chunk_bytes = usize::MAX;
            continue;
        }
        match chunks.last_mut() {
            Some(chunk) if chunk_bytes.saturating_add(bytes) <= PUSH_BYTES_MAX => {
                chunk.push(entry.clone());
                chunk_bytes += bytes;
            }
            _ => {
                chunks.push(vec![entry.clone()]);
                chunk_bytes = bytes;
            }
        }
    }
    chunks
}

/// Rows that one notice carries at most: each is under 1 KiB. With more, the client is only told to sync.
const NOTICE_ROWS_MAX: usize = 32;

/// The notice of rows that changed between two cursors. A client that is at `from` applies it, any other syncs.
#[must_use]
pub fn notice_job(
    app: AppKey,
    user: UserId,
    (from_cursor, to_cursor): (Bytes, Bytes),
    rows: Vec<ConversationRow>,
    priority: Priority,
) -> PushJob {
    let notice = if rows.len() > NOTICE_ROWS_MAX {
        client::NoticePush {
            from_cursor: to_cursor.clone(),
            to_cursor,
            rows: Vec::new(),
        }
    } else {
        client::NoticePush {
            from_cursor,
            to_cursor,
            rows,
        }
    };
    PushJob {
        app,
        users: vec![user],
        payload: Payload::Notice(notice),
        priority,
    }
}

/// Bytes of targets and payloads from which on a frame takes no further push.
const FRAME_BYTES_FULL: usize = 64 * 1024;
/// Pushes in one frame at most. Gateways take more.
const FRAME_PUSHES_MAX: usize = 256;

/// A frame for one gateway: what there is for it in one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GatewayPush {
    /// The request, without an id.
    pub(super) envelope: Envelope,
    /// The registry's records of the sessions it is for.
    pub(super) sessions: Vec<Arc<SessionRecord>>,
    /// Those who are not told of something if this comes to nothing; see [`Payload::is_last_word`].
    pub(super) untold: Vec<User>,
}

/// A frame that is being put together.
#[derive(Default)]
struct Filling {
    pushes: Vec<PushRequest>,
    bytes: usize,
    sessions: Vec<Arc<SessionRecord>>,
    untold: Vec<User>,
}

/// Whose it is, and what the registry says of it.
type Session<'a> = (UserId, &'a Arc<SessionRecord>);

/// Joins payloads with the sessions of their users, by gateway, in the order of the jobs. `sessions` holds those of other
/// users too. A frame is for one life of a gateway: the targets that are gone are named without it.
#[must_use]
pub(super) fn frames(
    jobs: &[PushJob],
    sessions: &BTreeMap<User, Vec<Arc<SessionRecord>>>,
) -> Vec<GatewayPush> {
    let mut frames = Vec::new();
    let mut filling: BTreeMap<(&str, u64, Priority), Filling> = BTreeMap::new();
    for job in jobs {
        let mut by_gateway: BTreeMap<(&str, u64), Vec<Session<'_>>> = BTreeMap::new();
        for user in &job.users {
            for record in sessions.get(&(job.app.clone(), *user)).into_iter().flatten() {
                let Some(handle) = &record.session else { continue };
                by_gateway
                    .entry((&handle.gateway, handle.incarnation))
                    .or_default()
                    .push((*user, record));
            }
        }
        if by_gateway.is_empty() {
            continue;
        }
        let request = job.payload.request();
        for ((gateway, incarnation), records) in by_gateway {
            let push = PushRequest {
                targets: records.iter().filter_map(|(_, record)| target(record)).collect(),
                gateway_incarnation: incarnation,
                ..request.clone()
            };
            let bytes = push.encoded_len();
            let frame = filling.entry((gateway, incarnation, job.priority)).or_default();
            if frame.bytes.saturating_add(bytes) > FRAME_BYTES_FULL || frame.pushes.len() >= FRAME_PUSHES_MAX
            {
                frames.extend(filled(gateway, job.priority, std::mem::take(frame)));
            }
            frame.bytes += bytes;
            frame.pushes.push(push);
            if job.payload.is_last_word() {
                frame
                    .untold
                    .extend(records.iter().map(|(user, _)| (job.app.clone(), *user)));
            }
            frame
                .sessions
                .extend(records.into_iter().map(|(_, record)| Arc::clone(record)));
        }
    }
    for ((gateway, _, priority), frame) in filling {
        frames.extend(filled(gateway, priority, frame));
    }
    frames
}

fn filled(gateway: &str, priority: Priority, frame: Filling) -> Option<GatewayPush> {
    let Filling {
        mut pushes,
        sessions,
        untold,
        ..
    } = frame;
    let (kind, body) = match pushes.len() {
        0 => return None,
        1 => (Kind::Push, pushes.remove(0).encode_to_vec()),
        _ => (Kind::Pushes, PushesRequest { pushes }.encode_to_vec()),
    };
    Some(GatewayPush {
        envelope: Envelope {
            kind: kind.into(),
            priority: priority.into(),
            to_node: gateway.to_owned(),
            to_role: Role::Gateway.into(),
            body: body.into(),
            ..Envelope::default()
        },
        sessions,
        untold,
    })
}

fn target(record: &SessionRecord) -> Option<PushTarget> {
    let handle = record.session.as_ref()?;
    Some(PushTarget {
        reactor: handle.reactor,
        slot: handle.slot,
        generation: handle.generation,
        user_id: record.user_id,
    })
}

/// The records of the targets that a gateway says are gone.
pub(super) fn stale<'a>(
    sessions: &'a [Arc<SessionRecord>],
    gone: &'a [PushTarget],
) -> impl Iterator<Item = &'a Arc<SessionRecord>> + 'a {
    sessions
        .iter()
        .filter(|record| target(record).is_some_and(|target| gone.contains(&target)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::committed::{Changed, Members};
    use crate::keys::{Consumer, MarkerKey, MarkerSubject};
    use whimbrel_protocol::cluster::SessionHandle;
    use whimbrel_protocol::ids::{Incarnation, Rev, Uid};

    fn app() -> AppKey {
        AppKey::new("demo").unwrap()
    }

    fn recipient(user: u64, from: u64, to: u64) -> Recipient {
        Recipient {
            user: UserId(user),
            uid: Uid::new(&format!("u{user}")).unwrap(),
            role: client::Role::Member,
            first_visible_seq: Seq(from),
            last_visible_seq: Seq(to),
        }
    }

    fn committed(entries: Vec<client::Entry>, recipients: Vec<Recipient>) -> Committed {
        let conversation = ConversationId::from_parts(ConversationKind::Group, [1; 15]);
        Committed {
            app: app(),
            conversation,
            entries,
            head_seq: Seq(9),
            head_rev: Rev(0),
            info_version: 1,
            changed: Changed {
                entries: true,
                ..Default::default()
            },
            recipients: Arc::new(Members { list: recipients }),
            marker: MarkerKey {
                owner: Incarnation(1),
                consumer: Consumer::Rows,
                app: app(),
                conversation,
                subject: MarkerSubject::Everyone {
                    seq: Seq(9),
                    rev: Rev(0),
                },
            },
            only_user: None,
        }
    }

    fn entry(seq: u64, padding: usize) -> client::Entry {
        client::Entry {
            seq,
            client_msg_id: vec![1; padding].into(),
            ..Default::default()
        }
    }

    fn seen(jobs: &[PushJob]) -> Vec<(Vec<u64>, Vec<u64>)> {
        let one = |job: &PushJob| {
            let Payload::Messages(push) = &job.payload else {
                return (vec![], vec![]);
            };
            (
                job.users.iter().map(|user| user.0).collect(),
                push.entries.iter().map(|entry| entry.seq).collect(),
            )
        };
        jobs.iter().map(one).collect()
    }

    #[test]
    fn nobody_gets_what_was_before_joining_or_after_removal() {
        let entries = vec![entry(7, 0), entry(8, 0), entry(9, 0)];
        let recipients = vec![
            recipient(1, 1, u64::MAX),
            recipient(2, 1, 8),
            recipient(3, 9, u64::MAX),
            recipient(4, 1, 6),
        ];
        let mut jobs = seen(&message_jobs(&committed(entries, recipients)));
        jobs.sort();
        assert_eq!(
            jobs,
            [
                (vec![1], vec![7, 8, 9]),
                (vec![2], vec![7, 8]),
                (vec![3], vec![9])
            ]
        );
    }

    #[test]
    fn those_who_see_the_same_share_one_payload() {
        let recipients = (1..500).map(|user| recipient(user, user % 3, u64::MAX)).collect();
        let jobs = message_jobs(&committed(vec![entry(9, 0)], recipients));
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].users.len(), 499);
    }

    #[test]
    fn large_batches_are_cut_and_too_large_entries_left_for_pulling() {
        let entries = vec![
            entry(1, 20_000),
            entry(2, 20_000),
            entry(3, PUSH_BYTES_MAX + 1),
            entry(4, 10),
            entry(5, 10),
        ];
        let jobs = message_jobs(&committed(entries, vec![recipient(1, 1, u64::MAX)]));
        let seqs: Vec<_> = seen(&jobs).into_iter().map(|(_, seqs)| seqs).collect();
        assert_eq!(seqs, [vec![1], vec![2], vec![4, 5]]);
    }

    #[test]
    fn what_there_is_for_a_life_of_a_gateway_goes_in_one_frame() {
        let session = |user: u64, gateway: &str, incarnation: u64, slot: u32| {
            Arc::new(SessionRecord {
                app_key: "demo".into(),
                user_id: user,
                session: Some(SessionHandle {
                    gateway: gateway.into(),
                    incarnation,
                    slot,
                    ..Default::default()
                }),
                ..Default::default()
            })
        };
        let sessions = BTreeMap::from([
            (
                (app(), UserId(1)),
                vec![session(1, "g1", 5, 1), session(1, "g2", 6, 1)],
            ),
            (
                (app(), UserId(2)),
                vec![session(2, "g1", 5, 2), session(2, "g1", 4, 2)],
            ),
            ((app(), UserId(3)), vec![session(3, "g1", 5, 3)]),
        ]);
        let job = PushJob {
            app: app(),
            users: vec![UserId(1), UserId(2), UserId(9)],
            payload: Payload::Messages(client::MessagesPush::default()),
            priority: Priority::Direct,
        };
        let notice = PushJob {
            users: vec![UserId(3)],
            payload: Payload::Notice(client::NoticePush::default()),
            ..job.clone()
        };
        let frames = frames(&[job, notice], &sessions);
        let kinds: Vec<_> = frames.iter().map(|frame| frame.envelope.kind()).collect();
        assert_eq!(kinds, [Kind::Push, Kind::Pushes, Kind::Push]);
        let body = |nth: usize| frames[nth].envelope.body.clone();
        let before = PushRequest::decode(body(0)).unwrap();
        let of_g1 = PushesRequest::decode(body(1)).unwrap();
        let of_g2 = PushRequest::decode(body(2)).unwrap();
        let all = [&before].into_iter().chain(&of_g1.pushes).chain([&of_g2]);
        let targets: Vec<_> = all
            .map(|push| {
                let slots: Vec<_> = push
                    .targets
                    .iter()
                    .map(|target| (target.user_id, target.slot))
                    .collect();
                (push.method, push.gateway_incarnation, slots)
            })
            .collect();
        let (messages, notice) = (PushMethod::Messages.number(), PushMethod::Notice.number());
        assert_eq!(
            targets,
            [
                (messages, 4, vec![(2, 2)]),
                (messages, 5, vec![(1, 1), (2, 2)]),
                (notice, 5, vec![(3, 3)]),
                (messages, 6, vec![(1, 1)])
            ]
        );
        assert_eq!(
            (&frames[1].untold[..], &frames[2].untold[..]),
            (&[(app(), UserId(3))][..], &[][..]),
            "a notice makes up for messages, nothing for a notice"
        );
        let gone = [PushTarget {
            slot: 2,
            user_id: 2,
            ..Default::default()
        }];
        // The gateway of now does not speak of a session of its life before that had the same slot, nor the other way round.
        let stale: Vec<_> = stale(&frames[1].sessions, &gone).collect();
        assert_eq!(stale, [&session(2, "g1", 5, 2)]);
    }

    #[test]
    fn a_frame_takes_so_many_bytes_and_pushes() {
        let handle = SessionHandle {
            gateway: "g1".into(),
            ..Default::default()
        };
        let record = Arc::new(SessionRecord {
            session: Some(handle),
            ..Default::default()
        });
        let sessions = BTreeMap::from([((app(), UserId(1)), vec![record])]);
        let job = |bytes: usize| PushJob {
            app: app(),
            users: vec![UserId(1)],
            payload: Payload::Notice(client::NoticePush {
                to_cursor: vec![0; bytes].into(),
                ..Default::default()
            }),
            priority: Priority::Direct,
        };
        let count = |jobs: &[PushJob]| {
            let frames = frames(jobs, &sessions);
            assert!(
                frames
                    .iter()
                    .all(|frame| frame.envelope.body.len() < 2 * FRAME_BYTES_FULL)
            );
            frames.len()
        };
        assert_eq!(count(&vec![job(0); FRAME_PUSHES_MAX]), 1);
        assert_eq!(count(&vec![job(0); FRAME_PUSHES_MAX + 1]), 2);
        assert_eq!(count(&vec![job(PUSH_BYTES_MAX); 4]), 4);
        assert_eq!(count(&vec![job(PUSH_BYTES_MAX / 4); 16]), 3);
    }

    #[test]
    fn a_notice_of_many_rows_only_asks_to_sync() {
        let cursors = (Bytes::from_static(b"from"), Bytes::from_static(b"to"));
        let rows = vec![ConversationRow::default(); NOTICE_ROWS_MAX + 1];
        let job = notice_job(app(), UserId(1), cursors.clone(), rows, Priority::Group);
        let Payload::Notice(notice) = job.payload else {
            unreachable!("a notice was asked for")
        };
        assert!(
            notice.rows.is_empty() && notice.from_cursor == notice.to_cursor && notice.to_cursor == cursors.1
        );
    }
}
