//! Events as bytes: a kind, then its fields, numbers as varints, names as eight bytes. Read by the program that wrote them
//! and by no other, so there are no versions.

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

use std::time::Duration;

use bytes::{Buf, BufMut};
use prost::encoding::{decode_varint, encode_varint};
use whimbrel_protocol::client::ChangeKind;
use whimbrel_protocol::ids::{CONVERSATION_ID_LEN, ConversationId};

use crate::check::{
    Answer, Body, ChangeDone, Device, Entry, Event, LiveSessions, Preview, Row, Showing, Shows, Talk, Text,
    User,
};

/// Characters kept of what nobody sent.
const OTHER_LEN_MAX: usize = 200;

/// The kind of a file's last record; events' begin at 1.
const END: u8 = 0;

/// What a file's last record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// Events before it.
    pub(super) events: u64,
    /// Processes of the run, each with files of its own.
    pub(super) processes: u32,
}

/// What there is in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Event(Event),
    End(End),
}

/// Appends a file's last record.
pub(super) fn encode_end(end: End, out: &mut Vec<u8>) {
    out.put_u8(END);
    encode_varint(end.events, out);
    encode_varint(u64::from(end.processes), out);
}

/// Appends an event.
pub(super) fn encode(event: &Event, out: &mut Vec<u8>) {
    match event {
        Event::Device { uid, name, showing } => {
            out.put_u8(1);
            put_text(uid, out);
            put_text(name, out);
            out.put_u8(match showing {
                Showing::InOrder => 0,
                Showing::AsItComes => 1,
                Showing::Nothing => 2,
            });
        }
        Event::Talk { id, talk, base_seq } => {
            out.put_u8(2);
            put_id(*id, out);
            encode_varint(*base_seq, out);
            match talk {
                Talk::Direct([one, other]) => {
                    out.put_u8(0);
                    out.put_u64(one.0);
                    out.put_u64(other.0);
                }
                Talk::Group { open_history } => out.put_u8(1 + u8::from(*open_history)),
            }
        }
        Event::Begun {
            id,
            device,
            user,
            text,
            at,
        } => {
            out.put_u8(3);
            put_id(*id, out);
            out.put_u64(device.0);
            out.put_u64(user.0);
            out.put_u64(text.0);
            put_time(*at, out);
        }
        Event::Answered { id, text, answer } => {
            out.put_u8(4);
            put_id(*id, out);
            out.put_u64(text.0);
            encode_varint(answer.seq, out);
            encode_varint(answer.time_ms, out);
            put_time(answer.at, out);
        }
        Event::Refused { id, text, code, at } => {
            out.put_u8(5);
            put_id(*id, out);
            out.put_u64(text.0);
            encode_varint(u64::from(*code), out);
            put_time(*at, out);
        }
        Event::ChangeAsked { id, kind, user, at } => {
            out.put_u8(6);
            put_id(*id, out);
            put_kind(*kind, out);
            out.put_u64(user.0);
            put_time(*at, out);
        }
        Event::ChangeDone { id, done } => {
            out.put_u8(7);
            put_id(*id, out);
            put_option(done.seq, out, encode_varint);
            put_time(done.at, out);
        }
        Event::Named { id, name } => {
            out.put_u8(13);
            put_id(*id, out);
            out.put_u64(name.0);
        }
        Event::Synced {
            device,
            from,
            to,
            full_resync,
        } => {
            out.put_u8(14);
            out.put_u64(device.0);
            out.put_u64(*from);
            out.put_u64(*to);
            out.put_u8(u8::from(*full_resync));
        }
        Event::Marked { id, user, read_seq } => {
            out.put_u8(8);
            put_id(*id, out);
            out.put_u64(user.0);
            encode_varint(*read_seq, out);
        }
        Event::Shown { id, device, entry } => {
            out.put_u8(9);
            put_id(*id, out);
            out.put_u64(device.0);
            put_entry(entry, out);
        }
        Event::Changed { id, device, seq } => {
            out.put_u8(10);
            put_id(*id, out);
            out.put_u64(device.0);
            encode_varint(*seq, out);
        }
        Event::Row { id, device, row } => {
            out.put_u8(11);
            put_id(*id, out);
            out.put_u64(device.0);
            put_row(row, out);
        }
        Event::LeftOut { id, device, row } => {
            out.put_u8(15);
            put_id(*id, out);
            out.put_u64(device.0);
            put_row(row, out);
        }
        Event::Unread { device } => {
            out.put_u8(16);
            out.put_u64(device.0);
        }
        Event::Sessions { device, sessions } => {
            out.put_u8(12);
            out.put_u64(device.0);
            encode_varint(sessions.newest_epoch, out);
            encode_varint(sessions.live_epoch, out);
            encode_varint(u64::from(sessions.count), out);
        }
    }
}

fn put_option<T>(value: Option<T>, out: &mut Vec<u8>, put: impl FnOnce(T, &mut Vec<u8>)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(value, out);
    }
}

fn put_row(row: &Row, out: &mut Vec<u8>) {
    encode_varint(row.head_seq, out);
    encode_varint(row.read_seq, out);
    encode_varint(row.unread, out);
    encode_varint(row.first_visible_seq, out);
    out.put_u8(u8::from(row.member));
    put_option(row.shows.as_ref(), out, put_shows);
}

fn put_shows(shows: &Shows, out: &mut Vec<u8>) {
    put_option(shows.peer, out, |user, out| out.put_u64(user.0));
    put_option(shows.name, out, |name, out| out.put_u64(name.0));
    put_option(shows.preview, out, |preview, out| {
        encode_varint(preview.seq, out);
        encode_varint(preview.time_ms, out);
        out.put_u64(preview.sender.0);
        out.put_u64(preview.rest);
        put_option(preview.meant_for, out, put_id);
    });
}

fn put_entry(entry: &Entry, out: &mut Vec<u8>) {
    encode_varint(entry.seq, out);
    encode_varint(entry.time_ms, out);
    out.put_u64(entry.sender.0);
    out.put_u64(entry.rest);
    match &entry.body {
        Body::Text { text, meant_for } => {
            out.put_u8(u8::from(meant_for.is_some()));
            out.put_u64(text.0);
            if let Some(id) = meant_for {
                put_id(*id, out);
            }
        }
        Body::Change { kind, users } => {
            out.put_u8(2);
            put_kind(*kind, out);
            encode_varint(users.len() as u64, out);
            users.iter().for_each(|user| out.put_u64(user.0));
        }
        Body::Other(what) => {
            out.put_u8(3);
            let what: String = what.chars().take(OTHER_LEN_MAX).collect();
            put_text(&what, out);
        }
    }
}

fn put_id(id: ConversationId, out: &mut Vec<u8>) {
    out.put_slice(id.as_bytes());
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    encode_varint(text.len() as u64, out);
    out.put_slice(text.as_bytes());
}

fn put_time(at: Duration, out: &mut Vec<u8>) {
    encode_varint(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX), out);
}

fn put_kind(kind: ChangeKind, out: &mut Vec<u8>) {
    out.put_i32(kind.into());
}

/// Reads one record, which `bytes` hold and nothing else; what is wrong, if something is.
pub(super) fn decode(mut bytes: &[u8]) -> Result<Record, &'static str> {
    let record = Reader(&mut bytes)
        .record()
        .ok_or("a record that cannot be read")?;
    match bytes {
        [] => Ok(record),
        _ => Err("a record with bytes behind it"),
    }
}

struct Reader<'a, 'b>(&'a mut &'b [u8]);

impl Reader<'_, '_> {
    fn record(&mut self) -> Option<Record> {
        Some(match self.byte()? {
            END => Record::End(End {
                events: self.number()?,
                processes: u32::try_from(self.number()?).ok()?,
            }),
            kind => Record::Event(self.event(kind)?),
        })
    }

    fn event(&mut self, kind: u8) -> Option<Event> {
        Some(match kind {
            1 => Event::Device {
                uid: self.text()?,
                name: self.text()?,
                showing: match self.byte()? {
                    0 => Showing::InOrder,
                    1 => Showing::AsItComes,
                    2 => Showing::Nothing,
                    _ => return None,
                },
            },
            2 => Event::Talk {
                id: self.id()?,
                base_seq: self.number()?,
                talk: match self.byte()? {
                    0 => Talk::Direct([self.user()?, self.user()?]),
                    kind @ (1 | 2) => Talk::Group {
                        open_history: kind == 2,
                    },
                    _ => return None,
                },
            },
            3 => Event::Begun {
                id: self.id()?,
                device: self.device()?,
                user: self.user()?,
                text: self.text_name()?,
                at: self.time()?,
            },
            4 => Event::Answered {
                id: self.id()?,
                text: self.text_name()?,
                answer: Answer {
                    seq: self.number()?,
                    time_ms: self.number()?,
                    at: self.time()?,
                },
            },
            5 => Event::Refused {
                id: self.id()?,
                text: self.text_name()?,
                code: u32::try_from(self.number()?).ok()?,
                at: self.time()?,
            },
            6 => Event::ChangeAsked {
                id: self.id()?,
                kind: self.kind()?,
                user: self.user()?,
                at: self.time()?,
            },
            7 => Event::ChangeDone {
                id: self.id()?,
                done: ChangeDone {
                    seq: self.option(Self::number)?,
                    at: self.time()?,
                },
            },
            8 => Event::Marked {
                id: self.id()?,
                user: self.user()?,
                read_seq: self.number()?,
            },
            9 => Event::Shown {
                id: self.id()?,
                device: self.device()?,
                entry: self.entry()?,
            },
            10 => Event::Changed {
                id: self.id()?,
                device: self.device()?,
                seq: self.number()?,
            },
            11 => Event::Row {
                id: self.id()?,
                device: self.device()?,
                row: self.row()?,
            },
            12 => Event::Sessions {
                device: self.device()?,
                sessions: LiveSessions {
                    newest_epoch: self.number()?,
                    live_epoch: self.number()?,
                    count: u32::try_from(self.number()?).ok()?,
                },
            },
            16 => Event::Unread {
                device: self.device()?,
            },
            13 => Event::Named {
                id: self.id()?,
                name: self.text_name()?,
            },
            14 => Event::Synced {
                device: self.device()?,
                from: self.eight()?,
                to: self.eight()?,
                full_resync: self.flag()?,
            },
            15 => Event::LeftOut {
                id: self.id()?,
                device: self.device()?,
                row: self.row()?,
            },
            _ => return None,
        })
    }

    /// `None` when it cannot be read, `Some(None)` when there is none.
    #[expect(clippy::option_option, reason = "the outer one is whether it can be read")]
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.flag()? {
            true => read(self).map(Some),
            false => Some(None),
        }
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn row(&mut self) -> Option<Row> {
        Some(Row {
            head_seq: self.number()?,
            read_seq: self.number()?,
            unread: self.number()?,
            first_visible_seq: self.number()?,
            member: self.flag()?,
            shows: self.option(Self::shows)?,
        })
    }

    fn shows(&mut self) -> Option<Shows> {
        Some(Shows {
            peer: self.option(Self::user)?,
            name: self.option(Self::text_name)?,
            preview: self.option(Self::preview)?,
        })
    }

    fn preview(&mut self) -> Option<Preview> {
        Some(Preview {
            seq: self.number()?,
            time_ms: self.number()?,
            sender: self.user()?,
            rest: self.eight()?,
            meant_for: self.option(Self::id)?,
        })
    }

    fn entry(&mut self) -> Option<Entry> {
        Some(Entry {
            seq: self.number()?,
            time_ms: self.number()?,
            sender: self.user()?,
            rest: self.eight()?,
            body: match self.byte()? {
                0 => Body::Text {
                    text: self.text_name()?,
                    meant_for: None,
                },
                1 => Body::Text {
                    text: self.text_name()?,
                    meant_for: Some(self.id()?),
                },
                2 => {
                    let kind = self.kind()?;
                    let count = self.number()?;
                    let users = (0..count).map(|_| self.user()).collect::<Option<_>>()?;
                    Body::Change { kind, users }
                }
                3 => Body::Other(self.text()?),
                _ => return None,
            },
        })
    }

    fn byte(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    fn number(&mut self) -> Option<u64> {
        decode_varint(self.0).ok()
    }

    fn time(&mut self) -> Option<Duration> {
        self.number().map(Duration::from_nanos)
    }

    fn eight(&mut self) -> Option<u64> {
        self.0.try_get_u64().ok()
    }

    fn user(&mut self) -> Option<User> {
        self.eight().map(User)
    }

    fn device(&mut self) -> Option<Device> {
        self.eight().map(Device)
    }

    fn text_name(&mut self) -> Option<Text> {
        self.eight().map(Text)
    }

    fn kind(&mut self) -> Option<ChangeKind> {
        ChangeKind::try_from(self.0.try_get_i32().ok()?).ok()
    }

    fn take(&mut self, len: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        *self.0 = rest;
        Some(taken)
    }

    fn id(&mut self) -> Option<ConversationId> {
        ConversationId::from_wire(self.take(CONVERSATION_ID_LEN)?).ok()
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.number()?).ok()?;
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }
}
