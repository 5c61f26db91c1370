//! The log and what is needed to write it: which descriptor is which file.

use std::collections::HashMap;
use std::ffi::{OsString, c_int};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::{LazyLock, Mutex, MutexGuard};

use crate::calls::append;

pub(crate) const OPEN: u8 = 1;
pub(crate) const WRITE: u8 = 2;
pub(crate) const SYNC: u8 = 3;
pub(crate) const SET_LEN: u8 = 4;
pub(crate) const RENAME: u8 = 5;
pub(crate) const REMOVE_FILE: u8 = 6;
pub(crate) const MAKE_FOLDER: u8 = 7;
pub(crate) const REMOVE_FOLDER: u8 = 8;
const BEGIN: u8 = 9;

static RECORDER: LazyLock<Option<Mutex<Recorder>>> = LazyLock::new(|| Recorder::from_env().map(Mutex::new));

/// The recorder of this process, locked; `None` when the environment does not ask for one.
pub(crate) fn lock() -> Option<MutexGuard<'static, Recorder>> {
    let lock = RECORDER.as_ref()?.lock();
    Some(lock.expect("nothing panics while holding this lock"))
}

pub(crate) struct Recorder {
    /// Ends with a slash.
    root: Vec<u8>,
    log_path: Vec<u8>,
    log: Option<c_int>,
    open: HashMap<c_int, Opened>,
    next_handle: u32,
}

struct Opened {
    handle: u32,
    /// Absolute.
    path: Vec<u8>,
}

impl Recorder {
    fn from_env() -> Option<Self> {
        let mut root = std::env::var_os("WHIMBREL_POWERCUT_ROOT").map(OsString::into_vec)?;
        let log_path = std::env::var_os("WHIMBREL_POWERCUT_LOG").map(OsString::into_vec)?;
        root.push(b'/');
        Some(Self {
            root,
            log_path,
            log: None,
            open: HashMap::new(),
            next_handle: 0,
        })
    }

    /// The absolute path that `path` means relative to the descriptor `at`, when it can be told.
    pub(crate) fn absolute(&self, at: c_int, path: &[u8]) -> Option<Vec<u8>> {
        if path.starts_with(b"/") {
            return Some(path.to_vec());
        }
        let folder = &self.open.get(&at)?.path;
        Some([folder, &b"/"[..], path].concat())
    }

    fn relative<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        // The root itself is opened without its slash.
        if self.root.strip_suffix(b"/") == Some(path) {
            Some(b"")
        } else {
            path.strip_prefix(&self.root[..])
        }
    }

    pub(crate) fn opened(&mut self, fd: c_int, path: Option<Vec<u8>>, flags: u64) {
        // Closed by a call that is not recorded, and used again.
        self.open.remove(&fd);
        let Some(path) = path else { return };
        let Some(relative) = self.relative(&path) else {
            return;
        };
        let handle = self.next_handle;
        let relative = relative.to_vec();
        self.next_handle += 1;
        self.record(OPEN, handle, flags, &relative);
        self.open.insert(fd, Opened { handle, path });
    }

    pub(crate) fn closed(&mut self, fd: c_int) {
        self.open.remove(&fd);
    }

    pub(crate) fn is_recorded(&self, fd: c_int) -> bool {
        self.open.contains_key(&fd)
    }

    /// A call on an open file begins.
    pub(crate) fn begin_on_file(&mut self, fd: c_int) {
        if self.is_recorded(fd) {
            self.record(BEGIN, 0, 0, b"");
        }
    }

    /// A call on a path begins.
    pub(crate) fn begin_on_path(&mut self, path: Option<&[u8]>) {
        if path.is_some_and(|path| self.relative(path).is_some()) {
            self.record(BEGIN, 0, 0, b"");
        }
    }

    /// A call on an open file.
    pub(crate) fn on_file(&mut self, kind: u8, fd: c_int, number: u64, bytes: &[u8]) {
        if let Some(opened) = self.open.get(&fd) {
            let handle = opened.handle;
            self.record(kind, handle, number, bytes);
        }
    }

    /// A call on a path.
    pub(crate) fn on_path(&mut self, kind: u8, path: Option<Vec<u8>>) {
        if let Some(path) = path
            && let Some(relative) = self.relative(&path)
        {
            let relative = relative.to_vec();
            self.record(kind, 0, 0, &relative);
        }
    }

    pub(crate) fn renamed(&mut self, from: Option<Vec<u8>>, to: Option<Vec<u8>>) {
        let (Some(from), Some(to)) = (from, to) else {
            return;
        };
        if let (Some(from), Some(to)) = (self.relative(&from), self.relative(&to)) {
            let both = [from, &[0], to].concat();
            self.record(RENAME, 0, 0, &both);
        }
    }

    fn record(&mut self, kind: u8, handle: u32, number: u64, bytes: &[u8]) {
        let mut record = Vec::with_capacity(17 + bytes.len());
        record.push(kind);
        record.extend(handle.to_le_bytes());
        record.extend(number.to_le_bytes());
        let len = u32::try_from(bytes.len()).expect("a single write is below 2 GiB on Linux");
        record.extend(len.to_le_bytes());
        record.extend(bytes);
        let log = append(&mut self.log, &self.log_path, &record);
        assert!(log, "the power-cut log cannot be written");
    }
}
