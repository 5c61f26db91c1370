//! Asking the LBS which gateways there are.
//!
//! It is believed in nothing: what it gives is verified by [`super::directory`].

use std::error::Error as _;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use super::dial;
use super::directory::GATEWAYS_MAX;
use super::race::DialError;

/// How long one LBS may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// The longest answer, in bytes: every descriptor at its longest, in base64, with room to spare.
const ANSWER_LEN_MAX: usize = 512 * 1024;

/// An LBS's answer.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) descriptors: Vec<Bytes>,
    pub(crate) refresh_after_ms: u64,
    /// What the LBS says the time is, 0 when it does not.
    pub(crate) server_time_ms: u64,
}

/// Why there is no listing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LbsError {
    /// The device has no network.
    #[error("no network on the way to {url}")]
    NoNetwork {
        /// Which LBS.
        url: String,
    },
    /// It could not be asked.
    #[error("{url} does not answer: {why}")]
    Unreachable {
        /// Which LBS.
        url: String,
        /// Why.
        why: String,
    },
    /// It said no.
    #[error("{url} answered {status}: {body}")]
    Refused {
        /// Which LBS.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        body: String,
    },
    /// Its answer is no listing.
    #[error("the answer of {url} is no list of gateways: {why}")]
    Malformed {
        /// Which LBS.
        url: String,
        /// Why.
        why: String,
    },
}

#[derive(Deserialize)]
struct Answer {
    gateways: Vec<Gateway>,
    #[serde(default)]
    refresh_after_s: u64,
    #[serde(default)]
    server_time_ms: u64,
}

#[derive(Deserialize)]
struct Gateway {
    descriptor: String,
}

/// Asks each of `urls` in turn until one answers.
pub(crate) async fn fetch(
    http: reqwest::Client,
    urls: Vec<String>,
    app_key: String,
) -> Result<Listing, LbsError> {
    let mut last = LbsError::Unreachable {
        url: String::new(),
        why: "no LBS is configured".to_owned(),
    };
    for url in urls {
        match fetch_one(&http, &url, &app_key).await {
            Ok(listing) => return Ok(listing),
            Err(error) => {
                tracing::debug!(%error, "an LBS gave no list");
                last = error;
            }
        }
    }
    Err(last)
}

async fn fetch_one(http: &reqwest::Client, url: &str, app_key: &str) -> Result<Listing, LbsError> {
    let target = format!("{}/v1/gateways?app_key={app_key}", url.trim_end_matches('/'));
    let failed = |error: &reqwest::Error| unreachable_why(url, error);
    let request = http.get(target).timeout(ANSWER_WITHIN).send();
    let mut response = request.await.map_err(|error| failed(&error))?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        if body.len() + chunk.len() > ANSWER_LEN_MAX {
            let why = format!("it is longer than {ANSWER_LEN_MAX} bytes");
            return Err(LbsError::Malformed {
                url: url.to_owned(),
                why,
            });
        }
        body.extend_from_slice(&chunk);
    }
    if !response.status().is_success() {
        let body = String::from_utf8_lossy(&body).chars().take(200).collect();
        return Err(LbsError::Refused {
            url: url.to_owned(),
            status: response.status().as_u16(),
            body,
        });
    }
    parse(url, &body)
}

fn parse(url: &str, body: &[u8]) -> Result<Listing, LbsError> {
    let malformed = |why: String| LbsError::Malformed {
        url: url.to_owned(),
        why,
    };
    let answer: Answer = serde_json::from_slice(body).map_err(|error| malformed(error.to_string()))?;
    let mut descriptors = Vec::new();
    let mut garbled = None;
    for gateway in answer.gateways.iter().take(GATEWAYS_MAX) {
        let text = gateway.descriptor.trim_end_matches('=');
        match data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()) {
            Ok(bytes) => descriptors.push(bytes.into()),
            Err(error) => garbled = Some(error),
        }
    }
    // One garbled descriptor says nothing against the others: each is believed for its own signatures.
    if let (true, Some(error)) = (descriptors.is_empty(), garbled) {
        return Err(malformed(format!("no descriptor is base64url: {error}")));
    }
    Ok(Listing {
        descriptors,
        refresh_after_ms: answer.refresh_after_s.saturating_mul(1000),
        server_time_ms: answer.server_time_ms,
    })
}

/// Tells "no network" from "refused" by the socket's own error, which lies somewhere below HTTP's.
fn unreachable_why(url: &str, error: &reqwest::Error) -> LbsError {
    let mut source = error.source();
    let mut why = error.to_string();
    while let Some(cause) = source {
        why = cause.to_string();
        if let Some(cause) = cause.downcast_ref::<io::Error>()
            && cause.raw_os_error().is_some()
            && dial::classify(cause) == DialError::NoNetwork
        {
            return LbsError::NoNetwork { url: url.to_owned() };
        }
        source = cause.source();
    }
    LbsError::Unreachable {
        url: url.to_owned(),
        why,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_with_what_it_adds_in_later_versions() {
        let body = br#"{"gateways":[{"node":"g1","descriptor":"AQID","addresses":[]},{"descriptor":"_-8="}],
            "server_time_ms":5,"refresh_after_s":300,"later":true}"#;
        let listing = parse("u", body).unwrap();
        assert_eq!(listing.descriptors, [&[1_u8, 2, 3][..], &[0xff, 0xef]]);
        assert_eq!(listing.refresh_after_ms, 300_000);
        assert_eq!(listing.server_time_ms, 5);
    }

    #[test]
    fn one_garbled_descriptor_does_not_hide_the_others() {
        let body = br#"{"gateways":[{"descriptor":"%%"},{"descriptor":"AQID"}]}"#;
        assert_eq!(parse("u", body).unwrap().descriptors, [&[1_u8, 2, 3][..]]);
    }

    #[test]
    fn nonsense_is_named() {
        for body in [&b"<html>"[..], b"{}", br#"{"gateways":[{"descriptor":"%%"}]}"#] {
            assert!(matches!(parse("u", body), Err(LbsError::Malformed { .. })));
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_not_taken_for_a_missing_network() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let urls = vec![format!("http://{closed}")];
        let error = fetch(reqwest::Client::new(), urls, "demo".into())
            .await
            .unwrap_err();
        assert!(matches!(error, LbsError::Unreachable { .. }), "{error}");
    }
}
