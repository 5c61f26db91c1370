//! Members: a page for a client, or all of them for a commit.

use bytes::Bytes;
use whimbrel_protocol::client;
use whimbrel_protocol::ids::{ConversationKind, Seq, Uid, UserId};
use whimbrel_store::{Direction, Snapshot};

use super::{View, page_limit};
use crate::committed::{Members, Recipient};
use crate::failure::Failure;
use crate::keys::{ConversationKeys, trailing_u64};
use crate::log::role_of;
use crate::values::storage::{Head, RosterItem};
use crate::values::{ValueError, decode};

/// Members in a page when the asker names no limit.
const LIST_LIMIT_DEFAULT: usize = 100;
/// Members in a page at most: 80 bytes each, so a page fits a frame.
const LIST_LIMIT_MAX: usize = 500;
/// Members read at a time when all are wanted.
const ROSTER_SCAN: usize = 1_000;

/// A page of the current members, by user id.
///
/// # Errors
/// When `request.page` is not one that an earlier answer gave, or the store cannot be read.
pub async fn list_members(
    snapshot: &dyn Snapshot,
    view: &View,
    request: &client::ListMembersRequest,
) -> Result<client::ListMembersResponse, Failure> {
    let limit = page_limit(request.limit, LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX);
    let mut response = client::ListMembersResponse {
        info_version: view.head.info_version,
        ..Default::default()
    };
    if view.conversation().kind() == ConversationKind::Direct {
        response.members = view
            .head
            .peers
            .iter()
            .map(|peer| client::Member {
                uid: peer.uid.clone(),
                role: client::Role::Member.into(),
                joined_seq: 0,
            })
            .collect();
        return Ok(response);
    }
    let range = if request.page.is_empty() {
        view.keys.roster()
    } else {
        let after = <[u8; 8]>::try_from(&request.page[..]).map_err(|_| {
            Failure::invalid(format!(
                "a page token of {} bytes: give back next_page of the last answer as it came",
                request.page.len()
            ))
        })?;
        view.keys.roster_after(UserId(u64::from_be_bytes(after)))
    };
    let scanned = snapshot.scan(range, limit, Direction::Forward).await?;
    for (_, value) in &scanned.entries {
        let item: RosterItem = decode(value)?;
        response.members.push(client::Member {
            uid: item.uid,
            role: role_of(item.role).into(),
            joined_seq: item.joined_seq,
        });
    }
    if let Some((last, _)) = scanned.entries.last().filter(|_| scanned.has_more()) {
        response.next_page = Bytes::copy_from_slice(&trailing_u64(last).unwrap_or_default().to_be_bytes());
    }
    Ok(response)
}

/// All current members of a conversation whose head is `head` in this snapshot.
pub(crate) async fn load_roster(
    snapshot: &dyn Snapshot,
    keys: &ConversationKeys,
    head: &Head,
) -> Result<Members, Failure> {
    if keys.conversation().kind() == ConversationKind::Direct {
        return Ok(direct_members(head)?);
    }
    let mut list = Vec::with_capacity(usize::try_from(head.member_count).unwrap_or_default());
    let mut rest = Some(keys.roster());
    while let Some(range) = rest {
        let page = snapshot.scan(range, ROSTER_SCAN, Direction::Forward).await?;
        for (key, value) in &page.entries {
            let user = UserId(trailing_u64(key).unwrap_or_default());
            list.push(recipient(user, &decode(value)?)?);
        }
        rest = page.next;
    }
    Ok(Members { list })
}

/// Both users of a direct conversation; everything is visible to them.
pub(crate) fn direct_members(head: &Head) -> Result<Members, ValueError> {
    let both = head.peers.iter().map(|peer| {
        let item = RosterItem {
            uid: peer.uid.clone(),
            role: client::Role::Member as u32,
            joined_seq: 0,
            first_visible_seq: 1,
        };
        recipient(UserId(peer.user_id), &item)
    });
    Ok(Members {
        list: both.collect::<Result<_, _>>()?,
    })
}

/// A current member as a recipient.
pub(crate) fn recipient(user: UserId, item: &RosterItem) -> Result<Recipient, ValueError> {
    Ok(Recipient {
        user,
        uid: stored_uid(&item.uid)?,
        role: role_of(item.role),
        first_visible_seq: Seq(item.first_visible_seq),
        last_visible_seq: Seq(u64::MAX),
    })
}

/// A uid from a stored value, where it was checked before it went in.
pub(crate) fn stored_uid(uid: &str) -> Result<Uid, ValueError> {
    Uid::new(uid).map_err(|_| ValueError::Uid { len: uid.len() })
}
