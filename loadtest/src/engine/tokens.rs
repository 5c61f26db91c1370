//! Which seat, and which of its connections, an event of the kernel is about.

use mio::Token;

use super::SeatId;

pub(super) const WAKER: Token = Token(usize::MAX);
pub(super) const ALARM: Token = Token(usize::MAX - 1);

/// Generations fit beside the seat in a token, and stay clear of the reserved ones.
pub(super) const GENERATION_MASK: u32 = 0x7fff_ffff;

pub(super) const fn token_of(id: SeatId, generation: u32) -> Token {
    Token((generation as usize) << 32 | id.0 as usize)
}

pub(super) fn split_token(token: Token) -> Option<(SeatId, u32)> {
    let seat = u32::try_from(token.0 & 0xffff_ffff).ok()?;
    let generation = u32::try_from(token.0 >> 32).ok()?;
    Some((SeatId(seat), generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_seats_and_their_connections_apart() {
        for (seat, generation) in [(0, 0), (59_999, 1), (u32::MAX, GENERATION_MASK)] {
            let token = token_of(SeatId(seat), generation);
            assert_eq!(split_token(token), Some((SeatId(seat), generation)));
            assert!(token != WAKER && token != ALARM);
        }
    }
}
