//! Rooms: entering, leaving, sending, counting. Nothing of a room is queued or kept.

use bytes::Bytes;
use prost::Message;
use whimbrel_protocol::bucket;
use whimbrel_protocol::client as wire;
use whimbrel_protocol::ids::{OperationId, RoomId};
use whimbrel_protocol::method::Method;

use super::Client;
use crate::command::Command;
use crate::core::Payload;
use crate::error::{Error, ErrorCode};
use crate::types::RoomSent;

impl Client {
    /// Enters a room. Its messages come as [`crate::Event::RoomMessageReceived`] until [`Client::leave_room`]; whenever the
    /// connection is made anew, the room is joined again. Messages sent meanwhile are lost: nothing of a room is kept.
    ///
    /// # Errors
    /// When the id is not one, the device is in too many rooms, or no answer in time; it is in the room then only if it
    /// was before.
    pub async fn join_room(&self, room: &str) -> Result<(), Error> {
        let id = room_id(room)?;
        let kept = id.clone();
        // Before the call: a connection that breaks in the middle of it joins again.
        self.ask(|reply| Command::KeepRoom { room: kept, reply }).await?;
        let request = wire::JoinRoomRequest {
            room: room.to_owned(),
        };
        let joined: Result<wire::JoinRoomResponse, Error> = self
            .call_room(
                Method::JoinRoom,
                &id,
                Payload::Ready(request.encode_to_vec().into()),
            )
            .await;
        if let Err(error) = joined {
            self.ask(|reply| Command::ForgetRoom { room: id, reply }).await?;
            return Err(error);
        }
        Ok(())
    }

    /// Leaves a room. Its messages are not shown from the moment of the call.
    ///
    /// # Errors
    /// When the id is not one, or no answer in time; the server then forgets the membership with the connection.
    pub async fn leave_room(&self, room: &str) -> Result<(), Error> {
        let id = room_id(room)?;
        let forgotten = id.clone();
        self.ask(|reply| Command::ForgetRoom {
            room: forgotten,
            reply,
        })
        .await?;
        let request = wire::LeaveRoomRequest {
            room: room.to_owned(),
        };
        let _left: wire::LeaveRoomResponse = self
            .call_room(
                Method::LeaveRoom,
                &id,
                Payload::Ready(request.encode_to_vec().into()),
            )
            .await?;
        Ok(())
    }

    /// Sends a text to everybody who is in a room now, this device included if it is. It is not queued and not kept: it goes
    /// now, or fails.
    ///
    /// # Errors
    /// When the id is not one, the text too long, nobody could take it now, or no answer in time.
    pub async fn send_room(&self, room: &str, text: &str) -> Result<RoomSent, Error> {
        let text = wire::Text {
            text: text.to_owned(),
        };
        self.send_room_content(room, wire::content::Content::Text(text))
            .await
    }

    /// Sends bytes of a content type of the customer's own to a room, like [`Client::send_room`].
    ///
    /// # Errors
    /// As [`Client::send_room`].
    pub async fn send_room_custom(
        &self,
        room: &str,
        content_type: &str,
        data: Vec<u8>,
    ) -> Result<RoomSent, Error> {
        let custom = wire::Custom {
            r#type: content_type.to_owned(),
            data: data.into(),
        };
        self.send_room_content(room, wire::content::Content::Custom(custom))
            .await
    }

    async fn send_room_content(
        &self,
        room: &str,
        content: wire::content::Content,
    ) -> Result<RoomSent, Error> {
        let id = room_id(room)?;
        let mut request = wire::SendRoomRequest {
            room: room.to_owned(),
            client_msg_id: Bytes::new(),
            content: Some(wire::Content {
                content: Some(content),
            }),
        };
        let make = move |id: OperationId| {
            request.client_msg_id = Bytes::copy_from_slice(id.as_bytes());
            Bytes::from(request.encode_to_vec())
        };
        let sent: wire::SendRoomResponse = self
            .call_room(Method::SendRoom, &id, Payload::WithOperationId(Box::new(make)))
            .await?;
        Ok(RoomSent {
            time_ms: sent.time_ms,
            taken: sent.taken,
            dropped: sent.dropped,
        })
    }

    /// How many devices are in a room, as of a second or so ago.
    ///
    /// # Errors
    /// When the id is not one, or no answer in time.
    pub async fn room_count(&self, room: &str) -> Result<u64, Error> {
        let id = room_id(room)?;
        let request = wire::CountRoomRequest {
            room: room.to_owned(),
        };
        let counted: wire::CountRoomResponse = self
            .call_room(
                Method::CountRoom,
                &id,
                Payload::Ready(request.encode_to_vec().into()),
            )
            .await?;
        Ok(counted.members)
    }

    async fn call_room<A: Message + Default>(
        &self,
        method: Method,
        room: &RoomId,
        payload: Payload,
    ) -> Result<A, Error> {
        self.call_at(method, Some(bucket::room_affinity(room)), payload)
            .await
    }
}

fn room_id(room: &str) -> Result<RoomId, Error> {
    RoomId::new(room).map_err(|error| Error::new(ErrorCode::InvalidArgument, error.to_string()))
}
