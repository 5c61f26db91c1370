//! What users' connections brought, whether it was shown or not. Pure.
//!
//! A client leaves out what it does not know, and a notice that does not go on from its cursor; what came to the wrong one came to
//! them all the same (invariant 10). And apps are not shown all of an entry, which must be the same for all (2).

use std::collections::{BTreeMap, BTreeSet};

use whimbrel_loadtest::check::{Invariant, Violation};
use whimbrel_protocol::bucket::city_hash;
use whimbrel_protocol::client::{Entry, MessagesPush, NoticePush};
use whimbrel_protocol::ids::ConversationId;

/// Who is, was or is about to be in each conversation, by uid: whoever was removed is told of that.
pub(crate) type Audiences = BTreeMap<ConversationId, BTreeSet<String>>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    /// By uid, and what.
    messages: BTreeSet<(String, ConversationId)>,
    rows: BTreeSet<(String, ConversationId)>,
    /// Rows of direct conversations of users with themselves, as only the others' are.
    mirrored: BTreeSet<(String, ConversationId)>,
    /// Of each entry pushed, or in a row, a hash of what apps are not shown: the sender's id of it and the running count.
    hidden: BTreeMap<(ConversationId, u64), u64>,
    /// Entries that were not pushed to all alike.
    unlike: BTreeSet<(ConversationId, u64)>,
    /// Users who were brought what cannot be read.
    garbled: BTreeSet<String>,
}

impl Brought {
    /// A push of messages; `None`: it cannot be read.
    pub(crate) fn messages(&mut self, uid: &str, push: Option<&MessagesPush>) {
        let Some((id, push)) =
            push.and_then(|push| Some((ConversationId::from_wire(&push.conversation).ok()?, push)))
        else {
            self.garbled.insert(uid.to_owned());
            return;
        };
        self.messages.insert((uid.to_owned(), id));
        for entry in &push.entries {
            self.entry(id, entry);
        }
    }

    fn entry(&mut self, id: ConversationId, entry: &Entry) {
        let hidden = city_hash(&[&entry.client_msg_id[..], &entry.counted.to_be_bytes()].concat());
        if *self.hidden.entry((id, entry.seq)).or_insert(hidden) != hidden {
            self.unlike.insert((id, entry.seq));
        }
    }

    /// A notice; `None`: it cannot be read.
    pub(crate) fn notice(&mut self, uid: &str, notice: Option<&NoticePush>) {
        let Some(notice) = notice else {
            self.garbled.insert(uid.to_owned());
            return;
        };
        for row in &notice.rows {
            let Ok(id) = ConversationId::from_wire(&row.conversation) else {
                self.garbled.insert(uid.to_owned());
                continue;
            };
            self.rows.insert((uid.to_owned(), id));
            if let Some(entry) = &row.preview {
                self.entry(id, entry);
            }
            if row.peer_uid == uid {
                self.mirrored.insert((uid.to_owned(), id));
            }
        }
    }

    /// What of it was not for those it came to, or not the same for all.
    pub(crate) fn violations(&self, audiences: &Audiences) -> Vec<Violation> {
        let is_stray = |(uid, id): &&(String, ConversationId)| {
            !audiences.get(id).is_some_and(|audience| audience.contains(uid))
        };
        let strange = |brought: &BTreeSet<_>, what: &str| -> Vec<String> {
            let told = |(uid, id): &(String, ConversationId)| {
                format!("a connection of {uid} was brought {what} of {id}, in which {uid} never was")
            };
            brought.iter().filter(is_stray).map(told).collect()
        };
        let mirrored = self.mirrored.iter().map(|(uid, id)| {
            format!("a connection of {uid} was brought a row of {id} that is another's: it names {uid} as the other")
        });
        let garbled = self.garbled.iter();
        let garbled = garbled.map(|uid| format!("a connection of {uid} was brought what cannot be read"));
        let strange = [strange(&self.messages, "messages"), strange(&self.rows, "a row")];
        let all = strange.into_iter().flatten().chain(mirrored).chain(garbled);
        let foreign = all.map(|what| (Invariant::Foreign, what));
        let unlike = self.unlike.iter().map(|(id, seq)| {
            let what = format!("{id}: seq {seq} was pushed with one id or count to some, another to others");
            (Invariant::OneLog, what)
        });
        foreign
            .chain(unlike)
            .map(|(invariant, what)| Violation { invariant, what })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use whimbrel_protocol::client::ConversationRow;
    use whimbrel_protocol::ids::ConversationKind;

    use super::*;

    fn id() -> ConversationId {
        ConversationId::from_parts(ConversationKind::Direct, [1; 15])
    }

    fn notice(peer_uid: &str) -> NoticePush {
        let row = ConversationRow {
            conversation: Bytes::copy_from_slice(id().as_bytes()),
            peer_uid: peer_uid.to_owned(),
            ..ConversationRow::default()
        };
        NoticePush {
            rows: vec![row],
            ..NoticePush::default()
        }
    }

    fn strays(brought: &Brought) -> usize {
        let audience = ["ann", "bob"].map(str::to_owned).into();
        let strays = brought.violations(&[(id(), audience)].into());
        assert!(strays.iter().all(|stray| stray.invariant == Invariant::Foreign));
        strays.len()
    }

    #[test]
    fn messages_and_rows_of_a_conversation_are_for_those_in_it() {
        let push = MessagesPush {
            conversation: Bytes::copy_from_slice(id().as_bytes()),
            entries: Vec::new(),
        };
        let mut brought = Brought::default();
        brought.messages("ann", Some(&push));
        brought.notice("ann", Some(&notice("bob")));
        assert_eq!(strays(&brought), 0);
        brought.messages("eve", Some(&push));
        assert_eq!(strays(&brought), 1);
        brought.notice("eve", Some(&notice("bob")));
        assert_eq!(strays(&brought), 2);
    }

    #[test]
    fn the_other_ones_row_of_a_direct_conversation_is_anothers() {
        let mut brought = Brought::default();
        brought.notice("ann", Some(&notice("ann")));
        assert_eq!(strays(&brought), 1);
    }

    #[test]
    fn what_apps_are_not_shown_of_an_entry_is_the_same_for_all() {
        let push = |counted| MessagesPush {
            conversation: Bytes::copy_from_slice(id().as_bytes()),
            entries: vec![Entry {
                seq: 3,
                counted,
                ..Entry::default()
            }],
        };
        let mut brought = Brought::default();
        let audiences = [(id(), ["ann", "bob"].map(str::to_owned).into())].into();
        brought.messages("ann", Some(&push(2)));
        brought.messages("bob", Some(&push(2)));
        assert_eq!(brought.violations(&audiences), []);
        let mut row = notice("ann");
        row.rows[0].preview = push(1).entries.pop();
        brought.notice("bob", Some(&row));
        let found = brought.violations(&audiences);
        assert_eq!((found.len(), found[0].invariant), (1, Invariant::OneLog));
    }

    #[test]
    fn what_cannot_be_read_is_nobodys() {
        let mut brought = Brought::default();
        brought.messages("ann", None);
        brought.messages("bob", Some(&MessagesPush::default()));
        assert_eq!(strays(&brought), 2);
        brought.notice("cleo", None);
        let nothing = ConversationRow::default();
        let rows = vec![nothing];
        brought.notice(
            "dan",
            Some(&NoticePush {
                rows,
                ..NoticePush::default()
            }),
        );
        assert_eq!(strays(&brought), 4);
    }
}
