//! What `chat` prints: lines for people, or tab-separated ones for scripts.

use whimbrel_sdk::{
    ConnectionState, ConversationId, Entry, EntryBody, GroupChangeKind, RoomMessage, WaitReason,
};

/// One line of `--plain`: `conversation<TAB>seq<TAB>sender<TAB>text`. Backslashes, tabs and line ends in the text are
/// written `\\`, `\t`, `\n`, `\r`, other control characters and separators of lines `\u{85}`, by their number in hex, so that a
/// message is always one line of four fields, and steers no terminal. Only messages have one.
pub(crate) fn plain_line(conversation: ConversationId, entry: &Entry) -> Option<String> {
    let EntryBody::Text(text) = &entry.body else {
        return None;
    };
    let mut line = format!("{conversation}\t{}\t{}\t", entry.seq, escaped(&entry.sender_uid));
    line.push_str(&escaped(text));
    Some(line)
}

/// One line of `--plain` for a message to a room: `room:ID<TAB>0<TAB>sender<TAB>text`, for rooms number nothing.
pub(crate) fn plain_room_line(room: &str, message: &RoomMessage) -> Option<String> {
    let EntryBody::Text(text) = &message.body else {
        return None;
    };
    Some(format!(
        "room:{}\t0\t{}\t{}",
        escaped(room),
        escaped(&message.sender_uid),
        escaped(text)
    ))
}

/// A line for people about a message to a room.
pub(crate) fn room_line(room: &str, message: &RoomMessage) -> String {
    let sender = visible(&message.sender_uid);
    let said = match &message.body {
        EntryBody::Text(text) => visible(text),
        EntryBody::Custom { content_type, data } => {
            format!("<{}, {} bytes>", visible(content_type), data.len())
        }
        _ => "<something this version does not know>".to_owned(),
    };
    format!("[{}] {sender}: {said}", visible(room))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\t' => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            c if steers(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A line for people. Nothing that others wrote can steer the terminal.
pub(crate) fn line(entry: &Entry) -> String {
    let sender = visible(&entry.sender_uid);
    match &entry.body {
        EntryBody::Text(text) => format!("{sender}: {}", visible(text)),
        EntryBody::Custom { content_type, data } => {
            format!("{sender}: <{}, {} bytes>", visible(content_type), data.len())
        }
        EntryBody::Recalled { by_uid } => format!("* {} took a message back", visible(by_uid)),
        EntryBody::GroupChange {
            kind,
            uids,
            name,
            role,
        } => {
            let whom = visible(&uids.join(", "));
            match kind {
                GroupChangeKind::Created => {
                    format!("* {sender} created the group {:?} with {whom}", visible(name))
                }
                GroupChangeKind::Invited => format!("* {sender} invited {whom}"),
                GroupChangeKind::Left => format!("* {whom} left"),
                GroupChangeKind::Removed => format!("* {sender} removed {whom}"),
                GroupChangeKind::Renamed => format!("* {sender} named the group {:?}", visible(name)),
                GroupChangeKind::RoleSet => {
                    let role = role.map_or_else(
                        || "another role".to_owned(),
                        |role| format!("{role:?}").to_lowercase(),
                    );
                    format!("* {sender} made {whom} {role}")
                }
                GroupChangeKind::OwnerTransferred => format!("* {sender} gave the group to {whom}"),
                GroupChangeKind::Unknown => format!("* {sender} changed the group"),
            }
        }
        EntryBody::Unknown => format!("{sender}: <something this version does not know>"),
    }
}

/// Whether it does something to a terminal, or ends a line for some program.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if steers(c) { '\u{fffd}' } else { c })
        .collect()
}

/// Whether people want to hear of `state` after they were told of `told`: an outage is said once, not at every try.
pub(crate) fn is_news(told: Option<&ConnectionState>, state: &ConnectionState) -> bool {
    match (told, state) {
        (Some(ConnectionState::Waiting { .. }), ConnectionState::Connecting) => false,
        (Some(ConnectionState::Waiting { reason: told, .. }), ConnectionState::Waiting { reason, .. }) => {
            told != reason
        }
        _ => true,
    }
}

/// What people are told about the connection.
pub(crate) fn connection(state: &ConnectionState) -> String {
    match state {
        ConnectionState::Connecting => "connecting".to_owned(),
        ConnectionState::Online => "online".to_owned(),
        ConnectionState::Waiting { reason, retry_in_ms } => {
            let reason = match reason {
                WaitReason::NoNetwork => "no network",
                WaitReason::Unreachable => "no gateway can be reached",
                WaitReason::NoDirectory => "the LBS gives no list of gateways",
                WaitReason::NoTrustedGateway => {
                    "the LBS names no gateway that the root key vouches for (is it this deployment's?)"
                }
                WaitReason::ServerBusy => "the server is busy",
                WaitReason::NoToken => "no token can be made",
                WaitReason::TokenRefused => {
                    "the token is refused (is it this user's, this app's, and signed with the app's secret?)"
                }
                WaitReason::Storage => "the local database failed",
            };
            format!(
                "{reason}, next try in {:.1} s",
                std::time::Duration::from_millis(*retry_in_ms).as_secs_f64()
            )
        }
        ConnectionState::Stopped { error } => format!("stopped: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use whimbrel_sdk::ConversationKind;

    use super::*;

    fn said(text: &str) -> Entry {
        Entry {
            seq: 7,
            rev: 0,
            time_ms: 0,
            sender_uid: "alice".to_owned(),
            local_id: None,
            body: EntryBody::Text(text.to_owned()),
        }
    }

    #[test]
    fn a_plain_line_has_four_fields_whatever_is_said() {
        let conversation = ConversationId::from_parts(ConversationKind::Group, [0; 15]);
        let line = plain_line(conversation, &said("a\tb\nc\\d\r")).unwrap_or_default();
        assert_eq!(line, format!("{conversation}\t7\talice\ta\\tb\\nc\\\\d\\r"));
        assert_eq!(line.split('\t').count(), 4);
    }

    #[test]
    fn a_plain_line_steers_no_terminal_and_ends_nowhere_else() {
        let conversation = ConversationId::from_parts(ConversationKind::Group, [0; 15]);
        let said = said("\u{1b}[2J\u{7}\u{b}\u{85}\u{9b}\u{2028}张三");
        let line = plain_line(conversation, &said).unwrap_or_default();
        let expected = "\\u{1b}[2J\\u{7}\\u{b}\\u{85}\\u{9b}\\u{2028}张三";
        assert_eq!(line, format!("{conversation}\t7\talice\t{expected}"));
    }

    #[test]
    fn a_plain_line_of_a_room_has_four_fields_too() {
        let message = RoomMessage {
            sender_uid: "alice".to_owned(),
            time_ms: 5,
            body: EntryBody::Text("a\tb".to_owned()),
        };
        let line = plain_room_line("lobby", &message).unwrap_or_default();
        assert_eq!(line, "room:lobby\t0\talice\ta\\tb");
    }

    #[test]
    fn an_outage_is_said_once() {
        let waiting = |reason| ConnectionState::Waiting {
            reason,
            retry_in_ms: 300,
        };
        let told = waiting(WaitReason::Unreachable);
        assert!(!is_news(Some(&told), &ConnectionState::Connecting));
        assert!(!is_news(Some(&told), &waiting(WaitReason::Unreachable)));
        assert!(is_news(Some(&told), &waiting(WaitReason::NoNetwork)));
        assert!(is_news(Some(&told), &ConnectionState::Online));
        assert!(is_news(None, &ConnectionState::Connecting));
    }

    #[test]
    fn nobody_elses_words_steer_the_terminal() {
        assert!(!line(&said("\u{1b}[2Jboo")).contains('\u{1b}'));
    }
}
