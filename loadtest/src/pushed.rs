//! What is pushed to devices that make nothing of it: those that only log in, and the new ones that read for themselves at
//! the end. It must be their user's all the same (invariant 10), so that the recorder is told of all of it.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client::{MessagesPush, NoticePush};
use whimbrel_protocol::ids::ConversationId;
use whimbrel_protocol::method::PushMethod;

use crate::record::{Device, Recorder, Via};
use crate::tally::Tally;

/// Tells of a push. Methods that are not known are passed over, as the protocol says of later servers.
pub(crate) fn note(
    device: Device,
    (method, payload): (u32, Bytes),
    now: Duration,
    recorder: &mut dyn Recorder,
    tally: &mut Tally,
) {
    let read = match PushMethod::from_number(method) {
        Some(PushMethod::Messages) => note_messages(device, payload, now, recorder),
        Some(PushMethod::Notice) => note_notice(device, payload, now, recorder),
        Some(PushMethod::Room) => Err("a room's message, and it is in no room".to_owned()),
        None => Ok(()),
    };
    if let Err(error) = read {
        tally.violate(10, || {
            let (user, number) = (device.user.0, device.number);
            format!("device {number} of user {user} was pushed what is not for it (method {method}): {error}")
        });
    }
}

fn note_messages(
    device: Device,
    payload: Bytes,
    now: Duration,
    recorder: &mut dyn Recorder,
) -> Result<(), String> {
    let push = MessagesPush::decode(payload).map_err(|error| error.to_string())?;
    let id = ConversationId::from_wire(&push.conversation).map_err(|error| error.to_string())?;
    for entry in &push.entries {
        recorder.delivered(device, id, entry, Via::Push, now);
    }
    Ok(())
}

fn note_notice(
    device: Device,
    payload: Bytes,
    now: Duration,
    recorder: &mut dyn Recorder,
) -> Result<(), String> {
    let notice = NoticePush::decode(payload).map_err(|error| error.to_string())?;
    recorder.left_out(device, &notice.rows, now);
    for row in &notice.rows {
        ConversationId::from_wire(&row.conversation).map_err(|error| error.to_string())?;
    }
    Ok(())
}
