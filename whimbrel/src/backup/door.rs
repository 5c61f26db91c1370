//! How a running node gives a backup: a socket in the folder of its embedded store, for whoever owns that folder.
//!
//! Who connects gets one backup, whole or broken off with a reason, and nothing can be asked for. One at a time; a second waits for
//! nothing and is told so. Who does not read for [`WRITE_TIME_MAX`] is left.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use whimbrel_host::Drain;
use whimbrel_store::Store;

/// In the store's folder.
const SOCKET: &str = "backup.sock";

/// A disk that takes nothing for so long has failed, and the store keeps old versions meanwhile.
const WRITE_TIME_MAX: Duration = Duration::from_secs(60);
/// After an accept that failed: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Read at a time.
const READ_LEN: usize = 1 << 20;

/// Opens the door to the store in `folder` until `drain` starts. A node serves without one too: why there is none is logged.
pub(crate) fn open(folder: &Path, store: Arc<dyn Store>, cluster: &str, drain: Drain) {
    let path = folder.join(SOCKET);
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, socket = %path.display(), "no backup can be taken while this node runs");
            return;
        }
    };
    let cluster = cluster.to_owned();
    tokio::spawn(async move {
        tokio::select! {
            () = drain.started() => {}
            () = serve(listener, store, cluster) => {}
        }
        // Gone already is as good; one that stays answers nobody.
        let _ = fs::remove_file(path);
    });
}

/// The store's folder is ours alone: what is at the place is left over.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(listener: UnixListener, store: Arc<dyn Store>, cluster: String) {
    let turn = Arc::new(Semaphore::new(1));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "nobody can ask for a backup for a moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(turn) = Arc::clone(&turn).try_acquire_owned() else {
            tracing::warn!("a second backup was asked for while one is taken");
            continue;
        };
        let (store, cluster) = (Arc::clone(&store), cluster.clone());
        tokio::spawn(async move {
            let _turn = turn;
            if let Err(error) = give(stream, &*store, &cluster).await {
                tracing::warn!(error = format!("{error:#}"), "a backup was not given to its end");
            }
        });
    }
}

async fn give(mut stream: UnixStream, store: &dyn Store, cluster: &str) -> anyhow::Result<()> {
    // Before it, the folder's own mode has been asked; this holds where somebody opened that.
    let asker = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    anyhow::ensure!(asker == own || asker == 0, "user {asker} may not have it");
    let mut saving = super::begin(store, cluster).await?;
    tracing::info!("a backup is taken");
    loop {
        match saving.next().await {
            Ok(Some(bytes)) => write(&mut stream, &bytes).await?,
            Ok(None) => break,
            Err(error) => {
                write(&mut stream, &saving.failed(&error.to_string())).await?;
                return Err(error).context("the store cannot be read to its end");
            }
        }
    }
    let totals = saving.totals();
    tracing::info!(
        entries = totals.entries,
        bytes = totals.bytes,
        "a backup was given"
    );
    Ok(())
}

async fn write(stream: &mut UnixStream, bytes: &[u8]) -> anyhow::Result<()> {
    timeout(WRITE_TIME_MAX, stream.write_all(bytes))
        .await
        .with_context(|| format!("nobody read for {WRITE_TIME_MAX:?}"))?
        .context("whoever asked is gone")
}

/// Whether a running node answered.
pub(super) enum Asked {
    /// It did, and what it gave was written.
    Answered,
    /// No node runs on the folder.
    NobodyThere,
}

/// Asks the node that runs on `folder`, if one does, and writes what it gives.
pub(super) async fn ask(folder: &Path, mut to: fs::File) -> anyhow::Result<Asked> {
    use io::{ErrorKind, Write as _};

    let path: PathBuf = folder.join(SOCKET);
    let mut stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        // None, or one that a killed node left.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(Asked::NobodyThere);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("the node cannot be asked at {}", path.display()));
        }
    };
    let mut bytes = vec![0; READ_LEN];
    let mut any = false;
    loop {
        let len = stream.read(&mut bytes).await.context("the node broke off")?;
        if len == 0 {
            break;
        }
        any = true;
        let some = bytes.get(..len).unwrap_or_default();
        to.write_all(some).context("the backup cannot be written")?;
    }
    anyhow::ensure!(
        any,
        "the node that runs on {} gave nothing: it is giving a backup already, or its log says why",
        folder.display()
    );
    Ok(Asked::Answered)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use whimbrel_store::{Batch, Epoch, MemoryStore};

    use super::*;

    /// Whatever takes longer than this has failed.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// More than a socket holds that nobody reads.
    async fn large_store() -> Arc<dyn Store> {
        let store = MemoryStore::new(Epoch([1; 16]));
        let start = super::super::contents().ranges.remove(0).start().to_vec();
        for number in 0..64_u8 {
            let mut batch = Batch::blind();
            batch.put([&start[..], &[number]].concat(), vec![number; 60 * 1024]);
            assert!(store.commit(batch).await.is_committed());
        }
        Arc::new(store)
    }

    #[tokio::test]
    async fn a_second_backup_is_refused_while_one_is_taken_and_can_be_had_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let drain = Drain::new();
        open(folder.path(), large_store().await, "eu", drain.clone());
        let mut first = UnixStream::connect(folder.path().join(SOCKET)).await.unwrap();
        first.read_exact(&mut [0]).await.unwrap();
        let second = async || ask(folder.path(), tempfile::tempfile().unwrap()).await;
        let error = timeout(PATIENCE, second()).await.unwrap().err().unwrap();
        let said = error.to_string();
        let named = folder.path().display().to_string();
        assert!(
            said.contains("gave nothing: it is giving a backup already") && said.contains(&named),
            "{said}"
        );

        let mut len = 1;
        let mut bytes = vec![0; READ_LEN];
        loop {
            let read = timeout(PATIENCE, first.read(&mut bytes)).await.unwrap().unwrap();
            if read == 0 {
                break;
            }
            len += read;
        }
        assert!(len > 64 * 60 * 1024, "the first was not disturbed: {len} bytes");
        let third = async { while !matches!(second().await, Ok(Asked::Answered)) {} };
        timeout(PATIENCE, third).await.expect("the door is free again");

        drain.start();
        let closed = async { while !matches!(second().await, Ok(Asked::NobodyThere)) {} };
        timeout(PATIENCE, closed)
            .await
            .expect("a node that leaves gives none");
    }
}
