//! The gateways a client knows of: descriptors it has verified itself, whoever told it.
//!
//! Two ages are apart: how old the list is (minutes, after which the LBS is asked again, and whatever is here is used
//! meanwhile), and how long a descriptor is to be trusted (days, said by the descriptor). Pure.

use std::time::Duration;

use bytes::Bytes;
use whimbrel_protocol::descriptor::{
    DESCRIPTOR_LEN_MAX, DescriptorError, GatewayDescriptor, KnownTime, RootPublicKey, Transport, verify_chain,
};
use whimbrel_protocol::keys::StaticPublicKey;
use whimbrel_protocol::suite::Suite;

/// Gateways kept at once: more than anybody tries, and what an LBS gone mad can make us verify.
pub(crate) const GATEWAYS_MAX: usize = 32;

/// How old a list may be when the LBS did not say, in milliseconds.
const REFRESH_AFTER_MS: u64 = 10 * 60_000;

/// Bounds of what the LBS may say, in milliseconds: it can neither make us ask all the time nor never again.
const REFRESH_AFTER_MIN_MS: u64 = 30_000;
const REFRESH_AFTER_MAX_MS: u64 = 24 * 3_600_000;

/// A gateway to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) node: String,
    /// `host:port`.
    pub(crate) endpoint: String,
}

#[derive(Debug, Clone)]
struct Known {
    bytes: Bytes,
    descriptor: GatewayDescriptor,
}

/// The gateways a client knows of. See the module.
#[derive(Debug)]
pub(crate) struct Directory {
    pins: Vec<RootPublicKey>,
    /// In the order to be tried.
    gateways: Vec<Known>,
    fresh_until: Option<Duration>,
}

impl Directory {
    pub(crate) fn new(pins: Vec<RootPublicKey>) -> Self {
        Self {
            pins,
            gateways: Vec::new(),
            fresh_until: None,
        }
    }

    /// Whether there is anybody to try.
    pub(crate) fn is_empty(&self) -> bool {
        self.gateways.is_empty()
    }

    /// Whether the LBS need not be asked.
    pub(crate) fn is_fresh(&self, now: Duration) -> bool {
        self.fresh_until.is_some_and(|until| now < until)
    }

    /// The list is to be asked for again, whatever its age.
    pub(crate) fn expire(&mut self) {
        self.fresh_until = None;
    }

    /// Takes in what the LBS says, in its order. What does not verify is left out; if nothing does, all stays as it was.
    ///
    /// # Errors
    /// The last reason why a descriptor was left out, when none was taken.
    pub(crate) fn take_list(
        &mut self,
        descriptors: &[Bytes],
        refresh_after_ms: u64,
        known_time: KnownTime,
        now: Duration,
    ) -> Result<(), NothingVerified> {
        let mut gateways: Vec<Known> = Vec::new();
        let mut why = None;
        for bytes in descriptors.iter().take(GATEWAYS_MAX) {
            match verify_chain(bytes, &self.pins, known_time) {
                Ok(descriptor) => {
                    // A list may be older than what the gateway itself has told since.
                    let newer = self.gateways.iter().find(|known| {
                        known.descriptor.statement.node == descriptor.statement.node
                            && known.descriptor.statement.not_before_ms > descriptor.statement.not_before_ms
                    });
                    gateways.push(newer.cloned().unwrap_or(Known {
                        bytes: bytes.clone(),
                        descriptor,
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "a gateway descriptor does not verify");
                    why = Some(error);
                }
            }
        }
        if gateways.is_empty() {
            return Err(NothingVerified(why));
        }
        self.gateways = gateways;
        let fresh_ms = match refresh_after_ms {
            0 => REFRESH_AFTER_MS,
            ms => ms.clamp(REFRESH_AFTER_MIN_MS, REFRESH_AFTER_MAX_MS),
        };
        self.fresh_until = Some(now.saturating_add(Duration::from_millis(fresh_ms)));
        Ok(())
    }

    /// Takes in what a gateway itself answered to a hello for a key it no longer has.
    ///
    /// # Errors
    /// When it does not verify or is of another node than `node`.
    pub(crate) fn take_current(
        &mut self,
        node: &str,
        bytes: Bytes,
        known_time: KnownTime,
    ) -> Result<(), StaleKeyError> {
        let descriptor = verify_chain(&bytes, &self.pins, known_time)?;
        if descriptor.statement.node.as_str() != node {
            return Err(StaleKeyError::OtherNode {
                asked: node.to_owned(),
                answered: descriptor.statement.node.to_string(),
            });
        }
        let same = |known: &&mut Known| known.descriptor.statement.node.as_str() == node;
        match self.gateways.iter_mut().find(same) {
            Some(known) if known.descriptor.statement.not_before_ms > descriptor.statement.not_before_ms => {
                return Err(StaleKeyError::Older);
            }
            Some(known) => *known = Known { bytes, descriptor },
            None => self.gateways.push(Known { bytes, descriptor }),
        }
        Ok(())
    }

    /// Whom to try, in order: those whose descriptor looks current by the device's clock before others, `avoid` last.
    pub(crate) fn candidates(&self, device_ms: u64, avoid: Option<&str>) -> Vec<Candidate> {
        let mut order: Vec<&Known> = self.gateways.iter().collect();
        order.sort_by_key(|known| {
            let statement = &known.descriptor.statement;
            (
                avoid == Some(statement.node.as_str()),
                !known.descriptor.looks_current_at(device_ms),
            )
        });
        let endpoints = |known: &Known, index: usize| {
            let endpoint = known.descriptor.endpoints(Transport::Tcp).nth(index)?;
            Some(Candidate {
                node: known.descriptor.statement.node.to_string(),
                endpoint: endpoint.to_owned(),
            })
        };
        // Every gateway's best endpoint before anybody's second one.
        let most = order
            .iter()
            .map(|known| known.descriptor.statement.addresses.len())
            .max()
            .unwrap_or(0);
        (0..most)
            .flat_map(|index| order.iter().filter_map(move |known| endpoints(known, index)))
            .collect()
    }

    /// What to say hello with.
    pub(crate) fn keys(&self, node: &str, preferred: &[Suite]) -> Option<(Suite, StaticPublicKey)> {
        let known = self
            .gateways
            .iter()
            .find(|known| known.descriptor.statement.node.as_str() == node)?;
        known.descriptor.choose(preferred)
    }

    /// How much of what `node` says the time is its descriptor vouches for.
    pub(crate) fn proven_time_ms(&self, node: &str, server_ms: u64) -> Option<u64> {
        let of_node = |known: &&Known| known.descriptor.statement.node.as_str() == node;
        let known = self.gateways.iter().find(of_node)?;
        Some(known.descriptor.proven_time_ms(server_ms))
    }

    /// The list to be kept on disk.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for known in &self.gateways {
            let len = u16::try_from(known.bytes.len()).unwrap_or(0);
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(known.bytes.get(..usize::from(len)).unwrap_or_default());
        }
        out
    }

    /// Takes in what was kept; it is verified like any other, and its age is unknown, so the LBS is asked again.
    pub(crate) fn restore(&mut self, kept: &[u8], known_time: KnownTime) {
        let mut descriptors = Vec::new();
        let mut rest = kept;
        while let Some((len, tail)) = rest.split_first_chunk::<2>() {
            let len = usize::from(u16::from_be_bytes(*len));
            let Some((bytes, tail)) = tail.split_at_checked(len).filter(|_| len <= DESCRIPTOR_LEN_MAX) else {
                break;
            };
            descriptors.push(Bytes::copy_from_slice(bytes));
            rest = tail;
        }
        if let Err(error) = self.take_list(&descriptors, 0, known_time, Duration::ZERO) {
            tracing::debug!(%error, "no gateway descriptor was kept that can be used");
        }
        self.expire();
    }
}

/// None of the descriptors offered can be used.
#[derive(Debug, thiserror::Error)]
#[error("no gateway descriptor verifies: {}", .0.as_ref().map_or_else(|| "none was given".to_owned(), ToString::to_string))]
pub(crate) struct NothingVerified(Option<DescriptorError>);

/// Why the descriptor in an answer is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StaleKeyError {
    /// It does not verify.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// It is somebody else's.
    #[error("the descriptor in the answer of {asked} is of {answered}")]
    OtherNode {
        /// Whom we asked.
        asked: String,
        /// Who it is about.
        answered: String,
    },
    /// It is older than the one we have: somebody replays it.
    #[error("the descriptor in the answer is older than the one that was tried")]
    Older,
}

#[cfg(test)]
mod tests;
