//! The conversation log: the one way in for everything users do to conversations, and for what they read of them.
//!
//! [`Log`] takes a client's request as it came, checks every field, resolves the users it names, and gives back the client's
//! answer. Mutations become values that the `committer` decides and commits; how each kind is decided is
//! a pure function in a file of its own. Reads are in `reading`, over [`crate::reads`].
//!
//! What it is not for: telling anybody. That is behind [`CommitSink`].

mod create_group;
pub(crate) mod decision;
mod depart;
pub(crate) mod digest;
pub(crate) mod entry;
mod govern;
mod invite;
pub mod limits;
mod mark_read;
mod member;
pub(crate) mod mutation;
pub(crate) mod open_direct;
mod reading;
mod recall;
mod refused;
mod request;
mod send;
pub(crate) mod state;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
mod unknown_user;

use std::sync::Arc;
use std::time::Duration;

use whimbrel_protocol::client;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, ConversationId, Incarnation, NodeId, OperationId, Seq, Uid};
use whimbrel_store::{Grouping, Store};

pub use decision::Actor;
pub use digest::{direct_conversation, group_conversation};
pub use entry::LogEntry;
pub(crate) use member::role_of;
pub(crate) use request::{checked_content, group_name};

use crate::committed::CommitSink;
use crate::committer::{Committer, Outcome};
use crate::env::Env;
use crate::failure::Failure;
use crate::keys::ConversationKeys;
use crate::reads;
use crate::users::Users;
use decision::{Answer, GroupOperation, Named};
use digest::Digest;
use mutation::Mutation;
use request::OperationKind;
use unknown_user::{NamesUnknownUser, UnknownUser};

/// How often a mutation may learn that it needs a read point. One is enough unless the asker's own sends keep moving in
/// between.
const READ_POINTS_MAX: usize = 3;

/// When an answer is no longer waited for, on the clock's monotonic time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Duration);

impl Deadline {
    /// `wait` from now.
    #[must_use]
    pub fn after(env: &Env, wait: Duration) -> Self {
        Self(env.clock.monotonic().saturating_add(wait))
    }
}

/// What an app allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppOptions {
    /// Naming a uid that nobody has yet creates its user.
    pub create_users_on_reference: bool,
}

/// Looks an app's options up; unknown apps get the strictest.
pub type AppOptionsOf = Arc<dyn Fn(&AppKey) -> AppOptions + Send + Sync>;

/// The log's way in. Clones share it.
#[derive(Clone)]
pub struct Log {
    store: Arc<dyn Store>,
    users: Users,
    committer: Committer,
    env: Env,
    options_of: AppOptionsOf,
}

impl Log {
    /// Starts the committer's workers, after this life of the node has been written down for sweepers to find. Commits are put
    /// together as `grouping` says.
    ///
    /// # Errors
    /// When the store cannot take the record of this life.
    pub async fn start(
        (store, grouping): (Arc<dyn Store>, Grouping),
        env: Env,
        node: &NodeId,
        incarnation: Incarnation,
        sink: Arc<dyn CommitSink>,
        options_of: AppOptionsOf,
    ) -> Result<Self, Failure> {
        let commits_to = (Arc::clone(&store), grouping);
        let committer = Committer::start(commits_to, env.clone(), node, incarnation, sink).await?;
        Ok(Self {
            users: Users::new(Arc::clone(&store), env.clone()),
            store,
            committer,
            env,
            options_of,
        })
    }

    /// Takes nothing more, finishes what is queued, and ends the workers.
    pub async fn close(&self) {
        self.committer.close().await;
    }

    /// The users of the apps.
    #[must_use]
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// How full the committer's queues are, 0 to 1000.
    #[must_use]
    pub fn load_permille(&self) -> u32 {
        self.committer.load_permille()
    }

    /// Appends a batch of messages.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn send(
        &self,
        actor: &Actor,
        request: client::SendRequest,
        deadline: Deadline,
    ) -> Result<client::SendResponse, Failure> {
        let (conversation, send) = request::send(request)?;
        match self
            .mutate(actor, conversation, Mutation::Send(send), deadline)
            .await?
        {
            Answer::Sent(accepted) => Ok(client::SendResponse { accepted }),
            other => Err(misfit(&other)),
        }
    }

    /// Moves the asker's read position.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn mark_read(
        &self,
        actor: &Actor,
        request: &client::MarkReadRequest,
        deadline: Deadline,
    ) -> Result<client::MarkReadResponse, Failure> {
        let conversation = request::conversation(&request.conversation)?;
        let mark = mark_read::MarkRead {
            read_seq: Seq(request.read_seq),
        };
        match self
            .mutate(actor, conversation, Mutation::MarkRead(mark), deadline)
            .await?
        {
            Answer::Read { read_seq, unread } => Ok(client::MarkReadResponse {
                read_seq: read_seq.0,
                unread,
            }),
            other => Err(misfit(&other)),
        }
    }

    /// Takes a message back.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn recall(
        &self,
        actor: &Actor,
        request: &client::RecallRequest,
        deadline: Deadline,
    ) -> Result<client::RecallResponse, Failure> {
        let conversation = request::conversation(&request.conversation)?;
        let recall = recall::Recall {
            id: request::operation_id(&request.operation_id)?,
            digest: request::digest(OperationKind::Recall, [&request.seq.to_be_bytes()[..]]),
            seq: Seq(request.seq),
        };
        match self
            .mutate(actor, conversation, Mutation::Recall(recall), deadline)
            .await?
        {
            Answer::Recalled { rev } => Ok(client::RecallResponse { rev: rev.0 }),
            other => Err(misfit(&other)),
        }
    }

    /// The direct conversation with a user, made when there is none.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn open_direct(
        &self,
        actor: &Actor,
        request: &client::OpenDirectRequest,
        deadline: Deadline,
    ) -> Result<client::Conversation, Failure> {
        let uid = Uid::new(&request.uid)?;
        if uid == actor.uid {
            return Err(Failure::invalid(format!(
                "{uid:?} is yourself: a direct conversation is with somebody else"
            )));
        }
        let peer = self
            .named(actor, vec![uid])
            .await??
            .pop()
            .ok_or_else(|| Failure::invalid("nobody is named"))?;
        let conversation = direct_conversation(&actor.app, actor.user, peer.user);
        let open = open_direct::OpenDirect { peer };
        match self
            .mutate(actor, conversation, Mutation::OpenDirect(open), deadline)
            .await?
        {
            Answer::Opened(conversation) => Ok(conversation),
            other => Err(misfit(&other)),
        }
    }

    /// Makes a group.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn create_group(
        &self,
        actor: &Actor,
        request: &client::CreateGroupRequest,
        deadline: Deadline,
    ) -> Result<client::GroupChangeResponse, Failure> {
        let name = group_name(&request.name)?;
        let mut uids = request::uids(&request.member_uids)?;
        uids.retain(|uid| *uid != actor.uid);
        let history = [u8::from(request.history_for_newcomers)];
        let parts = [name.as_bytes(), &history[..]]
            .into_iter()
            .chain(uid_parts(&uids));
        let operation = operation(&request.operation_id, OperationKind::CreateGroup, parts)?;
        let conversation = group_conversation(&actor.app, actor.user, operation.id);
        let others = self.named(actor, uids).await??;
        let create = create_group::CreateGroup {
            operation,
            name,
            others,
            history_for_newcomers: request.history_for_newcomers,
        };
        self.change_group(actor, conversation, Mutation::CreateGroup(create), deadline)
            .await
    }

    /// Adds users to a group.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn invite(
        &self,
        actor: &Actor,
        request: &client::InviteRequest,
        deadline: Deadline,
    ) -> Result<client::GroupChangeResponse, Failure> {
        let conversation = request::conversation(&request.conversation)?;
        let uids = request::some_uids(&request.uids)?;
        let operation = operation(&request.operation_id, OperationKind::Invite, uid_parts(&uids))?;
        // No user is made for somebody who may not invite; whether they may, or did before, is decided with the rest.
        let users = if self.is_member(actor, conversation).await? {
            self.named(actor, uids).await?
        } else {
            Ok(self.found(actor, uids).await?)
        };
        let mutation = match users {
            Ok(users) => Mutation::Invite(invite::Invite { operation, users }),
            Err(unknown) => Mutation::NamesUnknownUser(NamesUnknownUser { operation, unknown }),
        };
        self.change_group(actor, conversation, mutation, deadline).await
    }

    /// Removes users from a group.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn remove_members(
        &self,
        actor: &Actor,
        request: &client::RemoveMembersRequest,
        deadline: Deadline,
    ) -> Result<client::GroupChangeResponse, Failure> {
        let conversation = request::conversation(&request.conversation)?;
        let uids = request::some_uids(&request.uids)?;
        if uids.contains(&actor.uid) {
            return Err(Failure::invalid(format!(
                "{:?} is yourself: leave instead",
                actor.uid
            )));
        }
        let operation = operation(
            &request.operation_id,
            OperationKind::RemoveMembers,
            uid_parts(&uids),
        )?;
        // Whoever does not exist is no member either.
        let users = self.found(actor, uids).await?;
        let remove = depart::RemoveMembers { operation, users };
        self.change_group(actor, conversation, Mutation::RemoveMembers(remove), deadline)
            .await
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn leave(
        &self,
        actor: &Actor,
        request: &client::LeaveRequest,
        deadline: Deadline,
    ) -> Result<client::GroupChangeResponse, Failure> {
        let conversation = request::conversation(&request.conversation)?;
        let operation = operation(&request.operation_id, OperationKind::Leave, [])?;
        let leave = depart::Leave { operation };
        self.change_group(actor, conversation, Mutation::Leave(leave), deadline)
            .await
    }

    /// Gives a group another name.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn rename_group(
        &self,
        actor: &Actor,
        request: &client::RenameGroupRequest,
        deadline: Deadline,
    ) -> Result<client::GroupChangeResponse, Failure> {
        let conversation = request::conversation(&request.conversation)?;
        let name = group_name(&request.name)?;
        let operation = operation(&request.operation_id, OperationKind::Rename, [name.as_bytes()])?;
        let rename = govern::Rename { operation, name };
        self.change_group(actor, conversation, Mutation::Rename(rename), deadline)
            .await
    }

    /// Gives a member another role.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn set_role(
        &self,
        actor: &Actor,
        request: &client::SetRoleRequest,
        deadline: Deadline,
    ) -> Result<client::GroupChangeResponse, Failure> {
        let conversation = request::conversation(&request.conversation)?;
        let role = state::given_role(request.role).ok_or_else(|| {
            Failure::invalid(format!(
                "role {} cannot be set: expected MEMBER (1) or ADMIN (2)",
                request.role
            ))
        })?;
        let number = request.role.to_be_bytes();
        let parts = [request.uid.as_bytes(), &number[..]];
        let operation = operation(&request.operation_id, OperationKind::SetRole, parts)?;
        let mutation = match self.existing(actor, &request.uid).await? {
            Ok(named) => Mutation::SetRole(govern::SetRole {
                operation,
                named,
                role,
            }),
            Err(unknown) => Mutation::NamesUnknownUser(NamesUnknownUser { operation, unknown }),
        };
        self.change_group(actor, conversation, mutation, deadline).await
    }

    /// Makes another member the owner.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn transfer_ownership(
        &self,
        actor: &Actor,
        request: &client::TransferOwnershipRequest,
        deadline: Deadline,
    ) -> Result<client::GroupChangeResponse, Failure> {
        let conversation = request::conversation(&request.conversation)?;
        let parts = [request.uid.as_bytes()];
        let operation = operation(&request.operation_id, OperationKind::TransferOwnership, parts)?;
        let mutation = match self.existing(actor, &request.uid).await? {
            Ok(named) => Mutation::TransferOwnership(govern::TransferOwnership { operation, named }),
            Err(unknown) => Mutation::NamesUnknownUser(NamesUnknownUser { operation, unknown }),
        };
        self.change_group(actor, conversation, mutation, deadline).await
    }

    /// Those of the named users who exist.
    async fn found(&self, actor: &Actor, uids: Vec<Uid>) -> Result<Vec<Named>, Failure> {
        let found = self.users.resolve(&actor.app, &uids).await?;
        let pairs = uids.into_iter().zip(found);
        Ok(pairs
            .filter_map(|(uid, user)| Some(Named { user: user?, uid }))
            .collect())
    }

    /// Users to be named, made where the app allows it.
    async fn named(&self, actor: &Actor, uids: Vec<Uid>) -> Result<Result<Vec<Named>, UnknownUser>, Failure> {
        let users = if (self.options_of)(&actor.app).create_users_on_reference {
            self.users.resolve_or_create(&actor.app, &uids).await?
        } else {
            let found = self.users.resolve(&actor.app, &uids).await?;
            let pairs = uids.iter().zip(found);
            let known = pairs.map(|(uid, user)| user.ok_or_else(|| UnknownUser(uid.clone())));
            match known.collect::<Result<Vec<_>, _>>() {
                Ok(users) => users,
                Err(unknown) => return Ok(Err(unknown)),
            }
        };
        let pairs = uids.into_iter().zip(users);
        Ok(Ok(pairs.map(|(uid, user)| Named { user, uid }).collect()))
    }

    /// A user who is named and must be there.
    async fn existing(&self, actor: &Actor, uid: &str) -> Result<Result<Named, UnknownUser>, Failure> {
        let uid = Uid::new(uid)?;
        let found = self.users.resolve(&actor.app, std::slice::from_ref(&uid)).await?;
        Ok(match found.into_iter().next().flatten() {
            Some(user) => Ok(Named { user, uid }),
            None => Err(UnknownUser(uid)),
        })
    }

    async fn change_group(
        &self,
        actor: &Actor,
        conversation: ConversationId,
        mutation: Mutation,
        deadline: Deadline,
    ) -> Result<client::GroupChangeResponse, Failure> {
        match self.mutate(actor, conversation, mutation, deadline).await? {
            Answer::GroupChanged { seq } => Ok(client::GroupChangeResponse {
                conversation: bytes::Bytes::copy_from_slice(conversation.as_bytes()),
                seq: seq.0,
            }),
            other => Err(misfit(&other)),
        }
    }

    async fn mutate(
        &self,
        actor: &Actor,
        conversation: ConversationId,
        mutation: Mutation,
        deadline: Deadline,
    ) -> Result<Answer, Failure> {
        let keys = ConversationKeys::new(&actor.app, conversation);
        let mutation = Arc::new(mutation);
        let mut read_point = None;
        for _ in 0..READ_POINTS_MAX {
            let job = (actor.clone(), Arc::clone(&mutation), read_point);
            match self.committer.submit(keys.clone(), job, deadline).await {
                Outcome::Answer(answer) => return Ok(answer),
                Outcome::Failure(failure) => return Err(failure),
                Outcome::NeedsReadPoint(seq) => {
                    let snapshot = self.store.snapshot().await?;
                    read_point = Some(
                        reads::read_point(&*snapshot, &self.env, &keys, actor.user, seq, deadline).await?,
                    );
                }
            }
        }
        Err(Failure::later(
            Code::Overloaded,
            "your own sends kept changing what you have read: mark it again",
            0,
        ))
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

fn uid_parts(uids: &[Uid]) -> impl Iterator<Item = &[u8]> {
    uids.iter().map(|uid| uid.as_str().as_bytes())
}

fn operation<'a>(
    id: &bytes::Bytes,
    kind: OperationKind,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Result<GroupOperation, Failure> {
    let id: OperationId = request::operation_id(id)?;
    let digest: Digest = request::digest(kind, parts);
    Ok(GroupOperation { id, digest })
}

fn misfit(answer: &Answer) -> Failure {
    Failure::new(
        Code::Internal,
        format!("the operation was answered as another kind: {answer:?}"),
    )
}
