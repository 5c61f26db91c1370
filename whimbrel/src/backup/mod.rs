//! `whimbrel backup` and `whimbrel restore`: a store as one file, and a store made of one.
//!
//! The embedded store has one owner. While a node runs, the node itself is asked, by a socket in the store's folder ([`door`]); while none
//! does, the folder is opened. TiKV is read beside all nodes.

mod door;
mod file;

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rand::RngExt as _;
use secrecy::ExposeSecret as _;
use whimbrel_app_service::{keys, values};
use whimbrel_host::config;
use whimbrel_link::ClusterSecret;
use whimbrel_store::backup::{Contents, Header, Reader, Saving, Totals, restore as restore_into};
use whimbrel_store::{FjallStore, Store};

use crate::cli::{BackupArgs, RestoreArgs, WhichStore};
use crate::config::{AppServiceFile, Kept, NodeSection, StoreSection};
use crate::data_dir::DataDir;
use crate::{roles, store, store::Opener, terminal, token::now_ms};

pub(crate) use door::open as open_door;

/// Between two lines that say how far a restore is.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Of a file, at a time.
const READ_LEN: usize = 1 << 20;

/// What of a store is saved.
fn contents() -> Contents {
    Contents {
        schema: values::SCHEMA,
        ranges: keys::everything(),
        mark: keys::restore_mark(),
    }
}

/// A store, and the cluster whose it is.
struct Place {
    section: StoreSection,
    cluster: String,
    /// The cluster's, where the configuration names it.
    secret: Option<ClusterSecret>,
    /// Held while a data folder is used.
    _data: Option<DataDir>,
}

impl Place {
    /// The embedded store's folder.
    fn folder(&self) -> Option<&Path> {
        self.section.embedded()
    }

    fn of_config(path: &Path) -> anyhow::Result<Self> {
        let loaded = config::load::<AppServiceFile>(path)?;
        let named = loaded.value.store.needed().in_what_is(&loaded);
        let file = loaded.warned();
        named.with_context(|| format!("configuration {}", path.display()))?;
        let mut section = file.store;
        if section.kept() == Some(Kept::Memory) {
            bail!(
                "`store.folder` is empty in {}: that node keeps nothing",
                path.display()
            );
        }
        section.based_at(path.parent().unwrap_or(Path::new(".")));
        let secret = &file.links.secret;
        let secret = match secret.expose_secret().trim() {
            "" => None,
            _ => Some(roles::cluster_secret(secret)?),
        };
        Ok(Self {
            section,
            cluster: file.node.cluster,
            secret,
            _data: None,
        })
    }

    fn of_standalone(store: PathBuf, data: Option<DataDir>) -> Self {
        let section = StoreSection {
            folder: Some(store),
            ..StoreSection::default()
        };
        Self {
            section,
            cluster: NodeSection::default().cluster,
            secret: None,
            _data: data,
        }
    }

    async fn open(&self, only_reads: bool) -> anyhow::Result<std::sync::Arc<dyn Store>> {
        let opener = Opener {
            secret: self.secret.as_ref(),
            only_reads,
            ..Opener::default()
        };
        store::open(&self.section, &self.cluster, opener).await
    }

    /// Whether what is written here is known to come to the cluster that is meant.
    ///
    /// # Errors
    /// Names what is missing.
    fn may_be_written(&self) -> anyhow::Result<()> {
        if self.secret.is_none() && matches!(self.section.kept(), Some(Kept::Tikv(_))) {
            bail!(
                "`links.secret_file` is missing: whose the store in TiKV is is told by the cluster's secret; give the \
                 configuration of one of its service nodes"
            );
        }
        Ok(())
    }
}

/// `whimbrel backup`.
pub(crate) async fn backup(args: BackupArgs) -> anyhow::Result<()> {
    let place = match &args.of {
        WhichStore {
            config: Some(path), ..
        } => Place::of_config(path)?,
        // Not locked: standalone may run on it.
        WhichStore { data, .. } => Place::of_standalone(data.join("store"), None),
    };
    let begun = Instant::now();
    let file = file::New::beside(&args.to)?;
    match place.folder() {
        Some(folder) if !FjallStore::exists(folder) => return Err(none_in(folder)),
        Some(folder) => match door::ask(folder, file.writer()?).await? {
            door::Asked::Answered => {}
            door::Asked::NobodyThere => save(&place, file.writer()?).await?,
        },
        None => save(&place, file.writer()?).await?,
    }
    // What was written is read again before it is called a backup.
    let bad = || format!("the backup is not good, and {} is not made", args.to.display());
    let reader = Reader::open(BufReader::with_capacity(READ_LEN, file.reader()?)).with_context(bad)?;
    let header = reader.header().clone();
    let totals = reader.check(&contents()).with_context(bad)?;
    file.keep()?;
    terminal::answer(&format!(
        "{}: {}, in {:.1} s",
        args.to.display(),
        described(&header, totals),
        begun.elapsed().as_secs_f64()
    ))
}

/// Why no store was found in `folder`: there is none, or nobody let us look.
fn none_in(folder: &Path) -> anyhow::Error {
    let looked = std::fs::read_dir(folder.join("current"))
        .and_then(|_| std::fs::metadata(folder.join("current/format")));
    match looked {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            anyhow::Error::new(error).context(format!(
                "cannot look for a store in {}: run this as the user that the server runs as",
                folder.display()
            ))
        }
        _ => anyhow::anyhow!(
            "there is no store in {}: nothing can be backed up",
            folder.display()
        ),
    }
}

/// Reads the store and writes the file.
async fn save(place: &Place, mut to: std::fs::File) -> anyhow::Result<()> {
    let store = place.open(true).await?;
    let saved = save_from(&*store, &place.cluster, &mut to).await;
    store.close().await;
    saved
}

async fn save_from(store: &dyn Store, cluster: &str, to: &mut std::fs::File) -> anyhow::Result<()> {
    use std::io::Write as _;

    let mut saving = begin(store, cluster).await?;
    while let Some(bytes) = saving
        .next()
        .await
        .context("the store cannot be read to its end")?
    {
        to.write_all(&bytes).context("the backup cannot be written")?;
    }
    Ok(())
}

async fn begin(store: &dyn Store, cluster: &str) -> anyhow::Result<Saving> {
    let id = rand::rng().random();
    Ok(Saving::begin(store, &contents(), (id, now_ms()), cluster).await?)
}

/// `whimbrel restore`.
pub(crate) async fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let of_file = || format!("the backup {}", args.from.display());
    let open = || -> anyhow::Result<_> {
        let file = std::fs::File::open(&args.from)?;
        Ok(Reader::open(BufReader::with_capacity(READ_LEN, file))?)
    };
    // All of it, before anything is touched.
    let reader = open().with_context(of_file)?;
    let header = reader.header().clone();
    let totals = reader.check(&contents()).with_context(of_file)?;
    if args.check {
        return terminal::answer(&format!(
            "{}: whole; {}",
            args.from.display(),
            described(&header, totals)
        ));
    }
    let place = match (&args.into.config, &args.into.data) {
        (Some(path), _) => Place::of_config(path)?,
        (None, data) => {
            // Made if it is new; locked, so that standalone does not start meanwhile.
            let data = DataDir::open(data, 1, now_ms())?;
            Place::of_standalone(data.store(), Some(data))
        }
    };
    place.may_be_written()?;
    let begun = Instant::now();
    let mut told_at = begun;
    let store = place.open(false).await?;
    let restored = restore_into(&*store, &contents(), open().with_context(of_file)?, |sofar| {
        if told_at.elapsed() >= TOLD_EVERY {
            told_at = Instant::now();
            terminal::say(&format!("{} of {} entries", sofar.entries, totals.entries));
        }
    })
    .await;
    store.close().await;
    let totals = restored.with_context(of_file)?;
    terminal::answer(&format!(
        "restored and read back in {:.1} s: {}. The store has a new epoch: every client syncs anew",
        begun.elapsed().as_secs_f64(),
        described(&header, totals)
    ))
}

fn described(header: &Header, totals: Totals) -> String {
    format!(
        "{} entries, {} bytes of cluster {:?}, as of {} ms (unix), schema {}, id {:032x}",
        totals.entries,
        totals.bytes,
        header.cluster,
        header.taken_ms,
        header.schema,
        u128::from_be_bytes(header.id),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_looked_into_is_not_called_empty() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let said = format!("{:#}", none_in(&store));
        assert!(
            said.starts_with(&format!("there is no store in {}", store.display())),
            "{said}"
        );
        // As good as one without permission, and root is refused as well.
        std::fs::write(&store, "").unwrap();
        let said = format!("{:#}", none_in(&store));
        assert!(
            said.starts_with(&format!("cannot look for a store in {}", store.display())),
            "{said}"
        );
        assert!(said.contains("Not a directory"), "{said}");
    }
}
