//! `whimbrel chat`: a simple terminal client, and with `--plain` one for scripts.
//!
//! A line that was typed is in the local database before the first attempt to send it, as soon as it is known where it
//! goes. At the end of input the command waits until every line is acknowledged and shown, and until what the user missed is
//! shown: all that this device has not shown yet, and of a conversation that is new to it the newest entries, with
//! `--plain` all that the user has not read besides. Without input and without anybody to chat with it only listens, and does
//! not end by itself.

mod input;
mod screen;
mod state_dir;
mod target;

use std::{
    collections::{BTreeSet, VecDeque},
    io::{IsTerminal as _, Write as _},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use whimbrel_sdk::{
    Client, ClientConfig, ConnectionState, ErrorCode, Event, EventStream, FixedToken, LocalMessageId,
    NewGroup, SendState, WaitReason,
};

use self::{
    input::{Command, Line, TEXT_LEN_MAX},
    state_dir::StateDir,
    target::{Target, Wanted},
};
use crate::{cli::ChatArgs, deployment::Deployment, terminal, token};

/// Between two tries of a line that found the queue of unsent ones full: a batch may have left it meanwhile.
const HELD_RETRY: Duration = Duration::from_millis(200);
/// Between two looks whether everything is here, at the end of input.
const CAUGHT_UP_POLL: Duration = Duration::from_millis(20);
/// Lines that wait for where to go, or for room in the queue: as many as that holds.
const WAITING_MAX: usize = 10_000;

/// Runs until the end of input, `/quit` or Ctrl-C. The error says which lines are not acknowledged, if any.
pub(crate) async fn run(args: ChatArgs) -> anyhow::Result<()> {
    let deployment = Deployment::new(&args.deployment)?;
    let state = StateDir::take(&args, &deployment)?;
    let config = ClientConfig {
        lbs_urls: deployment.lbs(&args.lbs)?,
        data_dir: Some(state.path.clone()),
        initial_unread: args.plain,
        ..ClientConfig::new(
            "",
            &deployment.root_key(args.root_key.as_deref())?,
            &deployment.app_key(),
            &args.uid,
        )
    };
    let tokens: Arc<dyn whimbrel_sdk::TokenProvider> = match args.token.clone() {
        Some(token) => Arc::new(FixedToken(token)),
        None => Arc::new(token::Signer::for_user(&deployment, &args.uid)?),
    };
    let client = Client::start(config, tokens).context("the client does not start")?;
    let mut chat = Chat {
        events: client.events(),
        client,
        target: None,
        asked_for: args.to.is_some() || args.group.is_some() || args.room.is_some(),
        wanted: Wanted::of(&args)?,
        under_way: None,
        plain: args.plain,
        has_acted: false,
        is_scripted: args.plain || !std::io::stdin().is_terminal(),
        waiting: VecDeque::new(),
        held_until: None,
        unacknowledged: BTreeSet::new(),
        unshown: BTreeSet::new(),
        failed: 0,
        unopened: 0,
        patience: args.wait.into(),
        moved_at: Instant::now(),
        token_is_fixed: args.token.is_some(),
        told: None,
    };
    let ended = chat.run().await;
    let verdict = ended.and_then(|end| chat.verdict(end));
    chat.client.close().await?;
    verdict
}

/// Where standard input stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    /// Over; the chat ends when nothing is left to do.
    Ended,
    /// Over, and there was nothing to send and nobody to send to: it shows what comes until interrupted.
    ListenOnly,
}

/// How a chat came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything is done.
    Done,
    /// The person would not wait, or the client ended.
    Left,
    /// What was left to do took too long.
    Late,
}

struct Chat {
    client: Client,
    events: EventStream,
    target: Option<Target>,
    wanted: Wanted,
    /// The target was given on the command line: without it there is no chat.
    asked_for: bool,
    /// Kept from one event to the next: in a busy room there is always another before the answer.
    under_way: Option<Opening>,
    plain: bool,
    /// Something was typed.
    has_acted: bool,
    /// Nobody sees what is typed, or what is said of it: own lines are printed too, and the exit status tells what failed.
    is_scripted: bool,
    /// Lines that were read and not yet taken.
    waiting: VecDeque<Line>,
    /// When the first of them is tried again, after it found the queue full.
    held_until: Option<Instant>,
    /// Lines on the disk that the server has not answered, those of chats before included.
    unacknowledged: BTreeSet<LocalMessageId>,
    /// Lines of this chat that have not come back from the conversation yet.
    unshown: BTreeSet<LocalMessageId>,
    /// Lines that will not be sent.
    failed: usize,
    /// Conversations that were asked for and cannot be opened.
    unopened: usize,
    /// How long nothing may move after the end of input.
    patience: Duration,
    /// When something last moved.
    moved_at: Instant,
    /// The token was given on the command line: there is no other.
    token_is_fixed: bool,
    /// What was last said of the connection.
    told: Option<ConnectionState>,
}

type Opening = std::pin::Pin<Box<dyn Future<Output = Result<Target, String>>>>;

impl Chat {
    async fn run(&mut self) -> anyhow::Result<End> {
        let mut lines = input::lines()?;
        let mut input = Input::Open;
        let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
            .context("waiting for Ctrl-C")?;
        // What chats before this one left unsent is sent by this one.
        for unsent in self.client.unsent().await? {
            if unsent.error.is_none() {
                self.unacknowledged.insert(unsent.local_id);
            }
        }
        loop {
            if input == Input::Ended && self.listens_only() {
                input = Input::ListenOnly;
            }
            let idle = input == Input::Ended && self.is_idle();
            if idle && self.client.is_up_to_date().await? {
                while let Some(event) = self.events.try_next() {
                    self.show(event)?;
                }
                // Somebody may have answered this moment; what was typed is all shown either way.
                if self.is_idle() {
                    return Ok(End::Done);
                }
            }
            let opening = self.is_opening();
            if opening && self.under_way.is_none() {
                self.under_way = Some(Box::pin(target::open(self.client.clone(), self.wanted.clone())));
            }
            let opened = async {
                match &mut self.under_way {
                    Some(opening) => opening.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.events.next() => match event {
                    Some(event) => self.show(event)?,
                    None => return Ok(End::Left),
                },
                opened = opened => {
                    self.under_way = None;
                    self.opened(opened)?;
                }
                () = due(self.held_until) => self.held_until = None,
                () = std::future::ready(()), if !opening && self.held_until.is_none() && !self.waiting.is_empty() => {
                    if let Some(line) = self.waiting.pop_front() && !self.take(line).await? {
                        return Ok(End::Left);
                    }
                }
                line = lines.recv(), if input == Input::Open && self.waiting.len() < WAITING_MAX => match line {
                    // Nobody types it to wait for a server that is away.
                    Some(Line::Command(Command::Quit)) if self.waiting.is_empty() || !self.is_scripted => return Ok(End::Left),
                    Some(line) => self.waiting.push_back(line),
                    None => {
                        input = Input::Ended;
                        self.moved_at = Instant::now();
                    }
                },
                () = sleep(CAUGHT_UP_POLL), if idle => {}
                () = sleep_until(self.moved_at + self.patience), if input == Input::Ended => return Ok(End::Late),
                _ = interrupts.recv() => {
                    self.take_in(&mut lines);
                    return Ok(End::Left);
                }
            }
        }
    }

    /// Counts what was typed and not read yet among what waits.
    fn take_in(&mut self, lines: &mut mpsc::Receiver<Line>) {
        while let Ok(line) = lines.try_recv() {
            self.waiting.push_back(line);
        }
    }

    /// It is not known yet where lines go: that needs the server.
    fn is_opening(&self) -> bool {
        self.target.is_none() && !self.wanted.is_nowhere()
    }

    /// Whether it was given nothing to do but to show what comes.
    fn listens_only(&self) -> bool {
        !self.has_acted
            && self.wanted.is_nowhere()
            && self.waiting.is_empty()
            && self.unacknowledged.is_empty()
    }

    /// Whether everything typed is done with.
    fn is_idle(&self) -> bool {
        !self.is_opening()
            && self.waiting.is_empty()
            && self.unacknowledged.is_empty()
            && self.unshown.is_empty()
    }

    /// What is to be said of lines that did not make it.
    fn verdict(&self, end: End) -> anyhow::Result<()> {
        let is_text = |line: &&Line| matches!(line, Line::Text(_) | Line::NotText | Line::TooLong);
        let unsent = self.failed + self.waiting.iter().filter(is_text).count();
        let mut told = Vec::new();
        if unsent > 0 {
            told.push(counted(unsent, "line was not sent", "lines were not sent"));
        }
        if !self.unacknowledged.is_empty() {
            told.push(counted(
                self.unacknowledged.len(),
                "line is not acknowledged: it is kept, and sent by the next chat of this user",
                "lines are not acknowledged: they are kept, and sent by the next chat of this user",
            ));
        } else if !self.unshown.is_empty() {
            told.push(counted(
                self.unshown.len(),
                "line was sent and has not come back",
                "lines were sent and have not come back",
            ));
        }
        if self.unopened > 0 {
            told.push(counted(
                self.unopened,
                "conversation could not be opened",
                "conversations could not be opened",
            ));
        }
        if end == End::Late && told.is_empty() {
            told.push("not everything that the server has was shown".to_owned());
        }
        if told.is_empty() {
            return Ok(());
        }
        let late = match end {
            End::Late => format!(" (nothing moved for {:?} after the end of input)", self.patience),
            End::Done | End::Left => String::new(),
        };
        bail!("{}{late}", told.join("; "))
    }

    fn opened(&mut self, opened: Result<Target, String>) -> anyhow::Result<()> {
        match opened {
            Ok(target) => {
                let name = match &target {
                    Target::Conversation(conversation) => format!("conversation {conversation}"),
                    Target::Room(room) => format!("room {room}"),
                };
                self.target = Some(target);
                self.asked_for = false;
                self.moved_at = Instant::now();
                self.tell(&format!("{name}; type a line and press Enter, /help for more"))
            }
            Err(why) if self.asked_for => {
                bail!("the conversation cannot be opened: {why}")
            }
            Err(why) => {
                self.wanted = Wanted::Nowhere;
                self.unopened += usize::from(self.is_scripted);
                self.tell(&format!(
                    "the conversation cannot be opened: {why}; no conversation is open now"
                ))
            }
        }
    }

    /// Whether to go on.
    async fn take(&mut self, line: Line) -> anyhow::Result<bool> {
        self.has_acted = true;
        match line {
            Line::Text(text) => match &self.target {
                Some(Target::Room(room)) => {
                    let sent = self.client.send_room(room, &text).await;
                    self.sent_to_room(sent)?;
                }
                Some(Target::Conversation(conversation)) => {
                    match self.client.send_text(*conversation, &text).await {
                        Ok(local_id) => {
                            self.unacknowledged.insert(local_id);
                            self.unshown.insert(local_id);
                        }
                        // The queue holds what an outage brings; the line is tried again when some of it has gone.
                        Err(error) if error.code == ErrorCode::QueueFull as u32 => {
                            self.held_until = Some(Instant::now() + HELD_RETRY);
                            self.waiting.push_front(Line::Text(text));
                            return Ok(true);
                        }
                        Err(error) => {
                            self.failed += 1;
                            self.tell(&format!("not sent: {error}"))?;
                        }
                    }
                }
                None => {
                    // A person sees to it; a script learns it from the exit status.
                    self.failed += usize::from(self.is_scripted);
                    self.tell(
                        "not sent: to whom? start with --to UID, --group ID or --room ID, or say /to UID",
                    )?;
                }
            },
            Line::NotText => {
                self.failed += 1;
                self.tell("not sent: a line that is no UTF-8 text")?;
            }
            Line::TooLong => {
                self.failed += 1;
                self.tell(&format!(
                    "not sent: a line of more than the {TEXT_LEN_MAX} bytes that a text may have"
                ))?;
            }
            Line::Broken(error) => bail!("standard input cannot be read: {error}"),
            Line::Command(Command::Quit) => return Ok(false),
            Line::Command(command) => {
                if let Err(error) = self.obey(command).await {
                    self.tell(&format!("{error:#}"))?;
                }
            }
            Line::Unknown(what) => self.tell(&format!("{what}: {}", input::HELP))?,
        }
        self.moved_at = Instant::now();
        Ok(true)
    }

    async fn obey(&mut self, command: Command) -> anyhow::Result<()> {
        let here = || match self.target {
            Some(Target::Conversation(conversation)) => Ok(conversation),
            _ => bail!("no conversation is open: say /to UID or /group ID"),
        };
        match command {
            Command::Help => self.tell(input::HELP),
            Command::Quit => Ok(()),
            Command::To(uid) => {
                self.turn_to(Wanted::User(uid));
                Ok(())
            }
            Command::Group(id) => {
                self.turn_to(Wanted::Group(id.parse()?));
                Ok(())
            }
            Command::Room(id) => {
                self.turn_to(Wanted::Room(id));
                Ok(())
            }
            Command::Create { name, uids } => {
                let group = NewGroup {
                    name,
                    member_uids: uids,
                    history_for_newcomers: false,
                };
                let conversation = self.client.create_group(group).await?;
                self.wanted = Wanted::Group(conversation);
                self.target = Some(Target::Conversation(conversation));
                self.tell(&format!(
                    "group {conversation}; others join with: chat --uid UID --group {conversation}"
                ))
            }
            Command::Invite(uids) => Ok(self.client.invite(here()?, uids).await?),
            Command::Remove(uids) => Ok(self.client.remove_members(here()?, uids).await?),
            Command::Leave => {
                if let Some(Target::Room(room)) = &self.target {
                    self.client.leave_room(room).await?;
                    (self.wanted, self.target) = (Wanted::Nowhere, None);
                    return Ok(());
                }
                Ok(self.client.leave(here()?).await?)
            }
            Command::Members => {
                let members = self.client.members(here()?).await?;
                let names: Vec<_> = members
                    .iter()
                    .map(|member| format!("{} ({:?})", member.uid, member.role))
                    .collect();
                self.tell(&names.join(", "))
            }
            Command::List => {
                for row in self.client.conversations().await? {
                    let name = if row.peer_uid.is_empty() {
                        row.name
                    } else {
                        row.peer_uid
                    };
                    self.tell(&format!("{}  {name}  {} unread", row.id, row.unread))?;
                }
                Ok(())
            }
        }
    }

    fn turn_to(&mut self, wanted: Wanted) {
        (self.wanted, self.target, self.asked_for) = (wanted, None, false);
        // What was under way is not wanted any more.
        self.under_way = None;
    }

    fn show(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::MessageReceived { conversation, entry } => {
                if entry.local_id.is_some_and(|id| self.unshown.remove(&id)) || self.is_idle() {
                    self.moved_at = Instant::now();
                }
                let own = entry.local_id.is_some();
                if self.plain {
                    if let Some(line) = screen::plain_line(conversation, &entry) {
                        terminal::answer(&line)?;
                    }
                } else if !own || self.is_scripted {
                    let elsewhere = self.target != Some(Target::Conversation(conversation));
                    let place = if elsewhere {
                        format!("[{conversation}] ")
                    } else {
                        String::new()
                    };
                    terminal::answer(&format!("{place}{}", screen::line(&entry)))?;
                }
                let client = self.client.clone();
                // Reading is explicit: what was printed was seen. A failure is made up for by the next one.
                drop(tokio::spawn(async move {
                    client.mark_read(conversation, entry.seq).await
                }));
            }
            Event::SendStateChanged { local_id, state, .. } => match state {
                SendState::Queued => {}
                SendState::Sent { .. } => {
                    self.unacknowledged.remove(&local_id);
                    self.moved_at = Instant::now();
                }
                SendState::Failed { error } => {
                    self.unacknowledged.remove(&local_id);
                    self.unshown.remove(&local_id);
                    self.moved_at = Instant::now();
                    self.failed += 1;
                    self.tell(&format!("not sent: {error}"))?;
                }
            },
            Event::Connection(ConnectionState::Stopped { error }) => {
                return Err(error).context("the connection is over for good");
            }
            Event::Connection(ConnectionState::Waiting {
                reason: WaitReason::TokenRefused,
                ..
            }) if self.token_is_fixed => {
                bail!(
                    "the server refuses the token: give --token one that is good for this --uid and app, and has not ended"
                );
            }
            Event::Connection(state) => {
                if screen::is_news(self.told.as_ref(), &state) {
                    self.tell(&screen::connection(&state))?;
                    self.told = Some(state);
                }
            }
            Event::RoomMessageReceived { room, message } => {
                let line = if self.plain {
                    screen::plain_room_line(&room, &message)
                } else {
                    Some(screen::room_line(&room, &message))
                };
                line.map_or(Ok(()), |line| terminal::answer(&line))?;
            }
            Event::RoomLost { room, error } => self.tell(&format!("not in room {room} any more: {error}"))?,
            Event::MessageChanged { conversation, entry } if !self.plain => {
                terminal::answer(&format!(
                    "[{conversation} #{}] {}",
                    entry.seq,
                    screen::line(&entry)
                ))?;
            }
            Event::MessagesLost {
                conversation,
                after_seq,
            } => {
                self.tell(&format!(
                    "[{conversation}] the server was restored from a backup: nothing after #{after_seq} is there any more"
                ))?;
            }
            Event::MessageChanged { .. }
            | Event::ConversationChanged { .. }
            | Event::ConversationRemoved { .. }
            | Event::Synced => {}
        }
        Ok(())
    }

    /// A line to a room is not kept: it went now, or not at all.
    fn sent_to_room(
        &mut self,
        sent: Result<whimbrel_sdk::RoomSent, whimbrel_sdk::Error>,
    ) -> anyhow::Result<()> {
        match sent {
            Ok(sent) if sent.dropped > 0 => {
                self.tell(&format!("{} members will not get this line", sent.dropped))
            }
            Ok(_) => Ok(()),
            Err(error) => {
                self.failed += 1;
                self.tell(&format!("not sent: {error}"))
            }
        }
    }

    /// Says something to the person, apart from the messages.
    #[expect(clippy::unused_self, reason = "a line of this chat, in step with `show`")]
    fn tell(&self, text: &str) -> anyhow::Result<()> {
        writeln!(std::io::stderr(), "-- {text}").context("standard error is closed")
    }
}

/// So many of something, in words for one or for more.
fn counted(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// Comes when it is time, if it ever is.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
