//! The layout of descriptors, written. Numbers are big-endian.
//!
//! ```text
//! descriptor  = format(1) = 1 | length(2) signed certificate | length(2) signed statement
//! signed      = length(2) payload | count(1) count x { key id(4) | algorithm(1) | length(2) signature }
//! certificate = length(1) node | algorithm(1) = 1 | length(2) identity key | not before(8) | not after(8)
//! statement   = length(1) node | not before(8) | not after(8)
//!             | count(1) versions | count(1) suites
//!             | count(1) count x { algorithm(1) | key id(4) | not after(8) | length(2) key }
//!             | length(1) TLS key hash (0 or 32)
//!             | count(1) count x { transport(1) | length(2) endpoint }
//! ```
//! Bytes behind a payload's last field belong to later versions and are passed over, signed all the same.

use super::{
    Address, CERTIFICATE_LIFE_MAX_MS, Certificate, ENDPOINT_LEN_MAX, ExchangeKey, LIST_LEN_MAX,
    STATEMENT_LIFE_MAX_MS, SignedPart, Statement,
};
use crate::answer::ANSWER_BODY_LEN_MAX;
use crate::ids::NodeId;
use crate::keys::KeyId;

/// The longest descriptor, in bytes: one that fits a stale-key answer.
pub const DESCRIPTOR_LEN_MAX: usize = ANSWER_BODY_LEN_MAX;

/// The layout's number.
pub(super) const FORMAT: u8 = 1;

/// Ed25519, in signatures and identity keys.
pub(super) const ED25519: u8 = 1;

/// Why something cannot be described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescribeError {
    /// A value's length is out of its bounds.
    #[error("{what} is {len} long, expected {least} to {most}")]
    OutOfBounds {
        /// Which value.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The least.
        least: usize,
        /// The most.
        most: usize,
    },
    /// It would hold for longer than verifiers permit, or end before it begins.
    #[error("the {part} holds for {life_ms} ms, expected 1 to {most_ms}")]
    Life {
        /// Which part.
        part: SignedPart,
        /// For how long; 0 when it ends before it begins.
        life_ms: u64,
        /// The most.
        most_ms: u64,
    },
}

pub(super) fn certificate_payload(certificate: &Certificate) -> Result<Vec<u8>, DescribeError> {
    let Certificate {
        node,
        identity,
        not_before_ms,
        not_after_ms,
    } = certificate;
    check_life(
        SignedPart::Certificate,
        *not_before_ms,
        *not_after_ms,
        CERTIFICATE_LIFE_MAX_MS,
    )?;
    let mut out = Vec::new();
    put_node(node, &mut out);
    out.push(ED25519);
    put_u16_bytes("the identity key", &identity.0, 32, &mut out)?;
    out.extend_from_slice(&not_before_ms.to_be_bytes());
    out.extend_from_slice(&not_after_ms.to_be_bytes());
    Ok(out)
}

pub(super) fn statement_payload(statement: &Statement) -> Result<Vec<u8>, DescribeError> {
    let Statement {
        node,
        not_before_ms,
        not_after_ms,
        versions,
        suites,
        keys,
        tls_key_sha256,
        addresses,
    } = statement;
    check_life(
        SignedPart::Statement,
        *not_before_ms,
        *not_after_ms,
        STATEMENT_LIFE_MAX_MS,
    )?;
    let mut out = Vec::new();
    put_node(node, &mut out);
    out.extend_from_slice(&not_before_ms.to_be_bytes());
    out.extend_from_slice(&not_after_ms.to_be_bytes());
    put_count("the list of versions", versions.len(), &mut out)?;
    out.extend_from_slice(versions);
    put_count("the list of suites", suites.len(), &mut out)?;
    out.extend_from_slice(suites);
    put_count("the list of keys", keys.len(), &mut out)?;
    for ExchangeKey {
        algorithm,
        id,
        not_after_ms,
        public,
    } in keys
    {
        out.push(*algorithm);
        out.extend_from_slice(&id.0);
        out.extend_from_slice(&not_after_ms.to_be_bytes());
        put_u16_bytes("a key", public, DESCRIPTOR_LEN_MAX, &mut out)?;
    }
    match tls_key_sha256 {
        Some(hash) => {
            out.push(32);
            out.extend_from_slice(hash);
        }
        None => out.push(0),
    }
    put_count("the list of addresses", addresses.len(), &mut out)?;
    for Address { transport, endpoint } in addresses {
        out.push(transport.number());
        put_u16_bytes("an endpoint", endpoint.as_bytes(), ENDPOINT_LEN_MAX, &mut out)?;
    }
    Ok(out)
}

/// A payload with one Ed25519 signature.
pub(super) fn signed(payload: &[u8], signer: KeyId, signature: &[u8]) -> Result<Vec<u8>, DescribeError> {
    let mut out = Vec::new();
    put_u16_bytes("a signed payload", payload, DESCRIPTOR_LEN_MAX, &mut out)?;
    out.push(1);
    out.extend_from_slice(&signer.0);
    out.push(ED25519);
    put_u16_bytes("a signature", signature, DESCRIPTOR_LEN_MAX, &mut out)?;
    Ok(out)
}

/// Joins a signed certificate and a signed statement to a descriptor. It checks sizes only; to be sure that clients will
/// take it, pass it through [`super::verify_chain`].
///
/// # Errors
/// When the descriptor would not fit a stale-key answer.
pub fn assemble(certificate: &[u8], statement: &[u8]) -> Result<Vec<u8>, DescribeError> {
    let mut out = vec![FORMAT];
    put_u16_bytes("a signed certificate", certificate, DESCRIPTOR_LEN_MAX, &mut out)?;
    put_u16_bytes("a signed statement", statement, DESCRIPTOR_LEN_MAX, &mut out)?;
    check_len("the descriptor", out.len(), 1, DESCRIPTOR_LEN_MAX)?;
    Ok(out)
}

fn check_life(
    part: SignedPart,
    not_before_ms: u64,
    not_after_ms: u64,
    most_ms: u64,
) -> Result<(), DescribeError> {
    let life_ms = not_after_ms.saturating_sub(not_before_ms);
    if life_ms == 0 || life_ms > most_ms {
        return Err(DescribeError::Life {
            part,
            life_ms,
            most_ms,
        });
    }
    Ok(())
}

fn check_len(what: &'static str, len: usize, least: usize, most: usize) -> Result<(), DescribeError> {
    if len < least || len > most {
        return Err(DescribeError::OutOfBounds {
            what,
            len,
            least,
            most,
        });
    }
    Ok(())
}

fn put_node(node: &NodeId, out: &mut Vec<u8>) {
    out.push(u8::try_from(node.as_str().len()).expect("a node's name is at most 64 bytes"));
    out.extend_from_slice(node.as_str().as_bytes());
}

fn put_count(what: &'static str, len: usize, out: &mut Vec<u8>) -> Result<(), DescribeError> {
    check_len(what, len, 1, LIST_LEN_MAX)?;
    out.push(u8::try_from(len).expect("16 fits a byte"));
    Ok(())
}

fn put_u16_bytes(
    what: &'static str,
    bytes: &[u8],
    most: usize,
    out: &mut Vec<u8>,
) -> Result<(), DescribeError> {
    check_len(what, bytes.len(), 1, most)?;
    out.extend_from_slice(
        &u16::try_from(bytes.len())
            .expect("the bounds fit 16 bits")
            .to_be_bytes(),
    );
    out.extend_from_slice(bytes);
    Ok(())
}
