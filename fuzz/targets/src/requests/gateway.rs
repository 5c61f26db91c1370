//! What the gateway says by itself: how it answers orders, who is in its rooms, who logs in, whose rows are to be written.

use bytes::Bytes;
use prost::Message;
use whimbrel_app_service::auth::{TokenRole, mint};
use whimbrel_link::CallError;
use whimbrel_protocol::client;
use whimbrel_protocol::cluster;
use whimbrel_protocol::cluster::room_order_response::Outcome;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::Uid;

use super::{ROOMS, Run, UIDS};
use crate::node::{Manner, app, apps, secret};

impl Run<'_> {
    pub(super) fn gateway_answers(&mut self) {
        self.gateway_raves = false;
        let manner = match self.source.below(10) {
            0 => Manner::Gone,
            1 => Manner::Fails(CallError::Overloaded {
                retry_after_ms: self.source.number_u32(),
            }),
            2 => Manner::Fails(CallError::Unavailable {
                retry_after_ms: self.source.number_u32(),
            }),
            3 => Manner::Fails(CallError::Lost),
            4 => {
                self.gateway_raves = true;
                Manner::Fails(CallError::Internal(self.source.text()))
            }
            5 => {
                self.gateway_raves = true;
                Manner::Says(Bytes::copy_from_slice(self.source.short()))
            }
            6 => {
                let outcome = i32::from(self.source.below(8));
                self.gateway_raves = Outcome::try_from(outcome)
                    .is_ok_and(|known| known == Outcome::Unspecified)
                    || Outcome::try_from(outcome).is_err();
                Manner::Says(cluster::RoomOrderResponse { outcome }.encode_to_vec().into())
            }
            7 | 8 => {
                // As an order's answer it is of no version that there is.
                self.gateway_raves = true;
                let answer = cluster::RoomBroadcastResponse {
                    taken: self.source.number_u32(),
                    dropped: self.source.number_u32(),
                    retry_after_ms: self.source.number_u32(),
                };
                Manner::Says(answer.encode_to_vec().into())
            }
            _ => Manner::Says(
                cluster::RoomOrderResponse {
                    outcome: Outcome::Done.into(),
                }
                .encode_to_vec()
                .into(),
            ),
        };
        self.world.gateway_answers(manner);
    }

    pub(super) fn gateway_tells(&mut self) {
        let count = self.source.below(4);
        let mut rooms = Vec::new();
        for _ in 0..count {
            let room = ROOMS[usize::from(self.source.u8()) % ROOMS.len()];
            let members = u32::from(self.source.u16());
            self.members.insert(room, members);
            rooms.push(cluster::RoomCount {
                room: Some(cluster::RoomKey {
                    app_key: "demo".to_owned(),
                    room: room.to_owned(),
                }),
                members,
            });
        }
        self.world.gateway_tells(rooms);
    }

    pub(super) fn open(&mut self, who: usize, device_id: String) {
        let request = cluster::OpenSessionRequest {
            app_key: "demo".to_owned(),
            uid: UIDS[who].to_owned(),
            device_id,
            ..Default::default()
        };
        let Some(body) = self.ask(
            cluster::Kind::OpenSession.into(),
            request.encode_to_vec().into(),
            0,
        ) else {
            return;
        };
        let answer = cluster::OpenSessionResponse::decode(body).expect("the answer parses");
        if answer.code == 0 && answer.user_id != 0 {
            assert!(
                self.users[who] == 0 || self.users[who] == answer.user_id,
                "a user's id never changes"
            );
            self.users[who] = answer.user_id;
        } else {
            assert_ne!(answer.code, Code::Internal.number(), "{}", answer.message);
        }
    }

    /// A login with a token that is good, changed, of before, or no token.
    pub(super) fn authenticate(&mut self) {
        let who = self.who();
        let mut token = match self.source.below(5) {
            0 => self.source.text(),
            1 if !self.tokens.is_empty() => self.tokens[0].clone(),
            kind => {
                let uid = Uid::new(UIDS[who]).expect("a uid");
                let role = if kind == 2 {
                    TokenRole::Server
                } else {
                    TokenRole::User
                };
                let ttl_s = u64::from(self.source.u16());
                mint(&secret(), &app(), &uid, role, self.world.now_ms(), ttl_s).expect("HMAC works")
            }
        };
        self.tokens.push(token.clone());
        if self.source.u8() == 1 {
            let mut changed = token.into_bytes();
            self.source.edit(&mut changed);
            token = String::from_utf8_lossy(&changed).into_owned();
        }
        let honest = self.tokens.last() == Some(&token);
        match apps().verify_server(&token, self.world.now_ms()) {
            Ok((_, verified)) => assert!(UIDS.contains(&verified.uid.as_str()), "a forged token is good"),
            Err(error) => assert!(!error.to_string().is_empty() && error.code() != Code::Internal),
        }
        let login = client::Login {
            app_key: if self.source.u8() == 1 {
                self.source.text()
            } else {
                "demo".to_owned()
            },
            uid: self.uid(),
            token,
            device_id: if self.source.u8() == 1 {
                self.source.text()
            } else {
                "phone".to_owned()
            },
            platform: self.source.text(),
            ..Default::default()
        };
        let uid = login.uid.clone();
        let mut bytes = login.encode_to_vec();
        if self.source.u8() == 1 {
            self.source.edit(&mut bytes);
        }
        let changed = bytes != login.encode_to_vec();
        let request = cluster::AuthenticateRequest {
            login: bytes.into(),
            ..Default::default()
        };
        // A node whose store is gone judges nobody.
        let Some(body) = self.ask(
            cluster::Kind::Authenticate.into(),
            request.encode_to_vec().into(),
            0,
        ) else {
            return;
        };
        let answer = cluster::AuthenticateResponse::decode(body).expect("the answer parses");
        assert_ne!(answer.code, Code::Internal.number(), "{}", answer.message);
        if answer.code == 0 && !changed && honest {
            assert!(
                answer.token_expires_ms > 0,
                "{uid} was let in without a token's end"
            );
        }
        assert!(answer.server_time_ms >= crate::node::START_MS);
    }

    pub(super) fn user_work(&mut self) {
        let items = (0..self.source.u8() % 6)
            .map(|_| cluster::UserWorkItem {
                app_key: if self.source.u8() == 1 {
                    self.source.text()
                } else {
                    "demo".to_owned()
                },
                user_id: match self.source.index(UIDS.len() + 1) {
                    Some(who) if who < UIDS.len() => self.users[who],
                    _ => self.source.number(),
                },
                conversation: self.conversation(),
                head_seq: self.source.number(),
                head_rev: self.source.number(),
            })
            .collect();
        let work = cluster::UserWork { items };
        self.ask(cluster::Kind::UserWork.into(), work.encode_to_vec().into(), 0);
    }
}
