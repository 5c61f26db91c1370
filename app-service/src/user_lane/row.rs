//! One user's row for one conversation, computed from what a snapshot says. Pure.

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client::{self, content, entry};
use whimbrel_protocol::ids::{ConversationId, ConversationKind, Seq, UserId};

use crate::values::storage;

/// Bytes of text, or of a custom content's data, that a preview carries: a line or two on a phone. With it a row stays
/// under 1 KiB, so that a page of rows or a notice fits a frame.
pub const PREVIEW_TEXT_LEN_MAX: usize = 240;
/// Uids that a preview of a group's change names at most.
const PREVIEW_UIDS_MAX: usize = 5;

/// What a snapshot says of a row's conversation.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The conversation.
    pub conversation: ConversationId,
    /// Its head.
    pub head: &'a storage::Head,
    /// Whose row it is.
    pub user: UserId,
    /// The user's own state there.
    pub member: &'a storage::Member,
    /// The entry at [`storage::Member::last_visible_seq`].
    pub newest: Option<&'a client::Entry>,
    /// The row so far.
    pub before: Option<&'a client::ConversationRow>,
}

/// The row. What changes in a conversation after a user's leaving stays out of it.
#[must_use]
pub fn compute(view: &View<'_>) -> client::ConversationRow {
    let View {
        conversation,
        head,
        user,
        member,
        newest,
        before,
    } = *view;
    let newest_seq = member.last_visible_seq(head);
    let kind = match conversation.kind() {
        ConversationKind::Direct => client::ConversationKind::Direct,
        ConversationKind::Group => client::ConversationKind::Group,
    };
    let peer = head.peers.iter().find(|peer| peer.user_id != user.0);
    let (info_version, name) = match before {
        _ if member.current => (head.info_version, head.name.clone()),
        Some(before) => (before.info_version, before.name.clone()),
        None => (0, String::new()),
    };
    let first_visible_seq = if newest_seq == Seq(0) {
        Seq(0)
    } else {
        member.first_visible_seq()
    };
    let newest_ms = newest.map(|entry| entry.time_ms);
    client::ConversationRow {
        conversation: Bytes::copy_from_slice(conversation.as_bytes()),
        kind: kind.into(),
        head_seq: newest_seq.0,
        head_rev: member.last_visible_rev(head).0,
        info_version,
        read_seq: member.read_seq,
        unread: member.unread(head),
        preview: newest.map(shortened),
        member: member.current,
        peer_uid: peer.map(|peer| peer.uid.clone()).unwrap_or_default(),
        name,
        first_visible_seq: first_visible_seq.0,
        time_ms: newest_ms.unwrap_or(head.created_ms),
    }
}

/// An entry as a conversation list shows it.
fn shortened(entry: &client::Entry) -> client::Entry {
    let mut entry = entry.clone();
    if let Some(options) = &mut entry.options {
        cut(&mut options.push_text);
    }
    match &mut entry.body {
        Some(entry::Body::Message(client::Content {
            content: Some(content),
        })) => match content {
            content::Content::Text(text) => cut(&mut text.text),
            content::Content::Custom(custom) => {
                cut(&mut custom.r#type);
                // Half of it would parse as nothing; the client pulls the entry if it wants it.
                if custom.data.len() > PREVIEW_TEXT_LEN_MAX {
                    custom.data.clear();
                }
            }
        },
        Some(entry::Body::Change(change)) => {
            change.uids.truncate(PREVIEW_UIDS_MAX);
            cut(&mut change.name);
        }
        Some(entry::Body::Message(_) | entry::Body::RecalledByUid(_)) | None => {}
    }
    entry
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(PREVIEW_TEXT_LEN_MAX));
}

/// The row as its stored bytes say.
pub(super) fn parse(row: &storage::Row) -> Result<client::ConversationRow, prost::DecodeError> {
    client::ConversationRow::decode(row.row.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: UserId = UserId(1);

    fn conversation() -> ConversationId {
        ConversationId::from_parts(ConversationKind::Group, [1; 15])
    }

    fn interval(from_seq: u64, to_seq: u64) -> storage::Interval {
        storage::Interval { from_seq, to_seq }
    }

    fn head(seq: u64) -> storage::Head {
        storage::Head {
            seq,
            counted: seq,
            rev: 4,
            name: "now".into(),
            info_version: 9,
            ..Default::default()
        }
    }

    fn text(seq: u64, text: &str) -> client::Entry {
        let content = content::Content::Text(client::Text { text: text.into() });
        let body = entry::Body::Message(client::Content {
            content: Some(content),
        });
        client::Entry {
            seq,
            time_ms: 77,
            body: Some(body),
            ..Default::default()
        }
    }

    fn view<'a>(head: &'a storage::Head, member: &'a storage::Member) -> View<'a> {
        View {
            conversation: conversation(),
            head,
            user: ME,
            member,
            newest: None,
            before: None,
        }
    }

    #[test]
    fn a_member_sees_the_head_and_counts_all_but_their_own_since_reading() {
        let member = storage::Member {
            current: true,
            visible: vec![interval(3, 0)],
            read_seq: 5,
            read_counted: 5,
            own_counted: 4,
            own_counted_read: 1,
            ..Default::default()
        };
        let row = compute(&view(&head(12), &member));
        assert_eq!((row.head_seq, row.unread, row.first_visible_seq), (12, 7 - 3, 3));
        assert!(row.member);
    }

    #[test]
    fn a_row_stops_at_removal_and_keeps_what_was_known_then() {
        let member = storage::Member {
            current: false,
            visible: vec![interval(1, 8)],
            end_counted: 8,
            end_rev: 2,
            read_counted: 6,
            ..Default::default()
        };
        let before = client::ConversationRow {
            name: "then".into(),
            head_rev: 2,
            ..Default::default()
        };
        let now = head(12);
        let row = compute(&View {
            before: Some(&before),
            ..view(&now, &member)
        });
        assert_eq!((row.head_seq, row.unread, row.member), (8, 2, false));
        assert_eq!((row.name.as_str(), row.head_rev), ("then", 2));
        assert_eq!(compute(&view(&now, &member)).name, "");
    }

    #[test]
    fn a_conversation_without_entries_has_a_row_that_says_so() {
        let member = storage::Member {
            current: true,
            visible: vec![interval(1, 0)],
            ..Default::default()
        };
        let empty = storage::Head {
            created_ms: 5,
            ..Default::default()
        };
        let row = compute(&view(&empty, &member));
        assert_eq!((row.head_seq, row.first_visible_seq, row.time_ms), (0, 0, 5));
    }

    #[test]
    fn previews_are_cut_between_characters() {
        let long = text(1, &"é".repeat(PREVIEW_TEXT_LEN_MAX));
        let row = client::ConversationRow {
            preview: Some(shortened(&long)),
            ..Default::default()
        };
        assert!(row.encoded_len() < PREVIEW_TEXT_LEN_MAX + 40);
        let mut big = text(1, "");
        big.body = Some(entry::Body::Message(client::Content {
            content: Some(content::Content::Custom(client::Custom {
                r#type: "poll".into(),
                data: vec![1; PREVIEW_TEXT_LEN_MAX + 1].into(),
            })),
        }));
        assert!(shortened(&big).encoded_len() < 40);
    }
}
