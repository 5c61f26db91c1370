//! Damage of the engine's own files, in words that say which file it is.
//!
//! The engine says of most damage only what the system said ("Invalid argument"), and takes a folder without its version marker
//! for one that it has yet to fill. So what can be seen from outside is looked at: before opening where the engine
//! would do harm or end the process, and after it failed for a description. Not for mending: that is the journal's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::folder::OpenError;

/// Most files that a description names: the first ones tell the kind of damage.
const NAMED_MAX: usize = 4;

/// Whether an error says something about the files themselves, rather than about rights, descriptors, memory, space or
/// the device, which can be mended without touching the store.
pub(super) fn is_of_files(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AlreadyExists, InvalidData, InvalidInput, IsADirectory, NotADirectory, NotFound, Other, UnexpectedEof,
    };
    matches!(
        error.kind(),
        NotFound
            | UnexpectedEof
            | InvalidData
            | InvalidInput
            | AlreadyExists
            | IsADirectory
            | NotADirectory
            | Other
    )
}

/// Refuses what the engine must not be asked to open in `db`: without its version marker it begins a new database among the
/// files of the old one, and it panics twice, and so ends the process, when a folder that it did not make lies among
/// its trees. `root` is the data folder.
pub(super) fn check(root: &Path, db: &Path) -> Result<(), OpenError> {
    let corrupt = |detail: String| OpenError::Corrupt {
        folder: root.to_path_buf(),
        detail,
    };
    if !db.join("version").is_file() {
        return Err(corrupt("current/db/version is missing".to_owned()));
    }
    let path = db.join("keyspaces");
    if !path.is_dir() {
        return Err(corrupt(
            "current/db/keyspaces, the folder of trees, is missing".to_owned(),
        ));
    }
    let listing = |e| OpenError::io("listing", &path, e);
    for entry in fs::read_dir(&path).map_err(listing)? {
        let entry = entry.map_err(listing)?;
        let name = entry.file_name();
        let is_tree = name.to_str().is_some_and(|name| name.parse::<u64>().is_ok());
        if !is_tree && !entry.file_type().map_err(listing)?.is_file() {
            return Err(corrupt(format!(
                "current/db/keyspaces/{} does not belong there",
                name.display()
            )));
        }
    }
    Ok(())
}

/// What the engine `said` about the database in `db`, with the files that look damaged.
pub(super) fn describe(db: &Path, said: &str) -> String {
    let found = suspects(db);
    if found.is_empty() {
        return format!("a file under {} is damaged ({said})", db.display());
    }
    let named = found.len().min(NAMED_MAX);
    let more = if found.len() > named { ", and more" } else { "" };
    format!("{}{more} ({said})", found[..named].join(", "))
}

/// What is wrong with files that are there or should be, seen from outside. What cannot be read is left out: this is only for
/// a description.
fn suspects(db: &Path) -> Vec<String> {
    let mut found = Vec::new();
    if fs::metadata(db.join("version")).is_ok_and(|version| version.len() == 0) {
        found.push("current/db/version is empty".to_owned());
    }
    for tree in names(&db.join("keyspaces")) {
        let name = |file: &str| match tree.file_name() {
            Some(id) => format!("current/db/keyspaces/{}/{file}", id.display()),
            None => file.to_owned(),
        };
        if !tree.is_dir() {
            continue;
        }
        match manifest(&tree) {
            Err(error) => found.push(format!("{} cannot be read: {error}", name("current"))),
            Ok(manifest) => match fs::metadata(tree.join(&manifest)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    found.push(format!("{} names {manifest}, which is missing", name("current")))
                }
                Err(error) => found.push(format!("{} cannot be read: {error}", name(&manifest))),
                Ok(file) if file.len() == 0 => found.push(format!("{} is empty", name(&manifest))),
                Ok(_) => {}
            },
        }
        for table in names(&tree.join("tables")) {
            if fs::metadata(&table).is_ok_and(|table| table.len() == 0)
                && let Some(table) = table.file_name()
            {
                found.push(format!(
                    "{} is empty",
                    name(&format!("tables/{}", table.display()))
                ));
            }
        }
    }
    found
}

/// The name of the manifest that counts in a tree: `current` begins with its number, 64 bits, little-endian.
fn manifest(tree: &Path) -> io::Result<String> {
    let bytes = fs::read(tree.join("current"))?;
    let number = bytes
        .first_chunk()
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut short"))?;
    Ok(format!("v{}", u64::from_le_bytes(*number)))
}

/// What lies in `folder`, by name.
fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    names.sort_unstable();
    names
}
