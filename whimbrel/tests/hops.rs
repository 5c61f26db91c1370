//! A message really passes every tier: counted by the frames on the links of a running deployment.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use whimbrel_sdk::{Client, Event};

use support::{Mode, Standalone};

/// Between two readings of the counters: longer than a user's rows wait to be written together.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A node that works at something on a busy machine pauses for less.
const QUIET_FOR: Duration = Duration::from_secs(2);
/// How long a message's traces may take to end.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);

/// Frames by way, such as `gateway>router`, kind and direction.
type Frames = BTreeMap<(String, String, String), u64>;

async fn page(metrics: &str) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let page = client.get(format!("{metrics}/metrics")).send().await.unwrap();
    page.text().await.unwrap()
}

/// How many pushes reactors have brought to sessions.
async fn delivered(metrics: &str) -> u64 {
    let page = page(metrics).await;
    let samples = page
        .lines()
        .filter(|line| line.starts_with("whimbrel_gateway_pushes_total{"));
    samples
        .map(|sample| sample.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

/// From the metrics page.
async fn frames(metrics: &str) -> Frames {
    let page = page(metrics).await;
    let samples = page
        .lines()
        .filter_map(|line| line.strip_prefix("whimbrel_link_frames_total{"));
    let mut frames = Frames::new();
    for sample in samples {
        let (labels, count) = sample.split_once("} ").unwrap();
        let label = |name: &str| {
            let of_name = |label: &str| Some(label.strip_prefix(name)?.strip_prefix("=\"")?.to_owned());
            let label = labels.split(',').find_map(of_name).unwrap();
            label.trim_end_matches('"').to_owned()
        };
        let way = format!("{}>{}", label("from_role"), label("to_role"));
        let key = (way, label("kind"), label("direction"));
        *frames.entry(key).or_default() += count.parse::<u64>().unwrap();
    }
    frames
}

/// The frames of a kind that were counted on a way; `kind` decides.
fn count(frames: &Frames, way: &str, direction: &str, kind: impl Fn(&str) -> bool) -> u64 {
    let of = frames
        .iter()
        .filter(|((w, k, d), _)| w == way && d == direction && kind(k));
    of.map(|(_, count)| count).sum()
}

/// Each link, there and back.
const WAYS: [(&str, &str); 4] = [
    ("gateway>router", "router>gateway"),
    ("router>gateway", "gateway>router"),
    ("router>app-service", "app-service>router"),
    ("app-service>router", "router>app-service"),
];

/// What tells of messages: requests and pushes, and for each way how many more requests than answers there were.
fn traces(frames: &Frames) -> (Frames, Vec<i128>) {
    let (request, response) = (|kind: &str| kind != "response", |kind: &str| kind == "response");
    let mut asked = frames.clone();
    // Between processes the registry is asked over the links as well.
    let of_messages = |kind: &str| !["probe", "registry", "response"].contains(&kind);
    asked.retain(|(_, kind, _), count| *count > 0 && of_messages(kind));
    let unanswered = WAYS.iter().map(|(there, back)| {
        i128::from(count(frames, there, "out", request)) - i128::from(count(frames, back, "in", response))
    });
    (asked, unanswered.collect())
}

/// The counters once all readings of [`QUIET_FOR`] tell the same of messages: rows are written and told of in the background.
async fn settled(metrics: &str) -> (Frames, Vec<i128>) {
    let started = Instant::now();
    let mut before = traces(&frames(metrics).await);
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = traces(&frames(metrics).await);
        if before != now {
            assert!(started.elapsed() < SETTLED_WITHIN, "frames never stop: {now:?}");
            (before, since) = (now, Instant::now());
        } else if since.elapsed() >= QUIET_FOR {
            return now;
        }
    }
}

async fn receives(events: &whimbrel_sdk::EventStream, text: &str) {
    let received = async {
        while let Some(event) = events.next().await {
            let Event::MessageReceived { entry, .. } = event else {
                continue;
            };
            if entry.body == whimbrel_sdk::EntryBody::Text(text.to_owned()) {
                return;
            }
        }
        panic!("the client ended before {text:?} came");
    };
    tokio::time::timeout(SETTLED_WITHIN, received).await.unwrap();
}

#[tokio::test]
async fn a_message_passes_each_hop_once() {
    passes_each_hop_once(Mode::OneProcess).await;
}

#[tokio::test]
async fn a_message_passes_each_hop_once_between_processes() {
    let mode = Mode::Processes {
        gateways: 1,
        routers: 1,
    };
    passes_each_hop_once(mode).await;
}

async fn passes_each_hop_once(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(folder.path(), mode, 0, &[]).await;
    let metrics = standalone.said("metrics");
    let [alice, bob] = ["alice", "bob"].map(|uid| {
        let (config, token) = standalone.client(uid);
        Client::start(config, token).unwrap()
    });
    let events = bob.events();
    let chat = alice.open_direct("bob").await.unwrap();
    alice
        .send_and_wait(chat, "the first, for what happens once")
        .await
        .unwrap();
    receives(&events, "the first, for what happens once").await;

    let (before, unanswered_before) = settled(&metrics).await;
    let delivered_before = delivered(&metrics).await;
    alice.send_and_wait(chat, "hello").await.unwrap();
    receives(&events, "hello").await;
    let (after, unanswered_after) = settled(&metrics).await;

    let passed = passed(&before, after);
    // One request upwards. Downwards one frame with the message, for all its receivers are on one gateway, and the notices to
    // the two users: in one frame if they came together. Each is counted where it leaves and where it arrives.
    let hop = |way: &str, kind: &str, count: u64| {
        ["in", "out"].map(|direction| ((way.to_owned(), kind.to_owned(), direction.to_owned()), count))
    };
    let together = count(&passed, "app-service>router", "out", |kind| kind == "pushes");
    let expected = [
        hop("gateway>router", "client_request", 1),
        hop("router>app-service", "client_request", 1),
        hop("app-service>router", "push", 3 - 2 * together),
        hop("router>gateway", "push", 3 - 2 * together),
        hop("app-service>router", "pushes", together),
        hop("router>gateway", "pushes", together),
    ];
    let mut expected: Frames = expected.into_iter().flatten().collect();
    expected.retain(|_, count| *count > 0);
    assert_eq!(passed, expected);
    assert_eq!(
        delivered(&metrics).await - delivered_before,
        4,
        "the message and a notice, each to both"
    );
    if mode == Mode::OneProcess {
        assert_eq!(
            unanswered_before, unanswered_after,
            "each frame is answered once, on the way it came"
        );
    }
    let printed = standalone.printed();
    assert!(!printed.contains("panicked"), "a server panicked: {printed}");
}

/// The frames between two readings.
fn passed(before: &Frames, after: Frames) -> Frames {
    let mut passed = after;
    for (key, count) in &mut passed {
        *count -= before.get(key).copied().unwrap_or(0);
    }
    passed.retain(|_, count| *count > 0);
    passed
}

async fn receives_in_room(events: &whimbrel_sdk::EventStream, text: &str) {
    let received = async {
        while let Some(event) = events.next().await {
            if let Event::RoomMessageReceived { message, .. } = event
                && message.body == whimbrel_sdk::EntryBody::Text(text.to_owned())
            {
                return;
            }
        }
        panic!("the client ended before {text:?} came");
    };
    tokio::time::timeout(SETTLED_WITHIN, received).await.unwrap();
}

#[tokio::test]
async fn a_broadcast_to_a_room_is_one_frame_to_its_gateway_however_many_are_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(folder.path(), Mode::OneProcess, 0, &[]).await;
    let metrics = standalone.said("metrics");
    let clients = ["alice", "bob", "cleo", "dan"].map(|uid| {
        let (config, token) = standalone.client(uid);
        Client::start(config, token).unwrap()
    });
    let streams = clients.each_ref().map(Client::events);
    for client in &clients {
        client.join_room("lobby").await.unwrap();
    }
    let [alice, ..] = &clients;
    // A send that begins after the joins were answered reaches them all, the very first too.
    let sent = alice.send_room("lobby", "the first").await.unwrap();
    assert_eq!((sent.taken, sent.dropped), (4, 0));
    for stream in &streams {
        receives_in_room(stream, "the first").await;
    }

    let (before, unanswered_before) = settled(&metrics).await;
    alice.send_room("lobby", "hello").await.unwrap();
    for stream in &streams {
        receives_in_room(stream, "hello").await;
    }
    let (after, unanswered_after) = settled(&metrics).await;
    let hop = |way: &str, kind: &str| {
        ["in", "out"].map(|direction| ((way.to_owned(), kind.to_owned(), direction.to_owned()), 1))
    };
    let expected = [
        hop("gateway>router", "client_request"),
        hop("router>app-service", "client_request"),
        hop("app-service>router", "room_broadcast"),
        hop("router>gateway", "room_broadcast"),
    ];
    assert_eq!(
        passed(&before, after),
        expected.into_iter().flatten().collect::<Frames>()
    );
    assert_eq!(unanswered_before, unanswered_after);

    let [.., dan] = &clients;
    dan.leave_room("lobby").await.unwrap();
    let sent = alice.send_room("lobby", "after dan left").await.unwrap();
    assert_eq!((sent.taken, sent.dropped), (3, 0));
    let counted = async {
        while alice.room_count("lobby").await.unwrap() != 3 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(SETTLED_WITHIN, counted).await.unwrap();
}

/// One message under one trace id in the logs of every process that had it, down to its commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_followed_through_the_logs_by_its_trace_id() {
    let folder = tempfile::tempdir().unwrap();
    let logged = "info,whimbrel_gateway=debug,whimbrel_router=debug,whimbrel_app_service=debug";
    let mode = Mode::Processes {
        gateways: 1,
        routers: 1,
    };
    let server = Standalone::start(folder.path(), mode, 0, &[("RUST_LOG", logged.into())]).await;
    let (config, token) = server.client("alice");
    let alice = Client::start(config, token).unwrap();
    let conversation = alice.open_direct("bob").await.unwrap();
    let sent = alice
        .send_and_wait(conversation, "where does this go?")
        .await
        .unwrap();
    assert_eq!(sent.seq, 1);

    // The answer has come; what the gateway says of it may be a moment behind.
    let started = Instant::now();
    loop {
        let printed = server.printed();
        assert!(!printed.contains("where does this go?"), "no content is logged");
        let committed = printed.lines().find(|line| {
            line.contains("whimbrel_app_service::committer: committed") && line.contains("seq=Some(Seq(1))")
        });
        let missing = match committed.and_then(trace_of) {
            None => vec!["the commit"],
            Some(trace) => {
                let of_trace: Vec<&str> = printed.lines().filter(|line| line.contains(&trace)).collect();
                let wanted = [
                    "whimbrel_gateway::upward: a request goes up",
                    "whimbrel_router::core: a request is passed on",
                    "whimbrel_app_service::service::client: a request is begun",
                    "whimbrel_app_service::service::told: a request is answered",
                    "whimbrel_router::core::told: a request is answered",
                    "whimbrel_gateway::upward: a request is answered",
                ];
                let said = |wanted: &str| of_trace.iter().filter(|line| line.contains(wanted)).count() == 1;
                wanted.into_iter().filter(|wanted| !said(wanted)).collect()
            }
        };
        if missing.is_empty() {
            break;
        }
        assert!(
            started.elapsed() < SETTLED_WITHIN,
            "not once in the logs: {missing:?}\n{printed}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
    alice.close().await.unwrap();
}

/// The trace id that a line of a log carries.
fn trace_of(line: &str) -> Option<String> {
    let (_, behind) = line.split_once("trace=")?;
    behind.get(..16).map(str::to_owned)
}
