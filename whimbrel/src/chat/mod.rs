//! `whimbrel chat`: a simple terminal client, and with `--plain` one for scripts.
//!
//! A line that was typed is in the local database before the first attempt to send it; at the end of input the command
//! waits until every line is acknowledged.

mod input;
mod screen;

use std::{
    collections::BTreeSet,
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use whimbrel_sdk::{
    Client, ClientConfig, ConnectionState, ConversationId, Event, EventStream, FixedToken, LocalMessageId,
    NewGroup, SendState,
};

use self::input::{Command, Line};
use crate::{cli::ChatArgs, deployment::Deployment, token};

/// How long the last lines may take to be acknowledged after the end of input; an outage of a minute is ridden out.
const LAST_LINES_WAIT: Duration = Duration::from_secs(60);
/// Several chats of one user on one machine are several devices; nobody reads in more windows than this.
const DEVICES_PER_USER_MAX: u32 = 16;

/// Runs until the end of input, `/quit` or Ctrl-C. The error says which lines are not acknowledged, if any.
pub(crate) async fn run(args: ChatArgs) -> anyhow::Result<()> {
    let deployment = Deployment::new(&args.deployment)?;
    let state = StateDir::take(&args, &deployment)?;
    let config = ClientConfig {
        lbs_urls: deployment.lbs(&args.lbs)?,
        data_dir: Some(state.path.clone()),
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
        wanted: Wanted::of(&args)?,
        plain: args.plain,
        echo: args.plain || !std::io::stdin().is_terminal(),
        unacknowledged: BTreeSet::new(),
        failed: 0,
        told: None,
    };
    let ended = chat.run().await;
    chat.client.close().await?;
    ended
}

/// Where lines go.
#[derive(Clone)]
enum Wanted {
    Nowhere,
    User(String),
    Group(ConversationId),
    Room(String),
}

/// Where they go, once it is known.
#[derive(Clone, PartialEq, Eq)]
enum Target {
    Conversation(ConversationId),
    Room(String),
}

impl Wanted {
    fn of(args: &ChatArgs) -> anyhow::Result<Self> {
        Ok(match (&args.to, &args.group, &args.room) {
            (Some(uid), _, _) => Self::User(uid.clone()),
            (None, Some(id), _) => Self::Group(id.parse().context("--group takes a conversation id")?),
            (None, None, Some(id)) => Self::Room(id.clone()),
            (None, None, None) => Self::Nowhere,
        })
    }
}

/// Where standard input stands.
enum Input {
    Open,
    /// Over, and this chat sends: it ends when everything is acknowledged.
    Ended {
        at: tokio::time::Instant,
    },
    /// Over, and there was nobody to send to: it shows what comes until interrupted.
    ListenOnly,
}

impl Input {
    fn over(target: Option<&Target>) -> Self {
        match target {
            Some(_) => Self::Ended {
                at: tokio::time::Instant::now(),
            },
            None => Self::ListenOnly,
        }
    }

    /// Comes when the last lines have taken too long.
    async fn late(&self) {
        match self {
            Self::Ended { at } => tokio::time::sleep_until(*at + LAST_LINES_WAIT).await,
            Self::Open | Self::ListenOnly => std::future::pending().await,
        }
    }
}

struct Chat {
    client: Client,
    events: EventStream,
    target: Option<Target>,
    wanted: Wanted,
    plain: bool,
    /// Own lines are printed too: nobody sees them being typed.
    echo: bool,
    unacknowledged: BTreeSet<LocalMessageId>,
    failed: usize,
    /// What was last said of the connection.
    told: Option<ConnectionState>,
}

impl Chat {
    async fn run(&mut self) -> anyhow::Result<()> {
        let mut lines = input::lines()?;
        let mut input = Input::Open;
        // Kept from one event to the next: in a busy room there is always another before the answer.
        let mut under_way: Option<Opening> = None;
        while !matches!(input, Input::Ended { .. } if self.unacknowledged.is_empty()) {
            // Lines wait until it is known where they go: opening a conversation needs the server.
            let opening = self.target.is_none() && !matches!(self.wanted, Wanted::Nowhere);
            if opening && under_way.is_none() {
                under_way = Some(Box::pin(open_target(self.client.clone(), self.wanted.clone())));
            }
            let opened = async {
                match &mut under_way {
                    Some(opening) => opening.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.events.next() => match event {
                    Some(event) => self.show(event)?,
                    None => break,
                },
                opened = opened => {
                    under_way = None;
                    self.opened(opened)?;
                }
                line = lines.recv(), if matches!(input, Input::Open) && !opening => match line {
                    Some(line) => if !self.take(line).await? { break },
                    None => input = Input::over(self.target.as_ref()),
                },
                () = input.late() => bail!(
                    "{} lines are not acknowledged after {LAST_LINES_WAIT:?}: they are kept, and sent by the next chat of this user",
                    self.unacknowledged.len(),
                ),
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted.context("waiting for Ctrl-C")?;
                    break;
                }
            }
        }
        if self.failed > 0 {
            bail!("{} lines were refused", self.failed);
        }
        Ok(())
    }

    fn opened(&mut self, opened: Result<Target, whimbrel_sdk::Error>) -> anyhow::Result<()> {
        match opened {
            Ok(target) => {
                let name = match &target {
                    Target::Conversation(conversation) => format!("conversation {conversation}"),
                    Target::Room(room) => format!("room {room}"),
                };
                self.target = Some(target);
                self.tell(&format!("{name}; type a line and press Enter, /help for more"))
            }
            Err(error) if error.retry == whimbrel_sdk::Retry::Later => Ok(()),
            Err(error) => Err(error).context("the conversation cannot be opened"),
        }
    }

    /// Whether to go on.
    async fn take(&mut self, line: Line) -> anyhow::Result<bool> {
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
                        }
                        Err(error) => {
                            self.failed += 1;
                            self.tell(&format!("not sent: {error}"))?;
                        }
                    }
                }
                None => self.tell("to whom? start with --to UID, --group ID or --room ID, or say /to UID")?,
            },
            Line::Command(Command::Quit) => return Ok(false),
            Line::Command(command) => {
                if let Err(error) = self.obey(command).await {
                    self.tell(&format!("{error:#}"))?;
                }
            }
            Line::Unknown(what) => self.tell(&format!("{what}: {}", input::HELP))?,
        }
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
                self.wanted = Wanted::User(uid);
                self.target = None;
                Ok(())
            }
            Command::Group(id) => {
                self.wanted = Wanted::Group(id.parse()?);
                self.target = None;
                Ok(())
            }
            Command::Room(id) => {
                self.wanted = Wanted::Room(id);
                self.target = None;
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

    fn show(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::MessageReceived { conversation, entry } => {
                let own = entry.local_id.is_some();
                if self.plain {
                    if let Some(line) = screen::plain_line(conversation, &entry) {
                        print_line(&line)?;
                    }
                } else if !own || self.echo {
                    let elsewhere = self.target != Some(Target::Conversation(conversation));
                    let place = if elsewhere {
                        format!("[{conversation}] ")
                    } else {
                        String::new()
                    };
                    print_line(&format!("{place}{}", screen::line(&entry)))?;
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
                }
                SendState::Failed { error } => {
                    self.unacknowledged.remove(&local_id);
                    self.failed += 1;
                    self.tell(&format!("not sent: {error}"))?;
                }
            },
            Event::Connection(ConnectionState::Stopped { error }) => {
                return Err(error).context("the connection is over for good");
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
                line.map_or(Ok(()), |line| print_line(&line))?;
            }
            Event::RoomLost { room, error } => self.tell(&format!("not in room {room} any more: {error}"))?,
            Event::MessageChanged { conversation, entry } if !self.plain => {
                print_line(&format!(
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

type Opening = std::pin::Pin<Box<dyn Future<Output = Result<Target, whimbrel_sdk::Error>>>>;

async fn open_target(client: Client, wanted: Wanted) -> Result<Target, whimbrel_sdk::Error> {
    match wanted {
        Wanted::User(uid) => client.open_direct(&uid).await.map(Target::Conversation),
        Wanted::Group(id) => Ok(Target::Conversation(id)),
        Wanted::Room(room) => {
            client.join_room(&room).await?;
            Ok(Target::Room(room))
        }
        Wanted::Nowhere => std::future::pending().await,
    }
}

fn print_line(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("standard output is closed")
}

/// The folder of this device's state, ours until dropped.
struct StateDir {
    path: PathBuf,
    _lock: fs::File,
}

impl StateDir {
    fn take(args: &ChatArgs, deployment: &Deployment) -> anyhow::Result<Self> {
        if let Some(path) = &args.state {
            return Self::lock(path)?.with_context(|| {
                format!(
                    "{} is in use by another chat: give --state another folder",
                    path.display()
                )
            });
        }
        let uid = data_encoding::BASE32_NOPAD
            .encode(args.uid.as_bytes())
            .to_lowercase();
        let name = if args.uid.chars().all(|c| c.is_ascii_alphanumeric()) {
            args.uid.clone()
        } else {
            format!("_{uid}")
        };
        let user = deployment.clients_dir().join(deployment.app_key()).join(name);
        for device in 1..=DEVICES_PER_USER_MAX {
            if let Some(taken) = Self::lock(&user.join(device.to_string()))? {
                return Ok(taken);
            }
        }
        bail!(
            "{} chats of {} run already on this machine",
            DEVICES_PER_USER_MAX,
            args.uid
        )
    }

    fn lock(path: &Path) -> anyhow::Result<Option<Self>> {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        let lock = fs::File::create(path.join("lock"))
            .with_context(|| format!("cannot write in {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self {
                path: path.to_owned(),
                _lock: lock,
            })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }
}
