//! What follows when a connection ends, or is told to: the server's advice, obeyed.

use std::time::Duration;

use rand::RngExt as _;
use whimbrel_protocol::client_session::End;
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::Retry as CloseRetry;

use super::Driver;
use super::connecting::LoggingIn;
use super::line::Line;
use crate::core::Now;
use crate::error::{Error, Retry};
use crate::events::{ConnectionState, WaitReason};
use crate::store::{StoreError, Value};

/// The longest a client stays on a gateway that said good-bye, whatever window it was given.
const LEAVE_WITHIN_MAX: Duration = Duration::from_secs(30);

/// A session that lost its gateway reconnects after a random part of this: those of one gateway do not all come at once.
const RECONNECT_SPREAD: Duration = Duration::from_millis(500);

impl Driver {
    /// Goes on here, as long as the gateway takes requests, until another session is ready.
    pub(super) fn handle_go_away(&mut self, window_ms: u32, refresh_directory: bool, now: Now) {
        if refresh_directory {
            self.directory.expire();
            self.connecting.directory_first = true;
        }
        self.connecting.one_at_a_time = true;
        self.connecting.avoid = self.current.as_ref().map(|line| line.node.clone());
        let window = Duration::from_millis(window_ms.into()).min(LEAVE_WITHIN_MAX);
        let moment = window.mul_f64(rand::rng().random());
        self.connecting.want_at(now.monotonic + moment);
    }

    /// A login did not become a session.
    pub(super) fn handle_login_ended(
        &mut self,
        login: &LoggingIn,
        end: Option<End>,
    ) -> Result<(), StoreError> {
        let attempt = login.attempt;
        match end {
            Some(End::StaleKey { descriptor }) => {
                let known_time = self.clock.known_time();
                match self
                    .directory
                    .take_current(&login.line.node, descriptor, known_time)
                {
                    Ok(()) => {
                        let kept = self.directory.to_bytes();
                        self.core.store().set_value(Value::Directory, &kept)?;
                        if let Some(race) = &mut self.connecting.race {
                            race.handle_login_mended(attempt);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(node = %login.line.node, %error, "an answer with a descriptor is not believed");
                        self.fail_login(attempt);
                    }
                }
            }
            Some(End::Rejected(reject)) => {
                self.connecting.busy = true;
                self.connecting.asked_ms = self.connecting.asked_ms.max(reject.retry_after_ms);
                self.fail_login(attempt);
            }
            Some(End::LoginRefused {
                refusal,
                server_time_ms,
            }) => {
                self.learn_time(Some(&login.line.node), server_time_ms)?;
                self.end_race();
                let error = Error::refused(&refusal);
                match error.retry {
                    Retry::Never => self.stop(error),
                    Retry::NewToken => self.refuse_token(),
                    Retry::Later => {
                        self.connecting.one_at_a_time = true;
                        self.wait(WaitReason::ServerBusy, error.retry_after_ms);
                    }
                }
            }
            Some(End::Closed { reason, retry }) => {
                self.end_race();
                self.obey_close(reason, retry);
            }
            end => {
                tracing::debug!(node = %login.line.node, ?end, "a login came to nothing");
                self.fail_login(attempt);
            }
        }
        Ok(())
    }

    /// The session in use is over.
    pub(super) fn handle_session_ended(&mut self, line: &Line, end: Option<End>) {
        // A race that is on is the reconnect already.
        if self.connecting.race.is_some() {
            self.set_state(ConnectionState::Connecting);
            return;
        }
        match end {
            Some(End::Closed { reason, retry }) => self.obey_close(reason, retry),
            end => {
                if matches!(end, Some(End::Faulty(_))) {
                    tracing::warn!(node = %line.node, ?end, "the session broke");
                }
                self.connecting.avoid = Some(line.node.clone());
                let now = self.clock.now();
                let spread = RECONNECT_SPREAD.mul_f64(rand::rng().random());
                self.connecting.want_at(now.monotonic + spread);
                self.set_state(ConnectionState::Connecting);
            }
        }
    }

    fn obey_close(&mut self, reason: u32, retry: CloseRetry) {
        match retry {
            CloseRetry::Never => self.stop(closed_for_good(reason)),
            CloseRetry::NewToken => self.refuse_token(),
            CloseRetry::NewDirectory => {
                self.directory.expire();
                self.connecting.directory_first = true;
                self.wait(WaitReason::ServerBusy, 0);
            }
            CloseRetry::After { ms } => {
                self.connecting.one_at_a_time = true;
                self.wait(WaitReason::ServerBusy, ms);
            }
        }
    }

    fn refuse_token(&mut self) {
        self.connecting.token = None;
        self.connecting.token_expires_ms = 0;
        if std::mem::replace(&mut self.connecting.token_refused, true) {
            // A new one was refused as well: asking the provider in a loop helps nobody.
            self.wait(WaitReason::TokenRefused, 0);
        } else {
            self.connecting.want_now();
        }
    }
}

/// A CLOSE without return, as an error of the API: with the code a login would be refused with, where there is one.
fn closed_for_good(reason: u32) -> Error {
    let (code, words) = match CloseReason::from_number(reason) {
        Some(CloseReason::Superseded) => (
            Code::SupersededLogin.number(),
            "a newer login of this device took over",
        ),
        Some(CloseReason::Displaced) => (
            Code::SupersededLogin.number(),
            "another device of the user took over",
        ),
        Some(CloseReason::LoginRevoked) => (Code::UserDisabled.number(), "the login was revoked"),
        _ => (reason, "the server closed the session for good"),
    };
    Error {
        code,
        retry: Retry::Never,
        retry_after_ms: 0,
        message: format!("{words} (close reason {reason})"),
    }
}
