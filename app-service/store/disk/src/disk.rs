//! A model of a disk under a file system that promises what POSIX does and nothing more.
//!
//! - Data and length of a file are safe after `fsync` or `fdatasync` of that file. Before, each 4 KiB page written
//!   since may be there, not be there, or be torn between 512-byte sectors, and the length may be either.
//! - Names in a folder are safe after `fsync` of that folder. Before, some first part of what was done in that
//!   folder may be there. Syncing a file does not save its name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::DiskError;
use crate::record::Record;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

type Page = Arc<[u8; PAGE]>;
type NodeId = usize;

/// What becomes of everything that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing of it reached the disk.
    All,
    /// Everything reached the disk: the process was killed, not the power.
    Nothing,
    /// Any part of it reached the disk, pages torn.
    Random,
}

/// The disk, with the state that the process saw and the state that is safe.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    nodes: Vec<Node>,
    handles: HashMap<u32, NodeId>,
}

#[derive(Debug, Clone)]
enum Node {
    File {
        seen: Content,
        safe: Content,
        unsynced: BTreeSet<u64>,
    },
    Folder {
        seen: Names,
        safe: Names,
        unsynced: Vec<Change>,
    },
}

type Names = BTreeMap<String, NodeId>;

/// One change of a folder's names; becomes durable as one.
#[derive(Debug, Clone)]
enum Change {
    Set(String, NodeId),
    Remove(String),
    Rename { from: String, to: String, node: NodeId },
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Set(name, node) => _ = names.insert(name.clone(), *node),
            Self::Remove(name) => _ = names.remove(name),
            Self::Rename { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// A file's bytes; a page that is not there is zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Page>,
}

const ROOT: NodeId = 0;

impl Disk {
    /// A disk that holds, safely, what `folder` holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(folder: &Path) -> Result<Self, DiskError> {
        let mut disk = Self::default();
        disk.load_folder(folder)?;
        Ok(disk)
    }

    fn load_folder(&mut self, path: &Path) -> Result<NodeId, DiskError> {
        let id = self.nodes.len();
        self.nodes.push(Node::folder(Names::new()));
        let mut names = Names::new();
        for (name, path, is_folder) in list(path)? {
            let node = if is_folder {
                self.load_folder(&path)?
            } else {
                let content = Content::of(&fs::read(&path).map_err(DiskError::io(&path))?);
                self.add(Node::File {
                    seen: content.clone(),
                    safe: content,
                    unsynced: BTreeSet::new(),
                })
            };
            names.insert(name, node);
        }
        self.nodes[id] = Node::folder(names);
        Ok(id)
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The node that the process sees at `path`.
    fn seen(&self, path: &str) -> Option<NodeId> {
        let mut at = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Node::Folder { seen, .. } = &self.nodes[at] else {
                return None;
            };
            at = *seen.get(name)?;
        }
        Some(at)
    }

    fn change(&mut self, folder: &str, change: Change) -> Result<(), DiskError> {
        let id = self.seen(folder).ok_or_else(|| missing(folder))?;
        let Node::Folder { seen, unsynced, .. } = &mut self.nodes[id] else {
            return Err(missing(folder));
        };
        change.apply(seen);
        unsynced.push(change);
        Ok(())
    }

    fn node_of(&self, handle: u32) -> Result<NodeId, DiskError> {
        let node = self.handles.get(&handle).copied();
        node.ok_or_else(|| missing(&format!("what was opened as {handle}")))
    }

    /// Does what the process did.
    ///
    /// # Errors
    /// When it speaks of what is not there.
    pub fn apply(&mut self, record: &Record) -> Result<(), DiskError> {
        match record {
            Record::Open {
                handle,
                path,
                creates,
                truncates,
            } => {
                let node = match self.seen(path) {
                    Some(node) => node,
                    None if *creates => self.create(path)?,
                    None => return Err(missing(path)),
                };
                self.handles.insert(*handle, node);
                if *truncates {
                    self.set_len(node, 0);
                }
            }
            Record::Write { handle, offset, data } => self.write(self.node_of(*handle)?, *offset, data),
            Record::Begin => {}
            Record::Sync { handle } => {
                let node = self.node_of(*handle)?;
                self.nodes[node].sync();
            }
            Record::SetLen { handle, len } => self.set_len(self.node_of(*handle)?, *len),
            Record::Rename { from, to } => {
                let node = self.seen(from).ok_or_else(|| missing(from))?;
                let ((from_folder, from), (to_folder, to)) = (split(from), split(to));
                let (from, to) = (from.to_owned(), to.to_owned());
                if from_folder == to_folder {
                    self.change(from_folder, Change::Rename { from, to, node })?;
                } else {
                    self.change(from_folder, Change::Remove(from))?;
                    self.change(to_folder, Change::Set(to, node))?;
                }
            }
            Record::MakeFolder { path } => {
                let node = self.add(Node::folder(Names::new()));
                let (folder, name) = split(path);
                self.change(folder, Change::Set(name.to_owned(), node))?;
            }
            Record::RemoveFile { path } | Record::RemoveFolder { path } => {
                let (folder, name) = split(path);
                self.change(folder, Change::Remove(name.to_owned()))?;
            }
        }
        Ok(())
    }

    fn create(&mut self, path: &str) -> Result<NodeId, DiskError> {
        let node = self.add(Node::File {
            seen: Content::default(),
            safe: Content::default(),
            unsynced: BTreeSet::new(),
        });
        let (folder, name) = split(path);
        self.change(folder, Change::Set(name.to_owned(), node))?;
        Ok(node)
    }

    /// Bytes of pages that were written and may be lost.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        let pages = self.nodes.iter().map(|node| match node {
            Node::File { unsynced, .. } => unsynced.len(),
            Node::Folder { .. } => 0,
        });
        (pages.sum::<usize>() * PAGE) as u64
    }

    /// The first way in which `folder` is not what the process is taken to have seen.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn difference(&self, folder: &Path) -> Result<Option<String>, DiskError> {
        self.node_difference(ROOT, folder)
    }

    fn node_difference(&self, id: NodeId, path: &Path) -> Result<Option<String>, DiskError> {
        match &self.nodes[id] {
            Node::File { seen, .. } => {
                let is = Content::of(&fs::read(path).map_err(DiskError::io(path))?);
                Ok((is != seen.without_zeros()).then(|| format!("{} differs", path.display())))
            }
            Node::Folder { seen, .. } => {
                let there: BTreeSet<_> = list(path)?.into_iter().map(|(name, ..)| name).collect();
                let known: BTreeSet<_> = seen.keys().cloned().collect();
                if there != known {
                    return Ok(Some(format!("{} holds {there:?}, not {known:?}", path.display())));
                }
                for (name, node) in seen {
                    let found = self.node_difference(*node, &path.join(name))?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Ok(None)
            }
        }
    }

    fn write(&mut self, node: NodeId, offset: u64, mut data: &[u8]) {
        let Node::File { seen, unsynced, .. } = &mut self.nodes[node] else {
            return;
        };
        let mut at = offset;
        while !data.is_empty() {
            let (page, within) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let count = data.len().min(PAGE - within);
            let bytes = seen.pages.entry(page).or_insert_with(zeros);
            Arc::make_mut(bytes)[within..within + count].copy_from_slice(&data[..count]);
            unsynced.insert(page);
            at += count as u64;
            data = &data[count..];
        }
        seen.len = seen.len.max(at);
    }

    fn set_len(&mut self, node: NodeId, len: u64) {
        let Node::File { seen, unsynced, .. } = &mut self.nodes[node] else {
            return;
        };
        seen.len = len;
        unsynced.extend(seen.cut());
    }

    /// What a restarted machine finds, written into the empty folder `into`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn crash(&self, loss: Loss, rng: &mut StdRng, into: &Path) -> Result<(), DiskError> {
        self.crash_node(ROOT, loss, rng, into)
    }

    fn crash_node(&self, id: NodeId, loss: Loss, rng: &mut StdRng, path: &Path) -> Result<(), DiskError> {
        match &self.nodes[id] {
            Node::File { seen, safe, unsynced } => {
                let content = crashed_content(seen, safe, unsynced, loss, rng);
                content.write_to(path).map_err(DiskError::io(path))?;
            }
            Node::Folder {
                seen: _,
                safe,
                unsynced,
            } => {
                let kept = match loss {
                    Loss::All => 0,
                    Loss::Nothing => unsynced.len(),
                    Loss::Random => rng.random_range(0..=unsynced.len()),
                };
                let mut names = safe.clone();
                unsynced[..kept]
                    .iter()
                    .for_each(|change| change.apply(&mut names));
                fs::create_dir_all(path).map_err(DiskError::io(path))?;
                for (name, node) in names {
                    self.crash_node(node, loss, rng, &path.join(name))?;
                }
            }
        }
        Ok(())
    }
}

impl Node {
    fn folder(names: Names) -> Self {
        Self::Folder {
            seen: names.clone(),
            safe: names,
            unsynced: Vec::new(),
        }
    }

    fn sync(&mut self) {
        match self {
            Self::File { seen, safe, unsynced } => {
                for page in std::mem::take(unsynced) {
                    match seen.pages.get(&page) {
                        Some(bytes) => _ = safe.pages.insert(page, Arc::clone(bytes)),
                        None => _ = safe.pages.remove(&page),
                    }
                }
                safe.len = seen.len;
            }
            Self::Folder { seen, safe, unsynced } => {
                unsynced.clear();
                safe.clone_from(seen);
            }
        }
    }
}

fn crashed_content(
    seen: &Content,
    safe: &Content,
    unsynced: &BTreeSet<u64>,
    loss: Loss,
    rng: &mut StdRng,
) -> Content {
    match loss {
        Loss::All => return safe.clone(),
        Loss::Nothing => return seen.clone(),
        Loss::Random => {}
    }
    let mut content = safe.clone();
    content.len = if rng.random_bool(0.5) { seen.len } else { safe.len };
    // Half of the cuts write pages back in order and stop somewhere, the others in any order.
    let stop = rng.random_bool(0.5).then(|| rng.random_range(0..=unsynced.len()));
    for (i, page) in unsynced.iter().enumerate() {
        let new = seen.pages.get(page).cloned().unwrap_or_else(zeros);
        let fate = match stop {
            Some(stop) if i < stop => 0,
            Some(stop) if i > stop => 1,
            Some(_) => 2,
            None => rng.random_range(0..3),
        };
        match fate {
            0 => _ = content.pages.insert(*page, new),
            1 => {}
            _ => {
                let old = content.pages.entry(*page).or_insert_with(zeros);
                let old = Arc::make_mut(old);
                for (old, new) in old.chunks_mut(SECTOR).zip(new.chunks(SECTOR)) {
                    if rng.random_bool(0.5) {
                        old.copy_from_slice(new);
                    }
                }
            }
        }
    }
    content.cut();
    content
}

impl Content {
    fn of(bytes: &[u8]) -> Self {
        let mut content = Self {
            len: bytes.len() as u64,
            pages: BTreeMap::new(),
        };
        for (number, chunk) in (0..).zip(bytes.chunks(PAGE)) {
            let mut page = [0; PAGE];
            page[..chunk.len()].copy_from_slice(chunk);
            if page != [0; PAGE] {
                content.pages.insert(number, Arc::new(page));
            }
        }
        content
    }

    /// Removes what lies behind the length; the pages that changed.
    fn cut(&mut self) -> Vec<u64> {
        let (last, within) = (self.len / PAGE as u64, (self.len % PAGE as u64) as usize);
        let mut changed: Vec<_> = self.pages.split_off(&(last + 1)).into_keys().collect();
        if let Some(page) = self.pages.get_mut(&last) {
            Arc::make_mut(page)[within..].fill(0);
            changed.push(last);
        }
        changed
    }

    /// The same bytes, pages of zeros left out.
    fn without_zeros(&self) -> Self {
        let pages = self.pages.iter().filter(|(_, page)| ***page != [0; PAGE]);
        Self {
            len: self.len,
            pages: pages.map(|(number, page)| (*number, Arc::clone(page))).collect(),
        }
    }

    fn write_to(&self, path: &Path) -> std::io::Result<()> {
        let file = fs::File::create(path)?;
        file.set_len(self.len)?;
        for (number, page) in &self.pages {
            let at = number * PAGE as u64;
            let count = (self.len.saturating_sub(at)).min(PAGE as u64) as usize;
            file.write_all_at(&page[..count], at)?;
        }
        Ok(())
    }
}

fn zeros() -> Page {
    Arc::new([0; PAGE])
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn missing(what: &str) -> DiskError {
    DiskError::Missing {
        what: what.to_owned(),
    }
}

/// What a folder holds: names, paths, and whether each is a folder.
pub(crate) fn list(folder: &Path) -> Result<Vec<(String, PathBuf, bool)>, DiskError> {
    let io = |error| DiskError::io(folder)(error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let kind = entry.file_type().map_err(io)?;
        if kind.is_socket() {
            // A name for connecting, with nothing behind it once its process is gone.
            continue;
        }
        let is_folder = kind.is_dir();
        let name = entry.file_name().to_string_lossy().into_owned();
        entries.push((name, entry.path(), is_folder));
    }
    entries.sort_unstable();
    Ok(entries)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn the_model_keeps_what_was_synced_and_may_lose_the_rest() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut disk = Disk::default();
        disk.nodes.push(Node::folder(Names::new()));
        let open = |handle, path: &str| Record::Open {
            handle,
            path: path.to_owned(),
            creates: true,
            truncates: false,
        };
        disk.apply(&Record::MakeFolder { path: "d".to_owned() }).unwrap();
        disk.handles.insert(90, ROOT);
        disk.apply(&Record::Sync { handle: 90 }).unwrap();
        disk.apply(&open(1, "d/a")).unwrap();
        disk.apply(&Record::Write {
            handle: 1,
            offset: 0,
            data: b"safe".to_vec(),
        })
        .unwrap();
        disk.apply(&Record::Sync { handle: 1 }).unwrap();
        let lost = tempfile::tempdir().unwrap();
        disk.crash(Loss::All, &mut rng, lost.path()).unwrap();
        assert!(!lost.path().join("d/a").exists(), "the folder was not synced");

        disk.handles.insert(91, disk.seen("d").unwrap());
        disk.apply(&Record::Sync { handle: 91 }).unwrap();
        disk.apply(&Record::Write {
            handle: 1,
            offset: 4,
            data: vec![1; 9000],
        })
        .unwrap();
        let kept = tempfile::tempdir().unwrap();
        disk.crash(Loss::All, &mut rng, kept.path()).unwrap();
        assert_eq!(fs::read(kept.path().join("d/a")).unwrap(), b"safe");
        for _ in 0..20 {
            let torn = tempfile::tempdir().unwrap();
            disk.crash(Loss::Random, &mut rng, torn.path()).unwrap();
            assert!(fs::read(torn.path().join("d/a")).unwrap().starts_with(b"safe"));
        }
    }
}
