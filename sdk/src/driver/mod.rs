//! The one task of a client: where sockets, the LBS, the token provider, the app's commands and time meet the core.
//!
//! A `select` gathers one input, `apply` changes the state, `settle` lets out what follows: bytes, requests, events.
//! Everything runs on a thread of the client's own, so the local database may block it, and no lock is needed anywhere.

mod commands;
mod connecting;
mod ending;
mod line;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use whimbrel_protocol::client::PullRequest;
use whimbrel_protocol::client_session::{End, Event as SessionEvent, OutgoingRequest, RequestError};
use whimbrel_protocol::frame::Affinity;
use whimbrel_protocol::ids::ConversationId;

use self::connecting::Connecting;
use self::line::Line;
use crate::client::TokenProvider;
use crate::clock::Clock;
use crate::command::Command;
use crate::config::{Checked, ClientConfig};
use crate::core::{Core, LocalHistory, Reply, Settings};
use crate::error::{Error, ErrorCode};
use crate::events::{ConnectionState, Event, EventSink};
use crate::net::dial::Heard;
use crate::net::directory::Directory;
use crate::net::lbs::{LbsError, Listing};
use crate::net::race::{Attempt, DialError};
use crate::store::{Store, StoreError, Value};
use crate::types::Entry;

/// Inputs from sockets that may wait for the driver; readers wait when it is full.
const INPUTS_MAX: usize = 32;

/// Inputs that share one transaction: enough to make its cost small, few enough to answer the app in between.
const BURST_MAX: usize = 32;

/// How long closing waits for the last bytes to be written.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// What comes from the tasks that do the waiting.
enum Input {
    Dialed(Attempt, Result<tokio::net::TcpStream, DialError>),
    Heard {
        line: u64,
        heard: Heard,
    },
    Listed(Result<Listing, LbsError>),
    Token(Result<String, String>),
    History {
        conversation: ConversationId,
        asked: PullRequest,
        local: Vec<Entry>,
        result: Result<Bytes, Error>,
        reply: Reply<Vec<Entry>>,
    },
}

/// What ended the select.
enum Woken {
    Command(Option<Command>),
    Input(Input),
    Timer,
}

/// Whether the client goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    Stop,
}

/// The client's task. See the module.
pub(crate) struct Driver {
    config: ClientConfig,
    /// The file of the local database, if there is one.
    database: Option<PathBuf>,
    checked: Checked,
    device_id: String,
    provider: Arc<dyn TokenProvider>,
    core: Core,
    clock: Clock,
    directory: Directory,
    events: EventSink,
    commands: mpsc::Receiver<Command>,
    inputs: mpsc::Receiver<Input>,
    to_inputs: mpsc::Sender<Input>,
    /// History's answers: they come from within the core, where nothing may wait. Counts nothing itself: one for each
    /// call, of which `core::asking::CALLS_MAX` may wait.
    histories: mpsc::UnboundedReceiver<Input>,
    to_histories: mpsc::UnboundedSender<Input>,
    /// The session in use.
    current: Option<Line>,
    connecting: Connecting,
    dials: BTreeMap<Attempt, AbortHandle>,
    state: ConnectionState,
    next_line: u64,
    /// Who asked for the end, and learns when the local data is closed.
    closing: Option<Reply<()>>,
}

impl Driver {
    /// Checks the configuration and opens the local data.
    pub(crate) fn open(
        config: ClientConfig,
        provider: Arc<dyn TokenProvider>,
        commands: mpsc::Receiver<Command>,
        events: EventSink,
    ) -> Result<Self, Error> {
        let checked = config.check()?;
        let folder = config.data_dir.as_ref().map(|folder| {
            folder
                .join(checked.app_key.as_str())
                .join(folder_name(checked.uid.as_str()))
        });
        let database = folder.as_deref().map(crate::store::database);
        let storage = |error: &StoreError| storage(error, database.as_deref());
        let mut store = Store::open(folder.as_deref()).map_err(|error| storage(&error))?;
        let device_id = device_id(&mut store, &checked).map_err(|error| storage(&error))?;
        let offset_ms = store
            .number(Value::ClockOffsetMs)
            .map_err(|error| storage(&error))?;
        let floor_ms = store
            .number(Value::ServerTimeMs)
            .map_err(|error| storage(&error))?;
        let floor_ms = u64::try_from(floor_ms).unwrap_or(0);
        let clock = Clock::start(offset_ms, floor_ms, config.device_clock_off_ms);
        let mut directory = Directory::new(checked.root_keys.clone());
        if let Some(kept) = store.value(Value::Directory).map_err(|error| storage(&error))? {
            directory.restore(&kept, clock.known_time());
        }
        let core = Core::open(store, settings(&config), rand::random()).map_err(|error| storage(&error))?;
        let (to_inputs, inputs) = mpsc::channel(INPUTS_MAX);
        let (to_histories, histories) = mpsc::unbounded_channel();
        Ok(Self {
            config,
            database,
            checked,
            device_id,
            provider,
            core,
            clock,
            directory,
            events,
            commands,
            inputs,
            to_inputs,
            histories,
            to_histories,
            current: None,
            connecting: Connecting::new(),
            dials: BTreeMap::new(),
            state: ConnectionState::Connecting,
            next_line: 0,
            closing: None,
        })
    }

    /// Runs on a thread of its own until the client is closed.
    pub(crate) fn start(self) -> Result<(), Error> {
        let failed =
            |error: std::io::Error| Error::new(ErrorCode::Storage, format!("no thread to run on: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        std::thread::Builder::new()
            .name("whimbrel-sdk".to_owned())
            .spawn(move || {
                runtime.block_on(self.run());
                // What is still being dialled or asked is of no use to anybody.
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(())
    }

    async fn run(mut self) {
        self.events.send(Event::Connection(self.state.clone()));
        self.connecting.want_now();
        loop {
            if let Err(error) = self.settle() {
                self.recover(&error);
            }
            let due = self.due();
            let wake_at = due.map(|due| due.max(self.clock.now().monotonic));
            let woken = self.gather(due).await;
            if wake_at.is_some_and(|wake_at| self.clock.note_wake(wake_at)) {
                tracing::debug!("the process stood still");
                // What came meanwhile is heard before anybody is judged, and whether the connection lives is found out.
                tokio::task::yield_now().await;
                self.hurry();
                if matches!(woken, Woken::Timer) {
                    continue;
                }
            }
            match self.apply_burst(woken) {
                Ok(Flow::GoOn) => {}
                Ok(Flow::Stop) => break,
                Err(error) => self.recover(&error),
            }
        }
        self.core.fail_all(&Error::closed());
        if let Some(line) = self.current.take() {
            let _late = tokio::time::timeout(GOODBYE_WITHIN, line.say_goodbye()).await;
        }
        let Self {
            core,
            events,
            closing,
            ..
        } = self;
        drop(core);
        events.close();
        if let Some(reply) = closing {
            reply(Ok(()));
        }
    }

    /// Waits for the next input. Nothing is changed here.
    async fn gather(&mut self, due: Option<Duration>) -> Woken {
        let due = due.map(|due| self.clock.instant(due).into());
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let has_room = self.events.has_room();
        let events = self.events.clone();
        tokio::select! {
            command = self.commands.recv() => Woken::Command(command),
            Some(input) = self.histories.recv() => Woken::Input(input),
            // A listener that cannot follow stops the reading, and TCP stops the gateway.
            Some(input) = self.inputs.recv(), if has_room => Woken::Input(input),
            () = events.room(), if !has_room => Woken::Timer,
            () = timer => Woken::Timer,
        }
    }

    /// Applies an input, and those behind it, in one transaction.
    fn apply_burst(&mut self, woken: Woken) -> Result<Flow, StoreError> {
        let first = match woken {
            // Commands have transactions of their own: some must be on the disk when they are answered.
            Woken::Command(command) => return self.handle_command(command),
            Woken::Input(input) => Some(input),
            Woken::Timer => None,
        };
        self.core.begin(false)?;
        if let Some(input) = first {
            self.apply(input)?;
        }
        for _ in 1..BURST_MAX {
            if !self.events.has_room() {
                break;
            }
            match self.inputs.try_recv() {
                Ok(input) => self.apply(input)?,
                Err(_) => break,
            }
        }
        self.handle_timers()?;
        self.publish()?;
        Ok(Flow::GoOn)
    }

    fn apply(&mut self, input: Input) -> Result<(), StoreError> {
        match input {
            Input::Dialed(attempt, result) => self.handle_dialed(attempt, result),
            Input::Heard { line, heard } => self.handle_heard(line, heard)?,
            Input::Listed(result) => self.handle_listed(result)?,
            Input::Token(result) => self.handle_token(result),
            Input::History {
                conversation,
                asked,
                local,
                result,
                reply,
            } => {
                let rest = match result {
                    Ok(body) => match self.core.handle_history(&asked, conversation, body)? {
                        Some(rest) => rest,
                        None => {
                            self.ask_history(conversation, asked, local, reply);
                            return Ok(());
                        }
                    },
                    Err(error) => Err(error),
                };
                match rest {
                    Ok(rest) => reply(Ok(local.into_iter().chain(rest).collect())),
                    // A part is more than nothing.
                    Err(_) if !local.is_empty() => reply(Ok(local)),
                    Err(error) => reply(Err(error)),
                }
            }
        }
        Ok(())
    }

    fn handle_heard(&mut self, number: u64, heard: Heard) -> Result<(), StoreError> {
        let now = self.clock.now();
        let Some(line) = self.line(number) else {
            return Ok(());
        };
        match heard {
            Heard::Bytes(bytes) => {
                line.session.handle_bytes(&bytes, now.monotonic);
                self.handle_session_events(number)
            }
            Heard::Down => {
                // What the gateway said last was heard before.
                self.lose_line(number, None)
            }
        }
    }

    fn line(&mut self, number: u64) -> Option<&mut Line> {
        let login = self.connecting.login.as_mut().map(|login| &mut login.line);
        self.current
            .as_mut()
            .into_iter()
            .chain(login)
            .find(|line| line.number == number)
    }

    fn handle_session_events(&mut self, number: u64) -> Result<(), StoreError> {
        while let Some(event) = self.line(number).and_then(|line| line.session.poll_event()) {
            let now = self.clock.now();
            match event {
                SessionEvent::Connected {
                    server_time_ms,
                    token_expires_ms,
                    ..
                } => {
                    self.handle_connected(number, server_time_ms, token_expires_ms)?;
                }
                SessionEvent::Ready => self.promote(now)?,
                SessionEvent::Response { id, result } => {
                    let tag = self.line(number).and_then(|line| line.tags.remove(&id));
                    if let Some(tag) = tag {
                        self.core.handle_response(tag, result, now)?;
                    }
                }
                SessionEvent::Push { method, payload } => self.core.handle_push(method, payload, now)?,
                SessionEvent::SyncHint { spread_ms } => self.core.handle_sync_hint(spread_ms, now),
                SessionEvent::Reauth { .. } => self.fetch_token(true),
                SessionEvent::GoAway {
                    delay_window_ms,
                    refresh_directory,
                } => {
                    self.handle_go_away(delay_window_ms, refresh_directory, now);
                }
                SessionEvent::Ended(end) => return self.lose_line(number, Some(end)),
            }
        }
        Ok(())
    }

    /// A connection is over, with the session's words or without.
    fn lose_line(&mut self, number: u64, end: Option<End>) -> Result<(), StoreError> {
        tracing::debug!(line = number, ?end, "a connection ended");
        let login = self.connecting.login.take_if(|login| login.line.number == number);
        if let Some(login) = login {
            self.lose_tags(&login.line)?;
            return self.handle_login_ended(&login, end);
        }
        if let Some(line) = self.current.take_if(|line| line.number == number) {
            self.lose_tags(&line)?;
            self.core.handle_offline();
            self.handle_session_ended(&line, end);
        }
        Ok(())
    }

    fn lose_tags(&mut self, line: &Line) -> Result<(), StoreError> {
        let now = self.clock.now();
        for tag in line.tags.values() {
            self.core.handle_lost(*tag, now)?;
        }
        Ok(())
    }

    fn handle_timers(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let login = self.connecting.login.as_ref().map(|login| &login.line);
        let due: Vec<u64> = self
            .current
            .iter()
            .chain(login)
            .filter(|line| {
                line.session
                    .poll_timeout()
                    .is_some_and(|due| due <= now.monotonic)
            })
            .map(|line| line.number)
            .collect();
        for number in due {
            if let Some(line) = self.line(number) {
                line.session.handle_timeout(now.monotonic);
            }
            self.handle_session_events(number)?;
        }
        Ok(())
    }

    fn due(&self) -> Option<Duration> {
        let login = self.connecting.login.as_ref().map(|login| &login.line);
        let lines = self
            .current
            .iter()
            .chain(login)
            .filter_map(|line| line.session.poll_timeout());
        lines
            .chain(self.core.due())
            .chain(self.connecting.due(self.directory.is_empty()))
            .min()
    }

    /// Lets out everything that follows from what was applied, until nothing more does.
    fn settle(&mut self) -> Result<(), StoreError> {
        loop {
            self.core.begin(false)?;
            self.connect()?;
            self.publish()?;
            let now = self.clock.now();
            // Batches are on the disk before they leave.
            self.core.begin(self.core.has_sends(now))?;
            let requests = self.core.poll_requests(now)?;
            self.publish()?;
            let quiet = requests.is_empty();
            self.core.begin(false)?;
            for request in requests {
                let outgoing = OutgoingRequest {
                    method: request.method.number(),
                    affinity: request.affinity.map(Affinity),
                    within: request.within,
                    payload: request.payload,
                };
                let taken = self
                    .current
                    .as_mut()
                    .map(|line| (line.session.request(outgoing, now.monotonic), line));
                match taken {
                    Some((Ok(id), line)) => {
                        line.tags.insert(id, request.tag);
                    }
                    // The session takes no more: it ends, or is about to.
                    Some((Err(error), _)) => {
                        tracing::debug!(%error, "a request was not taken");
                        if matches!(error, RequestError::GoingAway | RequestError::IdsExhausted) {
                            // Somebody waits: the window of a GOAWAY is for those who have time.
                            self.connecting.want_now();
                        }
                        self.core.handle_offline();
                        self.core.handle_lost(request.tag, now)?;
                    }
                    None => {
                        self.core.handle_offline();
                        self.core.handle_lost(request.tag, now)?;
                    }
                }
            }
            self.publish()?;
            self.flush();
            if quiet {
                return Ok(());
            }
        }
    }

    /// Commits, and hands over what is certain now.
    fn publish(&mut self) -> Result<(), StoreError> {
        for event in self.core.commit()? {
            self.events.send(event);
        }
        Ok(())
    }

    fn flush(&mut self) {
        let login = self.connecting.login.as_mut().map(|login| &mut login.line);
        for line in self.current.as_mut().into_iter().chain(login) {
            line.flush();
        }
    }

    /// The local database failed: goes on from what it holds, over a new connection.
    fn recover(&mut self, error: &StoreError) {
        tracing::error!(%error, source = ?std::error::Error::source(error), "the local data failed");
        self.core.store().roll_back();
        let error = storage(error, self.database.as_deref());
        self.core.fail_all(&error);
        self.current = None;
        self.abandon();
        if let Err(error) = self.core.reopen() {
            let error = storage(&error, self.database.as_deref());
            self.stop(error);
            return;
        }
        self.wait(crate::events::WaitReason::Storage, 0);
    }

    fn set_state(&mut self, state: ConnectionState) {
        if self.state != state {
            self.state = state.clone();
            self.events.send(Event::Connection(state));
        }
    }

    /// Gives up for good; the app has to start a new client.
    fn stop(&mut self, error: Error) {
        self.current = None;
        self.core.handle_offline();
        self.abandon();
        self.connecting.stop();
        self.core.fail_all(&error);
        self.set_state(ConnectionState::Stopped { error });
    }
}

/// A uid may hold what a file name may not.
fn folder_name(uid: &str) -> String {
    data_encoding::HEXLOWER.encode(uid.as_bytes())
}

fn settings(config: &ClientConfig) -> Settings {
    Settings {
        initial_history: config.initial_history.into(),
        initial_unread: config.initial_unread,
        sync_interval: Duration::from_millis(config.sync_interval_ms.max(1_000)),
        uid: config.uid.clone(),
    }
}

/// What to say of a failure of the database in this file.
fn storage(error: &StoreError, database: Option<&Path>) -> Error {
    let source = std::error::Error::source(error)
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    let file = database
        .map(|file| format!("{}: ", file.display()))
        .unwrap_or_default();
    let cure = error.cure().map(|cure| format!("; {cure}")).unwrap_or_default();
    Error::new(ErrorCode::Storage, format!("{file}{error}{source}{cure}"))
}

/// The configured name of this device, or one made once and kept.
fn device_id(store: &mut Store, checked: &Checked) -> Result<String, StoreError> {
    if let Some(device_id) = &checked.device_id {
        return Ok(device_id.as_str().to_owned());
    }
    if let Some(kept) = store.value(Value::DeviceId)? {
        return String::from_utf8(kept.to_vec()).map_err(|_| StoreError::Corrupt { what: "device id" });
    }
    let made = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 8]>());
    store.begin(true)?;
    store.set_value(Value::DeviceId, made.as_bytes())?;
    store.commit()?;
    Ok(made)
}
