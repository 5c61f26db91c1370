//! The clients' methods: which message each takes and which part of this role answers it.

use bytes::Bytes;
use prost::Message;
use whimbrel_protocol::client::{Response, SyncRequest};
use whimbrel_protocol::cluster::{ClientRequest, ClientResponse};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, IdError, TraceId, Uid, UserId};
use whimbrel_protocol::method::Method;

use super::{Answer, Service};
use crate::failure::Failure;
use crate::log::{Actor, Deadline};
use crate::rooms::Asker;
use crate::sync;

impl Service {
    /// Answers a client. Everything that goes wrong with the request itself is a code in the answer.
    pub(super) async fn client_request(
        &self,
        request: ClientRequest,
        deadline: Deadline,
        trace_id: u64,
    ) -> Answer {
        let actor = match actor(&request) {
            Ok(actor) => actor,
            // Gateways name users they authenticated: this is theirs, not the client's.
            Err(error) => return Answer::bad_request(format!("ClientRequest: {error}")),
        };
        if actor.user == NOBODY {
            return Answer::bad_request(
                "ClientRequest: user_id is 0, which is nobody: a session's user has an id once it is open",
            );
        }
        let (method, begun) = (request.method, self.0.parts.env.clock.monotonic());
        tracing::debug!(method, app = %actor.app, uid = %actor.uid, "a request is begun");
        let asker = Asker {
            session: request.session.as_ref(),
            request_id: request.request_id,
        };
        let result = Box::pin(self.call(&actor, asker, method, request.payload, deadline)).await;
        let ended = self.0.parts.env.clock.monotonic();
        self.0
            .told
            .ended(TraceId(trace_id), method, (begun, ended), result.as_ref().err());
        let response = match result {
            Ok(body) => Response {
                body,
                ..Response::default()
            },
            Err(failure) => refusal(failure, TraceId(trace_id)),
        };
        Answer::of(&ClientResponse {
            payload: response.encode_to_vec().into(),
        })
    }

    /// Calls a method by its number.
    ///
    /// # Errors
    /// As the client is told.
    async fn call(
        &self,
        actor: &Actor,
        asker: Asker<'_>,
        method: u32,
        payload: Bytes,
        deadline: Deadline,
    ) -> Result<Bytes, Failure> {
        let parts = &self.0.parts;
        let (log, rooms) = (&parts.log, &parts.rooms);
        let method = Method::from_number(method).ok_or_else(|| {
            Failure::new(
                Code::UnknownMethod,
                format!("method {method} is unknown here: it may need a newer server"),
            )
        })?;
        if parts.env.clock.monotonic() >= deadline.0 {
            return Err(Failure::new(
                Code::DeadlineExceeded,
                "its time was over before it was begun",
            ));
        }
        match method {
            Method::Sync => {
                let request: SyncRequest = parse(payload)?;
                let snapshot = parts.store.snapshot().await?;
                body(sync::sync(&*snapshot, parts.epoch, &actor.app, actor.user, &request).await)
            }
            Method::Send => body(log.send(actor, parse(payload)?, deadline).await),
            Method::Pull => body(log.pull(actor, &parse(payload)?).await),
            Method::PullChanges => body(log.pull_changes(actor, &parse(payload)?).await),
            Method::MarkRead => body(log.mark_read(actor, &parse(payload)?, deadline).await),
            Method::Recall => body(log.recall(actor, &parse(payload)?, deadline).await),
            Method::OpenDirect => body(log.open_direct(actor, &parse(payload)?, deadline).await),
            Method::GetConversation => body(log.conversation(actor, &parse(payload)?).await),
            Method::ListMembers => body(log.list_members(actor, &parse(payload)?).await),
            Method::CreateGroup => body(log.create_group(actor, &parse(payload)?, deadline).await),
            Method::Invite => body(log.invite(actor, &parse(payload)?, deadline).await),
            Method::RemoveMembers => body(log.remove_members(actor, &parse(payload)?, deadline).await),
            Method::Leave => body(log.leave(actor, &parse(payload)?, deadline).await),
            Method::RenameGroup => body(log.rename_group(actor, &parse(payload)?, deadline).await),
            Method::SetRole => body(log.set_role(actor, &parse(payload)?, deadline).await),
            Method::TransferOwnership => {
                body(log.transfer_ownership(actor, &parse(payload)?, deadline).await)
            }
            Method::JoinRoom => body(rooms.join(actor, asker, &parse(payload)?, deadline).await),
            Method::LeaveRoom => body(rooms.leave(actor, asker, &parse(payload)?, deadline).await),
            Method::SendRoom => body(rooms.send(actor, parse(payload)?, deadline).await),
            Method::CountRoom => body(rooms.count(actor, &parse(payload)?).await),
        }
    }
}

/// What stands for a user who does not exist yet in answers to a login.
const NOBODY: UserId = UserId(0);

fn actor(request: &ClientRequest) -> Result<Actor, IdError> {
    Ok(Actor {
        app: AppKey::new(&request.app_key)?,
        user: UserId(request.user_id),
        uid: Uid::new(&request.uid)?,
    })
}

fn parse<M: Message + Default>(payload: Bytes) -> Result<M, Failure> {
    M::decode(payload).map_err(|error| {
        let name = std::any::type_name::<M>()
            .rsplit("::")
            .next()
            .unwrap_or("message");
        Failure::new(Code::Malformed, format!("the payload is no {name}: {error}"))
    })
}

fn body<M: Message>(result: Result<M, Failure>) -> Result<Bytes, Failure> {
    Ok(result?.encode_to_vec().into())
}

/// The refusal a client sees. A fault of ours is told in the log, under the trace id, and not to the client.
fn refusal(failure: Failure, trace: TraceId) -> Response {
    let Failure {
        code,
        mut message,
        retry_after_ms,
    } = failure;
    metrics::counter!("whimbrel_client_refusals_total", "code" => code.number().to_string()).increment(1);
    if code == Code::Internal {
        message = format!("a fault of the server; its log has it under trace id {trace}");
    }
    Response {
        code: code.number(),
        message,
        retry_after_ms,
        body: Bytes::new(),
    }
}
