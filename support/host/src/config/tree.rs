//! A configuration as a tree of values that know where they came from, before any type is asked of them.

use std::collections::BTreeMap;

/// Where a value came from, as an operator finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The configuration file itself.
    File,
    /// An environment variable of this name.
    Env(String),
    /// A secret's file.
    SecretFile(String),
}

/// One value.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
    /// Text from outside the file: it takes whatever type is asked of it.
    Loose {
        text: String,
        origin: Origin,
    },
}

impl Node {
    pub(super) fn from_toml(value: toml::Value) -> Self {
        match value {
            toml::Value::Boolean(value) => Self::Bool(value),
            toml::Value::Integer(value) => Self::Integer(value),
            toml::Value::Float(value) => Self::Float(value),
            toml::Value::String(value) => Self::Text(value),
            toml::Value::Datetime(value) => Self::Text(value.to_string()),
            toml::Value::Array(values) => Self::List(values.into_iter().map(Self::from_toml).collect()),
            toml::Value::Table(table) => Self::from_table(table),
        }
    }

    pub(super) fn from_table(table: toml::Table) -> Self {
        Self::Table(
            table
                .into_iter()
                .map(|(key, value)| (key, Self::from_toml(value)))
                .collect(),
        )
    }

    /// Puts `text` at `path`, over what is there. Path segments are keys, or indices into lists that exist.
    pub(super) fn set(&mut self, path: &[&str], text: String, origin: Origin) {
        let Some((first, rest)) = path.split_first() else {
            *self = Self::Loose { text, origin };
            return;
        };
        if let Self::List(values) = self
            && let Some(value) = first
                .parse::<usize>()
                .ok()
                .and_then(|index| values.get_mut(index))
        {
            value.set(rest, text, origin);
            return;
        }
        if !matches!(self, Self::Table(_)) {
            *self = Self::Table(BTreeMap::new());
        }
        if let Self::Table(table) = self {
            let place = table
                .entry((*first).to_owned())
                .or_insert_with(|| Self::Table(BTreeMap::new()));
            place.set(rest, text, origin);
        }
    }

    /// The keys of a table.
    pub(super) fn keys(&self) -> Vec<String> {
        match self {
            Self::Table(table) => table.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Puts what the environment said in `other` over what is here.
    pub(super) fn overlay(&mut self, other: Self) {
        let mut left = vec![(Vec::new(), other)];
        while let Some((path, node)) = left.pop() {
            match node {
                Self::Table(table) => left.extend(table.into_iter().map(|(key, node)| {
                    let path: Vec<String> = path.iter().cloned().chain([key]).collect();
                    (path, node)
                })),
                Self::Loose { text, origin } => {
                    let path: Vec<&str> = path.iter().map(String::as_str).collect();
                    self.set(&path, text, origin);
                }
                // The environment says nothing else.
                _ => {}
            }
        }
    }

    /// Whether all of it was said by the environment.
    pub(super) fn is_of_env(&self) -> bool {
        match self {
            Self::Table(table) => table.values().all(Self::is_of_env),
            Self::Loose { .. } => true,
            _ => false,
        }
    }

    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Loose { origin, .. } => origin.clone(),
            _ => Origin::File,
        }
    }

    /// A scalar as the operator wrote it, for an error's text.
    pub(super) fn shown(&self) -> Option<String> {
        match self {
            Self::Bool(value) => Some(value.to_string()),
            Self::Integer(value) => Some(value.to_string()),
            Self::Float(value) => Some(value.to_string()),
            Self::Text(text) | Self::Loose { text, .. } => Some(format!("{text:?}")),
            Self::List(_) | Self::Table(_) => None,
        }
    }
}

/// Splits `PREFIX__A__B` into `["a", "b"]`; `None` for variables that are not ours.
pub(super) fn path_of_variable(name: &str, prefix: &str) -> Option<Vec<String>> {
    let rest = name.strip_prefix(prefix)?.strip_prefix("__")?;
    let path: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
    path.iter().all(|segment| !segment.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn at<'n>(node: &'n Node, path: &[&str]) -> &'n Node {
        path.iter().fold(node, |node, key| match node {
            Node::Table(table) => &table[*key],
            Node::List(values) => &values[key.parse::<usize>().unwrap()],
            other => other,
        })
    }

    #[test]
    fn the_environment_reaches_into_tables_and_lists_that_exist() {
        let mut tree = Node::from_table(toml::from_str("[a]\nb = 1\n[[list]]\nx = 1\n").unwrap());
        let env = || Origin::Env("E".to_owned());
        tree.set(&["a", "b"], "2".to_owned(), env());
        tree.set(&["new", "deep"], "3".to_owned(), env());
        tree.set(&["list", "0", "x"], "4".to_owned(), env());
        for (path, text) in [
            (&["a", "b"][..], "2"),
            (&["new", "deep"], "3"),
            (&["list", "0", "x"], "4"),
        ] {
            assert_eq!(at(&tree, path).shown().unwrap(), format!("{text:?}"));
        }
    }

    #[test]
    fn only_variables_with_the_whole_prefix_are_ours() {
        assert_eq!(
            path_of_variable("WHIMBREL__GATEWAY__IDLE_MS", "WHIMBREL").unwrap(),
            ["gateway", "idle_ms"]
        );
        assert_eq!(path_of_variable("WHIMBREL_HOME", "WHIMBREL"), None);
        assert_eq!(path_of_variable("WHIMBRELS__A", "WHIMBREL"), None);
        assert_eq!(path_of_variable("WHIMBREL____A", "WHIMBREL"), None);
    }
}
