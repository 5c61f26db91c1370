//! The bad things that crowds do.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use rand::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use whimbrel_protocol::client::{
    self, CreateGroupRequest, GroupChangeResponse, SendRequest, SendResponse, SyncRequest,
};
use whimbrel_protocol::frame::{Frame, Request, RequestId};
use whimbrel_protocol::method::Method;

use crate::crowd::{Shared, next_number, until_closed};
use crate::door::{Door, now_ms, operation_id};

/// What one connection does, from its beginning to its end.
type Once = fn(usize, Arc<Shared>) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// How far a connection must get for its attack to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaches {
    /// Accepted by the kernel.
    Connection,
    /// Its login accepted.
    Answer,
    /// A session.
    Session,
}

/// A kind of attack.
pub(crate) struct Attack {
    /// What the table calls it.
    pub(crate) name: &'static str,
    /// How far its connections must get.
    pub(crate) reaches: Reaches,
    /// Done once before it begins, for so many connections.
    pub(crate) prepare: fn(&Arc<Door>, usize) -> anyhow::Result<Bytes>,
    /// Done by each connection, again and again.
    pub(crate) once: Once,
}

impl std::fmt::Debug for Attack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// One record's worth of a text, nearly.
const PUSHED_BYTES: usize = 12 * 1024;
/// Between two pushes to slow readers: twice what they read, in as few messages as carry it.
const PUSH_EVERY: Duration = Duration::from_millis(120);
/// What a slow reader reads at once, and how often: 50 KB/s.
const SLOW_READ_BYTES: usize = 5_000;
const SLOW_READ_EVERY: Duration = Duration::from_millis(100);
/// Slow readers that are pushed to: fewer than one request may make members of a group, each message to all of them. Pushing at that
/// rate to more would not try what a gateway bears of slow readers but what it can send: 400 are 3,200 deliveries a second.
const PUSHED_TO_MAX: usize = 400;
/// So many of those who want every descriptor take two.
const TWICE_MAX: usize = 2_000;
/// Slow readers log in as members of this name.
const ROGUE: &str = "rogue-";

fn nothing(_: &Arc<Door>, _: usize) -> anyhow::Result<Bytes> {
    Ok(Bytes::new())
}

/// Every kind there is.
pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "says nothing",
        reaches: Reaches::Connection,
        prepare: nothing,
        once: |index, shared| {
            Box::pin(async move {
                let mut stream = shared.connect(index).await?;
                until_closed(&mut stream).await
            })
        },
    },
    Attack {
        name: "stalls in the hello",
        reaches: Reaches::Connection,
        prepare: nothing,
        once: |index, shared| {
            Box::pin(async move {
                let (_, hello) = shared.door.hello("nobody")?;
                let mut stream = shared.connect(index).await?;
                stream.write_all(&hello[..hello.len() / 2]).await?;
                until_closed(&mut stream).await
            })
        },
    },
    Attack {
        name: "never confirms",
        reaches: Reaches::Answer,
        prepare: nothing,
        once: |index, shared| Box::pin(async move { shared.provisional(index).await?.until_closed().await }),
    },
    Attack {
        name: "stalls in a record",
        reaches: Reaches::Session,
        prepare: nothing,
        once: |index, shared| {
            Box::pin(async move {
                let mut rogue = shared.session(index).await?;
                let record = rogue.seal(&[large_request(1)])?;
                rogue.stream.write_all(&record[..record.len() - 1_000]).await?;
                rogue.until_closed().await
            })
        },
    },
    Attack {
        name: "garbage for a hello",
        reaches: Reaches::Connection,
        prepare: nothing,
        once: |index, shared| {
            Box::pin(async move {
                let mut stream = shared.connect(index).await?;
                stream.write_all(&garbage(1_500)).await?;
                until_closed(&mut stream).await
            })
        },
    },
    Attack {
        name: "garbage for records",
        reaches: Reaches::Session,
        prepare: nothing,
        once: |index, shared| {
            Box::pin(async move {
                let mut rogue = shared.session(index).await?;
                rogue.stream.write_all(&garbage(20_000)).await?;
                rogue.until_closed().await
            })
        },
    },
    Attack {
        name: "floods of pings, reads nothing",
        reaches: Reaches::Session,
        prepare: nothing,
        once: |index, shared| {
            Box::pin(async move {
                let mut rogue = shared.session(index).await?;
                shared.gathered().await;
                loop {
                    let pings = rogue.seal(&vec![Frame::Ping { token: 1 }; 3_000])?;
                    rogue.stream.write_all(&pings).await?;
                }
            })
        },
    },
    Attack {
        name: "asks and reads nothing",
        reaches: Reaches::Session,
        prepare: nothing,
        once: |index, shared| {
            Box::pin(async move {
                let mut rogue = shared.session(index).await?;
                for id in (1_u32..).step_by(2) {
                    let payload = prost::Message::encode_to_vec(&SyncRequest::default());
                    let record = rogue.seal(&[request(id, Method::Sync, payload.into())])?;
                    rogue.stream.write_all(&record).await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(())
            })
        },
    },
    Attack {
        name: "reads at 50 KB/s while pushed to",
        reaches: Reaches::Session,
        prepare: a_group_of_rogues,
        once: |index, shared| {
            Box::pin(async move {
                if index == 0 {
                    return push_to_the_group(&shared).await;
                }
                let mut rogue = shared.session(index).await?;
                let mut buffer = vec![0; SLOW_READ_BYTES];
                while rogue.stream.read(&mut buffer).await? > 0 {
                    tokio::time::sleep(SLOW_READ_EVERY).await;
                }
                Ok(())
            })
        },
    },
    Attack {
        name: "replays a recorded hello",
        reaches: Reaches::Connection,
        prepare: |door, _| Ok(door.hello("victim")?.1.into()),
        once: |index, shared| {
            Box::pin(async move {
                let mut stream = shared.connect(index).await?;
                stream.write_all(&shared.prepared).await?;
                until_closed(&mut stream).await
            })
        },
    },
    Attack {
        name: "logs in and drops, in a storm",
        reaches: Reaches::Session,
        prepare: nothing,
        once: |index, shared| {
            Box::pin(async move {
                drop(shared.session(index).await?);
                Ok(())
            })
        },
    },
    Attack {
        name: "wants every descriptor",
        reaches: Reaches::Connection,
        prepare: nothing,
        once: |index, shared| {
            Box::pin(async move {
                // More than the gateway takes, and no more than the attacker may have.
                let mut streams = vec![shared.connect(index).await?];
                if index < TWICE_MAX {
                    streams.push(shared.connect(index).await?);
                }
                for stream in &mut streams {
                    until_closed(stream).await?;
                }
                Ok(())
            })
        },
    },
];

fn garbage(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

fn request(id: u32, method: Method, payload: Bytes) -> Frame {
    Frame::Request(Request {
        method: method.number(),
        id: RequestId(id),
        affinity: None,
        deadline_ms: None,
        compressed: false,
        payload,
    })
}

fn large_request(id: u32) -> Frame {
    request(id, Method::Sync, vec![0; 15_000].into())
}

/// A group of the first rogues, so that one message is pushed to all of them.
fn a_group_of_rogues(door: &Arc<Door>, connections: usize) -> anyhow::Result<Bytes> {
    let mut owner = door.session(&format!("{ROGUE}0"))?;
    let members = (1..connections.min(PUSHED_TO_MAX)).map(|index| format!("{ROGUE}{index}"));
    let made: GroupChangeResponse = owner.must(
        Method::CreateGroup,
        &CreateGroupRequest {
            operation_id: operation_id(now_ms()),
            name: "slow readers".to_owned(),
            member_uids: members.collect(),
            history_for_newcomers: false,
        },
    )?;
    Ok(made.conversation)
}

/// What keeps the pushes coming: a member of the group who reads what it should.
async fn push_to_the_group(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let shared = Arc::clone(shared);
    let pushing = move || -> anyhow::Result<()> {
        let mut pusher = shared.door.session(&format!("{ROGUE}0"))?;
        while !shared.is_over() {
            let text = client::Text {
                text: format!("{:PUSHED_BYTES$}", next_number()),
            };
            let message = client::OutgoingMessage {
                client_msg_id: operation_id(now_ms()),
                content: Some(client::Content {
                    content: Some(client::content::Content::Text(text)),
                }),
                options: None,
            };
            let _sent: SendResponse = pusher.must(
                Method::Send,
                &SendRequest {
                    conversation: shared.prepared.clone(),
                    messages: vec![message],
                    seen_seq: 0,
                },
            )?;
            std::thread::sleep(PUSH_EVERY);
        }
        Ok(())
    };
    tokio::task::spawn_blocking(pushing)
        .await
        .context("the pusher panicked")?
}
