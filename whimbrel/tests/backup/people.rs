//! Two people who chat, each on a device that remembers.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use whimbrel_sdk::{Client, ClientConfig, ConversationId, Entry, EntryBody, Event, EventStream, FixedToken};

/// A deployment that people chat over.
pub(crate) trait Server {
    /// What a client of `uid` is started with, everything kept in memory.
    fn client(&self, uid: &str) -> (ClientConfig, Arc<FixedToken>);
}

/// A busy machine takes its time.
const WITHIN: Duration = Duration::from_secs(60);
/// More than anybody says here.
const PAGE: u32 = 100;

pub(crate) struct People {
    folder: PathBuf,
    conversation: ConversationId,
    alice: Option<Device>,
    bob: Option<Device>,
    /// What was said, in order.
    said: Vec<String>,
    /// How much of it was said before the backup: all of that is kept.
    kept_min: usize,
    /// How much was said before the backup was finished: nothing after that can be kept.
    kept_max: usize,
}

struct Device {
    client: Client,
    events: EventStream,
}

impl Device {
    /// A device whose messages and cursors lie in a folder of this name, or one that is new.
    fn start(server: &impl Server, uid: &str, state: Option<PathBuf>) -> Self {
        let (mut config, token) = server.client(uid);
        config.device_id = Some(match state {
            Some(_) => "phone".to_owned(),
            None => "new".to_owned(),
        });
        config.data_dir = state;
        config.initial_history = u32::MAX;
        let client = Client::start(config, token).unwrap();
        Self {
            events: client.events(),
            client,
        }
    }

    async fn until<T>(&self, what: &str, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        let looking = async {
            while let Some(event) = self.events.next().await {
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
            panic!("the client ended before {what}");
        };
        let found = tokio::time::timeout(WITHIN, looking).await;
        found.unwrap_or_else(|_| panic!("not within {WITHIN:?}: {what}"))
    }

    async fn shown(&self, wanted: &str) -> Entry {
        self.until(&format!("{wanted:?} is shown"), |event| match event {
            Event::MessageReceived { entry, .. } if text_of(&entry) == Some(wanted) => Some(entry),
            _ => None,
        })
        .await
    }
}

fn text_of(entry: &Entry) -> Option<&str> {
    match &entry.body {
        EntryBody::Text(text) => Some(text),
        _ => None,
    }
}

impl People {
    pub(crate) async fn arrive(server: &impl Server, folder: &Path) -> Self {
        let start = |uid: &str| Device::start(server, uid, Some(folder.join(uid)));
        let (alice, bob) = (start("alice"), start("bob"));
        let conversation = alice.client.open_direct("bob").await.unwrap();
        Self {
            folder: folder.to_owned(),
            conversation,
            alice: Some(alice),
            bob: Some(bob),
            said: Vec::new(),
            kept_min: 0,
            kept_max: 0,
        }
    }

    /// Alice says so much, and bob has seen it. What is called "kept" is to be there in the end.
    pub(crate) async fn chat(&mut self, what: &str, count: usize) {
        for nth in 0..count {
            self.say(format!("{what} {nth}")).await;
        }
        if what == "kept" {
            self.kept_min = self.said.len();
            self.kept_max = self.said.len();
        }
    }

    /// They go on while a backup is taken, which may have of it what came first. Gives what the backup came to.
    pub(crate) async fn chat_during<T>(&mut self, backup: JoinHandle<T>) -> T {
        let before = self.said.len();
        while !backup.is_finished() {
            self.say(format!("meanwhile {}", self.said.len())).await;
        }
        self.kept_max = self.said.len();
        assert!(self.kept_max > before, "they were writing all the time");
        backup.await.unwrap()
    }

    async fn say(&mut self, text: String) {
        let (alice, bob) = (self.alice.as_ref().unwrap(), self.bob.as_ref().unwrap());
        let sent = alice.client.send_and_wait(self.conversation, &text).await;
        sent.unwrap();
        bob.shown(&text).await;
        self.said.push(text);
    }

    /// Both close their devices.
    pub(crate) async fn leave(&mut self) {
        for device in [self.alice.take(), self.bob.take()].into_iter().flatten() {
            device.client.close().await.unwrap();
        }
    }

    /// To a deployment that has been restored: bob's device finds out what was lost, both go on, and who reads everything from nothing
    /// finds what was kept and what came since, without a hole.
    pub(crate) async fn come_back_to_what_was_kept(&mut self, server: &impl Server) {
        let bob = Device::start(server, "bob", Some(self.folder.join("bob")));
        let possible: RangeInclusive<u64> = self.kept_min as u64..=self.kept_max as u64;
        let mut head = self.kept_min as u64;
        if self.said.len() > self.kept_max {
            let after = bob.until("bob learns what was lost", |event| match event {
                Event::MessagesLost { after_seq, .. } => Some(after_seq),
                _ => None,
            });
            head = after.await;
        }
        assert!(possible.contains(&head), "{head} is not in {possible:?}");
        let kept = &self.said[..usize::try_from(head).unwrap()];
        let alice = Device::start(server, "alice", Some(self.folder.join("alice")));
        let sent = alice
            .client
            .send_and_wait(self.conversation, "since")
            .await
            .unwrap();
        assert_eq!(sent.seq, head + 1, "the log goes on where the backup ends");
        assert_eq!(bob.shown("since").await.seq, head + 1);

        let expected: Vec<String> = kept.iter().cloned().chain(["since".to_owned()]).collect();
        let fresh = Device::start(server, "bob", None);
        fresh.shown("since").await;
        for device in [&bob, &fresh] {
            let read = device.client.history(self.conversation, 0, PAGE).await.unwrap();
            let mut read: Vec<_> = read.into_iter().map(|entry| (entry.seq, entry)).collect();
            read.sort_by_key(|(seq, _)| *seq);
            let seqs: Vec<u64> = read.iter().map(|(seq, _)| *seq).collect();
            assert_eq!(seqs, (1..=head + 1).collect::<Vec<_>>());
            let texts: Vec<&str> = read.iter().filter_map(|(_, entry)| text_of(entry)).collect();
            assert_eq!(texts, expected);
        }
    }
}
