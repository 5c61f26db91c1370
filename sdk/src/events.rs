//! Events, and the bounded queue between the client and whoever listens.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::error::Error;
use crate::types::{Conversation, ConversationId, Entry, LocalMessageId, RoomMessage};

/// Events that wait for a slow listener before the client stops reading from the network: some megabytes at most.
pub(crate) const EVENTS_WAITING_MAX: usize = 4096;

/// Something the app may want to show.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The connection came, went, or will come.
    Connection(ConnectionState),
    /// A message or a change of a group: each once, in the order of the conversation, without holes.
    MessageReceived {
        /// Where.
        conversation: ConversationId,
        /// What.
        entry: Entry,
    },
    /// An entry that was received before is different now, for example recalled.
    MessageChanged {
        /// Where.
        conversation: ConversationId,
        /// As it is now.
        entry: Entry,
    },
    /// The server was restored from a backup and no longer has what was shown after this seq. What it has there now
    /// follows as [`Event::MessageReceived`], each once. See [`Client`](crate::Client) for what becomes of one's own.
    MessagesLost {
        /// Where.
        conversation: ConversationId,
        /// The last entry that stays; 0 when none does.
        after_seq: u64,
    },
    /// A row of the conversation list is new or different.
    ConversationChanged {
        /// As it is now.
        row: Conversation,
    },
    /// A row is gone from the conversation list.
    ConversationRemoved {
        /// Which.
        conversation: ConversationId,
    },
    /// A queued message went on its way.
    SendStateChanged {
        /// Which.
        local_id: LocalMessageId,
        /// Where.
        conversation: ConversationId,
        /// How it stands.
        state: SendState,
    },
    /// A message to a room that was joined. Nothing of it is kept.
    RoomMessageReceived {
        /// Which room.
        room: String,
        /// What.
        message: RoomMessage,
    },
    /// After a new login the server would not let this device into a room again: it is not in it any more.
    RoomLost {
        /// Which room.
        room: String,
        /// Why.
        error: Error,
    },
    /// The conversation list is up to date with the server as of now.
    Synced,
}

/// How a queued message stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendState {
    /// On this device only.
    Queued,
    /// The server has it.
    Sent {
        /// Its place in the conversation.
        seq: u64,
        /// Server time, unix milliseconds.
        time_ms: u64,
    },
    /// The server will never take it.
    Failed {
        /// Why.
        error: Error,
    },
}

/// How the connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// On the way.
    Connecting,
    /// Logged in.
    Online,
    /// Not connected; the next try comes by itself.
    Waiting {
        /// Why.
        reason: WaitReason,
        /// When, in milliseconds from now.
        retry_in_ms: u64,
    },
    /// Not connected, and not coming back by itself: start a new client.
    Stopped {
        /// Why.
        error: Error,
    },
}

/// Why there is no connection now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// The device has no way to anywhere.
    NoNetwork,
    /// Gateways cannot be reached, though the network seems to be there.
    Unreachable,
    /// Nobody said which gateways there are.
    NoDirectory,
    /// The LBS named no gateway that one of the pinned root keys vouches for.
    NoTrustedGateway,
    /// The server asked to come back later.
    ServerBusy,
    /// The token provider failed.
    NoToken,
    /// The server refused the provider's token, and the next one too.
    TokenRefused,
    /// The local database failed.
    Storage,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Streams that exist now; `None` until the first one was asked for.
    listeners: Option<usize>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics half way, so a poisoned queue is still a queue.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A way to take events. Streams of one client share its queue: each event goes to one of them.
#[derive(Debug)]
pub struct EventStream(Arc<Shared>);

impl EventStream {
    /// The next event, as soon as there is one; `None` after the last, once the client is closed.
    pub async fn next(&self) -> Option<Event> {
        loop {
            let arrived = self.0.arrived.notified();
            {
                let mut queue = self.0.lock();
                if let Some(event) = queue.events.pop_front() {
                    drop(queue);
                    self.0.room.notify_one();
                    return Some(event);
                }
                if queue.closed {
                    // Whoever else waits has to learn it too.
                    self.0.arrived.notify_one();
                    return None;
                }
            }
            arrived.await;
        }
    }

    /// The next event, if there is one already.
    #[must_use]
    pub fn try_next(&self) -> Option<Event> {
        let event = self.0.lock().events.pop_front();
        if event.is_some() {
            self.0.room.notify_one();
        }
        event
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        if let Some(listeners) = &mut queue.listeners {
            *listeners = listeners.saturating_sub(1);
        }
        drop(queue);
        self.0.room.notify_one();
    }
}

/// The client's end of the queue.
#[derive(Debug, Clone)]
pub(crate) struct EventSink(Arc<Shared>);

impl EventSink {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            arrived: Notify::new(),
            room: Notify::new(),
        }))
    }

    pub(crate) fn stream(&self) -> EventStream {
        *self.0.lock().listeners.get_or_insert(0) += 1;
        EventStream(Arc::clone(&self.0))
    }

    /// Adds an event. Without a listener the oldest make room, so that a client nobody listens to does not grow.
    pub(crate) fn send(&self, event: Event) {
        let mut queue = self.0.lock();
        if queue.events.len() >= EVENTS_WAITING_MAX && queue.listeners.unwrap_or(0) == 0 {
            queue.events.pop_front();
        }
        queue.events.push_back(event);
        drop(queue);
        self.0.arrived.notify_one();
    }

    /// Whether more should be read from the network.
    pub(crate) fn has_room(&self) -> bool {
        let queue = self.0.lock();
        queue.events.len() < EVENTS_WAITING_MAX || queue.listeners.unwrap_or(0) == 0
    }

    /// Waits until a listener has taken an event.
    pub(crate) async fn room(&self) {
        while !self.has_room() {
            self.0.room.notified().await;
        }
    }

    pub(crate) fn close(&self) {
        self.0.lock().closed = true;
        self.0.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> EventSink {
        let sink = EventSink::new();
        for _ in 0..EVENTS_WAITING_MAX {
            sink.send(Event::Synced);
        }
        sink
    }

    #[tokio::test]
    async fn a_slow_listener_stops_the_reading_until_it_has_taken_something() {
        let sink = full();
        let stream = sink.stream();
        assert!(!sink.has_room());
        assert_eq!(stream.try_next(), Some(Event::Synced));
        sink.room().await;
        sink.send(Event::Synced);
        let waiting = tokio::spawn({
            let sink = sink.clone();
            async move { sink.room().await }
        });
        drop(stream);
        assert!(waiting.await.is_ok(), "a listener that is gone is not waited for");
    }

    #[test]
    fn a_client_nobody_listens_to_does_not_grow() {
        let sink = full();
        assert!(sink.has_room());
        sink.send(Event::Connection(ConnectionState::Online));
        assert_eq!(sink.0.lock().events.len(), EVENTS_WAITING_MAX);
        assert_eq!(
            sink.0.lock().events.back(),
            Some(&Event::Connection(ConnectionState::Online))
        );
    }

    #[tokio::test]
    async fn every_stream_learns_of_the_end_after_the_last_event() {
        let sink = EventSink::new();
        let (first, second) = (sink.stream(), sink.stream());
        sink.send(Event::Synced);
        sink.close();
        assert_eq!(first.next().await, Some(Event::Synced));
        assert_eq!(first.next().await, None);
        assert_eq!(second.next().await, None);
    }
}
