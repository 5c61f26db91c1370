//! From "there should be a connection" to a session: token, directory, race, login; and what to do when one ends.

use std::time::Duration;

use prost::Message as _;
use rand::RngExt as _;
use tokio::net::TcpStream;
use whimbrel_protocol::SystemEntropy;
use whimbrel_protocol::client::Login;
use whimbrel_protocol::client_session::{ClientSession, OutgoingRequest};
use whimbrel_protocol::frame::Affinity;
use whimbrel_protocol::suite::Suite;

use super::line::Line;
use super::{Driver, Input};
use crate::core::{Now, Pause};
use crate::error::{Error, ErrorCode};
use crate::events::{ConnectionState, WaitReason};
use crate::net::dial::dial;
use crate::net::lbs::{self, LbsError, Listing};
use crate::net::race::{Action, Attempt, DialError, Race};
use crate::store::{StoreError, Value};

/// How long the token provider may take: it asks the customer's server, perhaps over a bad network.
const TOKEN_WITHIN: Duration = Duration::from_secs(30);

/// A token that runs out sooner than this is not used for a login any more, in milliseconds.
const TOKEN_MARGIN_MS: u64 = 10_000;

/// A login that is on its way.
pub(super) struct LoggingIn {
    pub(super) attempt: Attempt,
    pub(super) line: Line,
}

/// Where the way to a connection stands.
pub(super) struct Connecting {
    /// Not before this time is the next try; `None` when none is wanted.
    wanted_at: Option<Duration>,
    pause: Pause,
    pub(super) race: Option<Race>,
    next_attempt: u64,
    /// Connected, and waiting for their turn to log in.
    spares: Vec<(Attempt, TcpStream)>,
    pub(super) login: Option<LoggingIn>,
    pub(super) token: Option<String>,
    pub(super) token_expires_ms: u64,
    fetching_token: bool,
    /// The session in use waits for a token.
    reauth: bool,
    /// The token was refused since the last good login: a second time is the provider's fault.
    pub(super) token_refused: bool,
    fetching_directory: bool,
    /// The LBS is to be asked before the next race.
    pub(super) directory_first: bool,
    /// No racing: the server is leaving, or asked for time.
    pub(super) one_at_a_time: bool,
    /// The gateway that is leaving.
    pub(super) avoid: Option<String>,
    /// The longest time any gateway asked for in this round, in milliseconds.
    pub(super) asked_ms: u32,
    pub(super) busy: bool,
    stopped: bool,
    http: Option<reqwest::Client>,
}

impl Connecting {
    pub(super) fn new() -> Self {
        Self {
            wanted_at: None,
            pause: Pause::of_connecting(),
            race: None,
            next_attempt: 1,
            spares: Vec::new(),
            login: None,
            token: None,
            token_expires_ms: 0,
            fetching_token: false,
            reauth: false,
            token_refused: false,
            fetching_directory: false,
            directory_first: false,
            one_at_a_time: false,
            avoid: None,
            asked_ms: 0,
            busy: false,
            stopped: false,
            http: None,
        }
    }

    pub(super) fn want_now(&mut self) {
        self.want_at(Duration::ZERO);
    }

    pub(super) fn want_at(&mut self, at: Duration) {
        if !self.stopped {
            self.wanted_at = Some(at);
        }
    }

    /// Nothing more is tried.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.wanted_at = None;
    }

    /// When [`Driver::connect`] has something to do without an answer from outside.
    pub(super) fn due(&self, directory_is_empty: bool) -> Option<Duration> {
        let waits_for_directory = self.fetching_directory && (self.directory_first || directory_is_empty);
        match &self.race {
            Some(race) => race.due(),
            None if self.fetching_token || waits_for_directory => None,
            None => self.wanted_at,
        }
    }
}

impl Driver {
    /// Goes one step further towards a session, if one is wanted.
    pub(super) fn connect(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now();
        if self.connecting.race.is_none() && self.connecting.wanted_at.is_some_and(|at| at <= now.monotonic) {
            self.begin_race(now);
        }
        while let Some(action) = self
            .connecting
            .race
            .as_mut()
            .and_then(|race| race.poll_action(now.monotonic))
        {
            match action {
                Action::Dial(attempt, candidate) => {
                    let inputs = self.to_inputs.clone();
                    let task = tokio::spawn(async move {
                        let result = dial(&candidate.endpoint).await;
                        // The driver may be gone.
                        let _gone = inputs.send(Input::Dialed(attempt, result)).await;
                    });
                    self.dials.insert(attempt, task.abort_handle());
                }
                Action::LogIn(attempt, candidate) => self.log_in(attempt, candidate.node, now)?,
                Action::Drop(attempt) => {
                    if let Some(task) = self.dials.remove(&attempt) {
                        task.abort();
                    }
                }
                Action::Exhausted { no_network } => {
                    self.end_race();
                    self.directory.expire();
                    let reason = match (self.connecting.busy, no_network) {
                        (true, _) => WaitReason::ServerBusy,
                        (false, true) => WaitReason::NoNetwork,
                        (false, false) => WaitReason::Unreachable,
                    };
                    let asked_ms = std::mem::take(&mut self.connecting.asked_ms);
                    self.connecting.one_at_a_time |= asked_ms > 0;
                    self.wait(reason, asked_ms);
                }
            }
        }
        Ok(())
    }

    /// Starts a round once there is a token and somebody to dial; else sees that there will be.
    fn begin_race(&mut self, now: Now) {
        let expires_ms = self.connecting.token_expires_ms;
        if expires_ms > 0 && now.server_ms.saturating_add(TOKEN_MARGIN_MS) >= expires_ms {
            self.connecting.token = None;
            self.connecting.token_expires_ms = 0;
        }
        let stale = !self.directory.is_fresh(now.monotonic);
        if stale {
            self.fetch_directory();
        }
        if self.connecting.token.is_none() {
            self.fetch_token(false);
            return;
        }
        if self.directory.is_empty()
            || (self.connecting.directory_first && self.connecting.fetching_directory)
        {
            return;
        }
        self.connecting.wanted_at = None;
        self.connecting.directory_first = false;
        self.connecting.busy = false;
        let device_ms = self.clock.device_ms(now.monotonic);
        let candidates = self
            .directory
            .candidates(device_ms, self.connecting.avoid.as_deref());
        let one_at_a_time = std::mem::take(&mut self.connecting.one_at_a_time);
        let race = Race::new(
            candidates,
            one_at_a_time,
            self.connecting.next_attempt,
            now.monotonic,
        );
        self.connecting.race = Some(race);
        if self.current.is_none() {
            self.set_state(ConnectionState::Connecting);
        }
    }

    pub(super) fn fetch_token(&mut self, reauth: bool) {
        self.connecting.reauth |= reauth;
        if std::mem::replace(&mut self.connecting.fetching_token, true) {
            return;
        }
        let provider = std::sync::Arc::clone(&self.provider);
        let inputs = self.to_inputs.clone();
        tokio::spawn(async move {
            let asked = tokio::time::timeout(TOKEN_WITHIN, provider.token()).await;
            let result = asked.unwrap_or_else(|_| Err(format!("no token came within {TOKEN_WITHIN:?}")));
            let _gone = inputs.send(Input::Token(result)).await;
        });
    }

    pub(super) fn handle_token(&mut self, result: Result<String, String>) {
        self.connecting.fetching_token = false;
        let now = self.clock.now();
        match result {
            Ok(token) => {
                if std::mem::take(&mut self.connecting.reauth)
                    && let Some(line) = &mut self.current
                    && let Err(error) = line.session.reauthenticate(&token, now.monotonic)
                {
                    tracing::warn!(%error, "the new token was not handed over");
                }
                self.connecting.token = Some(token);
            }
            Err(error) => {
                tracing::warn!(%error, "the token provider failed");
                // Without one the session in use ends when the gateway says so, and that asks again.
                self.connecting.reauth = false;
                if self.connecting.wanted_at.is_some() {
                    self.wait(WaitReason::NoToken, 0);
                }
            }
        }
    }

    fn fetch_directory(&mut self) {
        if std::mem::replace(&mut self.connecting.fetching_directory, true) {
            return;
        }
        let http = self
            .connecting
            .http
            .get_or_insert_with(reqwest::Client::new)
            .clone();
        let urls = self.config.lbs_urls.clone();
        let app_key = self.checked.app_key.as_str().to_owned();
        let inputs = self.to_inputs.clone();
        tokio::spawn(async move {
            let result = lbs::fetch(http, urls, app_key).await;
            let _gone = inputs.send(Input::Listed(result)).await;
        });
    }

    pub(super) fn handle_listed(&mut self, result: Result<Listing, LbsError>) -> Result<(), StoreError> {
        self.connecting.fetching_directory = false;
        let now = self.clock.now();
        let reason = match result {
            Ok(_) => WaitReason::NoTrustedGateway,
            Err(LbsError::NoNetwork { .. }) => WaitReason::NoNetwork,
            Err(_) => WaitReason::NoDirectory,
        };
        let taken = result.map_err(|error| error.to_string()).and_then(|listing| {
            self.clock.hear_ms(listing.server_time_ms);
            let known_time = self.clock.known_time();
            self.directory
                .take_list(
                    &listing.descriptors,
                    listing.refresh_after_ms,
                    known_time,
                    now.monotonic,
                )
                .map_err(|error| error.to_string())
        });
        match taken {
            Ok(()) => {
                let kept = self.directory.to_bytes();
                self.core.store().set_value(Value::Directory, &kept)?;
            }
            Err(error) => {
                tracing::warn!(%error, "the LBS gave no list of gateways");
                // What is known is used for as long as it can be trusted.
                self.connecting.directory_first = false;
                if self.directory.is_empty() && self.current.is_none() {
                    self.wait(reason, 0);
                }
            }
        }
        Ok(())
    }

    pub(super) fn handle_dialed(&mut self, attempt: Attempt, result: Result<TcpStream, DialError>) {
        // A dial that was given up meanwhile is nobody's.
        if self.dials.remove(&attempt).is_none() {
            return;
        }
        let Some(race) = &mut self.connecting.race else {
            return;
        };
        match result {
            Ok(stream) => {
                self.connecting.spares.push((attempt, stream));
                race.handle_connected(attempt);
            }
            Err(error) => race.handle_dial_failed(attempt, error),
        }
    }

    fn log_in(&mut self, attempt: Attempt, node: String, now: Now) -> Result<(), StoreError> {
        let spare = self
            .connecting
            .spares
            .iter()
            .position(|(spare, _)| *spare == attempt);
        let stream = spare.map(|index| self.connecting.spares.swap_remove(index).1);
        let keys = self.directory.keys(&node, preferred_suites());
        let (Some(stream), Some((suite, key))) = (stream, keys) else {
            tracing::warn!(%node, "the gateway speaks nothing this client does");
            self.fail_login(attempt);
            return Ok(());
        };
        let login = Login {
            app_key: self.checked.app_key.as_str().to_owned(),
            uid: self.checked.uid.as_str().to_owned(),
            token: self.connecting.token.clone().unwrap_or_default(),
            device_id: self.device_id.clone(),
            login_epoch: self.next_login_epoch(now)?,
            features: 0,
            platform: self.config.platform.clone(),
            sdk_version: env!("CARGO_PKG_VERSION").to_owned(),
            frame_payload_max: 0,
        };
        let len = login.encoded_len();
        let mut session = match ClientSession::start(suite, &key, &login, now.monotonic, &mut SystemEntropy) {
            Ok(session) => session,
            Err(error) => {
                tracing::error!(%error, len, "the login cannot be sent");
                self.stop(Error::new(ErrorCode::Config, error.to_string()));
                return Ok(());
            }
        };
        let early = self.core.early_sync(now).map(|request| {
            let outgoing = OutgoingRequest {
                method: request.method.number(),
                affinity: request.affinity.map(Affinity),
                within: request.within,
                payload: request.payload,
            };
            (request.tag, session.request(outgoing, now.monotonic))
        });
        self.next_line += 1;
        let mut line = Line::open(self.next_line, node, session, stream, self.to_inputs.clone());
        match early {
            Some((tag, Ok(id))) => {
                line.tags.insert(id, tag);
            }
            Some((tag, Err(_))) => self.core.handle_lost(tag, now)?,
            None => {}
        }
        line.flush();
        self.connecting.login = Some(LoggingIn { attempt, line });
        Ok(())
    }

    /// Grows with every login of this device, also after its data was lost: it follows the clock as well.
    fn next_login_epoch(&mut self, now: Now) -> Result<u64, StoreError> {
        let last = self.core.store().number(Value::LoginEpoch)?;
        let next = last
            .saturating_add(1)
            .max(i64::try_from(now.server_ms).unwrap_or(i64::MAX));
        self.core.store().set_number(Value::LoginEpoch, next)?;
        Ok(u64::try_from(next).unwrap_or(0))
    }

    pub(super) fn handle_connected(
        &mut self,
        line: u64,
        server_ms: u64,
        token_expires_ms: u64,
    ) -> Result<(), StoreError> {
        let node = self.line(line).map(|line| line.node.clone());
        self.learn_time(node.as_deref(), server_ms)?;
        self.connecting.token_expires_ms = token_expires_ms;
        self.connecting.token_refused = false;
        Ok(())
    }

    /// The gateway `node` says what time it is; what is proven of it is kept for the next run.
    pub(super) fn learn_time(&mut self, node: Option<&str>, server_ms: u64) -> Result<(), StoreError> {
        if server_ms == 0 {
            return Ok(());
        }
        let proven_ms = node.and_then(|node| self.directory.proven_time_ms(node, server_ms));
        let offset_ms = self.clock.set_server_ms(server_ms, proven_ms.unwrap_or(0));
        let floor_ms = i64::try_from(self.clock.floor_ms()).unwrap_or(i64::MAX);
        self.core.store().set_number(Value::ClockOffsetMs, offset_ms)?;
        self.core.store().set_number(Value::ServerTimeMs, floor_ms)
    }

    /// The session that was logging in is the one in use from here on.
    pub(super) fn promote(&mut self, now: Now) -> Result<(), StoreError> {
        let Some(login) = self.connecting.login.take() else {
            return Ok(());
        };
        if let Some(old) = self.current.replace(login.line) {
            self.core.handle_offline();
            self.lose_tags(&old)?;
            old.leave();
        }
        self.end_race();
        self.connecting.wanted_at = None;
        self.connecting.avoid = None;
        self.connecting.pause.succeed();
        self.core.handle_online(now);
        self.set_state(ConnectionState::Online);
        Ok(())
    }

    pub(super) fn fail_login(&mut self, attempt: Attempt) {
        if let Some(race) = &mut self.connecting.race {
            race.handle_login_failed(attempt);
        }
    }

    /// The next try comes after a pause.
    pub(super) fn wait(&mut self, reason: WaitReason, retry_after_ms: u32) {
        let now = self.clock.now().monotonic;
        let pause = self
            .connecting
            .pause
            .fail(now, retry_after_ms, rand::rng().random());
        self.connecting.want_at(now + pause);
        if self.current.is_none() {
            let retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            self.set_state(ConnectionState::Waiting { reason, retry_in_ms });
        }
    }

    /// Ends the round; what it dialled is dropped.
    pub(super) fn end_race(&mut self) {
        if let Some(race) = self.connecting.race.take() {
            self.connecting.next_attempt = race.next_attempt();
        }
        self.connecting.spares.clear();
        for (_, task) in std::mem::take(&mut self.dials) {
            task.abort();
        }
    }

    /// Drops everything on its way to a session.
    pub(super) fn abandon(&mut self) {
        self.end_race();
        self.connecting.login = None;
    }

    /// There is a reason to believe that the network is another one, or that the user looks: what waits goes now.
    pub(super) fn hurry(&mut self) {
        let now = self.clock.now();
        match &mut self.current {
            Some(line) => line.session.probe(now.monotonic),
            None if self.connecting.race.is_none() && self.connecting.wanted_at.is_some() => {
                self.connecting.pause.cut_short();
                self.connecting.want_now();
            }
            None => {}
        }
    }
}

/// AES where the processor helps, ChaCha elsewhere.
fn preferred_suites() -> &'static [Suite] {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    let has_aes = std::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let has_aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    let has_aes = false;
    if has_aes {
        &[Suite::AesGcm, Suite::ChaChaPoly]
    } else {
        &[Suite::ChaChaPoly, Suite::AesGcm]
    }
}
