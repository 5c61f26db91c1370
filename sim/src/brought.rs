//! What users' connections brought, whether it was shown or not. Pure.
//!
//! A client leaves out what it does not know, and a notice that does not go on from its cursor; what came to the wrong one came to
//! them all the same (invariant 10).

use std::collections::{BTreeMap, BTreeSet};

use whimbrel_loadtest::check::{Invariant, Violation};
use whimbrel_protocol::client::{MessagesPush, NoticePush};
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
    /// Users who were brought what cannot be read.
    garbled: BTreeSet<String>,
}

impl Brought {
    /// A push of messages; `None`: it cannot be read.
    pub(crate) fn messages(&mut self, uid: &str, push: Option<&MessagesPush>) {
        match push.map(|push| ConversationId::from_wire(&push.conversation)) {
            Some(Ok(id)) => drop(self.messages.insert((uid.to_owned(), id))),
            Some(Err(_)) | None => drop(self.garbled.insert(uid.to_owned())),
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
            if row.peer_uid == uid {
                self.mirrored.insert((uid.to_owned(), id));
            }
        }
    }

    /// What of it was not for those it came to.
    pub(crate) fn strays(&self, audiences: &Audiences) -> Vec<Violation> {
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
        all.map(|what| Violation {
            invariant: Invariant::Foreign,
            what,
        })
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
        let strays = brought.strays(&[(id(), audience)].into());
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
