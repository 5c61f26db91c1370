//! Turns a tree into a config struct and notes on the way which keys each struct knows and which it was given.
//!
//! serde tells a deserializer the names of a struct's fields just when it asks for it; so the types themselves say what
//! is known, and no second list can go stale. A struct with `#[serde(flatten)]` asks for a map instead and is not checked.

use std::{cell::RefCell, collections::BTreeMap, fmt, io, path::Path};

use serde::de::{self, Deserializer, Unexpected, Visitor};

use super::{
    access::{Entries, Items, Variant},
    inside,
    nearest::{misspelt, nearest},
    tree::{Node, Origin},
};

/// Ends the name of a key whose value is the path of a file that holds the real value.
pub(super) const FILE_SUFFIX: &str = "_file";

/// A struct that was filled.
#[derive(Debug)]
pub(super) struct Seen {
    /// Its place: empty for the outermost.
    pub(super) place: String,
    /// The names it knows.
    pub(super) known: &'static [&'static str],
    /// The keys it was given, and where each came from.
    pub(super) given: Vec<(String, Origin)>,
}

/// What the walk needs and gathers.
pub(super) struct Walk<'r> {
    read: &'r dyn Fn(&Path) -> io::Result<String>,
    seen: RefCell<Vec<Seen>>,
}

impl<'r> Walk<'r> {
    /// A walk that reads secrets' files by `read`.
    pub(super) fn new(read: &'r dyn Fn(&Path) -> io::Result<String>) -> Self {
        Self {
            read,
            seen: RefCell::new(Vec::new()),
        }
    }

    /// Makes a `T` of the tree.
    pub(super) fn run<T: de::DeserializeOwned>(&self, tree: Node) -> Result<T, WalkError> {
        T::deserialize(At {
            node: tree,
            place: String::new(),
            walk: self,
        })
    }

    pub(super) fn into_seen(self) -> Vec<Seen> {
        self.seen.into_inner()
    }
}

/// Why a value was refused, and where it stands; the place is filled in on the way out.
#[derive(Debug)]
pub(super) struct WalkError {
    pub(super) place: Option<String>,
    pub(super) origin: Origin,
    pub(super) value: Option<String>,
    pub(super) message: String,
    /// The field that a struct lacks, when it is that.
    missing: Option<&'static str>,
}

impl WalkError {
    /// Says of a missing field which of the struct's `unknown` keys may have been meant for it.
    fn with_misspelt(mut self, unknown: &[String]) -> Self {
        if let (None, Some(field)) = (&self.place, self.missing) {
            let unknown = unknown.iter().map(|key| (key.as_str(), nearest(key, &[field])));
            self.message += &misspelt(unknown);
        }
        self
    }

    fn at(mut self, place: &str, origin: &Origin, value: Option<String>) -> Self {
        if self.place.is_none() {
            self.place = Some(place.to_owned());
            self.origin = origin.clone();
            if is_secret(place) || matches!(origin, Origin::SecretFile(_)) {
                self.message =
                    "it is not of the form expected here (its text is hidden, being a secret)".to_owned();
            } else {
                self.value = value;
            }
        }
        self
    }
}

fn is_secret(place: &str) -> bool {
    let name = place.rsplit('.').next().unwrap_or(place);
    ["secret", "password", "token", "private"]
        .iter()
        .any(|word| name.contains(word))
        && !name.ends_with(FILE_SUFFIX)
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WalkError {}

/// How a duration is expected, by the crate that reads it, and what is said of its form.
const DURATION: (&str, &str) = ("expected a duration", ", such as \"30s\" or \"500ms\"");

impl de::Error for WalkError {
    fn custom<M: fmt::Display>(message: M) -> Self {
        let mut message = message.to_string();
        if message.ends_with(DURATION.0) {
            message += DURATION.1;
        }
        Self {
            place: None,
            origin: Origin::File,
            value: None,
            message,
            missing: None,
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            missing: Some(field),
            ..Self::custom(format_args!("missing field `{field}`"))
        }
    }
}

/// A node at its place: what serde asks.
pub(super) struct At<'w, 'r> {
    pub(super) node: Node,
    pub(super) place: String,
    pub(super) walk: &'w Walk<'r>,
}

impl At<'_, '_> {
    /// Runs `work` on this node; an error without a place gets this one.
    fn placed<R>(self, work: impl FnOnce(Self) -> Result<R, WalkError>) -> Result<R, WalkError> {
        let (place, origin, shown) = (self.place.clone(), self.node.origin(), self.node.shown());
        work(self).map_err(|error| error.at(&place, &origin, shown))
    }

    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        match self.node {
            Node::Bool(value) => visitor.visit_bool(value),
            Node::Integer(value) => visitor.visit_i64(value),
            Node::Float(value) => visitor.visit_f64(value),
            Node::Text(text) => visitor.visit_string(text),
            Node::List(values) => {
                let items = values.into_iter().enumerate();
                visitor.visit_seq(Items {
                    items,
                    place: self.place,
                    walk: self.walk,
                })
            }
            Node::Table(table) => {
                let place = self.place;
                visitor.visit_map(Entries {
                    entries: table.into_iter(),
                    value: None,
                    place,
                    walk: self.walk,
                })
            }
            Node::Loose { text, .. } => visit_guessed(text, visitor),
        }
    }

    /// Loose text as a list: a TOML array, else one item per comma or line.
    fn loose_list(text: &str, origin: &Origin) -> Vec<Node> {
        if text.trim_start().starts_with('[')
            && let Ok(table) = format!("list = {text}").parse::<toml::Table>()
            && let Some(toml::Value::Array(values)) = table.get("list")
        {
            return values.iter().cloned().map(Node::from_toml).collect();
        }
        let items = text
            .split([',', '\n'])
            .map(str::trim)
            .filter(|item| !item.is_empty());
        items
            .map(|item| Node::Loose {
                text: item.to_owned(),
                origin: origin.clone(),
            })
            .collect()
    }

    /// Replaces `name_file` by what that file holds, where the struct knows `name` and not `name_file`.
    fn read_secrets(
        &self,
        table: &mut BTreeMap<String, Node>,
        known: &[&str],
    ) -> Result<Vec<(String, Origin)>, WalkError> {
        let mut replaced = Vec::new();
        let file_keys: Vec<String> = table
            .keys()
            .filter(|key| !known.contains(&key.as_str()))
            .filter(|key| {
                key.strip_suffix(FILE_SUFFIX)
                    .is_some_and(|name| known.contains(&name))
            })
            .cloned()
            .collect();
        for key in file_keys {
            let (Some(name), Some(node)) = (key.strip_suffix(FILE_SUFFIX), table.remove(&key)) else {
                continue;
            };
            let (place, origin) = (inside(&self.place, &key), node.origin());
            let refuse = |message: String| {
                Err(<WalkError as de::Error>::custom(message).at(&place, &origin, node.shown()))
            };
            if table.contains_key(name) {
                return refuse(format!("`{name}` is given too; keep one of the two"));
            }
            let (Node::Text(file) | Node::Loose { text: file, .. }) = &node else {
                return refuse("expected the path of a file that holds the value".to_owned());
            };
            let text = match (self.walk.read)(Path::new(file)) {
                Ok(text) => text.trim_end_matches(['\n', '\r']).to_owned(),
                Err(error) => return refuse(format!("the file cannot be read: {error}")),
            };
            replaced.push((key.clone(), origin));
            let origin = Origin::SecretFile(file.clone());
            table.insert(name.to_owned(), Node::Loose { text, origin });
        }
        Ok(replaced)
    }
}

/// Loose text where anything is welcome: a number or a bool if it reads as one.
fn visit_guessed<'de, V: Visitor<'de>>(text: String, visitor: V) -> Result<V::Value, WalkError> {
    if let Ok(value) = text.parse::<bool>() {
        visitor.visit_bool(value)
    } else if let Ok(value) = text.parse::<i64>() {
        visitor.visit_i64(value)
    } else if let Ok(value) = text.parse::<f64>() {
        visitor.visit_f64(value)
    } else {
        visitor.visit_string(text)
    }
}

macro_rules! parse_loose {
    ($($method:ident => $type:ty, $visit:ident, $expected:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
            self.placed(|at| match &at.node {
                Node::Loose { text, .. } => match text.trim().parse::<$type>() {
                    Ok(value) => visitor.$visit(value),
                    Err(_) => Err(de::Error::invalid_value(Unexpected::Str(text), &$expected)),
                },
                _ => at.visit(visitor),
            })
        }
    )*};
}

impl<'de> Deserializer<'de> for At<'_, '_> {
    type Error = WalkError;

    parse_loose! {
        deserialize_bool => bool, visit_bool, "true or false";
        deserialize_i8 => i64, visit_i64, "a whole number";
        deserialize_i16 => i64, visit_i64, "a whole number";
        deserialize_i32 => i64, visit_i64, "a whole number";
        deserialize_i64 => i64, visit_i64, "a whole number";
        deserialize_u8 => u64, visit_u64, "a whole number, not negative";
        deserialize_u16 => u64, visit_u64, "a whole number, not negative";
        deserialize_u32 => u64, visit_u64, "a whole number, not negative";
        deserialize_u64 => u64, visit_u64, "a whole number, not negative";
        deserialize_f32 => f64, visit_f64, "a number";
        deserialize_f64 => f64, visit_f64, "a number";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        self.placed(|at| at.visit(visitor))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        self.placed(|at| match at.node {
            Node::Loose { text, .. } => visitor.visit_string(text),
            _ => at.visit(visitor),
        })
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        self.placed(|at| visitor.visit_some(at))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, WalkError> {
        self.placed(|at| visitor.visit_newtype_struct(at))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WalkError> {
        self.placed(|mut at| {
            if let Node::Loose { text, origin } = &at.node {
                at.node = Node::List(Self::loose_list(text, origin));
            }
            at.visit(visitor)
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, WalkError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, WalkError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, WalkError> {
        self.placed(|mut at| {
            if let Node::Table(table) = &mut at.node {
                let mut table = std::mem::take(table);
                take_underscored(&mut table, fields);
                let mut given: Vec<_> = table
                    .iter()
                    .map(|(key, node)| (key.clone(), node.origin()))
                    .collect();
                let replaced = at.read_secrets(&mut table, fields)?;
                for (key, origin) in replaced {
                    given.retain(|(other, _)| *other != key);
                    let name = key.strip_suffix(FILE_SUFFIX).unwrap_or(&key).to_owned();
                    given.push((name, origin));
                }
                // What nobody knows is noted and kept from the struct: `deny_unknown_fields` would make it an error.
                table.retain(|key, _| fields.contains(&key.as_str()));
                let unknown: Vec<String> = given
                    .iter()
                    .map(|(key, _)| key.clone())
                    .filter(|key| !fields.contains(&key.as_str()))
                    .collect();
                at.walk.seen.borrow_mut().push(Seen {
                    place: at.place.clone(),
                    known: fields,
                    given,
                });
                at.node = Node::Table(table);
                return at.visit(visitor).map_err(|error| error.with_misspelt(&unknown));
            }
            at.visit(visitor)
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, WalkError> {
        self.placed(|at| match at.node {
            Node::Text(name) | Node::Loose { text: name, .. } => {
                visitor.visit_enum(Variant { name, content: None })
            }
            Node::Table(table) if table.len() == 1 => {
                let (name, node) = table.into_iter().next().expect("a table of one has one entry");
                let place = inside(&at.place, &name);
                visitor.visit_enum(Variant {
                    name,
                    content: Some(At {
                        node,
                        place,
                        walk: at.walk,
                    }),
                })
            }
            _ => at.visit(visitor),
        })
    }

    serde::forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct map ignored_any
    }
}

/// Shells take no `-` in a variable's name: where a field has one, the environment says `_`.
fn take_underscored(table: &mut BTreeMap<String, Node>, fields: &[&str]) {
    for field in fields.iter().filter(|field| field.contains('-')) {
        let said = field.replace('-', "_");
        if table.get(&said).is_some_and(Node::is_of_env)
            && let Some(node) = table.remove(&said)
        {
            table
                .entry((*field).to_owned())
                .or_insert_with(|| Node::Table(BTreeMap::new()))
                .overlay(node);
        }
    }
}
