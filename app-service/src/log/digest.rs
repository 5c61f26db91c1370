//! What an operation id was used for, in 16 bytes; and the ids of conversations, which follow from their makers.

use aws_lc_rs::digest::{Context, SHA256};
use whimbrel_protocol::ids::{AppKey, ConversationId, ConversationKind, OperationId, UserId};

/// The first 16 bytes of a SHA-256 over kind and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) [u8; 16]);

impl Digest {
    /// Of an operation of this `kind`. Parts are told apart by their lengths.
    pub(crate) fn of<'a>(kind: u8, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&[kind]);
        update_parts(&mut context, parts);
        Self(first_bytes(context))
    }
}

fn update_parts<'a>(context: &mut Context, parts: impl IntoIterator<Item = &'a [u8]>) {
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
}

fn first_bytes<const N: usize>(context: Context) -> [u8; N] {
    *context
        .finish()
        .as_ref()
        .first_chunk()
        .expect("SHA-256 has 32 bytes, more than asked for")
}

fn conversation_id<'a>(
    kind: ConversationKind,
    domain: &'static str,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> ConversationId {
    let mut context = Context::new(&SHA256);
    context.update(domain.as_bytes());
    update_parts(&mut context, parts);
    ConversationId::from_parts(kind, first_bytes(context))
}

/// The direct conversation of two users, whoever opens it.
#[must_use]
pub fn direct_conversation(app: &AppKey, one: UserId, other: UserId) -> ConversationId {
    let (low, high) = (one.min(other), one.max(other));
    conversation_id(
        ConversationKind::Direct,
        "whimbrel direct conversation 1",
        [
            app.as_str().as_bytes(),
            &low.0.to_be_bytes(),
            &high.0.to_be_bytes(),
        ],
    )
}

/// The group that an operation creates: a retry meets the same group, and with it the record of what was done.
#[must_use]
pub fn group_conversation(app: &AppKey, creator: UserId, operation: OperationId) -> ConversationId {
    conversation_id(
        ConversationKind::Group,
        "whimbrel group 1",
        [
            app.as_str().as_bytes(),
            &creator.0.to_be_bytes(),
            operation.as_bytes(),
        ],
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn both_users_open_the_same_conversation_and_other_apps_another() {
        let app = |key: &str| AppKey::new(key).unwrap();
        let id = direct_conversation(&app("demo"), UserId(1), UserId(2));
        assert_eq!(id, direct_conversation(&app("demo"), UserId(2), UserId(1)));
        assert_ne!(id, direct_conversation(&app("demo2"), UserId(1), UserId(2)));
        assert_eq!(id.kind(), ConversationKind::Direct);
    }

    #[test]
    fn digests_tell_kinds_and_the_borders_of_parts_apart() {
        let of = |kind, parts: &[&'static [u8]]| Digest::of(kind, parts.iter().copied());
        assert_ne!(of(1, &[b"ab", b"c"]), of(1, &[b"a", b"bc"]));
        assert_ne!(of(1, &[b"ab"]), of(2, &[b"ab"]));
        assert_eq!(of(1, &[b"ab"]), of(1, &[b"ab"]));
    }
}
