//! The whole client over loopback sockets against a scripted server.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::world::{FORBIDDEN, World};
use support::{Server, close, go_away, reauth, sync_hint};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::{RequestId, Retry as CloseRetry};
use whimbrel_sdk::{
    Client, ClientConfig, ConnectionState, ConversationId, Entry, EntryBody, ErrorCode, Event, EventStream,
    FixedToken, NewGroup, Retry, SendState, TokenProvider, WaitReason,
};

/// No step of any test takes this long; a test that waits for it fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(server: &Server, uid: &str, data: Option<&Path>) -> ClientConfig {
    ClientConfig {
        data_dir: data.map(Path::to_path_buf),
        request_timeout_ms: 10_000,
        ..ClientConfig::new(&server.lbs_url(), &server.root_key(), "demo", uid)
    }
}

fn start(server: &Server, uid: &str) -> (Client, EventStream) {
    start_with(config(server, uid, None))
}

fn start_with(config: ClientConfig) -> (Client, EventStream) {
    let client = Client::start(config, Arc::new(FixedToken("token".into()))).unwrap();
    let events = client.events();
    (client, events)
}

async fn until<T>(events: &EventStream, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    let waiting = async {
        loop {
            let event = events.next().await.expect("the client is not closed");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("the event comes")
}

async fn online(events: &EventStream) {
    until(events, |event| {
        matches!(event, Event::Connection(ConnectionState::Online)).then_some(())
    })
    .await;
}

async fn stopped(events: &EventStream) -> whimbrel_sdk::Error {
    until(events, |event| match event {
        Event::Connection(ConnectionState::Stopped { error }) => Some(error.clone()),
        _ => None,
    })
    .await
}

async fn received(events: &EventStream, count: usize) -> Vec<(ConversationId, Entry)> {
    let mut entries = Vec::new();
    while entries.len() < count {
        entries.push(
            until(events, |event| match event {
                Event::MessageReceived { conversation, entry } => Some((*conversation, entry.clone())),
                _ => None,
            })
            .await,
        );
    }
    entries
}

fn texts(entries: &[(ConversationId, Entry)]) -> Vec<String> {
    entries
        .iter()
        .map(|(_, entry)| match &entry.body {
            EntryBody::Text(text) => text.clone(),
            other => format!("{other:?}"),
        })
        .collect()
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("it comes to hold");
}

#[tokio::test]
async fn two_people_chat() {
    let server = Server::start().await;
    let (alice, alice_events) = start(&server, "alice");
    let (bob, bob_events) = start(&server, "bob");
    online(&bob_events).await;
    let conversation = alice.open_direct("bob").await.unwrap();
    let sent = alice.send_and_wait(conversation, "hello").await.unwrap();
    assert_eq!(sent.seq, 1);
    let heard = received(&bob_events, 1).await;
    assert_eq!(
        (heard[0].0, heard[0].1.seq, heard[0].1.sender_uid.as_str()),
        (conversation, 1, "alice")
    );
    bob.send_text(conversation, "hi").await.unwrap();
    assert_eq!(texts(&received(&alice_events, 2).await), ["hello", "hi"]);

    bob.mark_read(conversation, 1).await.unwrap();
    eventually(|| server.with(|shared| shared.world.read_seq(conversation, "bob")) == 1).await;
    let rows = bob.conversations().await.unwrap();
    assert_eq!(
        (rows[0].id, rows[0].read_seq, rows[0].unread),
        (conversation, 1, 0)
    );
    bob.close().await.unwrap();
    assert_eq!(until_end(&bob_events).await, None);
    assert_eq!(
        bob.send_text(conversation, "late").await.unwrap_err().code,
        ErrorCode::Closed as u32
    );
    eventually(|| server.session_count() == 1).await;
}

async fn until_end(events: &EventStream) -> Option<Event> {
    while events.next().await.is_some() {}
    None
}

#[tokio::test]
async fn groups_have_members_names_and_recalls() {
    let server = Server::start().await;
    let (alice, alice_events) = start(&server, "alice");
    let (_bob, bob_events) = start(&server, "bob");
    online(&bob_events).await;
    let members = ["bob", "carol", "dave"].map(str::to_owned).to_vec();
    let group = NewGroup {
        name: "crew".into(),
        member_uids: members,
        history_for_newcomers: true,
    };
    let group = alice.create_group(group).await.unwrap();
    let uids: Vec<_> = alice
        .members(group)
        .await
        .unwrap()
        .into_iter()
        .map(|member| member.uid)
        .collect();
    assert_eq!(uids, ["alice", "bob", "carol", "dave"]);
    assert_eq!(alice.conversation_info(group).await.unwrap().member_count, 4);
    alice.send_and_wait(group, "oops").await.unwrap();
    received(&bob_events, 2).await;
    alice.recall(group, 2).await.unwrap();
    for events in [&alice_events, &bob_events] {
        let changed = until(events, |event| match event {
            Event::MessageChanged { entry, .. } => Some(entry.clone()),
            _ => None,
        })
        .await;
        assert_eq!(
            (changed.seq, changed.body),
            (
                2,
                EntryBody::Recalled {
                    by_uid: "alice".into()
                }
            )
        );
    }
    let unknown = ConversationId::from_wire(&[b'g'; 16]).unwrap();
    let error = alice.conversation_info(unknown).await.unwrap_err();
    assert_eq!(
        (error.server_code(), error.retry),
        (Some(Code::UnknownConversation), Retry::Never)
    );
}

#[tokio::test]
async fn what_was_queued_survives_a_restart_and_goes_out_once_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let (alice, events) = start_with(config(&server, "alice", Some(folder.path())));
    online(&events).await;
    let conversation = alice.open_direct("bob").await.unwrap();
    // Carried out, but the answers are lost: the client cannot know.
    server.with(|shared| shared.faults.cut_answers = 2);
    alice.send_text(conversation, "one").await.unwrap();
    eventually(|| server.with(|shared| shared.faults.cut_answers) < 2).await;
    server.with(|shared| shared.faults.reject = true);
    server.cut_all();
    for text in ["two", "three"] {
        alice.send_text(conversation, text).await.unwrap();
    }
    assert_eq!(alice.unsent().await.unwrap().len(), 3);
    alice.close().await.unwrap();
    drop((alice, events));

    server.with(|shared| shared.faults.reject = false);
    let (alice, events) = start_with(config(&server, "alice", Some(folder.path())));
    let heard = received(&events, 3).await;
    assert_eq!(texts(&heard), ["one", "two", "three"]);
    assert_eq!(
        server.with(|shared| shared.world.texts(conversation)),
        ["one", "two", "three"]
    );
    assert!(heard.iter().all(|(_, entry)| entry.local_id.is_some()));
    eventually(|| server.with(|shared| shared.faults.cut_answers) < 2).await;
    assert_eq!(alice.unsent().await.unwrap(), []);
    let epochs: Vec<u64> =
        server.with(|shared| shared.logins.iter().map(|login| login.login_epoch).collect());
    assert!(epochs.is_sorted_by(|a, b| a < b), "login epochs grow: {epochs:?}");
    let devices = server.with(|shared| {
        shared
            .logins
            .iter()
            .map(|login| login.device_id.clone())
            .collect::<Vec<_>>()
    });
    assert!(
        devices.windows(2).all(|pair| pair[0] == pair[1]),
        "the device keeps its name"
    );
}

#[tokio::test]
async fn nothing_is_shown_twice_after_a_restart_and_what_was_missed_comes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let conversation = World::direct("alice", "bob");
    let (bob, bob_events) = start(&server, "bob");
    online(&bob_events).await;
    bob.open_direct("alice").await.unwrap();
    bob.send_and_wait(conversation, "1").await.unwrap();
    {
        let (alice, events) = start_with(config(&server, "alice", Some(folder.path())));
        assert_eq!(texts(&received(&events, 1).await), ["1"]);
        alice.close().await.unwrap();
        until_end(&events).await;
    }
    for text in 2..=20 {
        bob.send_and_wait(conversation, &text.to_string()).await.unwrap();
    }
    let (alice, events) = start_with(config(&server, "alice", Some(folder.path())));
    let expected: Vec<String> = (2..=20).map(|text| text.to_string()).collect();
    assert_eq!(texts(&received(&events, 19).await), expected);
    let history = alice.history(conversation, 3, 10).await.unwrap();
    assert_eq!(history.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn lost_pushes_come_by_sync() {
    let server = Server::start().await;
    let (alice, _) = start(&server, "alice");
    let (_bob, bob_events) = start(&server, "bob");
    let conversation = alice.open_direct("bob").await.unwrap();
    until(&bob_events, |event| matches!(event, Event::Synced).then_some(())).await;
    server.with(|shared| shared.faults.drop_pushes = true);
    for text in ["a", "b", "c"] {
        alice.send_and_wait(conversation, text).await.unwrap();
    }
    server.send_to_all(&sync_hint());
    assert_eq!(texts(&received(&bob_events, 3).await), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_new_device_is_shown_the_last_page_and_reads_back_to_the_beginning() {
    let server = Server::start().await;
    let (bob, _) = start(&server, "bob");
    let conversation = bob.open_direct("alice").await.unwrap();
    for text in 1..=30 {
        bob.send_and_wait(conversation, &text.to_string()).await.unwrap();
    }
    let mut config = config(&server, "alice", None);
    config.initial_history = 5;
    let (alice, events) = start_with(config);
    let heard = received(&events, 5).await;
    assert_eq!(texts(&heard), ["26", "27", "28", "29", "30"]);
    let mut seqs = Vec::new();
    let mut before = 0;
    loop {
        let page = alice.history(conversation, before, 10).await.unwrap();
        let Some(last) = page.last() else { break };
        before = last.seq;
        seqs.extend(page.into_iter().map(|entry| entry.seq));
    }
    assert_eq!(seqs, (1..=30).rev().collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_new_device_may_be_shown_all_that_is_unread() {
    let server = Server::start().await;
    let (bob, _) = start(&server, "bob");
    let conversation = bob.open_direct("alice").await.unwrap();
    for text in 1..=120 {
        bob.send_and_wait(conversation, &text.to_string()).await.unwrap();
    }
    let all_unread = || {
        let mut config = config(&server, "alice", None);
        config.initial_history = 5;
        config.initial_unread = true;
        start_with(config)
    };
    let numbers = |from: u32| (from..=120).map(|n| n.to_string()).collect::<Vec<_>>();
    let (alice, events) = all_unread();
    assert_eq!(texts(&received(&events, 120).await), numbers(1));

    alice.mark_read(conversation, 17).await.unwrap();
    eventually(|| server.with(|shared| shared.world.read_seq(conversation, "alice")) == 17).await;
    let (_second, events) = all_unread();
    assert_eq!(texts(&received(&events, 103).await), numbers(18));

    alice.mark_read(conversation, 118).await.unwrap();
    eventually(|| server.with(|shared| shared.world.read_seq(conversation, "alice")) == 118).await;
    let (_third, events) = all_unread();
    assert_eq!(texts(&received(&events, 5).await), numbers(116));
}

#[tokio::test]
async fn a_refused_message_fails_alone_and_can_be_sent_again_or_dropped() {
    let server = Server::start().await;
    let (alice, events) = start(&server, "alice");
    let conversation = alice.open_direct("bob").await.unwrap();
    server.with(|shared| shared.faults.reject = true);
    server.cut_all();
    alice.send_text(conversation, "before").await.unwrap();
    let bad = alice.send_text(conversation, FORBIDDEN).await.unwrap();
    alice.send_text(conversation, "after").await.unwrap();
    server.with(|shared| shared.faults.reject = false);
    let error = until(&events, |event| match event {
        Event::SendStateChanged {
            local_id,
            state: SendState::Failed { error },
            ..
        } if *local_id == bad => Some(error.clone()),
        _ => None,
    })
    .await;
    assert_eq!(
        (error.server_code(), error.retry),
        (Some(Code::InvalidArgument), Retry::Never)
    );
    eventually(|| server.with(|shared| shared.world.texts(conversation).len()) == 2).await;
    assert_eq!(
        server.with(|shared| shared.world.texts(conversation)),
        ["before", "after"]
    );
    assert!(alice.resend(bad).await.unwrap());
    assert!(!alice.resend(bad).await.unwrap(), "it waits already");
    until(&events, |event| {
        matches!(
            event,
            Event::SendStateChanged {
                state: SendState::Failed { .. },
                ..
            }
        )
        .then_some(())
    })
    .await;
    assert!(alice.discard(bad).await.unwrap());
    assert_eq!(alice.unsent().await.unwrap(), []);
}

#[tokio::test]
async fn a_rotated_gateway_key_is_learnt_from_the_answer_even_without_the_lbs() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    {
        let (alice, events) = start_with(config(&server, "alice", Some(folder.path())));
        online(&events).await;
        alice.close().await.unwrap();
        until_end(&events).await;
    }
    server.rotate_key();
    server.with(|shared| shared.lbs_down = true);
    let (_alice, events) = start_with(config(&server, "alice", Some(folder.path())));
    online(&events).await;
}

#[tokio::test]
async fn of_several_lbs_the_next_is_asked_when_one_is_dead_or_refuses() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (server, refusing) = (Server::start().await, Server::start().await);
    refusing.with(|shared| shared.lbs_down = true);
    let (_alice, events) = start_with(ClientConfig {
        lbs_urls: vec![format!("http://{dead}"), refusing.lbs_url(), server.lbs_url()],
        ..config(&server, "alice", None)
    });
    online(&events).await;
    let asked = [&refusing, &server].map(|server| server.with(|shared| shared.lbs_requests));
    assert!(asked.iter().all(|asked| *asked > 0), "{asked:?}");
}

#[tokio::test]
async fn a_dead_address_costs_a_quarter_second_and_a_stalled_one_does_not_stop_the_client() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = dead.local_addr().unwrap().to_string();
    let refused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let server = Server::start_with_addresses(|gateway| vec![refused, gateway.to_string(), silent]).await;
    let (_alice, events) = start(&server, "alice");
    online(&events).await;
}

#[tokio::test]
async fn goodbyes_are_obeyed() {
    let server = Server::start().await;
    let (alice, events) = start(&server, "alice");
    online(&events).await;
    server.send_to_all(&go_away(RequestId(u32::MAX), 100));
    eventually(|| server.with(|shared| shared.logins.len()) == 2 && server.session_count() == 1).await;
    let conversation = alice.open_direct("bob").await.unwrap();
    alice.send_and_wait(conversation, "still here").await.unwrap();

    server.send_to_all(&close(CloseRetry::After { ms: 10 }));
    until(&events, |event| match event {
        Event::Connection(ConnectionState::Waiting {
            reason: WaitReason::ServerBusy,
            retry_in_ms,
        }) => {
            assert!(*retry_in_ms >= 10);
            Some(())
        }
        _ => None,
    })
    .await;
    online(&events).await;

    server.send_to_all(&close(CloseRetry::Never));
    let error = stopped(&events).await;
    assert_eq!(
        (error.server_code(), error.retry),
        (Some(Code::SupersededLogin), Retry::Never)
    );
    let logins = server.with(|shared| shared.logins.len());
    assert_eq!(alice.open_direct("bob").await.unwrap_err().retry, Retry::Never);
    assert_eq!(server.with(|shared| shared.logins.len()), logins);
}

#[tokio::test]
async fn a_gateway_that_leaves_is_used_until_the_next_one_is_ready() {
    let server = Server::start().await;
    let (alice, events) = start(&server, "alice");
    online(&events).await;
    let conversation = alice.open_direct("bob").await.unwrap();
    let minutes_ms = 600_000;
    server.send_to_all(&go_away(RequestId(u32::MAX), minutes_ms));
    alice.send_and_wait(conversation, "still here").await.unwrap();
    assert_eq!(server.with(|shared| shared.logins.len()), 1);

    // What it will not begin does not wait for the end of the window.
    server.send_to_all(&go_away(RequestId(1), minutes_ms));
    alice.send_and_wait(conversation, "over there").await.unwrap();
    assert_eq!(server.with(|shared| shared.logins.len()), 2);
}

/// Gives another token every time.
struct Counting(AtomicUsize);

#[async_trait::async_trait]
impl TokenProvider for Counting {
    async fn token(&self) -> Result<String, String> {
        Ok(format!("token {}", self.0.fetch_add(1, Ordering::SeqCst)))
    }
}

#[tokio::test]
async fn a_used_up_token_is_replaced_at_login_and_while_online() {
    let server = Server::start().await;
    server.with(|shared| shared.faults.refuse_logins = Some((1, Code::TokenExpired.number())));
    let client = Client::start(
        config(&server, "alice", None),
        Arc::new(Counting(AtomicUsize::new(0))),
    )
    .unwrap();
    let events = client.events();
    online(&events).await;
    server.send_to_all(&reauth());
    eventually(|| server.with(|shared| shared.logins.len()) == 3).await;
    let tokens = server.with(|shared| {
        shared
            .logins
            .iter()
            .map(|login| login.token.clone())
            .collect::<Vec<_>>()
    });
    assert_eq!(tokens, ["token 0", "token 1", "token 2"]);
}

#[tokio::test]
async fn a_login_refused_for_good_stops_the_client() {
    let server = Server::start().await;
    server.with(|shared| shared.faults.refuse_logins = Some((9, Code::UnknownApp.number())));
    let (alice, events) = start(&server, "alice");
    let error = stopped(&events).await;
    assert_eq!(error.server_code(), Some(Code::UnknownApp));
    assert_eq!(server.with(|shared| shared.logins.len()), 1);
    assert!(matches!(
        alice.connection().await.unwrap(),
        ConnectionState::Stopped { .. }
    ));
}

#[tokio::test]
async fn a_false_root_is_never_connected_to() {
    let server = Server::start().await;
    let other = whimbrel_protocol::descriptor::RootKey::from_seed(&[99; 32])
        .public()
        .to_string();
    let mut config = config(&server, "alice", None);
    config.root_keys = vec![other];
    let (_alice, events) = start_with(config);
    let reason = until(&events, |event| match event {
        Event::Connection(ConnectionState::Waiting { reason, .. }) => Some(*reason),
        _ => None,
    })
    .await;
    assert_eq!(reason, WaitReason::NoTrustedGateway);
    assert!(server.with(|shared| shared.logins.is_empty()));
}

#[tokio::test]
async fn wrong_configurations_and_folders_in_use_are_named() {
    let server = Server::start().await;
    let start = |config: ClientConfig| Client::start(config, Arc::new(FixedToken("t".into())));
    let good = config(&server, "alice", None);
    for (config, word) in [
        (
            ClientConfig {
                lbs_urls: vec![],
                ..good.clone()
            },
            "lbs_urls",
        ),
        (
            ClientConfig {
                lbs_urls: vec!["127.0.0.1:7000".into()],
                ..good.clone()
            },
            "lbs_urls",
        ),
        (
            ClientConfig {
                root_keys: vec!["nonsense".into()],
                ..good.clone()
            },
            "root_keys",
        ),
        (
            ClientConfig {
                app_key: "No Such".into(),
                ..good.clone()
            },
            "app_key",
        ),
        (
            ClientConfig {
                uid: String::new(),
                ..good.clone()
            },
            "uid",
        ),
    ] {
        let error = start(config).unwrap_err();
        assert!(
            error.message.contains(word) && error.code == ErrorCode::Config as u32,
            "{error}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let _first = start(config(&server, "alice", Some(folder.path()))).unwrap();
    let error = start(config(&server, "alice", Some(folder.path()))).unwrap_err();
    assert!(error.message.contains("in use"), "{error}");
    start(config(&server, "bob", Some(folder.path()))).unwrap();
}
