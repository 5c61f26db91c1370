//! A device of the run: what stays of it between connections, and its connection.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use mio::net::TcpStream;
use whimbrel_protocol::client_session::ClientSession;

use crate::directory::Target;
use crate::record::Device;

/// What stays of a device between connections.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) device: Device,
    /// Of the newest login; each next one is higher.
    pub(super) epoch: u64,
    /// Of the connection: events of an earlier one are passed over.
    pub(super) generation: u32,
    /// It is to be in.
    pub(super) wanted: bool,
    /// When it was to come in.
    pub(super) due: Duration,
    /// When to dial.
    pub(super) dial_at: Option<Duration>,
    /// Failed rounds in a row.
    pub(super) failures: u32,
    /// The gateways tried in this round, over all of them.
    pub(super) tried: Vec<String>,
    pub(super) line: Option<Box<Line>>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) stream: TcpStream,
    pub(super) state: LineState,
    /// Sealed, and not taken by the kernel yet.
    pub(super) unsent: Vec<u8>,
    /// It is in the list of those that have something to write.
    pub(super) dirty: bool,
}

#[derive(Debug)]
pub(super) enum LineState {
    /// TCP is under way.
    Dialing { target: Target, until: Duration },
    /// A session is, or is being, made.
    Open {
        session: ClientSession,
        ready: bool,
        /// The gateway said good-bye, and this is the moment to leave.
        leave_at: Option<Duration>,
    },
}

impl Line {
    /// Whether READY came.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, LineState::Open { ready: true, .. })
    }

    /// When something is due.
    pub(super) fn due(&self) -> Option<Duration> {
        match &self.state {
            LineState::Dialing { until, .. } => Some(*until),
            LineState::Open {
                session, leave_at, ..
            } => [session.poll_timeout(), *leave_at].into_iter().flatten().min(),
        }
    }

    /// Reads once: how many bytes, `None` when there are none for now.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes what the session has to say, with `scratch` as its buffer: how many bytes went out.
    pub(super) fn flush(&mut self, scratch: &mut Vec<u8>) -> io::Result<u64> {
        let mut written = self.write_unsent()?;
        let LineState::Open { session, .. } = &mut self.state else {
            return Ok(written);
        };
        scratch.clear();
        if !session.poll_output(scratch) {
            return Ok(written);
        }
        if self.unsent.is_empty() {
            let taken = write_some(&mut self.stream, scratch)?;
            written += taken as u64;
            self.unsent
                .extend_from_slice(scratch.get(taken..).unwrap_or_default());
        } else {
            self.unsent.append(scratch);
        }
        Ok(written)
    }

    fn write_unsent(&mut self) -> io::Result<u64> {
        if self.unsent.is_empty() {
            return Ok(0);
        }
        let taken = write_some(&mut self.stream, &self.unsent)?;
        if taken == self.unsent.len() {
            self.unsent = Vec::new();
        } else {
            self.unsent.drain(..taken);
        }
        Ok(taken as u64)
    }
}

/// Writes as much as the kernel takes now.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}
