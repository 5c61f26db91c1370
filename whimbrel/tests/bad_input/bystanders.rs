//! Two users who have nothing to do with it, and chat all the while.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::runtime::Handle;
use tokio::time::timeout;
use whimbrel_sdk::{
    Client, ClientConfig, ConnectionState, ConversationId, EntryBody, Event, EventStream, FixedToken,
};

use crate::deployment::Deployment;
use crate::door::Door;

/// A message is acknowledged and delivered within this. Milliseconds as a rule; the bound is for a debug build that
/// shares two cores with the attack, the attacker and the other tests.
pub(crate) const DELIVERED_WITHIN: Duration = Duration::from_secs(10);
/// Between two messages at first; each time a tenth more, up to [`PACE_MAX`]: what they say is kept in memory for a
/// while, and a machine ten times slower must not be shown ten times the messages.
const PACE: Duration = Duration::from_millis(50);
/// Between two messages beside an attack that takes long.
const PACE_MAX: Duration = Duration::from_secs(1);

/// Alice writes, Bob reads.
#[derive(Debug)]
pub(crate) struct Bystanders {
    runtime: Handle,
    alice: Client,
    /// Ends with the last handle.
    _bob: Client,
    of_alice: EventStream,
    of_bob: EventStream,
    conversation: ConversationId,
    said: u64,
}

/// What became of the chat beside an attack.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chat {
    /// Messages sent, acknowledged and delivered.
    pub(crate) messages: u32,
    /// The longest way of one, from the call to the other's event.
    pub(crate) slowest: Duration,
}

/// A client of `deployment` with `uid`, keeping nothing.
pub(crate) fn client_config(deployment: &Deployment, uid: &str) -> ClientConfig {
    let ready = &deployment.ready;
    ClientConfig::new(&ready.lbs, &ready.root_key, &ready.app_key, uid)
}

impl Bystanders {
    /// Logs both in and opens their conversation.
    pub(crate) fn new(runtime: &Handle, deployment: &Deployment, door: &Door) -> anyhow::Result<Self> {
        let start = |uid: &str| -> anyhow::Result<Client> {
            let token = Arc::new(FixedToken(door.token(uid)?));
            let _entered = runtime.enter();
            Ok(Client::start(client_config(deployment, uid), token)?)
        };
        let (alice, bob) = (start("alice")?, start("bob")?);
        let (of_alice, of_bob) = (alice.events(), bob.events());
        let conversation = runtime.block_on(alice.open_direct("bob"))?;
        let mut bystanders = Self {
            runtime: runtime.clone(),
            alice,
            _bob: bob,
            of_alice,
            of_bob,
            conversation,
            said: 0,
        };
        runtime.block_on(bystanders.both_online())?;
        runtime
            .block_on(bystanders.exchange())
            .context("before any attack")?;
        Ok(bystanders)
    }

    /// How many messages there were so far.
    pub(crate) const fn said(&self) -> u64 {
        self.said
    }

    /// What they chat in: nobody else's business.
    pub(crate) fn conversation(&self) -> ConversationId {
        self.conversation
    }

    /// Does `work` on another thread while the two chat, and goes on chatting once after it.
    pub(crate) fn beside<T: Send>(
        &mut self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<(T, Chat)> {
        let runtime = self.runtime.clone();
        let (done, chat) = thread::scope(|scope| {
            let working = scope.spawn(work);
            let chat = runtime.block_on(async {
                let mut chat = Chat::default();
                let mut pace = PACE;
                loop {
                    let over = working.is_finished();
                    let took = self.exchange().await?;
                    chat.messages += 1;
                    chat.slowest = chat.slowest.max(took);
                    if over {
                        return anyhow::Ok(chat);
                    }
                    tokio::time::sleep(pace).await;
                    pace = (pace + pace / 10).min(PACE_MAX);
                }
            });
            (working.join(), chat)
        });
        let Ok(done) = done else {
            bail!("the attacker panicked");
        };
        // The attacker's own failure says more than what followed from it.
        let done = done?;
        Ok((done, chat.context("the bystanders")?))
    }

    /// One message of Alice's: acknowledged, and received by Bob, over the connections that both had before.
    pub(crate) async fn exchange(&mut self) -> anyhow::Result<Duration> {
        let text = self.next_text();
        let began = Instant::now();
        timeout(
            DELIVERED_WITHIN,
            self.alice.send_and_wait(self.conversation, &text),
        )
        .await
        .with_context(|| format!("{text:?} was not acknowledged within {DELIVERED_WITHIN:?}"))??;
        self.receive(&text, DELIVERED_WITHIN).await?;
        Ok(began.elapsed())
    }

    /// Alice says something that may have to wait; gives what.
    pub(crate) async fn say(&mut self) -> anyhow::Result<String> {
        let text = self.next_text();
        self.alice.send_text(self.conversation, &text).await?;
        Ok(text)
    }

    /// Waits until Bob has `text`, over the connections that both had before.
    pub(crate) async fn receive(&mut self, text: &str, within: Duration) -> anyhow::Result<()> {
        let next = async {
            loop {
                let event = self.of_bob.next().await.context("bob's client has closed")?;
                undisturbed("bob", &event)?;
                let Event::MessageReceived { conversation, entry } = event else {
                    continue;
                };
                ensure!(
                    conversation == self.conversation && entry.sender_uid == "alice",
                    "bob was shown what is not for him: {entry:?} in {conversation}"
                );
                if entry.body == EntryBody::Text(text.to_owned()) {
                    return anyhow::Ok(());
                }
            }
        };
        timeout(within, next)
            .await
            .with_context(|| format!("{text:?} was not delivered within {within:?}"))??;
        while let Some(event) = self.of_alice.try_next() {
            undisturbed("alice", &event)?;
        }
        Ok(())
    }

    fn next_text(&mut self) -> String {
        self.said += 1;
        format!("message {}", self.said)
    }

    async fn both_online(&self) -> anyhow::Result<()> {
        for (who, events) in [("alice", &self.of_alice), ("bob", &self.of_bob)] {
            let online = async {
                while let Some(event) = events.next().await {
                    if event == Event::Synced {
                        return;
                    }
                }
            };
            let within = DELIVERED_WITHIN * 4;
            timeout(within, online)
                .await
                .with_context(|| format!("{who} is not online within {within:?}"))?;
        }
        Ok(())
    }
}

/// A bystander's connection outlives every attack.
fn undisturbed(who: &str, event: &Event) -> anyhow::Result<()> {
    match event {
        Event::Connection(state) if *state != ConnectionState::Online => {
            bail!("{who} lost the connection: {state:?}")
        }
        _ => Ok(()),
    }
}
