//! A role's configuration: a TOML file, the environment over it, secrets from files of their own.
//!
//! - Every key has a default in its role's struct (`#[serde(default)]`); an unknown key is a [`Warning`] with the nearest
//!   known name, because an older binary must start on a newer file.
//! - `WHIMBREL__SECTION__KEY=value` in the environment overrides `key` of `[section]`; lists take commas.
//! - `key_file = "path"` gives `key` the content of that file, for secrets; a relative path starts at the
//!   configuration's own folder.
//! - A value of the wrong kind is an error that names file, key, value and what was expected. Secrets are never shown.

mod access;
mod bounds;
mod example;
mod nearest;
mod tree;
mod walk;

use std::{
    cell::RefCell,
    fmt, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

pub use self::bounds::{OutOfBounds, is_host_and_port};
pub use self::example::assert_example_complete;
use self::{
    nearest::{misspelt, nearest},
    tree::{Node, Origin, path_of_variable},
    walk::{FILE_SUFFIX, Seen, Walk, WalkError},
};
use crate::exposure::warn_if_exposed;

/// What the names of our environment variables begin with, before `__`.
pub const ENV_PREFIX: &str = "WHIMBREL";
/// Bytes of the longest file that is read as configuration or secret: far above any, far below harm.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// A configuration and what the operator should hear about it.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The configuration.
    pub value: T,
    /// Keys that nobody reads.
    pub warnings: Vec<Warning>,
    /// The secrets' files that were read.
    pub secret_files: Vec<PathBuf>,
    /// What stands at the file's top level, known or not; the environment adds nothing to it.
    pub sections: Vec<String>,
}

impl<T> Loaded<T> {
    /// What to say behind "it is missing" when one of `keys` would do: the unknown keys that may have been meant for one or for its
    /// section, as `; the key ... is unknown: did you mean ...?`; else those that stand in such a section. Empty when there are none.
    #[must_use]
    pub fn misspelt(&self, keys: &[&str]) -> String {
        let section_of = |key: &str| key.rsplit_once('.').map_or("", |(section, _)| section).to_owned();
        let sections: Vec<String> = keys.iter().map(|key| section_of(key)).collect();
        let near = self.warnings.iter().filter_map(|warning| {
            let beside = sections.contains(&section_of(&warning.key));
            let meant = warning.nearest.as_deref().filter(|nearest| {
                keys.iter().any(|key| {
                    let rest = key.strip_prefix(nearest).or_else(|| nearest.strip_prefix(key));
                    rest.is_some_and(|rest| rest.is_empty() || rest == FILE_SUFFIX || rest.starts_with('.'))
                })
            });
            (beside || meant.is_some()).then(|| (warning.key.as_str(), meant.map(str::to_owned)))
        });
        misspelt(near)
    }

    /// Logs the warnings and gives the configuration.
    pub fn warned(self) -> T {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        for file in &self.secret_files {
            warn_if_exposed(file);
        }
        self.value
    }
}

/// A key that nobody reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file or the environment variable it stands in.
    pub origin: String,
    /// The key with its sections: `gateway.idle_timout`.
    pub key: String,
    /// The known name most like it, with its sections.
    pub nearest: Option<String>,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: unknown key `{}` is ignored", self.origin, self.key)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
            None => Ok(()),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path} cannot be read: {source}; give --config a TOML file that this user may read", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{file}:{line}:{column}: not TOML: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A value is not what its key takes.
    #[error("{origin}: `{key}`{}: {message}", shown(.value.as_deref()))]
    Value {
        /// The file, the environment variable or the secret's file.
        origin: String,
        /// The key with its sections.
        key: String,
        /// What was given, unless it is a secret or a whole section.
        value: Option<String>,
        /// What is wrong with it and what was expected.
        message: String,
    },
}

fn shown(value: Option<&str>) -> String {
    value.map(|value| format!(" = {value}")).unwrap_or_default()
}

/// Reads the configuration at `path`, with this process' environment over it.
///
/// # Errors
/// When the file cannot be read or parsed, or a value is not what its key takes.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Loaded<T>, ConfigError> {
    let text = read_bounded(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    parse(
        &text,
        &path.display().to_string(),
        folder,
        std::env::vars_os().filter_map(utf8),
    )
}

/// The defaults, with this process' environment over them: the configuration of somebody who has no file.
///
/// # Errors
/// When a value in the environment is not what its key takes.
pub fn load_from_env<T: DeserializeOwned>() -> Result<Loaded<T>, ConfigError> {
    parse(
        "",
        "the environment",
        Path::new("."),
        std::env::vars_os().filter_map(utf8),
    )
}

/// The configuration in `text`, called `file` in what is said of it, with `env` over it. Paths of secrets' files start at
/// `folder`.
///
/// # Errors
/// When the text does not parse, a secret's file cannot be read, or a value is not what its key takes.
pub fn parse<T: DeserializeOwned>(
    text: &str,
    file: &str,
    folder: &Path,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded<T>, ConfigError> {
    let mut tree = parse_toml(text, file)?;
    let sections = tree.keys();
    let mut variables: Vec<(String, String)> = env.into_iter().collect();
    variables.sort();
    for (name, value) in variables {
        if let Some(path) = path_of_variable(&name, ENV_PREFIX) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            tree.set(&path, value, Origin::Env(name));
        }
    }
    let secret_files = RefCell::new(Vec::new());
    let read = |secret: &Path| {
        let path = folder.join(secret);
        let text = read_bounded(&path);
        secret_files.borrow_mut().push(path);
        text
    };
    let walk = Walk::new(&read);
    let value = walk.run(tree).map_err(|error| value_error(error, file))?;
    let warnings = walk
        .into_seen()
        .iter()
        .flat_map(|seen| unknown_keys(seen, file))
        .collect();
    Ok(Loaded {
        value,
        warnings,
        secret_files: secret_files.into_inner(),
        sections,
    })
}

fn parse_toml(text: &str, file: &str) -> Result<Node, ConfigError> {
    text.parse::<toml::Table>()
        .map(Node::from_table)
        .map_err(|error| {
            let before = error
                .span()
                .and_then(|span| text.get(..span.start))
                .unwrap_or_default();
            ConfigError::Syntax {
                file: file.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
                // Not the error's whole text: that quotes the line, which may hold a secret.
                message: error.message().to_owned(),
            }
        })
}

fn utf8((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path)?
        .take(FILE_LEN_MAX + 1)
        .read_to_string(&mut text)?;
    if read as u64 > FILE_LEN_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is longer than {FILE_LEN_MAX} bytes"),
        ));
    }
    Ok(text)
}

fn name_of(origin: &Origin, file: &str) -> String {
    match origin {
        Origin::File => file.to_owned(),
        Origin::Env(name) => format!("environment variable {name}"),
        Origin::SecretFile(path) => format!("secret's file {path}"),
    }
}

fn value_error(error: WalkError, file: &str) -> ConfigError {
    let key = error
        .place
        .filter(|place| !place.is_empty())
        .unwrap_or_else(|| "(top level)".to_owned());
    ConfigError::Value {
        origin: name_of(&error.origin, file),
        key,
        value: error.value,
        message: error.message,
    }
}

fn inside(place: &str, key: &str) -> String {
    if place.is_empty() {
        key.to_owned()
    } else {
        format!("{place}.{key}")
    }
}

fn unknown_keys<'s>(seen: &'s Seen, file: &'s str) -> impl Iterator<Item = Warning> + 's {
    let unknown = seen
        .given
        .iter()
        .filter(|(key, _)| !seen.known.contains(&key.as_str()));
    unknown.map(move |(key, origin)| Warning {
        origin: name_of(origin, file),
        key: inside(&seen.place, key),
        nearest: nearest(key, seen.known).map(|name| inside(&seen.place, &name)),
    })
}

#[cfg(test)]
mod tests;
