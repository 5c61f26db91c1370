//! What attacks on the wire work with: the door, victims, and groups made beforehand.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use serde_json::Value;
use tokio::runtime::Handle;
use whimbrel_app_service::auth::{TokenRole, mint};
use whimbrel_protocol::client::{
    self, CreateGroupRequest, GroupChangeResponse, InviteRequest, OpenDirectRequest, RemoveMembersRequest,
};
use whimbrel_protocol::ids::{ConversationId, Uid};
use whimbrel_protocol::method::Method;

use crate::bystanders::Bystanders;
use crate::deployment::Deployment;
use crate::door::{Door, now_ms, operation_id};
use crate::session::Session;

/// Members of the largest group.
const GROUP_MEMBERS_MAX: usize = 2_000;
/// Members one change may bring.
const CHANGE_USERS_MAX: usize = 500;

/// Members whose lists are looked at: one in so many.
const LANES_LOOKED_AT: usize = 97;
/// The rows of a crowd are written in seconds by a debug build.
const ROWS_WITHIN: Duration = Duration::from_secs(30);
const ROWS_POLL: Duration = Duration::from_millis(50);

/// Sessions that a scene keeps open.
pub(crate) const KEPT_SESSIONS: u32 = 2;

/// See the module.
pub(crate) struct Scene {
    pub(crate) door: Door,
    runtime: Handle,
    pub(crate) secret_file: std::path::PathBuf,
    pub(crate) lbs: String,
    pub(crate) api: String,
    api_token: String,
    /// The bystanders' conversation.
    pub(crate) others: ConversationId,
    /// A group of Olga's with as many members as there may be.
    pub(crate) full_group: Bytes,
    /// A group that Rex was removed from, and the last seq he may see.
    pub(crate) left_group: (Bytes, u64),
    /// Mallory's conversation with an accomplice.
    pub(crate) own: Bytes,
    /// Mallory's group.
    pub(crate) own_group: Bytes,
    /// Logs in when it is first needed: a session that reads nothing for long is closed.
    asker: Mutex<Option<Session>>,
    victim: Mutex<Victim>,
}

/// Somebody whose hello was recorded on the way.
pub(crate) struct Victim {
    pub(crate) hello: Vec<u8>,
    pub(crate) session: Session,
    pub(crate) profile: Value,
}

/// What asks in the rows about requests.
pub(crate) const ASKER: &str = "mallory";
/// Whose hello is replayed.
pub(crate) const VICTIM: &str = "vera";
/// Whose login was recorded, and never finished.
pub(crate) const GHOST: &str = "nobody";

impl Scene {
    pub(crate) fn new(
        runtime: &Handle,
        deployment: &Deployment,
        door: Door,
        bystanders: &Bystanders,
    ) -> anyhow::Result<Self> {
        let server = Uid::new("tests")?;
        let api_token = mint(
            &door.secret,
            &door.app,
            &server,
            TokenRole::Server,
            now_ms(),
            3600,
        )?;
        let mut olga = door.session("olga")?;
        let full_group = full_group(&mut olga, &door).context("filling a group")?;
        let left_group = left_group(&mut olga, &door).context("removing a member")?;
        drop(olga);
        let mut mallory = door.session(ASKER)?;
        let own: client::Conversation = mallory.must(
            Method::OpenDirect,
            &OpenDirectRequest {
                uid: "accomplice".to_owned(),
            },
        )?;
        let own_group: GroupChangeResponse = mallory.must(
            Method::CreateGroup,
            &CreateGroupRequest {
                operation_id: operation_id(now_ms()),
                name: "thieves".to_owned(),
                member_uids: vec!["accomplice".to_owned()],
                history_for_newcomers: false,
            },
        )?;

        let (initiator, hello) = door.hello(VICTIM)?;
        let mut peer = door.stranger()?;
        peer.send(&hello);
        let mut session = Session::accepted(peer, initiator)?.context("a good login")?;
        session.confirm()?;
        let mut scene = Self {
            runtime: runtime.clone(),
            secret_file: deployment.ready.app_secret_file.clone(),
            lbs: deployment.ready.lbs.clone(),
            api: deployment.ready.api.clone(),
            api_token,
            others: bystanders.conversation(),
            full_group,
            left_group,
            own: own.conversation,
            own_group: own_group.conversation,
            asker: Mutex::new(None),
            victim: Mutex::new(Victim {
                hello,
                session,
                profile: Value::Null,
            }),
            door,
        };
        let profile = scene.user(VICTIM)?.context("the victim is a user")?;
        ensure!(profile["devices_online"] == 1, "the victim is online: {profile}");
        scene
            .victim
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .profile = profile;
        Ok(scene)
    }

    /// What the HTTP API says of a user; `None` when there is none.
    pub(crate) fn user(&self, uid: &str) -> anyhow::Result<Option<Value>> {
        let request = reqwest::Client::new()
            .get(format!("{}/v1/users/{uid}", self.api))
            .bearer_auth(&self.api_token);
        self.runtime.block_on(async {
            let response = request.send().await?;
            if response.status() == reqwest::StatusCode::NOT_FOUND {
                return Ok(None);
            }
            Ok(Some(response.error_for_status()?.json().await?))
        })
    }

    /// Does `work` with the session that asks. After a failure the next one asks from a new session, so that a row that
    /// fails does not fail those behind it.
    pub(crate) fn as_asker<T>(
        &self,
        work: impl FnOnce(&mut Session) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut asker = self.asker.lock().unwrap_or_else(PoisonError::into_inner);
        let mut session = match asker.take() {
            Some(session) => session,
            None => self.door.session(ASKER)?,
        };
        let done = work(&mut session)?;
        *asker = Some(session);
        Ok(done)
    }

    /// The victim of a replay.
    pub(crate) fn victim(&self) -> MutexGuard<'_, Victim> {
        self.victim.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full_group(owner: &mut Session, door: &Door) -> anyhow::Result<Bytes> {
    let others: Vec<String> = (1..GROUP_MEMBERS_MAX)
        .map(|nth| format!("member-{nth}"))
        .collect();
    let mut made: Option<GroupChangeResponse> = None;
    for member_uids in others.chunks(CHANGE_USERS_MAX) {
        let (operation_id, uids) = (operation_id(now_ms()), member_uids.to_vec());
        let changed: GroupChangeResponse = match made {
            None => owner.must(
                Method::CreateGroup,
                &CreateGroupRequest {
                    operation_id,
                    name: "the crowd".to_owned(),
                    member_uids: uids,
                    history_for_newcomers: false,
                },
            )?,
            Some(GroupChangeResponse { conversation, .. }) => owner.must(
                Method::Invite,
                &InviteRequest {
                    operation_id,
                    conversation,
                    uids,
                },
            )?,
        };
        made = Some(changed);
    }
    let made = made.context("a group")?;
    for uid in others.iter().step_by(LANES_LOOKED_AT) {
        row_reaches(door, uid, &made)?;
    }
    Ok(made.conversation)
}

/// Waits until a member's list of conversations shows a change: what follows a change of a crowd takes a while, and is not
/// to be taken for what a row does.
fn row_reaches(door: &Door, uid: &str, change: &GroupChangeResponse) -> anyhow::Result<()> {
    let mut member = door.session(uid)?;
    let deadline = Instant::now() + ROWS_WITHIN;
    loop {
        let synced: client::SyncResponse = member.must(Method::Sync, &client::SyncRequest::default())?;
        let of_group = |row: &&client::ConversationRow| row.conversation == change.conversation;
        if synced
            .rows
            .iter()
            .find(of_group)
            .is_some_and(|row| row.head_seq >= change.seq)
        {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{uid} has no row of the group within {ROWS_WITHIN:?}"
        );
        std::thread::sleep(ROWS_POLL);
    }
}

fn left_group(owner: &mut Session, door: &Door) -> anyhow::Result<(Bytes, u64)> {
    // Rex exists, with a login of his own.
    drop(door.session("rex")?);
    let made: GroupChangeResponse = owner.must(
        Method::CreateGroup,
        &CreateGroupRequest {
            operation_id: operation_id(now_ms()),
            name: "without rex".to_owned(),
            member_uids: vec!["rex".to_owned(), "accomplice".to_owned()],
            history_for_newcomers: true,
        },
    )?;
    let conversation = made.conversation;
    let removed: GroupChangeResponse = owner.must(
        Method::RemoveMembers,
        &RemoveMembersRequest {
            operation_id: operation_id(now_ms()),
            conversation: conversation.clone(),
            uids: vec!["rex".to_owned()],
        },
    )?;
    // What Rex must not see.
    let _: client::SendResponse = owner.must(
        Method::Send,
        &client::SendRequest {
            conversation: conversation.clone(),
            messages: vec![text(operation_id(now_ms()), "now that rex is gone")],
            seen_seq: 0,
        },
    )?;
    Ok((conversation, removed.seq))
}

/// A message of this text.
pub(crate) fn text(client_msg_id: Bytes, text: &str) -> client::OutgoingMessage {
    let text = client::Text {
        text: text.to_owned(),
    };
    client::OutgoingMessage {
        client_msg_id,
        content: Some(client::Content {
            content: Some(client::content::Content::Text(text)),
        }),
        options: None,
    }
}
