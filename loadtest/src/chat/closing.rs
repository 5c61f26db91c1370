//! What is still open of a chat, and what its end says of it.

use std::collections::BTreeSet;

use super::Chat;
use super::person::Person;
use crate::record::Device;
use crate::tally::Tally;

impl Chat {
    /// What a person should have received and has not.
    fn missing(&self, person: &Person) -> u64 {
        let Some(talk) = self.conversations.get(person.talk) else {
            return 0;
        };
        match &talk.governing {
            None => talk.acked.saturating_sub(person.acked + person.received),
            // Which of them were for whoever came and went is the checker's to say.
            Some(governing) => {
                let end = governing.end(person.device.user, talk.head);
                end.saturating_sub(person.inbox.have())
            }
        }
    }

    /// Whether every message and every change is answered, and everybody has received what they should.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.backlog == 0
            && self.open_changes() == 0
            && self
                .people
                .iter()
                .all(|person| self.missing(person) == 0 && person.open_repeats() == 0)
    }

    /// Whether everybody's row tells of all that the run has put into their conversation.
    #[must_use]
    pub fn rows_are_level(&self) -> bool {
        self.people.iter().all(|person| {
            let Some(talk) = self.conversations.get(person.talk) else {
                return true;
            };
            let governing = talk.governing.as_ref();
            let end = governing.map_or(talk.head, |group| group.end(person.device.user, talk.head));
            // Rows of before may have come before it was known which conversation is theirs.
            end <= talk.base || person.row_head >= end
        })
    }

    /// Of a checked run: `readers` could not read to the end, and who is cut off may lack something as well.
    pub fn tell_unread(&mut self, readers: &[Device]) {
        let cut_off = self.people.iter().filter(|person| person.is_cut_off());
        for device in cut_off.map(|person| person.device).chain(readers.iter().copied()) {
            self.recorder.unread(device);
        }
        self.unread.extend(readers.iter().map(|device| device.user));
    }

    /// Counts what is left open at the end.
    pub fn close(&self, tally: &mut Tally) {
        let repeats: usize = self.people.iter().map(Person::open_repeats).sum();
        tally.unresolved += (self.backlog + self.open_changes() + repeats) as u64 + tally.backlog_dropped;
        let mut unread = BTreeSet::new();
        for person in &self.people {
            if self.unread.contains(&person.device.user) {
                unread.insert(person.talk);
            }
            let missing = self.missing(person);
            tally.undelivered += missing;
            if missing > 0 && person.is_cut_off() {
                unread.insert(person.talk);
            } else if missing > 0 {
                tally.violate(6, || {
                    format!(
                        "{} lacks {missing} acknowledged messages; it has everything up to seq {}, the highest acknowledged is {}",
                        person.uid,
                        person.inbox.have(),
                        self.conversations.get(person.talk).map_or(0, |talk| talk.head),
                    )
                });
            }
            // What is not acknowledged may have been committed all the same.
            let acked = self.conversations.get(person.talk).map_or(0, |talk| talk.acked);
            let open: usize = self.open_sends(person.talk);
            let most = acked.saturating_sub(person.acked) + open as u64;
            if person.received > most {
                let received = person.received;
                tally.violate(1, || {
                    format!(
                        "{} received {received} messages, of at most {most} that others sent",
                        person.uid
                    )
                });
            }
        }
        tally.unread += unread.len() as u64;
    }

    fn open_changes(&self) -> usize {
        let groups = self
            .conversations
            .iter()
            .filter_map(|talk| talk.governing.as_ref());
        groups.filter(|governing| governing.is_changing()).count()
    }

    fn open_sends(&self, talk: usize) -> usize {
        let members = self.conversations.get(talk).map(|talk| talk.members.as_slice());
        let people = members.unwrap_or_default().iter();
        people
            .filter_map(|seat| self.people.get(seat.index()))
            .map(|person| person.outbox.len())
            .sum()
    }
}
