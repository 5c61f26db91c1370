//! One connection: its session, its socket, and which requests are on it.

use std::collections::BTreeMap;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use whimbrel_protocol::client_session::ClientSession;
use whimbrel_protocol::frame::RequestId;

use super::Input;
use crate::net::dial::Socket;

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    /// Tells what one socket says from another's.
    pub(super) number: u64,
    pub(super) node: String,
    pub(super) session: ClientSession,
    /// The core's names of the requests on this line.
    pub(super) tags: BTreeMap<RequestId, u64>,
    socket: Socket,
}

impl Line {
    pub(super) fn open(
        number: u64,
        node: String,
        session: ClientSession,
        stream: TcpStream,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let socket = Socket::open(stream, inputs, move |heard| Input::Heard { line: number, heard });
        Self {
            number,
            node,
            session,
            tags: BTreeMap::new(),
            socket,
        }
    }

    /// Writes what the session has to say.
    pub(super) fn flush(&mut self) {
        let mut out = Vec::new();
        if self.session.poll_output(&mut out) {
            self.socket.write(out);
        }
    }

    /// Closes the session politely; done when its last bytes are written.
    pub(super) async fn say_goodbye(mut self) {
        self.session.close();
        self.flush();
        if let Err(error) = self.socket.finish().await {
            tracing::debug!(%error, "the last bytes were not written");
        }
    }

    /// Like [`Line::say_goodbye`], without waiting.
    pub(super) fn leave(mut self) {
        self.session.close();
        self.flush();
        drop(self.socket.finish());
    }
}
