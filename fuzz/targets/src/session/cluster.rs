//! What the cluster answers the gateway, whatever it was asked, and what it sends by itself.

use bytes::Bytes;
use prost::Message as _;
use whimbrel_gateway::fuzzing::{NoAnswer, Wish};
use whimbrel_protocol::client::Login;
use whimbrel_protocol::cluster::{AuthenticateResponse, OpenSessionResponse};

use super::{ALICE, NOW_UNIX_MS, Run};

impl Run<'_> {
    pub(super) fn judged(&mut self) -> Result<AuthenticateResponse, NoAnswer> {
        match self.source.below(4) {
            0 => Err(self.no_answer()),
            1 => Ok(AuthenticateResponse {
                code: self.source.number_u32(),
                message: self.source.text(),
                retry_after_ms: self.source.number_u32(),
                ..AuthenticateResponse::default()
            }),
            2 => Ok(AuthenticateResponse {
                user_id: ALICE,
                token_expires_ms: NOW_UNIX_MS + u64::from(self.source.u32()),
                ..AuthenticateResponse::default()
            }),
            _ => Ok(AuthenticateResponse {
                user_id: self.source.number(),
                token_expires_ms: self.source.number(),
                ..AuthenticateResponse::default()
            }),
        }
    }

    pub(super) fn no_answer(&mut self) -> NoAnswer {
        NoAnswer {
            code: self.source.number_u32(),
            message: match self.source.flag() {
                true => "é".repeat(usize::from(self.source.u8()) * 4),
                false => self.source.text(),
            },
            retry_after_ms: self.source.number_u32(),
        }
    }

    pub(super) fn authenticate(&mut self, judged: Result<AuthenticateResponse, NoAnswer>) {
        if std::mem::take(&mut self.login_waits) {
            self.gateway.authenticated(judged);
        }
    }

    pub(super) fn open(&mut self, opened: Result<OpenSessionResponse, NoAnswer>) {
        if std::mem::take(&mut self.opening_waits) {
            self.gateway.opened(opened);
            self.note_wishes();
        }
    }

    pub(super) fn respond(&mut self) {
        let Some(at) = self.source.index(self.requests.len()) else {
            return;
        };
        let id = self.requests.swap_remove(at);
        let answer = match self.source.below(4) {
            0 => Err(self.no_answer()),
            // A service node's answers are within a frame's bound, or the gateway says so.
            1 => Ok(Bytes::from(vec![1; 70_000])),
            _ => Ok(Bytes::from(self.source.filler())),
        };
        self.gateway.respond(id, answer);
    }

    pub(super) fn note_wishes(&mut self) {
        for wish in self.gateway.wishes() {
            match wish {
                Wish::Claimed { login } => {
                    assert!(Login::decode(login).is_ok());
                    self.login_waits = true;
                }
                Wish::Confirmed => self.opening_waits = true,
                Wish::Request { id, payload } => {
                    planted!(
                        "session",
                        [id.0 >= 5, payload.first().is_some_and(u8::is_ascii_punctuation),]
                    );
                    assert!(!self.requests.contains(&id), "{id:?} is passed on twice");
                    self.requests.push(id);
                }
                Wish::Reauthenticate => self.token_waits = true,
                Wish::HandshakeFailed | Wish::Faulted => {}
            }
        }
    }
}
