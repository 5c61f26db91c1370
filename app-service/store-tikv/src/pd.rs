//! What TiKV's client does not ask PD: which cluster it is, and safe points of services.
//!
//! The messages are the few fields of `pdpb.proto` that are used here; PD skips what it does not know and so do we.

use std::time::Duration;

use bytes::Bytes;
use prost_tikv::Message;
use tokio::time::timeout;
use tonic_tikv::client::Grpc;
use tonic_tikv::codec::ProstCodec;
use tonic_tikv::codegen::http::uri::PathAndQuery;
use tonic_tikv::transport::{Channel, Endpoint};
use tonic_tikv::{Request, Status};

use crate::limits::CONNECT_TIME_MAX;

/// The service whose safe point says what has been collected. PD knows it by this name and never lets it expire.
const GC_WORKER: &[u8] = b"gc_worker";

#[derive(Clone, PartialEq, Message)]
struct RequestHeader {
    #[prost(uint64, tag = "1")]
    cluster_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PdError {
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "1")]
    cluster_id: u64,
    #[prost(message, optional, tag = "2")]
    error: Option<PdError>,
}

#[derive(Clone, PartialEq, Message)]
struct Member {
    #[prost(string, repeated, tag = "4")]
    client_urls: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct GetMembersRequest {
    #[prost(message, optional, tag = "1")]
    header: Option<RequestHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct GetMembersResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(message, optional, tag = "3")]
    leader: Option<Member>,
}

#[derive(Clone, PartialEq, Message)]
struct UpdateServiceGcSafePointRequest {
    #[prost(message, optional, tag = "1")]
    header: Option<RequestHeader>,
    #[prost(bytes = "vec", tag = "2")]
    service_id: Vec<u8>,
    #[prost(int64, tag = "3")]
    ttl: i64,
    #[prost(uint64, tag = "4")]
    safe_point: u64,
}

#[derive(Clone, PartialEq, Message)]
struct UpdateServiceGcSafePointResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(bytes = "vec", tag = "2")]
    service_id: Vec<u8>,
    #[prost(uint64, tag = "4")]
    min_safe_point: u64,
}

#[derive(Clone, PartialEq, Message)]
struct GetGcSafePointRequest {
    #[prost(message, optional, tag = "1")]
    header: Option<RequestHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct GetGcSafePointResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "2")]
    safe_point: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Region {
    #[prost(bytes = "vec", tag = "3")]
    end_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct GetRegionRequest {
    #[prost(message, optional, tag = "1")]
    header: Option<RequestHeader>,
    #[prost(bytes = "vec", tag = "2")]
    region_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct GetRegionResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(message, optional, tag = "2")]
    region: Option<Region>,
}

/// Why PD could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum PdCallError {
    /// No endpoint answered; the last one's reason.
    #[error("no endpoint of {endpoints:?} answered: {last}")]
    Unreachable {
        /// Those tried.
        endpoints: Vec<String>,
        /// What the last one said.
        last: String,
    },
    /// PD answered with an error.
    #[error("PD refused {call}: {message}")]
    Refused {
        /// The call.
        call: &'static str,
        /// What PD said.
        message: String,
    },
}

/// The safe point that holds garbage back most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeastSafePoint {
    /// Whose it is.
    pub service: String,
    /// Nothing younger than this timestamp may be collected.
    pub point: u64,
}

/// PD's leader.
pub struct Pd {
    grpc: Grpc<Channel>,
    cluster: u64,
}

impl Pd {
    /// Finds the leader of the PD that `endpoints` belong to and connects to it.
    ///
    /// # Errors
    /// [`PdCallError::Unreachable`] when none answers within [`CONNECT_TIME_MAX`] each.
    pub async fn connect(endpoints: &[String]) -> Result<Self, PdCallError> {
        let mut last = "none is configured".to_owned();
        for endpoint in endpoints {
            match Self::by_way_of(endpoint).await {
                Ok(pd) => return Ok(pd),
                Err(why) => last = format!("{endpoint}: {why}"),
            }
        }
        Err(PdCallError::Unreachable {
            endpoints: endpoints.to_vec(),
            last,
        })
    }

    async fn by_way_of(endpoint: &str) -> Result<Self, String> {
        let mut member = channel(endpoint).await?;
        let members: GetMembersResponse = call(
            &mut member,
            "GetMembers",
            GetMembersRequest::default(),
            CONNECT_TIME_MAX,
        )
        .await
        .map_err(|status| status.message().to_owned())?;
        let header = members.header.unwrap_or_default();
        if let Some(error) = header.error {
            return Err(error.message);
        }
        let urls = members.leader.unwrap_or_default().client_urls;
        let mut why = "it knows no leader".to_owned();
        for url in urls {
            match channel(&url).await {
                Ok(grpc) => {
                    return Ok(Self {
                        grpc,
                        cluster: header.cluster_id,
                    });
                }
                Err(error) => why = format!("its leader {url}: {error}"),
            }
        }
        Err(why)
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    fn header(&self) -> Option<RequestHeader> {
        Some(RequestHeader {
            cluster_id: self.cluster,
        })
    }

    /// Says up to where the collector wants to collect, and learns who holds it back most.
    ///
    /// # Errors
    /// [`PdCallError::Refused`].
    pub async fn propose_collection(&mut self, point: u64) -> Result<LeastSafePoint, PdCallError> {
        self.set_service_safe_point(GC_WORKER, i64::MAX, point).await
    }

    /// Holds back garbage younger than `point` for `ttl_s` seconds in the name of `service`; zero lets go.
    ///
    /// # Errors
    /// [`PdCallError::Refused`].
    pub async fn set_service_safe_point(
        &mut self,
        service: &[u8],
        ttl_s: i64,
        point: u64,
    ) -> Result<LeastSafePoint, PdCallError> {
        const CALL: &str = "UpdateServiceGCSafePoint";
        let request = UpdateServiceGcSafePointRequest {
            header: self.header(),
            service_id: service.to_vec(),
            ttl: ttl_s,
            safe_point: point,
        };
        let answer: UpdateServiceGcSafePointResponse = call(&mut self.grpc, CALL, request, CONNECT_TIME_MAX)
            .await
            .map_err(|status| refused(CALL, &status))?;
        fine(CALL, answer.header)?;
        Ok(LeastSafePoint {
            service: String::from_utf8_lossy(&answer.service_id).into_owned(),
            point: answer.min_safe_point,
        })
    }

    /// Up to where old versions may be gone.
    ///
    /// # Errors
    /// [`PdCallError::Refused`].
    pub async fn collected_up_to(&mut self) -> Result<u64, PdCallError> {
        const CALL: &str = "GetGCSafePoint";
        let request = GetGcSafePointRequest {
            header: self.header(),
        };
        let answer: GetGcSafePointResponse = call(&mut self.grpc, CALL, request, CONNECT_TIME_MAX)
            .await
            .map_err(|status| refused(CALL, &status))?;
        fine(CALL, answer.header)?;
        Ok(answer.safe_point)
    }
}

impl Pd {
    /// Where the region that holds `key` ends: the first key behind it, or `None` when nothing is behind it, or the end is no key of a
    /// transaction's.
    ///
    /// # Errors
    /// [`PdCallError::Refused`], also when PD knows no such region.
    pub async fn region_end(&mut self, key: &[u8]) -> Result<Option<Bytes>, PdCallError> {
        const CALL: &str = "GetRegion";
        let request = GetRegionRequest {
            header: self.header(),
            region_key: memory_comparable(key),
        };
        let answer: GetRegionResponse = call(&mut self.grpc, CALL, request, CONNECT_TIME_MAX)
            .await
            .map_err(|status| refused(CALL, &status))?;
        fine(CALL, answer.header)?;
        let region = answer.region.ok_or_else(|| PdCallError::Refused {
            call: CALL,
            message: "no region holds the key".to_owned(),
        })?;
        Ok(from_memory_comparable(&region.end_key).map(Bytes::from))
    }
}

/// Bytes that a group holds where keys are cut into groups so that they compare as they are.
const GROUP_LEN: usize = 8;

/// A key as regions know it: groups of eight bytes, the last filled up with zeros, each behind it 255 less what was filled up.
fn memory_comparable(key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity((key.len() / GROUP_LEN + 1) * (GROUP_LEN + 1));
    let mut rest = key;
    loop {
        let (group, behind) = rest.split_at(rest.len().min(GROUP_LEN));
        let filled = GROUP_LEN - group.len();
        bytes.extend(group);
        bytes.extend(std::iter::repeat_n(0, filled));
        bytes.push(u8::MAX - u8::try_from(filled).expect("at most eight"));
        if filled > 0 {
            return bytes;
        }
        rest = behind;
    }
}

/// The key that [`memory_comparable`] made this of; `None` when it made it of none. A region may end inside of such a key: what
/// follows the last whole group is then passed over, which gives a key a little before that end.
fn from_memory_comparable(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(bytes.len());
    for group in bytes.chunks(GROUP_LEN + 1) {
        let Some((marker, group)) = group.split_last().filter(|(_, group)| group.len() == GROUP_LEN) else {
            break;
        };
        let filled = usize::from(u8::MAX - marker);
        key.extend(group.get(..GROUP_LEN.checked_sub(filled)?)?);
        if filled > 0 {
            break;
        }
    }
    (!key.is_empty()).then_some(key)
}

fn refused(call: &'static str, status: &Status) -> PdCallError {
    PdCallError::Refused {
        call,
        message: status.to_string(),
    }
}

fn fine(call: &'static str, header: Option<ResponseHeader>) -> Result<(), PdCallError> {
    match header.and_then(|header| header.error) {
        None => Ok(()),
        Some(error) => Err(PdCallError::Refused {
            call,
            message: error.message,
        }),
    }
}

async fn channel(endpoint: &str) -> Result<Grpc<Channel>, String> {
    let address = endpoint
        .strip_prefix("http://")
        .or_else(|| endpoint.strip_prefix("https://"))
        .unwrap_or(endpoint);
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIME_MAX);
    match timeout(CONNECT_TIME_MAX, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(Grpc::new(channel)),
        Ok(Err(error)) => Err(with_source(&error)),
        Err(_) => Err(format!("no answer within {CONNECT_TIME_MAX:?}")),
    }
}

/// tonic says "transport error" and hides the reason one level below.
fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_source(source)),
        None => error.to_string(),
    }
}

async fn call<Q, A>(
    grpc: &mut Grpc<Channel>,
    name: &'static str,
    request: Q,
    within: Duration,
) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let path = PathAndQuery::from_maybe_shared(format!("/pdpb.PD/{name}"))
        .expect("a method's name is a path of letters");
    let calling = async {
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(with_source(&error)))?;
        grpc.unary(Request::new(request), path, ProstCodec::default())
            .await
    };
    timeout(within, calling)
        .await
        .map_err(|_| Status::deadline_exceeded(format!("no answer within {within:?}")))?
        .map(tonic_tikv::Response::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_to_pd_as_regions_know_them() {
        // The examples of TiKV's own documentation of the encoding.
        assert_eq!(memory_comparable(&[]), [0, 0, 0, 0, 0, 0, 0, 0, 247]);
        assert_eq!(memory_comparable(&[1, 2, 3]), [1, 2, 3, 0, 0, 0, 0, 0, 250]);
        assert_eq!(
            memory_comparable(&[1, 2, 3, 4, 5, 6, 7, 8]),
            [1, 2, 3, 4, 5, 6, 7, 8, 255, 0, 0, 0, 0, 0, 0, 0, 0, 247]
        );
    }

    #[test]
    fn a_regions_end_is_read_as_a_key() {
        for len in 1..40u8 {
            let key: Vec<u8> = (0..len).collect();
            assert_eq!(from_memory_comparable(&memory_comparable(&key)), Some(key));
        }
        for none in [&[][..], &[1, 2, 3], &[1, 2, 3, 4, 5, 6, 7, 8, 9]] {
            assert_eq!(from_memory_comparable(none), None, "{none:?}");
        }
    }
}
