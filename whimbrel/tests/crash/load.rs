//! What goes on in a run: users who chat without pause, owners who remove members and invite them again, and a
//! customer's server that sends over the HTTP API and repeats itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use whimbrel_protocol::client::ChangeKind;
use whimbrel_protocol::ids::OperationId;
use whimbrel_sdk::ConversationId;

use crate::device::{Device, Lane, Name, Uid};
use crate::ledger::{Ledger, Message, Outcome};

/// How long an owner leaves a group as it is, milliseconds.
const CHANGE_PAUSE_MS: std::ops::Range<u64> = 300..1_500;
/// Times a member is invited again: of more absences the server forgets the oldest (16 intervals are kept).
const RETURNS_MAX: usize = 12;
/// One in so many messages is long.
const LONG_ONE_IN: u32 = 50;
/// Characters that make a message long: of some of them in one batch, a record is not enough.
const LONG_LEN: usize = 3_000;
/// How long the customer's server waits for an answer before it asks again.
const API_PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts of it while nobody answers.
const API_PAUSE: Duration = Duration::from_millis(50);
/// Old operations that are sent again at the end.
const REPLAYS_AT_END: usize = 40;

/// Everything that goes on, until `stop` says true; then what was begun is finished.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) rng: StdRng,
}

impl Load {
    fn fork(&mut self) -> StdRng {
        StdRng::seed_from_u64(self.rng.random())
    }

    /// A device sends into a conversation as fast as it is acknowledged, while its user is a member.
    pub(crate) fn chat(&mut self, device: &Arc<Device>, id: ConversationId) {
        let lane = device.open_lane(id);
        let (device, ledger, stop) = (Arc::clone(device), Arc::clone(&self.ledger), self.stop.clone());
        let mut rng = self.fork();
        self.tasks.spawn(async move {
            while next_turn(&lane, stop.clone()).await {
                let padding = match rng.random_ratio(1, LONG_ONE_IN) {
                    true => LONG_LEN,
                    false => rng.random_range(0..100),
                };
                let (message, text) = ledger.begin(&device.name, id, padding);
                let local = device
                    .client
                    .send_text(id, &text)
                    .await
                    .expect("the queue has room");
                ledger.named(&device.name, local, message);
            }
        });
    }

    /// The owner removes members now and then, and invites them again.
    pub(crate) fn govern(&mut self, owner: &Arc<Device>, id: ConversationId, others: Vec<Uid>) {
        let (owner, ledger, mut stop) = (Arc::clone(owner), Arc::clone(&self.ledger), self.stop.clone());
        let mut rng = self.fork();
        self.tasks.spawn(async move {
            let mut members: Vec<_> = others.into_iter().map(|user| (user, true, 0)).collect();
            loop {
                let pause = Duration::from_millis(rng.random_range(CHANGE_PAUSE_MS));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
                let which = rng.random_range(0..members.len());
                let (user, present, returns) = &mut members[which];
                if !*present && *returns >= RETURNS_MAX {
                    continue;
                }
                let uids = vec![user.0.to_string()];
                let kind = match *present {
                    true => ChangeKind::Removed,
                    false => ChangeKind::Invited,
                };
                ledger.ask_change(id, kind, user);
                let answer = match *present {
                    true => owner.client.remove_members(id, uids).await,
                    false => owner.client.invite(id, uids).await,
                };
                // What went wrong stays unacknowledged in the ledger, for the checker to see.
                if answer.is_ok() {
                    ledger.changed(id);
                }
                *returns += usize::from(!*present);
                *present = !*present;
            }
        });
    }

    /// The customer's server sends as `user`, one message at a time, and sends old ones again with the same operation id.
    pub(crate) fn call_api(&mut self, api: &str, token: String, user: &Uid, ids: Vec<ConversationId>) {
        let mut caller = ApiCaller {
            client: reqwest::Client::builder()
                .timeout(API_PATIENCE)
                .no_proxy()
                .build()
                .expect("an HTTP client"),
            url: format!("{api}/v1/messages"),
            token,
            user: user.clone(),
            ledger: Arc::clone(&self.ledger),
            done: Vec::new(),
        };
        let (stop, mut rng) = (self.stop.clone(), self.fork());
        self.tasks.spawn(async move {
            while !*stop.borrow() {
                let id = *ids.choose(&mut rng).expect("a conversation");
                caller.send(id, rng.random()).await;
                if rng.random_ratio(1, 4) {
                    caller.replay(&mut rng).await;
                }
            }
            for _ in 0..REPLAYS_AT_END {
                caller.replay(&mut rng).await;
            }
        });
    }
}

/// Waits until the lane has room and its user is a member; false when all is to stop.
async fn next_turn(lane: &Lane, mut stop: watch::Receiver<bool>) -> bool {
    let turn = async {
        let mut member = lane.member.subscribe();
        // The lane outlives this; its semaphore is never closed.
        let _ = member.wait_for(|member| *member).await;
        if let Ok(permit) = lane.window.acquire().await {
            permit.forget();
        }
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => false,
        () = turn => true,
    }
}

struct ApiCaller {
    client: reqwest::Client,
    url: String,
    token: String,
    user: Uid,
    ledger: Arc<Ledger>,
    /// What was sent, to be sent again.
    done: Vec<(Message, Value)>,
}

impl ApiCaller {
    async fn send(&mut self, id: ConversationId, random: [u8; 10]) {
        let server = Name::new(&self.user, "customer's server");
        let (message, text) = self.ledger.begin(&server, id, 0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).expect("a time of this age");
        let operation = OperationId::new(now_ms, random);
        let body = json!({
            "sender": &*self.user.0,
            "conversation": id.to_string(),
            "text": text,
            "operation_id": HEXLOWER.encode(operation.as_bytes()),
        });
        let outcome = self.post(&body).await;
        self.ledger.answered(message, outcome);
        self.done.push((message, body));
    }

    async fn replay(&mut self, rng: &mut StdRng) {
        if let Some((message, body)) = self.done.choose(rng) {
            let outcome = self.post(body).await;
            self.ledger.answered(*message, outcome);
        }
    }

    /// Asks until there is an answer.
    async fn post(&self, body: &Value) -> Outcome {
        loop {
            let request = self.client.post(&self.url).bearer_auth(&self.token).json(body);
            if let Ok(answer) = request.send().await {
                let status = answer.status();
                let told: Option<Value> = answer.json().await.ok();
                match told {
                    Some(told) if status.is_success() => {
                        let number =
                            |name: &str| told[name].as_u64().expect("the API's answers hold numbers");
                        return Outcome::Acknowledged {
                            seq: number("seq"),
                            time_ms: number("time_ms"),
                        };
                    }
                    // For good: the checker says whether it may.
                    Some(told) if status.is_client_error() && status.as_u16() != 429 => {
                        let code = told["code"].as_u64().and_then(|code| u32::try_from(code).ok());
                        return Outcome::Refused(code.unwrap_or(u32::from(status.as_u16())));
                    }
                    // Cut off, or to be tried again.
                    Some(_) | None => {}
                }
            }
            tokio::time::sleep(API_PAUSE).await;
        }
    }
}
