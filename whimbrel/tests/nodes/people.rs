//! Two users who chat beside the load, so that one can say of each message whether it came.

use std::time::Duration;

use whimbrel_sdk::{Client, ConnectionState, ConversationId, EntryBody, Event, EventStream};

use crate::cluster::Deployed;
use crate::run::Deployment as _;

/// How long anything may take, on a machine that is busy with other tests.
const WITHIN: Duration = Duration::from_secs(60);
/// How long a message to a room is waited for before another is sent: it is not kept, and may be dropped.
const SOON: Duration = Duration::from_secs(5);
/// Between two that no gateway took.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// The room that they are in.
const ROOM: &str = "hall";

/// A user, logged in.
pub(crate) struct Person {
    pub(crate) client: Client,
    events: EventStream,
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(WITHIN, future).await;
    done.unwrap_or_else(|_| panic!("not {what} after {WITHIN:?}"))
}

impl Person {
    /// Logs in.
    pub(crate) async fn log_in(deployed: &Deployed, uid: &str) -> Self {
        let (config, token) = deployed.client(uid);
        let client = Client::start(config, token).expect("a client starts");
        let person = Self {
            events: client.events(),
            client,
        };
        let online = |event: &Event| matches!(event, Event::Connection(ConnectionState::Online));
        person.until(&format!("{uid} online"), online).await;
        person
    }

    async fn until(&self, what: &str, mut wanted: impl FnMut(&Event) -> bool) {
        let seen = async {
            loop {
                let event = self.events.next().await.expect("the client is not closed");
                if wanted(&event) {
                    return;
                }
            }
        };
        within(what, seen).await;
    }

    /// Whether it comes within a moment.
    async fn receives_soon(&self, text: &str) -> bool {
        tokio::time::timeout(SOON, self.receives(text)).await.is_ok()
    }

    async fn receives(&self, text: &str) {
        let text = EntryBody::Text(text.to_owned());
        let is_it = |event: &Event| match event {
            Event::MessageReceived { entry, .. } => entry.body == text,
            Event::RoomMessageReceived { message, .. } => message.body == text,
            _ => false,
        };
        self.until(&format!("{text:?} received"), is_it).await;
    }

    async fn send(&self, chat: ConversationId, text: &str) {
        let sent = within("acknowledged", self.client.send_and_wait(chat, text)).await;
        sent.expect("a message is acknowledged");
    }
}

/// Two of them, in a conversation and in a room.
pub(crate) struct Pair {
    one: Person,
    other: Person,
    chat: ConversationId,
    said: u32,
}

impl Pair {
    /// Logs both in and has them hear each other.
    pub(crate) async fn log_in(deployed: &Deployed, name: &str) -> Self {
        let [one, other] = ["one", "other"].map(|which| format!("{name}-{which}"));
        let other_uid = other.clone();
        let (one, other) = tokio::join!(Person::log_in(deployed, &one), Person::log_in(deployed, &other));
        let opened = within("opened", one.client.open_direct(&other_uid)).await;
        let chat = opened.expect("a conversation");
        for person in [&one, &other] {
            within("in the room", person.client.join_room(ROOM))
                .await
                .expect("a room");
        }
        let said = 0;
        let mut pair = Self {
            one,
            other,
            chat,
            said,
        };
        pair.chat().await;
        pair
    }

    /// A message each way, which is acknowledged and comes, and one to the room.
    pub(crate) async fn chat(&mut self) {
        self.said += 1;
        for (from, to) in [(&self.one, &self.other), (&self.other, &self.one)] {
            let text = format!("the {}th time", self.said);
            from.send(self.chat, &text).await;
            to.receives(&text).await;
        }
        let to_all = async {
            for attempt in 0.. {
                let text = format!("to all, the {}th time, {attempt}", self.said);
                if self.one.client.send_room(ROOM, &text).await.is_err() {
                    tokio::time::sleep(AGAIN_AFTER).await;
                } else if self.other.receives_soon(&text).await {
                    return;
                }
            }
        };
        within("received in the room", to_all).await;
    }
}

/// A user that has never been here logs in, sends a message that comes, and logs out again.
pub(crate) async fn newcomer(deployed: &Deployed, name: &str) {
    let _was_here = Pair::log_in(deployed, name).await;
}
