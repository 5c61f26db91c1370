//! The local database: what survives, what is refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use whimbrel_protocol::client::{Accepted, Content, ConversationRow, Entry, Text, content};
use whimbrel_protocol::ids::{ConversationId, ConversationKind, OperationId};

use super::*;
use crate::core::Position;
use crate::types::LocalMessageId;

fn conversation(n: u8) -> ConversationId {
    ConversationId::from_parts(ConversationKind::Group, [n; 15])
}

fn new(n: u8, text: &str) -> NewMessage {
    let content = Content {
        content: Some(content::Content::Text(Text { text: text.into() })),
    };
    NewMessage {
        conversation: conversation(n),
        content,
        options: None,
    }
}

fn ids() -> impl FnMut() -> OperationId {
    let mut next = 0;
    move || {
        next += 1;
        OperationId::new(next, [0; 10])
    }
}

#[test]
fn what_was_committed_is_there_after_a_restart_and_what_was_not_is_not() {
    let folder = tempfile::tempdir().unwrap();
    {
        let mut store = Store::open(Some(folder.path())).unwrap();
        store.begin(true).unwrap();
        store.enqueue(&new(1, "kept")).unwrap();
        store.set_number(Value::LoginEpoch, 7).unwrap();
        store.commit().unwrap();
        store.begin(false).unwrap();
        store.enqueue(&new(1, "lost")).unwrap();
        store.set_number(Value::LoginEpoch, 8).unwrap();
    }
    let mut store = Store::open(Some(folder.path())).unwrap();
    assert_eq!(store.number(Value::LoginEpoch).unwrap(), 7);
    let batch = store.next_batch(&conversation(1), 0, ids()).unwrap().unwrap();
    assert_eq!(batch.messages.len(), 1);
    store.begin(false).unwrap();
    store.set_number(Value::LoginEpoch, 9).unwrap();
    store.roll_back();
    assert_eq!(store.number(Value::LoginEpoch).unwrap(), 7);
}

#[test]
fn a_second_opener_and_a_later_layout_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let first = Store::open(Some(folder.path())).unwrap();
    let error = Store::open(Some(folder.path())).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
    first
        .db
        .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
        .unwrap();
    drop(first);
    let error = Store::open(Some(folder.path())).unwrap_err();
    assert!(
        matches!(error, StoreError::Newer { found } if found == SCHEMA_VERSION + 1),
        "{error:?}"
    );
}

#[test]
fn a_database_of_the_first_layout_is_brought_up_with_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let position = Position {
        start: 1,
        shown: 4,
        rev: 2,
    };
    {
        let mut store = Store::open(Some(folder.path())).unwrap();
        store.put_position(&conversation(1), position, false).unwrap();
        let back = "ALTER TABLE conversations DROP COLUMN doubted; PRAGMA user_version = 1;";
        store.db.execute_batch(back).unwrap();
    }
    let mut store = Store::open(Some(folder.path())).unwrap();
    let kept = store.conversations().unwrap();
    assert_eq!((kept[0].position, kept[0].doubted), (Some(position), false));
    store.put_position(&conversation(1), position, true).unwrap();
    drop(store);
    let store = Store::open(Some(folder.path())).unwrap();
    assert!(store.conversations().unwrap()[0].doubted);
}

#[test]
fn a_database_that_is_none_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("whimbrel.db"), [7; 8192]).unwrap();
    assert!(matches!(
        Store::open(Some(folder.path())),
        Err(StoreError::Sqlite(_))
    ));
}

#[test]
fn local_ids_are_never_used_twice() {
    let mut store = Store::open(None).unwrap();
    let first = store.enqueue(&new(1, "a")).unwrap();
    store.next_batch(&conversation(1), 0, ids()).unwrap();
    store.mark_sent(first, &Accepted { seq: 1, time_ms: 1 }).unwrap();
    store.forget_sent(&conversation(1), 1).unwrap();
    assert!(store.enqueue(&new(1, "b")).unwrap() > first);
}

#[test]
fn batches_are_bounded_in_messages_and_bytes_and_stay_as_they_were_made() {
    let mut store = Store::open(None).unwrap();
    for n in 0..40 {
        store.enqueue(&new(1, &n.to_string())).unwrap();
    }
    store.enqueue(&new(2, "elsewhere")).unwrap();
    let batch = store.next_batch(&conversation(1), 5, ids()).unwrap().unwrap();
    assert_eq!((batch.messages.len(), batch.seen_seq), (BATCH_LEN_MAX, 5));
    let again = store.next_batch(&conversation(1), 9, ids()).unwrap().unwrap();
    assert_eq!(again, batch);
    for outgoing in &batch.messages {
        store
            .mark_sent(outgoing.local_id, &Accepted { seq: 1, time_ms: 1 })
            .unwrap();
    }
    let rest = store.next_batch(&conversation(1), 9, ids()).unwrap().unwrap();
    assert_eq!((rest.messages.len(), rest.seen_seq), (8, 9));

    let mut store = Store::open(None).unwrap();
    for _ in 0..3 {
        store.enqueue(&new(1, &"x".repeat(20_000))).unwrap();
    }
    assert_eq!(
        store
            .next_batch(&conversation(1), 0, ids())
            .unwrap()
            .unwrap()
            .messages
            .len(),
        2
    );
}

#[test]
fn a_split_batch_goes_out_message_by_message_in_order_with_its_ids() {
    let mut store = Store::open(None).unwrap();
    for text in ["a", "b", "c"] {
        store.enqueue(&new(1, text)).unwrap();
    }
    let batch = store.next_batch(&conversation(1), 0, ids()).unwrap().unwrap();
    store.split_batch(batch.number).unwrap();
    for outgoing in batch.messages {
        let single = store.next_batch(&conversation(1), 0, ids()).unwrap().unwrap();
        assert_eq!(single.messages, std::slice::from_ref(&outgoing));
        store.mark_failed(outgoing.local_id, 1, "no").unwrap();
    }
    assert_eq!(store.next_batch(&conversation(1), 0, ids()).unwrap(), None);
}

#[test]
fn a_failed_message_goes_back_as_a_new_one() {
    let mut store = Store::open(None).unwrap();
    let id = store.enqueue(&new(1, "a")).unwrap();
    let first = store.next_batch(&conversation(1), 0, ids()).unwrap().unwrap();
    store.mark_failed(id, 306, "too old").unwrap();
    assert_eq!(store.requeue(id).unwrap(), Some(conversation(1)));
    let mut later = ids();
    later();
    let second = store.next_batch(&conversation(1), 0, later).unwrap().unwrap();
    assert_ne!(
        second.messages[0].message.client_msg_id,
        first.messages[0].message.client_msg_id
    );
    assert!(!store.discard(id).unwrap(), "it waits");
    assert_eq!(store.requeue(LocalMessageId(99)).unwrap(), None);
}

#[test]
fn a_full_resync_drops_the_rows_it_does_not_name_and_keeps_messages() {
    let mut store = Store::open(None).unwrap();
    for n in [1, 2] {
        let row = ConversationRow {
            head_seq: u64::from(n),
            ..ConversationRow::default()
        };
        store.put_row(&conversation(n), &row, 1).unwrap();
        store
            .put_position(
                &conversation(n),
                Position {
                    start: 1,
                    shown: 1,
                    rev: 0,
                },
                false,
            )
            .unwrap();
        store
            .put_entry(
                &conversation(n),
                &Entry {
                    seq: 1,
                    ..Entry::default()
                },
                None,
            )
            .unwrap();
    }
    store
        .put_row(&conversation(2), &ConversationRow::default(), 2)
        .unwrap();
    assert_eq!(store.drop_rows_before(2).unwrap(), [conversation(1)]);
    assert_eq!(store.row(&conversation(1)).unwrap(), None);
    assert!(store.entry(&conversation(1), 1).unwrap().is_some());
    assert!(
        store
            .conversations()
            .unwrap()
            .iter()
            .all(|kept| kept.position.is_some())
    );
}

#[test]
fn erasing_keeps_what_names_the_device() {
    let mut store = Store::open(None).unwrap();
    store.set_number(Value::LoginEpoch, 7).unwrap();
    store.set_value(Value::Cursor, b"c").unwrap();
    store.enqueue(&new(1, "a")).unwrap();
    store.set_read_mark(&conversation(1), 3).unwrap();
    store.erase().unwrap();
    assert_eq!(store.number(Value::LoginEpoch).unwrap(), 7);
    assert_eq!(store.value(Value::Cursor).unwrap(), None);
    assert_eq!(store.queued_count().unwrap(), 0);
    assert_eq!(store.read_marks().unwrap(), []);
}
