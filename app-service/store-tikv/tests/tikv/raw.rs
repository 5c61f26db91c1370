//! What a client that died half-way leaves behind, made by hand: single locks, by the calls that TiKV's client makes.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost_tikv::Message;
use tikv_client::{TimestampExt as _, TransactionClient};
use tonic_tikv::Request;
use tonic_tikv::client::Grpc;
use tonic_tikv::codec::ProstCodec;
use tonic_tikv::codegen::http::uri::PathAndQuery;
use tonic_tikv::transport::{Channel, Endpoint};

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "1")]
    cluster_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RegionEpoch {
    #[prost(uint64, tag = "1")]
    conf_ver: u64,
    #[prost(uint64, tag = "2")]
    version: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Peer {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    store_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Region {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "4")]
    region_epoch: Option<RegionEpoch>,
}

#[derive(Clone, PartialEq, Message)]
struct GetRegionRequest {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(bytes = "vec", tag = "2")]
    region_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct GetRegionResponse {
    #[prost(message, optional, tag = "2")]
    region: Option<Region>,
    #[prost(message, optional, tag = "3")]
    leader: Option<Peer>,
}

#[derive(Clone, PartialEq, Message)]
struct GetStoreRequest {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "2")]
    store_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Store {
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Clone, PartialEq, Message)]
struct GetStoreResponse {
    #[prost(message, optional, tag = "2")]
    store: Option<Store>,
}

#[derive(Clone, PartialEq, Message)]
struct Context {
    #[prost(uint64, tag = "1")]
    region_id: u64,
    #[prost(message, optional, tag = "2")]
    region_epoch: Option<RegionEpoch>,
    #[prost(message, optional, tag = "3")]
    peer: Option<Peer>,
}

#[derive(Clone, PartialEq, Message)]
struct Mutation {
    #[prost(int32, tag = "1")]
    op: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PrewriteRequest {
    #[prost(message, optional, tag = "1")]
    context: Option<Context>,
    #[prost(message, repeated, tag = "2")]
    mutations: Vec<Mutation>,
    #[prost(bytes = "vec", tag = "3")]
    primary_lock: Vec<u8>,
    #[prost(uint64, tag = "4")]
    start_version: u64,
    #[prost(uint64, tag = "5")]
    lock_ttl: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Anything {}

#[derive(Clone, PartialEq, Message)]
struct PrewriteResponse {
    #[prost(message, optional, tag = "1")]
    region_error: Option<Anything>,
    #[prost(message, repeated, tag = "2")]
    errors: Vec<Anything>,
}

#[derive(Clone, PartialEq, Message)]
struct CommitRequest {
    #[prost(message, optional, tag = "1")]
    context: Option<Context>,
    #[prost(uint64, tag = "2")]
    start_version: u64,
    #[prost(bytes = "vec", repeated, tag = "3")]
    keys: Vec<Vec<u8>>,
    #[prost(uint64, tag = "4")]
    commit_version: u64,
}

#[derive(Clone, PartialEq, Message)]
struct CommitResponse {
    #[prost(message, optional, tag = "1")]
    region_error: Option<Anything>,
    #[prost(message, optional, tag = "2")]
    error: Option<Anything>,
}

/// What such a transaction writes.
pub(crate) const OF_THE_DEAD: &[u8] = b"of the dead";

/// How long PD may know of no leader: it hears of those of a region that was split just now with their next heartbeat.
const LEADER_WITHIN: Duration = Duration::from_secs(20);

/// The region that `key` is in, with its leader.
async fn region(endpoint: &str, cluster: u64, key: &[u8]) -> (Region, Peer) {
    let begun = Instant::now();
    loop {
        let ask = GetRegionRequest {
            header: Some(Header { cluster_id: cluster }),
            region_key: comparable(key),
        };
        let found: GetRegionResponse = call(&mut channel(endpoint).await, "/pdpb.PD/GetRegion", ask).await;
        if let (Some(region), Some(leader)) = (found.region, found.leader) {
            return (region, leader);
        }
        assert!(
            begun.elapsed() < LEADER_WITHIN,
            "no region with a leader has the key"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The id of the region that `key` is in.
pub(crate) async fn region_id(endpoint: &str, cluster: u64, key: &[u8]) -> u64 {
    region(endpoint, cluster, key).await.0.id
}

/// Locks `key` for a put of a transaction that starts now, whose primary lock is (to be) on `primary`. Gives its start.
pub(crate) async fn lock(endpoint: &str, cluster: u64, key: &Bytes, primary: &Bytes, ttl_ms: u64) -> u64 {
    let start_version = now(endpoint).await;
    assert!(
        try_lock(endpoint, cluster, (key, primary), start_version, ttl_ms).await,
        "the lock is taken"
    );
    start_version
}

/// Whether `key` can be locked for the transaction that started at `start_version`.
pub(crate) async fn try_lock(
    endpoint: &str,
    cluster: u64,
    (key, primary): (&Bytes, &Bytes),
    start_version: u64,
    ttl_ms: u64,
) -> bool {
    let (context, mut store) = at_store(endpoint, cluster, key).await;
    let prewrite = PrewriteRequest {
        context: Some(context),
        mutations: vec![Mutation {
            op: 0,
            key: key.to_vec(),
            value: OF_THE_DEAD.to_vec(),
        }],
        primary_lock: primary.to_vec(),
        start_version,
        lock_ttl: ttl_ms,
    };
    let answer: PrewriteResponse = call(&mut store, "/tikvpb.Tikv/KvPrewrite", prewrite).await;
    answer == PrewriteResponse::default()
}

/// Commits `key`, which is locked by the transaction that started at `start_version`.
pub(crate) async fn commit(endpoint: &str, cluster: u64, key: &Bytes, start_version: u64) {
    let commit_version = now(endpoint).await;
    let (context, mut store) = at_store(endpoint, cluster, key).await;
    let commit = CommitRequest {
        context: Some(context),
        start_version,
        keys: vec![key.to_vec()],
        commit_version,
    };
    let answer: CommitResponse = call(&mut store, "/tikvpb.Tikv/KvCommit", commit).await;
    assert_eq!(
        (answer.region_error, answer.error),
        (None, None),
        "it is committed"
    );
}

/// What a request to commit `primary` carries, of the transaction that started at `start_version`, and no other request does.
pub(crate) fn carried_by_a_commit(primary: &Bytes, start_version: u64) -> Vec<u8> {
    let commit = CommitRequest {
        start_version,
        keys: vec![primary.to_vec()],
        ..CommitRequest::default()
    };
    commit.encode_to_vec()
}

/// The time by PD's clock.
pub(crate) async fn now(endpoint: &str) -> u64 {
    let clock = TransactionClient::new(vec![endpoint]).await;
    let now = match clock {
        Ok(clock) => clock.current_timestamp().await.map(|at| at.version()),
        Err(error) => Err(error),
    };
    match now {
        Ok(now) => now,
        Err(error) => panic!("{endpoint} gives no timestamp: {error}"),
    }
}

/// What to say to whom about `key`.
async fn at_store(endpoint: &str, cluster: u64, key: &[u8]) -> (Context, Grpc<Channel>) {
    let (region, leader) = region(endpoint, cluster, key).await;
    let ask = GetStoreRequest {
        header: Some(Header { cluster_id: cluster }),
        store_id: leader.store_id,
    };
    let store: GetStoreResponse = call(&mut channel(endpoint).await, "/pdpb.PD/GetStore", ask).await;
    let store = channel(&store.store.unwrap_or_default().address).await;
    let context = Context {
        region_id: region.id,
        region_epoch: region.region_epoch,
        peer: Some(leader),
    };
    (context, store)
}

async fn channel(address: &str) -> Grpc<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    match endpoint {
        Ok(endpoint) => Grpc::new(endpoint.connect_lazy()),
        Err(error) => panic!("{address}: {error}"),
    }
}

async fn call<Q: Message + 'static, A: Message + Default + 'static>(
    grpc: &mut Grpc<Channel>,
    path: &'static str,
    request: Q,
) -> A {
    if let Err(error) = grpc.ready().await {
        panic!("{path}: {error}");
    }
    let path_and_query = PathAndQuery::from_static(path);
    match grpc
        .unary(Request::new(request), path_and_query, ProstCodec::default())
        .await
    {
        Ok(answer) => answer.into_inner(),
        Err(status) => panic!("{path}: {status}"),
    }
}

/// A key as PD orders them: groups of eight bytes, zeroes to fill the last one, and behind each group 255 less what was
/// filled (MyRocks' memory-comparable format).
fn comparable(key: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(key.len() / 8 * 9 + 9);
    let full = key.len() / 8;
    for group in 0..=full {
        let bytes = &key[group * 8..key.len().min(group * 8 + 8)];
        encoded.extend_from_slice(bytes);
        encoded.resize(group * 9 + 8, 0);
        let filled = u8::try_from(8 - bytes.len()).unwrap_or(8);
        encoded.push(255 - filled);
    }
    encoded
}
