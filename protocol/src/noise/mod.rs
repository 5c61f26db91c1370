//! Noise_NK over any prologue: snow runs the pattern, aws-lc-rs does the arithmetic.
//!
//! Hellos, answers and padding are added by [`crate::handshake`]; this layer exists by itself so that it can be held
//! to the vectors other implementations of Noise publish.

pub mod link;
mod resolver;

use std::fmt;

use zeroize::{Zeroize as _, Zeroizing};

use crate::entropy::{self, Entropy};
use crate::keys::{StaticKey, StaticPublicKey};
use crate::record::DirectionKey;
use crate::session_keys::SessionKeys;
use crate::side::Side;
use crate::suite::Suite;

/// The authentication tag of both suites, in bytes.
pub const TAG_LEN: usize = 16;

/// What an encrypted handshake message adds to its payload, in bytes: an ephemeral key and a tag.
pub const MESSAGE_OVERHEAD: usize = 48;

/// Noise refused a message.
///
/// It deliberately does not say more: which step failed is of use to an attacker only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the handshake message is not authentic: it was altered, cut, or made for another key")]
pub struct NotAuthentic;

/// The initiator between message 1 and message 2.
pub struct InitiatorState {
    suite: Suite,
    state: Box<snow::HandshakeState>,
}

/// The responder between message 1 and message 2.
pub struct ResponderState {
    suite: Suite,
    state: Box<snow::HandshakeState>,
}

/// Appends message 1 with `payload` to `out`.
///
/// Draws 32 bytes from `entropy`: the ephemeral secret.
///
/// # Panics
/// When the payload does not fit a Noise message (65,535 bytes with its overhead); hellos are far shorter.
pub fn initiate(
    suite: Suite,
    prologue: &[u8],
    responder: &StaticPublicKey,
    payload: &[u8],
    entropy: &mut dyn Entropy,
    out: &mut Vec<u8>,
) -> InitiatorState {
    let resolver = resolver::Resolver::new(suite, entropy::draw(entropy), None);
    let mut state = Box::new(
        builder(suite, resolver)
            .prologue(prologue)
            .and_then(|builder| builder.remote_public_key(&responder.0))
            .and_then(snow::Builder::build_initiator)
            .expect("the pattern, its primitives and one remote key are all given"),
    );
    write(&mut state, payload, out);
    InitiatorState { suite, state }
}

impl InitiatorState {
    /// Opens message 2: the keys of the session and the responder's payload.
    ///
    /// # Errors
    /// When the message is not the responder's.
    pub fn read(mut self, message: &[u8]) -> Result<(SessionKeys, Vec<u8>), NotAuthentic> {
        let payload = read(&mut self.state, message)?;
        Ok((split(&mut self.state, self.suite, Side::Client), payload))
    }
}

/// Opens message 1 with the responder's key: the state that can answer, and the initiator's payload.
///
/// Draws 32 bytes from `entropy`: the ephemeral secret of message 2.
///
/// # Errors
/// When the message was not made for this key, suite and prologue.
pub fn respond(
    suite: Suite,
    prologue: &[u8],
    key: &StaticKey,
    message: &[u8],
    entropy: &mut dyn Entropy,
) -> Result<(ResponderState, Vec<u8>), NotAuthentic> {
    let resolver = resolver::Resolver::new(suite, entropy::draw(entropy), Some(key.clone()));
    let mut state = Box::new(
        builder(suite, resolver)
            .prologue(prologue)
            .and_then(|builder| builder.local_private_key(key.secret()))
            .and_then(snow::Builder::build_responder)
            .expect("the pattern, its primitives and one local key are all given"),
    );
    let payload = read(&mut state, message)?;
    Ok((ResponderState { suite, state }, payload))
}

impl ResponderState {
    /// Appends message 2 with `payload` to `out`; the session's keys are ready with it.
    ///
    /// # Panics
    /// When the payload does not fit a Noise message (65,535 bytes with its overhead); answers are far shorter.
    #[must_use]
    pub fn write(mut self, payload: &[u8], out: &mut Vec<u8>) -> SessionKeys {
        write(&mut self.state, payload, out);
        split(&mut self.state, self.suite, Side::Server)
    }
}

impl fmt::Debug for InitiatorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InitiatorState")
            .field("suite", &self.suite)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponderState")
            .field("suite", &self.suite)
            .finish_non_exhaustive()
    }
}

fn builder<'a>(suite: Suite, resolver: resolver::Resolver) -> snow::Builder<'a> {
    let params = suite
        .noise_name()
        .parse()
        .expect("our suites are named as Noise names them");
    snow::Builder::with_resolver(params, Box::new(resolver))
}

fn write(state: &mut snow::HandshakeState, payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let lens = [MESSAGE_OVERHEAD, payload.len()];
    out.resize(lens.into_iter().fold(start, usize::saturating_add), 0);
    let (before, message) = out.split_at_mut(start);
    let written = state
        .write_message(payload, message)
        .expect("it is our turn, and a payload bounded by a hello or an answer fits a Noise message");
    let len = before.len().saturating_add(written);
    out.truncate(len);
}

fn read(state: &mut snow::HandshakeState, message: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
    let payload_len = message.len().checked_sub(MESSAGE_OVERHEAD).ok_or(NotAuthentic)?;
    let mut payload = vec![0; payload_len];
    let read = state
        .read_message(message, &mut payload)
        .map_err(|_| NotAuthentic)?;
    payload.truncate(read);
    Ok(payload)
}

fn split(state: &mut snow::HandshakeState, suite: Suite, side: Side) -> SessionKeys {
    let (mut to_server, mut to_client) = state.dangerously_get_raw_split();
    let (upward, downward) = (DirectionKey::new(to_server), DirectionKey::new(to_client));
    to_server.zeroize();
    to_client.zeroize();
    let (send, receive) = match side {
        Side::Client => (upward, downward),
        Side::Server => (downward, upward),
    };
    SessionKeys { suite, send, receive }
}

/// Secret bytes that are wiped when dropped.
type Secret = Zeroizing<[u8; 32]>;

#[cfg(test)]
mod tests {
    /// The rest of a waiting side are the boxes this refers to: ciphers as raw keys, a hash, two key pairs.
    #[test]
    fn a_waiting_sides_state_stays_below_a_kibibyte() {
        assert!(size_of::<snow::HandshakeState>() <= 1024);
    }
}
