//! Verifying descriptors: layout, signatures, names, dates, in this order.

use super::encode::{ED25519, FORMAT};
use super::signing::SIGNATURE_LEN;
use super::{
    Address, CERTIFICATE_LIFE_MAX_MS, CLOCK_SKEW_MS, Certificate, DESCRIPTOR_LEN_MAX, ENDPOINT_LEN_MAX,
    ExchangeKey, GatewayDescriptor, IdentityPublicKey, LIST_LEN_MAX, RootPublicKey, STATEMENT_LIFE_MAX_MS,
    SignedPart, Statement, Transport,
};
use crate::ids::NodeId;
use crate::keys::{KEY_LEN, KeyId};
use crate::utc::Utc;
use crate::wire::Cursor;

/// What a verifier knows about the time. A device's clock alone is no knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownTime {
    /// Nothing: no date is judged.
    Unknown,
    /// It is at least this late, in Unix milliseconds: expiry is judged, the beginning is not.
    ///
    /// Such a floor only ever rises: the time the client was built, the newest [`GatewayDescriptor::proven_time_ms`] of any
    /// login (kept on disk), and, for the run of the process only, the time the LBS gave.
    AtLeast(u64),
    /// It is this time, in Unix milliseconds, give or take [`CLOCK_SKEW_MS`]: a server under NTP, or a client that adds
    /// a monotonic clock to the server time of a login in this run.
    Exactly(u64),
}

/// Why a descriptor is not believed. The client passes on to the next one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// Longer than any descriptor.
    #[error("the descriptor is {len} bytes long, the most is {DESCRIPTOR_LEN_MAX}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// A layout this build does not know.
    #[error("the descriptor is of format {format}, this build reads {FORMAT}: update the client")]
    UnknownFormat {
        /// Its number.
        format: u8,
    },
    /// Some part is cut or over a bound.
    #[error("the descriptor's {part} is malformed at its {field}: it was cut or altered on the way")]
    Malformed {
        /// Which part.
        part: SignedPart,
        /// Which field.
        field: &'static str,
    },
    /// No signature names a pinned root.
    #[error(
        "no pinned root signed the certificate, its signers are [{}]: pin the deployment's `root_key`",
        join(found)
    )]
    UnknownRoot {
        /// The key ids that signed.
        found: Vec<KeyId>,
    },
    /// The statement names another signer than the certificate.
    #[error("the statement is not signed by the certified identity {identity}")]
    UnknownIdentity {
        /// The identity that should have.
        identity: KeyId,
    },
    /// A signature does not fit.
    #[error("the {part}'s signature by {signer} does not fit its bytes: it was altered, or is not theirs")]
    BadSignature {
        /// Which part.
        part: SignedPart,
        /// Who is said to have signed.
        signer: KeyId,
    },
    /// Certificate and statement are of different nodes.
    #[error("the certificate is for node `{certified}`, the statement for `{stated}`")]
    NodeMismatch {
        /// The certificate's.
        certified: NodeId,
        /// The statement's.
        stated: NodeId,
    },
    /// It holds for longer than anything may, or ends before it begins.
    #[error("the {part} holds from {} to {}, longer than the {} h permitted or not at all",
        Utc(*not_before_ms), Utc(*not_after_ms), most_ms / 3_600_000)]
    Life {
        /// Which part.
        part: SignedPart,
        /// Its beginning.
        not_before_ms: u64,
        /// Its end.
        not_after_ms: u64,
        /// The longest life permitted.
        most_ms: u64,
    },
    /// The statement was made when its certificate did not hold.
    #[error("the statement was made at {}, its certificate holds from {} to {}: the gateway needs a new certificate",
        Utc(*made_ms), Utc(*not_before_ms), Utc(*not_after_ms))]
    OutsideCertificate {
        /// The statement's beginning.
        made_ms: u64,
        /// The certificate's beginning.
        not_before_ms: u64,
        /// The certificate's end.
        not_after_ms: u64,
    },
    /// Past its date.
    #[error("the {part} ended at {}, and it is at least {}: ask the LBS for a newer descriptor",
        Utc(*not_after_ms), Utc(*known_ms))]
    Expired {
        /// Which part.
        part: SignedPart,
        /// Its end.
        not_after_ms: u64,
        /// The time it was judged by.
        known_ms: u64,
    },
    /// Before its date, by a clock that is known to be right.
    #[error("the {part} begins at {}, and it is {}: check the clock of the gateway or of the signer",
        Utc(*not_before_ms), Utc(*known_ms))]
    NotYetValid {
        /// Which part.
        part: SignedPart,
        /// Its beginning.
        not_before_ms: u64,
        /// The time it was judged by.
        known_ms: u64,
    },
}

fn join(ids: &[KeyId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Verifies a descriptor against the pinned roots: signatures, names, and dates as far as the time is known.
///
/// **A wrong clock locks nobody out**, because no clock of the device's is asked. With [`KnownTime::AtLeast`] an expired
/// statement is refused exactly when it had expired by a moment that is certainly past. What that leaves an attacker who
/// stole a gateway's X25519 key *after* its statement expired, and who controls the client's network: a client whose
/// floor lies before that expiry, one that has neither been built, nor logged in, nor heard from an LBS since. Against
/// such a client he can play that gateway until its next login elsewhere raises the floor; he gets the short-lived
/// token of that login, and nothing of earlier sessions (their keys were ephemeral). Callers narrow this further by
/// preferring descriptors that look current by the device's clock ([`GatewayDescriptor::looks_current_at`]) and, per
/// node, the newest statement seen; neither can lock anybody out.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify_chain(
    bytes: &[u8],
    pins: &[RootPublicKey],
    known_time: KnownTime,
) -> Result<GatewayDescriptor, DescriptorError> {
    if bytes.len() > DESCRIPTOR_LEN_MAX {
        return Err(DescriptorError::TooLong { len: bytes.len() });
    }
    let malformed = |part, field| DescriptorError::Malformed { part, field };
    let mut cursor = Cursor::new(bytes);
    let format = cursor.u8().ok_or(malformed(SignedPart::Certificate, "format"))?;
    if format != FORMAT {
        return Err(DescriptorError::UnknownFormat { format });
    }
    let certificate = cursor
        .bytes_u16()
        .ok_or(malformed(SignedPart::Certificate, "length"))?;
    let statement = cursor
        .bytes_u16()
        .ok_or(malformed(SignedPart::Statement, "length"))?;
    if !cursor.rest().is_empty() {
        return Err(malformed(SignedPart::Statement, "end"));
    }

    let signed = Signed::parse(SignedPart::Certificate, certificate)?;
    let root = signed.verify_by_root(pins)?;
    let certificate = parse_certificate(signed.payload).map_err(|field| DescriptorError::Malformed {
        part: SignedPart::Certificate,
        field,
    })?;

    let signed = Signed::parse(SignedPart::Statement, statement)?;
    signed.verify_by_identity(&certificate.identity)?;
    let statement = parse_statement(signed.payload).map_err(|field| DescriptorError::Malformed {
        part: SignedPart::Statement,
        field,
    })?;

    if statement.node != certificate.node {
        return Err(DescriptorError::NodeMismatch {
            certified: certificate.node,
            stated: statement.node,
        });
    }
    let (from, until) = (certificate.not_before_ms, certificate.not_after_ms);
    check_dates(
        SignedPart::Certificate,
        from,
        until,
        CERTIFICATE_LIFE_MAX_MS,
        known_time,
    )?;
    let (from, until) = (statement.not_before_ms, statement.not_after_ms);
    check_dates(
        SignedPart::Statement,
        from,
        until,
        STATEMENT_LIFE_MAX_MS,
        known_time,
    )?;
    let made_ms = statement.not_before_ms;
    let earliest_ms = certificate.not_before_ms.saturating_sub(CLOCK_SKEW_MS);
    let latest_ms = certificate.not_after_ms.saturating_add(CLOCK_SKEW_MS);
    if !(earliest_ms..=latest_ms).contains(&made_ms) {
        return Err(DescriptorError::OutsideCertificate {
            made_ms,
            not_before_ms: certificate.not_before_ms,
            not_after_ms: certificate.not_after_ms,
        });
    }
    Ok(GatewayDescriptor {
        statement,
        certificate_not_after_ms: certificate.not_after_ms,
        root,
    })
}

/// Reads a signed certificate **without verifying it**: for its own gateway, to see at start whether its identity key,
/// name and dates fit before it signs statements that no client would take.
///
/// # Errors
/// When it does not parse.
pub fn inspect_certificate(signed: &[u8]) -> Result<Certificate, DescriptorError> {
    let signed = Signed::parse(SignedPart::Certificate, signed)?;
    parse_certificate(signed.payload).map_err(|field| DescriptorError::Malformed {
        part: SignedPart::Certificate,
        field,
    })
}

fn check_dates(
    part: SignedPart,
    not_before_ms: u64,
    not_after_ms: u64,
    most_ms: u64,
    known_time: KnownTime,
) -> Result<(), DescriptorError> {
    let life_ms = not_after_ms.saturating_sub(not_before_ms);
    if life_ms == 0 || life_ms > most_ms {
        return Err(DescriptorError::Life {
            part,
            not_before_ms,
            not_after_ms,
            most_ms,
        });
    }
    let (floor_ms, now_ms) = match known_time {
        KnownTime::Unknown => (None, None),
        KnownTime::AtLeast(ms) => (Some(ms), None),
        KnownTime::Exactly(ms) => (Some(ms), Some(ms)),
    };
    if let Some(known_ms) = floor_ms.filter(|ms| *ms > not_after_ms.saturating_add(CLOCK_SKEW_MS)) {
        return Err(DescriptorError::Expired {
            part,
            not_after_ms,
            known_ms,
        });
    }
    if let Some(known_ms) = now_ms.filter(|ms| ms.saturating_add(CLOCK_SKEW_MS) < not_before_ms) {
        return Err(DescriptorError::NotYetValid {
            part,
            not_before_ms,
            known_ms,
        });
    }
    Ok(())
}

/// A payload and who is said to have signed it.
struct Signed<'a> {
    part: SignedPart,
    payload: &'a [u8],
    signatures: Vec<(KeyId, &'a [u8])>,
}

impl<'a> Signed<'a> {
    fn parse(part: SignedPart, bytes: &'a [u8]) -> Result<Self, DescriptorError> {
        let malformed = |field| DescriptorError::Malformed { part, field };
        let mut cursor = Cursor::new(bytes);
        let payload = cursor.bytes_u16().ok_or(malformed("payload"))?;
        let count = cursor
            .u8()
            .map(usize::from)
            .filter(|count| *count <= LIST_LEN_MAX);
        let mut signatures = Vec::new();
        for _ in 0..count.ok_or(malformed("number of signatures"))? {
            let (id, algorithm, signature) = (cursor.array().map(KeyId), cursor.u8(), cursor.bytes_u16());
            let (Some(id), Some(algorithm), Some(signature)) = (id, algorithm, signature) else {
                return Err(malformed("signatures"));
            };
            // Signatures of other algorithms are for other builds.
            if algorithm == ED25519 && signature.len() == SIGNATURE_LEN {
                signatures.push((id, signature));
            }
        }
        if !cursor.rest().is_empty() {
            return Err(malformed("end"));
        }
        Ok(Self {
            part,
            payload,
            signatures,
        })
    }

    /// One good signature by a pinned root is enough, so that a root can be replaced by signing with both.
    fn verify_by_root(&self, pins: &[RootPublicKey]) -> Result<RootPublicKey, DescriptorError> {
        let mut bad = None;
        for (signer, signature) in &self.signatures {
            for pin in pins.iter().filter(|pin| pin.id() == *signer) {
                if pin.verifies(self.part, self.payload, signature) {
                    return Ok(*pin);
                }
                bad = Some(*signer);
            }
        }
        Err(match bad {
            Some(signer) => DescriptorError::BadSignature {
                part: self.part,
                signer,
            },
            None => DescriptorError::UnknownRoot {
                found: self.signatures.iter().map(|(id, _)| *id).collect(),
            },
        })
    }

    fn verify_by_identity(&self, identity: &IdentityPublicKey) -> Result<(), DescriptorError> {
        let signer = identity.id();
        let mut named = self.signatures.iter().filter(|(id, _)| *id == signer).peekable();
        if named.peek().is_none() {
            return Err(DescriptorError::UnknownIdentity { identity: signer });
        }
        if named.any(|(_, signature)| identity.verifies(self.part, self.payload, signature)) {
            return Ok(());
        }
        Err(DescriptorError::BadSignature {
            part: self.part,
            signer,
        })
    }
}

/// Reads a certificate; the error names the field.
fn parse_certificate(payload: &[u8]) -> Result<Certificate, &'static str> {
    let mut cursor = Cursor::new(payload);
    let node = node(&mut cursor)?;
    if cursor.u8() != Some(ED25519) {
        return Err("algorithm");
    }
    let identity = cursor
        .bytes_u16()
        .and_then(|key| <[u8; KEY_LEN]>::try_from(key).ok())
        .ok_or("identity key")?;
    Ok(Certificate {
        node,
        identity: IdentityPublicKey(identity),
        not_before_ms: cursor.u64().ok_or("beginning")?,
        not_after_ms: cursor.u64().ok_or("end date")?,
    })
}

/// Reads a statement; the error names the field.
fn parse_statement(payload: &[u8]) -> Result<Statement, &'static str> {
    let mut cursor = Cursor::new(payload);
    let node = node(&mut cursor)?;
    let not_before_ms = cursor.u64().ok_or("beginning")?;
    let not_after_ms = cursor.u64().ok_or("end date")?;
    let versions = list(&mut cursor)
        .and_then(|count| cursor.take(count))
        .ok_or("versions")?
        .to_vec();
    let suites = list(&mut cursor)
        .and_then(|count| cursor.take(count))
        .ok_or("suites")?
        .to_vec();
    let keys = (0..list(&mut cursor).ok_or("keys")?)
        .map(|_| exchange_key(&mut cursor))
        .collect::<Option<_>>();
    let keys = keys.ok_or("keys")?;
    let tls_key_sha256 = match cursor.bytes_u8().ok_or("TLS key hash")? {
        [] => None,
        hash => Some(hash.try_into().map_err(|_| "TLS key hash")?),
    };
    let addresses = (0..list(&mut cursor).ok_or("addresses")?)
        .map(|_| address(&mut cursor))
        .collect::<Option<_>>();
    let addresses = addresses.ok_or("addresses")?;
    Ok(Statement {
        node,
        not_before_ms,
        not_after_ms,
        versions,
        suites,
        keys,
        tls_key_sha256,
        addresses,
    })
}

fn node(cursor: &mut Cursor<'_>) -> Result<NodeId, &'static str> {
    let name = cursor.bytes_u8().and_then(|name| str::from_utf8(name).ok());
    name.and_then(|name| NodeId::new(name).ok()).ok_or("node name")
}

fn list(cursor: &mut Cursor<'_>) -> Option<usize> {
    cursor
        .u8()
        .map(usize::from)
        .filter(|count| (1..=LIST_LEN_MAX).contains(count))
}

fn exchange_key(cursor: &mut Cursor<'_>) -> Option<ExchangeKey> {
    Some(ExchangeKey {
        algorithm: cursor.u8()?,
        id: KeyId(cursor.array()?),
        not_after_ms: cursor.u64()?,
        public: cursor.bytes_u16()?.to_vec(),
    })
}

fn address(cursor: &mut Cursor<'_>) -> Option<Address> {
    let transport = Transport::from_number(cursor.u8()?);
    let endpoint = cursor
        .bytes_u16()
        .filter(|endpoint| endpoint.len() <= ENDPOINT_LEN_MAX)?;
    Some(Address {
        transport,
        endpoint: str::from_utf8(endpoint).ok()?.to_owned(),
    })
}

/// Payloads are read only behind a good signature, so these tests reach them from inside: a careless signer must not
/// be able to make a verifier panic.
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::{parse_certificate, parse_statement};
    use crate::descriptor::encode::{certificate_payload, statement_payload};
    use crate::descriptor::{Address, Certificate, ExchangeKey, IdentityPublicKey, Statement, Transport};
    use crate::ids::NodeId;
    use crate::keys::StaticPublicKey;

    fn statement() -> Statement {
        Statement {
            node: NodeId::new("g").unwrap(),
            not_before_ms: 1,
            not_after_ms: 2,
            versions: vec![1],
            suites: vec![1, 2],
            keys: vec![ExchangeKey::x25519(StaticPublicKey([7; 32]), 2)],
            tls_key_sha256: None,
            addresses: vec![Address {
                transport: Transport::Quic,
                endpoint: "h:1".to_owned(),
            }],
        }
    }

    #[test]
    fn a_payload_cut_anywhere_is_refused_and_a_longer_one_is_a_later_versions() {
        let payload = statement_payload(&statement()).unwrap();
        for cut in 0..payload.len() {
            assert!(parse_statement(&payload[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(
            parse_statement(&[&payload[..], b"later"].concat()),
            Ok(statement())
        );

        let certificate = Certificate {
            node: NodeId::new("g").unwrap(),
            identity: IdentityPublicKey([7; 32]),
            not_before_ms: 1,
            not_after_ms: 2,
        };
        let payload = certificate_payload(&certificate).unwrap();
        for cut in 0..payload.len() {
            assert!(parse_certificate(&payload[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(
            parse_certificate(&[&payload[..], b"later"].concat()),
            Ok(certificate)
        );
    }

    proptest! {
        #[test]
        fn random_and_altered_payloads_are_read_or_refused(
            bytes: Vec<u8>,
            at: prop::sample::Index,
            with: u8,
        ) {
            let _ = (parse_statement(&bytes), parse_certificate(&bytes));
            let mut payload = statement_payload(&statement()).unwrap();
            let at = at.index(payload.len());
            payload[at] = with;
            let _ = parse_statement(&payload);
        }
    }
}
