//! Where randomness comes from: always from the caller.
//!
//! Nothing in this crate draws random bytes on its own account, so that a simulation replays a handshake exactly and
//! the published vectors can fix every ephemeral key. Production hands in [`SystemEntropy`].

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

/// A source of random bytes.
///
/// Handshakes and key generation are exactly as strong as the source they are given.
pub trait Entropy {
    /// Fills all of `out`.
    fn fill(&mut self, out: &mut [u8]);
}

impl<F: FnMut(&mut [u8])> Entropy for F {
    fn fill(&mut self, out: &mut [u8]) {
        self(out);
    }
}

/// The operating system's generator, through the one crypto provider.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// When the operating system has no randomness to give: there is nothing safe to go on with.
    fn fill(&mut self, out: &mut [u8]) {
        SystemRandom::new()
            .fill(out)
            .expect("the operating system's random generator answers");
    }
}

/// Draws a fixed-size secret.
pub(crate) fn draw<const N: usize>(entropy: &mut dyn Entropy) -> zeroize::Zeroizing<[u8; N]> {
    let mut bytes = zeroize::Zeroizing::new([0_u8; N]);
    entropy.fill(&mut bytes[..]);
    bytes
}
