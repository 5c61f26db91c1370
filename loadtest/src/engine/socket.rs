//! What sockets tell and take: readiness, bytes in, bytes out, and what a session makes of them.

use std::time::Duration;

use rand::RngExt as _;
use whimbrel_protocol::client_session::Event;

use super::coming::Setback;
use super::happening::{Happening, What};
use super::seat::LineState;
use super::tokens::split_token;
use super::{Engine, SeatId, millis, uid};
use crate::clock;

impl Engine {
    pub(super) fn flush(&mut self) {
        let now = clock::now();
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.flush_seat(id, now);
        }
        self.dirty = dirty;
    }

    pub(super) fn flush_seat(&mut self, id: SeatId, now: Duration) {
        let line = self
            .seats
            .get_mut(id.index())
            .and_then(|seat| seat.line.as_deref_mut());
        let Some(line) = line else {
            return;
        };
        line.dirty = false;
        match line.flush(&mut self.outgoing) {
            Ok(written) => {
                self.counter.tally.bytes_out += written;
                if let Some(due) = line.due() {
                    self.timers.arm(id.0, due);
                }
            }
            Err(error) => self.broke_off(id, format!("cannot write: {error}"), now),
        }
    }

    pub(super) fn mark_dirty(&mut self, id: SeatId) {
        let seat = self.seats.get_mut(id.index());
        if let Some(line) = seat.and_then(|seat| seat.line.as_deref_mut())
            && !line.dirty
        {
            line.dirty = true;
            self.dirty.push(id);
        }
    }

    pub(super) fn handle_socket(&mut self, event: &mio::event::Event, now: Duration) {
        let Some((id, generation)) = split_token(event.token()) else {
            return;
        };
        let line = match self.seats.get_mut(id.index()) {
            Some(seat) if seat.generation == generation => seat.line.as_deref_mut(),
            _ => return,
        };
        let Some(line) = line else {
            return;
        };
        if let LineState::Dialing { target, .. } = &line.state {
            if let Some(error) = line.stream.take_error().ok().flatten() {
                let node = target.node.clone();
                return self.dial_failed(id, &node, &error, now);
            }
            if event.is_writable() && line.stream.peer_addr().is_ok() {
                let target = target.clone();
                self.say_hello(id, &target, now);
            }
            return;
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read_seat(id, event.is_read_closed() || event.is_error(), now);
        }
        if event.is_writable() {
            self.flush_seat(id, now);
        }
    }

    /// Reads until there is no more: the kernel tells once.
    fn read_seat(&mut self, id: SeatId, until_end: bool, now: Duration) {
        loop {
            let seat = self.seats.get_mut(id.index());
            let Some(line) = seat.and_then(|seat| seat.line.as_deref_mut()) else {
                return;
            };
            let count = match line.read(&mut self.incoming) {
                Ok(None) => break,
                Ok(Some(0)) => return self.broke_off(id, "the gateway closed the connection", now),
                Ok(Some(count)) => count,
                Err(error) => return self.broke_off(id, format!("cannot read: {error}"), now),
            };
            self.counter.tally.bytes_in += count as u64;
            if let LineState::Open { session, .. } = &mut line.state {
                session.handle_bytes(self.incoming.get(..count).unwrap_or_default(), now);
            }
            self.drain_events(id, now);
            if count < self.incoming.len() && !until_end {
                break;
            }
        }
        self.mark_dirty(id);
    }

    /// The connection ended without a word: there may be other gateways than those that are known.
    fn broke_off(&mut self, id: SeatId, why: impl Into<String>, now: Duration) {
        self.listings.ask();
        self.end_line(id, Setback::of(why), now);
    }

    /// Passes on what a session tells.
    pub(super) fn drain_events(&mut self, id: SeatId, now: Duration) {
        loop {
            let Some(seat) = self.seats.get_mut(id.index()) else {
                return;
            };
            let Some(LineState::Open {
                session,
                ready,
                leave_at,
            }) = seat.line.as_deref_mut().map(|line| &mut line.state)
            else {
                return;
            };
            let Some(event) = session.poll_event() else {
                return;
            };
            let what = match event {
                Event::Connected { server_time_ms, .. } => {
                    self.server_offset_ms = Some(server_time_ms.saturating_sub(millis(now)));
                    continue;
                }
                Event::Ready => {
                    *ready = true;
                    seat.failures = 0;
                    seat.tried.clear();
                    self.online += 1;
                    self.counter.login(now.saturating_sub(seat.due));
                    What::Ready { epoch: seat.epoch }
                }
                Event::Response { id, result } => What::Response { id, result },
                Event::Push { method, payload } => What::Push { method, payload },
                Event::SyncHint { spread_ms } => What::SyncHint { spread_ms },
                Event::Reauth { .. } => {
                    let uid = uid(&self.user_prefix, seat.device);
                    let token = self.signer.sign(&uid, clock::unix_ms());
                    // A session that is ending has no use for it.
                    let _ = session.reauthenticate(&token, now);
                    continue;
                }
                Event::GoAway {
                    delay_window_ms,
                    refresh_directory,
                } => {
                    let window = Duration::from_millis(delay_window_ms.into());
                    *leave_at = Some(now + window.mul_f64(self.rng.random_range(0.0..1.0)));
                    if refresh_directory {
                        self.listings.ask();
                    }
                    continue;
                }
                Event::Ended(end) => {
                    let setback = self.judge_end(&end);
                    return self.end_line(id, setback, now);
                }
            };
            self.happenings.push_back(Happening {
                seat: id,
                at: now,
                what,
            });
        }
    }
}
