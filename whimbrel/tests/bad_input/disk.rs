//! A disk without room: sends are refused, reads go on, and sends work again once there is room.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tokio::runtime::Handle;
use whimbrel_protocol::client::{
    Conversation, Entry, OpenDirectRequest, PullRequest, PullResponse, SendRequest, SendResponse,
};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::method::Method;

use crate::bystanders::Bystanders;
use crate::door::{now_ms, operation_id};
use crate::scene::text;
use crate::session::Session;
use crate::sessions::code_of;
use crate::table::Gets;

/// The disk.
const DISK_BYTES: u64 = 96 * 1024 * 1024;
/// What the deployment is told to keep back.
pub(crate) const MIN_FREE_BYTES: u64 = 24 * 1024 * 1024;
/// The store looks at the free space now and then; it notices either change within this.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);
/// What four processes may grow by over three times, in bytes: the store's own caches and memtables fill meanwhile.
const GROWTH_MAX_BYTES: i64 = 32 * 1024 * 1024;
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(50);
/// Written at a time when the disk is filled.
const CHUNK: usize = 1024 * 1024;

/// A small disk of our own; where mounting one is not allowed, a folder of the real one, on which room ends at a
/// watermark instead of at nothing.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
    mounted: bool,
}

impl Disk {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={DISK_BYTES}"))
            .arg("whimbrel-test")
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        Ok(Self { folder, mounted })
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The watermark: on the real disk, just below what is free now.
    pub(crate) fn min_free_bytes(&self) -> anyhow::Result<u64> {
        if self.mounted {
            return Ok(MIN_FREE_BYTES);
        }
        Ok(free_bytes(self.folder.path())?.saturating_sub(DISK_BYTES))
    }

    /// Takes all the room there is: on a disk of our own to the last byte.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        let mut ballast = File::create(self.ballast())?;
        let chunk = vec![7; CHUNK];
        let most = if self.mounted { u64::MAX } else { 2 * DISK_BYTES };
        let mut written = 0;
        while written < most {
            match ballast.write(&chunk) {
                Ok(0) => break,
                Ok(len) => written += len as u64,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // What still holds it open ends before it; if not, it goes when that does.
            let _ = Command::new("umount")
                .arg("--lazy")
                .arg(self.folder.path())
                .output();
        }
    }
}

fn free_bytes(folder: &Path) -> anyhow::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Opens Mallory's own conversation and says something in it.
pub(crate) fn begin(session: &mut Session) -> anyhow::Result<Bytes> {
    let open = OpenDirectRequest {
        uid: "accomplice".to_owned(),
    };
    let opened: Conversation = session.must(Method::OpenDirect, &open)?;
    let got = send(session, &opened.conversation, &operation_id(now_ms()))?;
    ensure!(got == Gets::Served, "with room on the disk a send got \"{got}\"");
    Ok(opened.conversation)
}

fn send(session: &mut Session, conversation: &Bytes, id: &Bytes) -> anyhow::Result<Gets> {
    let request = SendRequest {
        conversation: conversation.clone(),
        messages: vec![text(id.clone(), "is there room?")],
        seen_seq: 0,
    };
    let response = session.ask(Method::Send, &request)?;
    if response.code == 0 {
        let sent = <SendResponse as prost::Message>::decode(response.body)?;
        ensure!(sent.accepted.len() == 1, "one message was sent");
    } else {
        ensure!(response.retry_after_ms > 0, "a client is told when to come back");
    }
    code_of(response.code)
}

/// Prints the row, for people, and holds the deployment to its bound.
#[expect(clippy::print_stdout, reason = "a part of the table")]
pub(crate) fn print(gets: Gets, grown_bytes: i64) -> anyhow::Result<()> {
    println!(
        "\nWhat a full disk gets\n\n{:<58} {gets}, memory {} KiB",
        "no free disk",
        grown_bytes / 1024
    );
    ensure!(
        grown_bytes < GROWTH_MAX_BYTES,
        "the deployment grew by {grown_bytes} bytes, at most {GROWTH_MAX_BYTES} are allowed"
    );
    Ok(())
}

/// Fills the disk, sends until that is refused, reads, clears the disk, and sends the refused one until it is taken: once.
/// What one of the bystanders says meanwhile waits with her, and reaches the other.
pub(crate) fn run_out(
    disk: &Disk,
    session: &mut Session,
    conversation: &Bytes,
    runtime: &Handle,
    bystanders: &mut Bystanders,
) -> anyhow::Result<()> {
    runtime
        .block_on(bystanders.exchange())
        .context("with room on the disk")?;
    disk.fill()?;
    let full = until_refused(session, conversation).and_then(|refused| {
        let said = runtime.block_on(bystanders.say())?;
        session.still_serves()?;
        ensure!(
            !newest(session, conversation)?.is_empty(),
            "what was written is read"
        );
        Ok((refused, said))
    });
    disk.clear()?;
    let (refused, said) = full.context("while the disk was full")?;
    until_taken(session, conversation, &refused)?;
    let times = newest(session, conversation)?
        .iter()
        .filter(|entry| entry.client_msg_id == refused)
        .count();
    ensure!(
        times == 1,
        "the message that was refused at first is there {times} times"
    );
    runtime
        .block_on(bystanders.receive(&said, NOTICED_WITHIN))
        .context("said while the disk was full")
}

fn newest(session: &mut Session, conversation: &Bytes) -> anyhow::Result<Vec<Entry>> {
    let pull = PullRequest {
        conversation: conversation.clone(),
        descending: true,
        ..PullRequest::default()
    };
    let pulled: PullResponse = session.must(Method::Pull, &pull)?;
    Ok(pulled.entries)
}

/// Sends one message after the other until one is refused for want of room; gives its id.
fn until_refused(session: &mut Session, conversation: &Bytes) -> anyhow::Result<Bytes> {
    let deadline = Instant::now() + NOTICED_WITHIN;
    let mut id = operation_id(now_ms());
    loop {
        match send(session, conversation, &id)? {
            Gets::Code(Code::StoreReadOnly) => return Ok(id),
            Gets::Served => id = operation_id(now_ms()),
            got => ensure!(is_passing(got), "on a full disk a send got \"{got}\""),
        }
        ensure!(
            Instant::now() < deadline,
            "on a full disk sends are not refused within {NOTICED_WITHIN:?}"
        );
        std::thread::sleep(RETRY);
    }
}

/// Sends the same message until it is taken.
fn until_taken(session: &mut Session, conversation: &Bytes, id: &Bytes) -> anyhow::Result<()> {
    let deadline = Instant::now() + NOTICED_WITHIN;
    loop {
        match send(session, conversation, id)? {
            Gets::Served => return Ok(()),
            Gets::Code(Code::StoreReadOnly) => {}
            got => ensure!(is_passing(got), "with room again a send got \"{got}\""),
        }
        ensure!(
            Instant::now() < deadline,
            "with room again sends are refused for {NOTICED_WITHIN:?}"
        );
        std::thread::sleep(RETRY);
    }
}

/// At the edge: the write that met the end of the disk has an unknown outcome, and the store reopens itself after it.
fn is_passing(got: Gets) -> bool {
    matches!(got, Gets::Code(Code::DeadlineExceeded | Code::Unavailable))
}
