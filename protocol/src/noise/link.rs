//! Noise_NNpsk0: two nodes that share a secret and no keys, over the links between roles.
//!
//! Whoever finishes the handshake knows the secret; fresh ephemerals give the session keys forward secrecy against a
//! later theft of it. Message 1 can be replayed by anybody who saw it, so the responder must believe nothing until the
//! first record has opened.

use super::{InitiatorState, NotAuthentic, ResponderState, read, resolver, write};
use crate::entropy::{self, Entropy};
use crate::keys::KEY_LEN;
use crate::suite::Suite;

/// Noise's position of the secret: before the first message.
const PSK_POSITION: u8 = 0;

const fn noise_name(suite: Suite) -> &'static str {
    match suite {
        Suite::AesGcm => "Noise_NNpsk0_25519_AESGCM_SHA256",
        Suite::ChaChaPoly => "Noise_NNpsk0_25519_ChaChaPoly_SHA256",
    }
}

/// Appends message 1 with `payload` to `out`. It adds [`super::MESSAGE_OVERHEAD`] to its payload.
///
/// Draws 32 bytes from `entropy`: the ephemeral secret.
pub fn initiate(
    suite: Suite,
    prologue: &[u8],
    secret: &[u8; KEY_LEN],
    payload: &[u8],
    entropy: &mut dyn Entropy,
    out: &mut Vec<u8>,
) -> InitiatorState {
    let mut state = Box::new(
        builder(suite, prologue, secret, entropy)
            .build_initiator()
            .expect("the pattern and its one secret are given"),
    );
    write(&mut state, payload, out);
    InitiatorState { suite, state }
}

/// Opens message 1: the state that can answer, and the initiator's payload.
///
/// Draws 32 bytes from `entropy`: the ephemeral secret of message 2.
///
/// # Errors
/// When the message was not made with this secret, suite and prologue.
pub fn respond(
    suite: Suite,
    prologue: &[u8],
    secret: &[u8; KEY_LEN],
    message: &[u8],
    entropy: &mut dyn Entropy,
) -> Result<(ResponderState, Vec<u8>), NotAuthentic> {
    let mut state = Box::new(
        builder(suite, prologue, secret, entropy)
            .build_responder()
            .expect("the pattern and its one secret are given"),
    );
    let payload = read(&mut state, message)?;
    Ok((ResponderState { suite, state }, payload))
}

fn builder<'a>(
    suite: Suite,
    prologue: &'a [u8],
    secret: &'a [u8; KEY_LEN],
    entropy: &mut dyn Entropy,
) -> snow::Builder<'a> {
    let resolver = resolver::Resolver::new(suite, entropy::draw(entropy), None);
    let params = noise_name(suite)
        .parse()
        .expect("the patterns are named as Noise names them");
    snow::Builder::with_resolver(params, Box::new(resolver))
        .prologue(prologue)
        .and_then(|builder| builder.psk(PSK_POSITION, secret))
        .expect("a prologue and a secret are set once")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::entropy::SystemEntropy;
    use crate::record;

    #[test]
    fn two_who_share_the_secret_share_keys() {
        for suite in Suite::ALL {
            let mut first = Vec::new();
            let initiator = initiate(
                suite,
                b"prologue",
                &[7; 32],
                b"ping",
                &mut SystemEntropy,
                &mut first,
            );
            assert_eq!(first.len(), super::super::MESSAGE_OVERHEAD + 4);
            let (responder, payload) =
                respond(suite, b"prologue", &[7; 32], &first, &mut SystemEntropy).unwrap();
            assert_eq!(payload, b"ping");
            let mut second = Vec::new();
            let mut theirs = responder.write(b"pong", &mut second);
            let (mut ours, payload) = initiator.read(&second).unwrap();
            assert_eq!(payload, b"pong");

            let mut sealed = Vec::new();
            ours.sealer()
                .seal(b"hello", record::SERVER_PLAINTEXT_MAX, &mut sealed)
                .unwrap();
            let plaintext = theirs.opener().open_in_place(&mut sealed).unwrap();
            assert_eq!(&sealed[plaintext], b"hello");
        }
    }

    #[test]
    fn another_secret_prologue_or_a_flipped_bit_is_not_authentic() {
        let mut first = Vec::new();
        initiate(
            Suite::AesGcm,
            b"p",
            &[7; 32],
            b"ping",
            &mut SystemEntropy,
            &mut first,
        );
        let try_open = |prologue: &[u8], secret: &[u8; 32], message: &[u8]| {
            respond(Suite::AesGcm, prologue, secret, message, &mut SystemEntropy).map(|_| ())
        };
        assert_eq!(try_open(b"p", &[7; 32], &first), Ok(()));
        assert_eq!(try_open(b"p", &[8; 32], &first), Err(NotAuthentic));
        assert_eq!(try_open(b"q", &[7; 32], &first), Err(NotAuthentic));
        assert_eq!(try_open(b"p", &[7; 32], &first[..20]), Err(NotAuthentic));
        first[40] ^= 1;
        assert_eq!(try_open(b"p", &[7; 32], &first), Err(NotAuthentic));
    }
}
