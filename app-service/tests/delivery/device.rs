//! A device, as the SDK would have it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_app_service::log::Actor;
use whimbrel_protocol::client::{self, ConversationRow};
use whimbrel_protocol::ids::{ConversationId, Uid, UserId};
use whimbrel_protocol::method::PushMethod;

use crate::world::{Live, World, app};

/// It applies notices that fit its cursor and syncs when they do not.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) actor: Actor,
    pub(crate) slot: u32,
    pub(crate) cursor: Bytes,
    pub(crate) rows: BTreeMap<ConversationId, ConversationRow>,
    /// Seqs that were pushed, by conversation, in order of arrival.
    pub(crate) pushed: BTreeMap<ConversationId, Vec<u64>>,
    pub(crate) notices: usize,
    /// Notices that did not fit: each asks for a sync.
    pub(crate) holes: usize,
}

impl Device {
    pub(crate) fn nowhere() -> Self {
        let actor = Actor {
            app: app(),
            user: UserId(0),
            uid: Uid::new("nobody").unwrap(),
        };
        Self {
            actor,
            slot: 0,
            cursor: Bytes::new(),
            rows: BTreeMap::new(),
            pushed: BTreeMap::new(),
            notices: 0,
            holes: 0,
        }
    }

    /// Syncs to the end, in pages of 2.
    pub(crate) async fn sync(&mut self, live: &Live) {
        loop {
            let page = live.sync_page(&self.actor, self.cursor.clone(), 2).await;
            if page.full_resync {
                self.rows.clear();
            }
            self.apply_rows(page.rows);
            self.cursor = page.cursor;
            if !page.more {
                return;
            }
        }
    }

    fn apply_rows(&mut self, rows: Vec<ConversationRow>) {
        for row in rows {
            self.rows
                .insert(ConversationId::from_wire(&row.conversation).unwrap(), row);
        }
    }

    /// Takes what was pushed. Gives back whether it must sync.
    pub(crate) fn receive(&mut self, world: &World) -> bool {
        let mut hole = false;
        for (method, payload) in world.switch.take_inbox(self.slot) {
            match PushMethod::from_number(method).unwrap() {
                PushMethod::Messages => {
                    let push = client::MessagesPush::decode(payload).unwrap();
                    let conversation = ConversationId::from_wire(&push.conversation).unwrap();
                    let seqs = push.entries.iter().map(|entry| entry.seq);
                    self.pushed.entry(conversation).or_default().extend(seqs);
                }
                PushMethod::Notice => {
                    let notice = client::NoticePush::decode(payload).unwrap();
                    self.notices += 1;
                    if notice.from_cursor == self.cursor {
                        self.apply_rows(notice.rows);
                        self.cursor = notice.to_cursor;
                    } else {
                        hole = true;
                        self.holes += 1;
                    }
                }
                PushMethod::Room => {}
            }
        }
        hole
    }

    /// Takes what was pushed, and syncs only if that asks for it.
    pub(crate) async fn follow(&mut self, world: &World, live: &Live) {
        if self.receive(world) {
            self.sync(live).await;
        }
    }

    pub(crate) fn row(&self, conversation: ConversationId) -> &ConversationRow {
        self.rows
            .get(&conversation)
            .expect("the device has a row of the conversation")
    }

    /// The same user on a device that has nothing.
    pub(crate) async fn fresh(&self, live: &Live) -> Self {
        let mut fresh = Self {
            actor: self.actor.clone(),
            ..Self::nowhere()
        };
        fresh.sync(live).await;
        fresh
    }
}
