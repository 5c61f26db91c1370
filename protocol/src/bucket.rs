//! Where things belong: a user's bucket within a gateway, a conversation's affinity within the cluster.
//!
//! Both are CityHash v1.1.0 (Pike and Alakuijala, 2011), 128 bits, of which the low 64 are used.

use std::num::{NonZeroU32, NonZeroU64};

use crate::ids::{AppKey, ConversationId, RoomId, Uid};

/// The low 64 bits of CityHash128 v1.1.0, as `Uint128Low64` gives them in the reference implementation.
#[must_use]
pub fn city_hash(bytes: &[u8]) -> u64 {
    // The crate puts the reference's low half into the u128's high half (its own tests compare it so).
    let [low @ .., _, _, _, _, _, _, _, _] = cityhash_rs::cityhash_110_128(bytes).to_be_bytes();
    u64::from_be_bytes(low)
}

/// The user bucket of (`app`, `uid`) among `buckets`: CityHash of app key, a zero byte and uid, modulo `buckets`.
///
/// The zero byte cannot occur in an app key, so no two users share an input.
#[must_use]
pub fn user_bucket(app: &AppKey, uid: &Uid, buckets: NonZeroU32) -> u32 {
    let input = [app.as_str().as_bytes(), &[0], uid.as_str().as_bytes()].concat();
    let bucket = city_hash(&input) % NonZeroU64::from(buckets);
    u32::try_from(bucket).expect("a remainder of a u32 fits one")
}

/// The placement hint of a conversation: the low 32 bits of the hash of its 16 bytes.
#[must_use]
pub fn affinity(conversation: &ConversationId) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "a hint takes the low half")]
    let low = city_hash(conversation.as_bytes()) as u32;
    low
}

/// The placement hint of a room: the low 32 bits of the hash of its id's bytes.
#[must_use]
pub fn room_affinity(room: &RoomId) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "a hint takes the low half")]
    let low = city_hash(room.as_str().as_bytes()) as u32;
    low
}
