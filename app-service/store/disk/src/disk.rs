//! A model of a disk under a file system that promises what POSIX does and nothing more.
//!
//! - Data and length of a file are safe after `fsync` or `fdatasync` of that file. Before, each 4 KiB page written
//!   since may be there, not be there, or be torn between 512-byte sectors, and the length may be either.
//! - Names in a folder are safe after `fsync` of that folder. Before, some first part of what was done in that
//!   folder may be there. Syncing a file does not save its name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::record::Record;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

type Page = Arc<[u8; PAGE]>;
type NodeId = usize;

/// What becomes of everything that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing of it reached the disk.
    All,
    /// Everything reached the disk: the process was killed, not the power.
    Nothing,
    /// Any part of it reached the disk, pages torn.
    Random,
}

/// The disk, with the state that the process saw and the state that is safe.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
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
    pub(crate) fn load(folder: &Path) -> Self {
        let mut disk = Self::default();
        disk.load_folder(folder);
        disk
    }

    fn load_folder(&mut self, path: &Path) -> NodeId {
        let id = self.nodes.len();
        self.nodes.push(Node::folder(Names::new()));
        let mut names = Names::new();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let node = if entry.file_type().unwrap().is_dir() {
                self.load_folder(&entry.path())
            } else {
                let content = Content::of(&fs::read(entry.path()).unwrap());
                self.add(Node::File {
                    seen: content.clone(),
                    safe: content,
                    unsynced: BTreeSet::new(),
                })
            };
            names.insert(entry.file_name().into_string().unwrap(), node);
        }
        self.nodes[id] = Node::folder(names);
        id
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

    fn change(&mut self, folder: &str, change: Change) {
        let id = self
            .seen(folder)
            .unwrap_or_else(|| panic!("no folder {folder:?}"));
        let Node::Folder { seen, unsynced, .. } = &mut self.nodes[id] else {
            panic!("{folder:?} is no folder")
        };
        change.apply(seen);
        unsynced.push(change);
    }

    /// Does what the process did.
    pub(crate) fn apply(&mut self, record: &Record) {
        match record {
            Record::Open {
                handle,
                path,
                creates,
                truncates,
            } => {
                let node = self.seen(path).unwrap_or_else(|| {
                    assert!(creates, "{path:?} was opened and is not there");
                    let content = Content::default;
                    let (seen, safe) = (content(), content());
                    let node = self.add(Node::File {
                        seen,
                        safe,
                        unsynced: BTreeSet::new(),
                    });
                    let (folder, name) = split(path);
                    self.change(folder, Change::Set(name.to_owned(), node));
                    node
                });
                self.handles.insert(*handle, node);
                if *truncates {
                    self.set_len(node, 0);
                }
            }
            Record::Write { handle, offset, data } => self.write(self.handles[handle], *offset, data),
            Record::Sync { handle } => self.nodes[self.handles[handle]].sync(),
            Record::SetLen { handle, len } => self.set_len(self.handles[handle], *len),
            Record::Rename { from, to } => {
                let node = self.seen(from).unwrap();
                let ((from_folder, from), (to_folder, to)) = (split(from), split(to));
                let (from, to) = (from.to_owned(), to.to_owned());
                if from_folder == to_folder {
                    self.change(from_folder, Change::Rename { from, to, node });
                } else {
                    self.change(from_folder, Change::Remove(from));
                    self.change(to_folder, Change::Set(to, node));
                }
            }
            Record::MakeFolder { path } => {
                let node = self.add(Node::folder(Names::new()));
                let (folder, name) = split(path);
                self.change(folder, Change::Set(name.to_owned(), node));
            }
            Record::RemoveFile { path } | Record::RemoveFolder { path } => {
                let (folder, name) = split(path);
                self.change(folder, Change::Remove(name.to_owned()));
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
    pub(crate) fn crash(&self, loss: Loss, rng: &mut StdRng, into: &Path) {
        self.crash_node(ROOT, loss, rng, into);
    }

    fn crash_node(&self, id: NodeId, loss: Loss, rng: &mut StdRng, path: &Path) {
        match &self.nodes[id] {
            Node::File { seen, safe, unsynced } => {
                crashed_content(seen, safe, unsynced, loss, rng).write_to(path);
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
                fs::create_dir_all(path).unwrap();
                for (name, node) in names {
                    self.crash_node(node, loss, rng, &path.join(name));
                }
            }
        }
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

    fn write_to(&self, path: &Path) {
        let file = fs::File::create(path).unwrap();
        file.set_len(self.len).unwrap();
        for (number, page) in &self.pages {
            let at = number * PAGE as u64;
            let count = (self.len.saturating_sub(at)).min(PAGE as u64) as usize;
            file.write_all_at(&page[..count], at).unwrap();
        }
    }
}

fn zeros() -> Page {
    Arc::new([0; PAGE])
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Whether two folders hold the same files with the same bytes; the first difference if not.
pub(crate) fn difference(one: &Path, two: &Path) -> Option<String> {
    let names = |folder: &Path| -> BTreeSet<_> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    };
    let (in_one, in_two) = (names(one), names(two));
    if in_one != in_two {
        return Some(format!("{}: {in_one:?} and {in_two:?}", one.display()));
    }
    in_one.iter().find_map(|name| {
        let (one, two) = (one.join(name), two.join(name));
        if one.is_dir() {
            return difference(&one, &two);
        }
        let same = fs::read(&one).unwrap() == fs::read(&two).unwrap();
        (!same).then(|| format!("{} differs", one.display()))
    })
}

#[test]
fn the_model_keeps_what_was_synced_and_may_lose_the_rest() {
    use rand::SeedableRng as _;
    let mut rng = StdRng::seed_from_u64(1);
    let mut disk = Disk::default();
    disk.nodes.push(Node::folder(Names::new()));
    let open = |handle, path: &str| Record::Open {
        handle,
        path: path.to_owned(),
        creates: true,
        truncates: false,
    };
    disk.apply(&Record::MakeFolder { path: "d".to_owned() });
    disk.handles.insert(90, ROOT);
    disk.apply(&Record::Sync { handle: 90 });
    disk.apply(&open(1, "d/a"));
    disk.apply(&Record::Write {
        handle: 1,
        offset: 0,
        data: b"safe".to_vec(),
    });
    disk.apply(&Record::Sync { handle: 1 });
    let lost = tempfile::tempdir().unwrap();
    disk.crash(Loss::All, &mut rng, lost.path());
    assert!(!lost.path().join("d/a").exists(), "the folder was not synced");

    disk.handles.insert(91, disk.seen("d").unwrap());
    disk.apply(&Record::Sync { handle: 91 });
    disk.apply(&Record::Write {
        handle: 1,
        offset: 4,
        data: vec![1; 9000],
    });
    let kept = tempfile::tempdir().unwrap();
    disk.crash(Loss::All, &mut rng, kept.path());
    assert_eq!(fs::read(kept.path().join("d/a")).unwrap(), b"safe");
    for _ in 0..20 {
        let torn = tempfile::tempdir().unwrap();
        disk.crash(Loss::Random, &mut rng, torn.path());
        assert!(fs::read(torn.path().join("d/a")).unwrap().starts_with(b"safe"));
    }
}
