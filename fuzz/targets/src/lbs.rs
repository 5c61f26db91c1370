//! Target `lbs`: what a client, or anybody, says to the LBS, and what the registry told it before.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use whimbrel_lbs::GATEWAYS_LIMIT_MAX;
use whimbrel_lbs::fuzzing::{Directory, Heard};
use whimbrel_protocol::cluster::{NodeLease, Role};

use crate::source::Source;

/// What the pipe between the two ends holds; more waits for the other end, as on a socket.
const PIPE_BYTES: usize = 64 * 1024;

/// Turns that the server gets before its client hangs up: many times what an answer takes.
const TURNS_BEFORE_HANGING_UP: usize = 64;

/// The first bytes of inputs in which the LBS asks the registry itself.
const BY_REFRESH: u8 = 224;

/// Some leases, then either a request's target or the bytes of a connection.
pub(crate) fn lbs(data: &[u8]) {
    let mut source = Source::new(data);
    let mut directory = Directory::new();
    if source.u8() < BY_REFRESH {
        source = Source::new(data);
        hear(&mut source, &mut directory);
    } else {
        refresh(&mut source, &mut directory);
    }
    let seed = u64::from(source.u8());
    if source.flag() {
        connection(&directory, source.rest());
    } else {
        target(&directory, &String::from_utf8_lossy(source.rest()), seed);
    }
}

/// The same as the LBS itself asks for them: answers, refusals and silences, until it is told to go.
fn refresh(source: &mut Source<'_>, directory: &mut Directory) {
    let mut told = Vec::new();
    let heard = (0..source.u8() % 6)
        .map(|_| match source.below(4) {
            0 => Heard::Failure,
            1 => Heard::Silence,
            _ => {
                let leases: Vec<NodeLease> = (0..source.u8() % 8).map(|_| lease(source)).collect();
                told.extend(leases.iter().map(|lease| lease.node.clone()));
                Heard::Leases(leases)
            }
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets needs nothing of the machine");
    let ready = runtime.block_on(directory.refresh(heard));
    let listed = directory.gateways();
    assert!(
        listed.iter().all(|node| told.iter().any(|known| known == node)),
        "never told of"
    );
    assert!(ready || listed.is_empty(), "an LBS that lists a gateway is ready");
}

/// The registry's answers, one after another, of one life of it or of several.
fn hear(source: &mut Source<'_>, directory: &mut Directory) {
    let mut now = Duration::ZERO;
    for _ in 0..source.u8() % 4 {
        now += Duration::from_secs(u64::from(source.u8()));
        let life = match source.below(4) {
            0 => None,
            life => Some(u64::from(life)),
        };
        let leases: Vec<NodeLease> = (0..source.u8() % 24).map(|_| lease(source)).collect();
        let before: Vec<String> = directory.gateways().into_iter().map(ToOwned::to_owned).collect();
        directory.hear(now, life, &leases);
        for node in directory.gateways() {
            let heard = leases.iter().any(|lease| lease.node == node && !lease.draining);
            assert!(
                heard || before.iter().any(|known| known == node),
                "{node} was never told of"
            );
        }
    }
}

fn lease(source: &mut Source<'_>) -> NodeLease {
    let shape = source.u8();
    NodeLease {
        node: format!("g{}", source.below(12)),
        role: if shape & 1 == 0 {
            Role::Gateway.into()
        } else {
            i32::from(source.u8())
        },
        draining: shape & 2 != 0,
        descriptor: if shape & 4 == 0 {
            vec![shape; 40].into()
        } else {
            source.short().to_vec().into()
        },
        load_permille: u32::from(source.u16()),
        connections: u64::from(source.u8()),
        app_keys: if shape & 8 == 0 {
            Vec::new()
        } else {
            vec!["demo".to_owned(), source.text()]
        },
        ..NodeLease::default()
    }
}

fn target(directory: &Directory, target: &str, seed: u64) {
    let Some(answer) = directory.ask(target, seed) else {
        return;
    };
    assert_eq!(
        directory.ask(target, seed),
        Some(answer.clone()),
        "the same asked twice"
    );
    match answer {
        Ok(json) => {
            planted!("lbs", [target.len() % 8 == 3, target.len() % 64 == 59]);
            let json: serde_json::Value = serde_json::from_str(&json).expect("an answer is JSON");
            let listed: Vec<&str> = json["gateways"]
                .as_array()
                .expect("the answer lists gateways")
                .iter()
                .map(|gateway| gateway["node"].as_str().expect("each has a name"))
                .collect();
            assert!((1..=GATEWAYS_LIMIT_MAX).contains(&listed.len()));
            let known = directory.gateways();
            assert!(listed.iter().all(|node| known.contains(node)));
            // Names are the registry's keys; two leases of one name are two entries.
            assert!(listed.len() <= known.len());
        }
        Err((code, message)) => {
            assert!(!code.is_empty() && message.len() < 1_024, "{code}: {message}");
            assert!(code != "no_gateway" || message.contains("ask again"));
        }
    }
}

/// Anything on a connection gets HTTP, or nothing and an end.
fn connection(directory: &Directory, bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without sockets needs nothing of the machine");
    let answer = runtime.block_on(async {
        let (client, server) = tokio::io::duplex(PIPE_BYTES);
        let (mut reading, mut writing) = tokio::io::split(client);
        let speak = async {
            // A server that has hung up takes no more; that is its right.
            drop(writing.write_all(bytes).await);
            // A client stays on the line for its answer; one that hangs up at once gets none.
            for _ in 0..TURNS_BEFORE_HANGING_UP {
                tokio::task::yield_now().await;
            }
            drop(writing.shutdown().await);
        };
        let listen = async {
            let mut answer = Vec::new();
            drop(reading.read_to_end(&mut answer).await);
            answer
        };
        let ((), (), answer) = tokio::join!(directory.serve(server), speak, listen);
        answer
    });
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "the LBS speaks HTTP: {}",
        String::from_utf8_lossy(&answer[..answer.len().min(80)])
    );
    assert!(
        !answer.windows(12).any(|words| words == b"HTTP/1.1 500"),
        "a stranger's request is no fault of ours"
    );
}

/// Inputs to begin with.
#[must_use]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let lease = |shape: u8, node: u8| match shape {
        8 => vec![8, node, 1, 0, 3, 5, b'o', b't', b'h', b'e', b'r'],
        1 => vec![1, 2, node, 0, 9, 7],
        4 => vec![4, node, 0, 0, 0, 0],
        shape => vec![shape, node, 0, 40, 7],
    };
    let told: Vec<u8> = [
        vec![3, 1, 1, 5],
        lease(0, 1),
        lease(0, 7),
        lease(2, 3),
        lease(8, 4),
        lease(4, 5),
        vec![1, 2, 2],
        lease(0, 7),
        lease(1, 8),
        vec![5, 2, 1],
        lease(0, 9),
    ]
    .concat();
    let mut seeds = Vec::new();
    for answers in [
        vec![224, 0],
        [&[224, 3, 2, 1][..], &lease(0, 1), &[2, 0, 2, 1], &lease(2, 1)].concat(),
        [&[224, 4, 0, 1, 0, 2, 2][..], &lease(0, 1), &lease(8, 2)].concat(),
        [
            &[224, 5, 2, 1][..],
            &lease(0, 1),
            &[1, 0, 2, 1],
            &lease(0, 2),
            &[1],
        ]
        .concat(),
    ] {
        seeds.push([&answers[..], &[5, 0], b"/v1/gateways?app_key=demo"].concat());
    }
    let long = "g,".repeat(40);
    for target in [
        "/v1/gateways?app_key=demo",
        "/v1/gateways?app_key=demo&limit=13&exclude=g1,g7",
        "/v1/gateways?app_key=demo&limit=1&exclude=g1,g4,g7,g9",
        "/v1/gateways?app_key=other",
        "/v1/gateways",
        "/v1/gateways?app_key=",
        "/v1/gateways?app_key=De%20mo",
        "/v1/gateways?app_key=demo&limit=0",
        "/v1/gateways?app_key=demo&limit=17",
        "/v1/gateways?app_key=demo&app_key=demo",
        "/v1/gateways?app_key=demo&room=1",
        "/v1/gateways?app_key=demo&exclude=g%201",
        "/v1/gateways?app_key=%ff%fe",
        "/v1/gateways?app_key=demo&limit=%e9%bb%91",
        &format!("/v1/gateways?app_key=demo&exclude={long}"),
        "/healthz",
        "/readyz",
        "/nothing",
    ] {
        seeds.push([&told[..], &[5, 0], target.as_bytes()].concat());
        let request = format!("GET {target} HTTP/1.1\r\nhost: lbs\r\nconnection: close\r\n\r\n");
        seeds.push([&told[..], &[5, 1], request.as_bytes()].concat());
        seeds.push([&[0, 5, 1][..], request.as_bytes()].concat());
    }
    seeds.push([&[0, 5, 0][..], b"/v1/gateways?app_key=demo"].concat());
    for request in [
        "POST /v1/gateways HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
        "POST /v1/gateways HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /readyz HTTP/1.0\r\n\r\n",
        "HEAD /v1/gateways?app_key=demo HTTP/1.1\r\nhost: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET http://x/v1/gateways?app_key=demo HTTP/1.1\r\nhost: x\r\n\r\n",
        "CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01",
        "",
    ] {
        seeds.push([&told[..], &[5, 1], request.as_bytes()].concat());
    }
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(50));
    seeds.push([&[0, 5, 1][..], many.as_bytes()].concat());
    let wide = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9_000));
    seeds.push([&[0, 5, 1][..], wide.as_bytes()].concat());
    seeds
}
