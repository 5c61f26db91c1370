//! Peers who begin and do not go on. They are waited for, for a while, at no cost to anybody.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::frame::{FrameKind, PAYLOAD_LEN_MAX};
use whimbrel_protocol::hello::HEADER_LEN;
use whimbrel_protocol::{timing, varint};

use crate::door::Door;
use crate::peer::{Peer, Seen};
use crate::session::{Session, raw_frame};
use crate::table::Gets;

/// Peers who wait side by side, per kind.
const PEERS: usize = 64;
/// Between two looks at all of them, and two drips.
const ROUND: Duration = Duration::from_millis(400);
/// How much later than its time the end may show: a round, the looks at all peers, a busy machine.
const LATE_MAX: Duration = Duration::from_secs(5);
/// How much earlier: the gateway's clock began to run before ours.
const EARLY_MAX: Duration = Duration::from_secs(1);

/// One way of not going on.
pub(crate) struct Wait {
    /// What it is.
    pub(crate) name: &'static str,
    /// Begins as the peer of this number: each is a user of its own, or they would displace one another.
    begin: fn(&Door, usize) -> anyhow::Result<Waiting>,
    /// What it gets in the end.
    pub(crate) gets: Gets,
    ends_after: Duration,
    /// Where `docs/protocol.md` says so.
    pub(crate) says: &'static [&'static str],
}

struct Waiting {
    with: With,
    /// What still dribbles in, a piece each round.
    drips: Vec<Vec<u8>>,
    since: Instant,
}

enum With {
    Nobody(Peer),
    Keys(Box<Session>),
}

const HANDSHAKE: Duration = Duration::from_millis(timing::HANDSHAKE_WITHIN_MS);
const CONFIRM: Duration = Duration::from_millis(timing::CONFIRM_WITHIN_MS);
const PARTIAL: Duration = Duration::from_millis(timing::PARTIAL_MAX_MS);

const STALLED: &[&str] = &["| a hello or an answer's follow-up that stalls for 10 s | closes |"];
const UNFINISHED: &[&str] = &["| a frame or record not complete 20 s after its first byte | CLOSE{1} |"];

pub(crate) const WAITS: &[Wait] = &[
    Wait {
        name: "a connection that says nothing",
        begin: |door, _| stranger(door, &[], Vec::new()),
        gets: Gets::Silence,
        ends_after: HANDSHAKE,
        says: STALLED,
    },
    Wait {
        name: "a stalled handshake: half a hello",
        begin: |door, _| {
            let (_, hello) = door.hello("mallory")?;
            stranger(door, hello.get(..40).context("a hello is longer")?, Vec::new())
        },
        gets: Gets::Silence,
        ends_after: HANDSHAKE,
        says: STALLED,
    },
    Wait {
        name: "a stalled handshake: a hello a byte at a time",
        begin: |door, _| {
            let (_, hello) = door.hello("mallory")?;
            let (header, rest) = hello.split_at_checked(HEADER_LEN).context("a hello is longer")?;
            stranger(door, header, rest.iter().rev().map(|byte| vec![*byte]).collect())
        },
        gets: Gets::Silence,
        ends_after: HANDSHAKE,
        says: STALLED,
    },
    Wait {
        name: "no Confirm",
        begin: |door, nth| Ok(keys(door.provisional(&format!("nina-{nth}"))?, Vec::new())),
        gets: Gets::Close(CloseReason::NotConfirmed),
        ends_after: CONFIRM,
        says: &[
            "If no CONFIRM came within 10 s of the answer the gateway ends the session.",
            "| 2 | NotConfirmed | 1 |",
        ],
    },
    Wait {
        name: "no Confirm, but padding",
        begin: |door, nth| {
            let mut session = door.provisional(&format!("pat-{nth}"))?;
            let padding = raw_frame(FrameKind::Padding.number(), 0, &[0; 8]);
            let drips: Result<_, _> = (0..200).map(|_| session.seal(&padding)).collect();
            let mut drips: Vec<Vec<u8>> = drips?;
            drips.reverse();
            Ok(keys(session, drips))
        },
        gets: Gets::Close(CloseReason::NotConfirmed),
        ends_after: CONFIRM,
        says: &["If no CONFIRM came within 10 s of the answer the gateway ends the session."],
    },
    Wait {
        name: "a record that never ends",
        begin: |door, nth| {
            let mut session = door.session(&format!("rita-{nth}"))?;
            let mut record = session.seal(&[0; 16 * 1024])?;
            record.truncate(record.len() - 1);
            session.peer.send(&record);
            Ok(keys(session, Vec::new()))
        },
        gets: Gets::Close(CloseReason::ProtocolViolation),
        ends_after: PARTIAL,
        says: UNFINISHED,
    },
    Wait {
        name: "a frame that never ends",
        begin: |door, nth| {
            let mut session = door.session(&format!("fred-{nth}"))?;
            let mut frame = Vec::new();
            varint::encode(u32::try_from(PAYLOAD_LEN_MAX)?, &mut frame);
            frame.extend_from_slice(&[FrameKind::Request.number(), 0, 1, 1]);
            session.say_raw(&frame)?;
            // Record after record is whole; the frame in them is not.
            let drips: Result<_, _> = (0..200).map(|_| session.seal(&[0; 64])).collect();
            let mut drips: Vec<Vec<u8>> = drips?;
            drips.reverse();
            Ok(keys(session, drips))
        },
        gets: Gets::Close(CloseReason::ProtocolViolation),
        ends_after: PARTIAL,
        says: UNFINISHED,
    },
];

fn stranger(door: &Door, first: &[u8], drips: Vec<Vec<u8>>) -> anyhow::Result<Waiting> {
    let mut peer = door.stranger()?;
    let since = Instant::now();
    peer.send(first);
    Ok(Waiting {
        with: With::Nobody(peer),
        drips,
        since,
    })
}

fn keys(session: Session, drips: Vec<Vec<u8>>) -> Waiting {
    Waiting {
        with: With::Keys(Box::new(session)),
        drips,
        since: Instant::now(),
    }
}

impl Waiting {
    fn drip(&mut self) {
        let Some(piece) = self.drips.pop() else {
            return;
        };
        match &mut self.with {
            With::Nobody(peer) => peer.send(&piece),
            With::Keys(session) => session.peer.send(&piece),
        }
    }

    fn poll_end(&mut self) -> anyhow::Result<Option<Gets>> {
        let within = Duration::from_millis(1);
        match &mut self.with {
            With::Keys(session) => session.poll_end(within),
            With::Nobody(peer) => {
                let mut received = Vec::new();
                match peer.look(&mut received, within)? {
                    Seen::Nothing => Ok(None),
                    Seen::Closed => Ok(Some(Gets::Silence)),
                    Seen::Bytes => bail!("a stranger who says nothing was told {received:?}"),
                }
            }
        }
    }
}

impl Wait {
    /// All peers of this kind: begin, and wait for what they get and when.
    pub(crate) fn sit_out(&self, door: &Door) -> anyhow::Result<()> {
        // It began somewhere between the two moments: who ends late is judged by the later one, who ends early by the earlier.
        let begin = |nth| {
            let begun_at = Instant::now();
            anyhow::Ok((begun_at, (self.begin)(door, nth)?))
        };
        let begun: anyhow::Result<Vec<_>> = (0..PEERS).map(begin).collect();
        let mut waiting = begun.with_context(|| format!("{}: beginning", self.name))?;
        while !waiting.is_empty() {
            thread::sleep(ROUND);
            let mut still = Vec::new();
            for (begun_at, mut one) in waiting {
                let end = one.poll_end().with_context(|| self.name)?;
                let waited = one.since.elapsed();
                match end {
                    None => {
                        ensure!(
                            waited < self.ends_after + LATE_MAX,
                            "{}: nothing after {waited:?}, expected an end after {:?}",
                            self.name,
                            self.ends_after
                        );
                        one.drip();
                        still.push((begun_at, one));
                    }
                    Some(got) => ensure!(
                        got == self.gets && begun_at.elapsed() + EARLY_MAX > self.ends_after,
                        "{}: got \"{got}\" after {waited:?}, expected \"{}\" after {:?}",
                        self.name,
                        self.gets,
                        self.ends_after
                    ),
                }
            }
            waiting = still;
        }
        Ok(())
    }
}

/// Peers in one wave.
pub(crate) fn peers() -> u32 {
    u32::try_from(PEERS * WAITS.len()).unwrap_or(u32::MAX)
}

/// Prints the kinds, for people.
#[expect(clippy::print_stdout, reason = "a part of the table")]
pub(crate) fn print() {
    for Wait {
        name,
        gets,
        ends_after,
        ..
    } in WAITS
    {
        println!("{name:<58} {gets} after {} s", ends_after.as_secs());
    }
}

/// All kinds side by side.
pub(crate) fn sit_out_all(door: &Door) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let kinds: Vec<_> = WAITS
            .iter()
            .map(|wait| scope.spawn(|| wait.sit_out(door)))
            .collect();
        for kind in kinds {
            kind.join()
                .unwrap_or_else(|_| bail!("a waiting thread panicked"))?;
        }
        Ok(())
    })
}
