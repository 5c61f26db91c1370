//! From the pairs of a query to the answer or the refusal. Pure: the view and randomness are handed in.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use rand::Rng;
use serde::Serialize;
use whimbrel_protocol::ids::{AppKey, NodeId};

use crate::{
    choose::{Load, choose},
    view::{Gateway, View},
};

/// Gateways of the longest answer: with descriptors of some hundred bytes it stays within a few packets.
pub const GATEWAYS_LIMIT_MAX: usize = 16;
/// Gateways that a client may ask to be spared: as many as it can have been told of in two answers.
const EXCLUDED_MAX: usize = 2 * GATEWAYS_LIMIT_MAX;
/// After how many seconds a client that was told of no gateway should ask again: one is back within a few refreshes.
pub(crate) const RETRY_AFTER_S: u32 = 2;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    app_key: AppKey,
    excluded: Vec<NodeId>,
    limit: usize,
}

/// The body of a good answer.
#[derive(Debug, Serialize)]
pub(crate) struct Answer<'v> {
    /// Best first.
    gateways: Vec<Listed<'v>>,
    /// A hint for a client whose clock is wrong; it proves nothing.
    server_time_ms: u64,
    /// How old this answer may become before the client asks again.
    refresh_after_s: u64,
}

#[derive(Debug, Serialize)]
struct Listed<'v> {
    node: &'v str,
    descriptor: &'v str,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("app_key is missing: ask /v1/gateways?app_key=YOUR_APP_KEY")]
    AppKeyMissing,
    #[error("{0}")]
    AppKeyInvalid(whimbrel_protocol::ids::IdError),
    #[error("exclude: {0}; give names of gateways from an earlier answer, separated by commas")]
    ExcludeInvalid(whimbrel_protocol::ids::IdError),
    #[error("exclude names more than {EXCLUDED_MAX} gateways")]
    ExcludeTooMany,
    #[error("limit {0:?} is out of range: expected a number from 1 to {GATEWAYS_LIMIT_MAX}")]
    LimitOutOfRange(String),
    #[error("parameter {0} is given twice")]
    ParameterTwice(&'static str),
    #[error("no gateway is live for this app now: ask again in {RETRY_AFTER_S} s")]
    NoGateway,
}

impl Refusal {
    /// A word for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::AppKeyMissing => "app_key_missing",
            Self::AppKeyInvalid(_) => "app_key_invalid",
            Self::ExcludeInvalid(_) | Self::ExcludeTooMany => "exclude_invalid",
            Self::LimitOutOfRange(_) => "limit_out_of_range",
            Self::ParameterTwice(_) => "parameter_twice",
            Self::NoGateway => "no_gateway",
        }
    }
}

impl Question {
    /// Reads a query's pairs.
    pub(crate) fn parse(pairs: &[(String, String)], limit_default: usize) -> Result<Self, Refusal> {
        let (mut app_key, mut excluded, mut limit) = (None, None, None);
        for (name, value) in pairs {
            let (name, slot) = match name.as_str() {
                "app_key" => ("app_key", &mut app_key),
                "exclude" => ("exclude", &mut excluded),
                "limit" => ("limit", &mut limit),
                // Of a client that is newer than this.
                _ => continue,
            };
            if slot.replace(value.as_str()).is_some() {
                return Err(Refusal::ParameterTwice(name));
            }
        }
        let app_key = AppKey::new(app_key.ok_or(Refusal::AppKeyMissing)?).map_err(Refusal::AppKeyInvalid)?;
        let names: Vec<&str> = excluded
            .unwrap_or_default()
            .split(',')
            .filter(|name| !name.is_empty())
            .collect();
        if names.len() > EXCLUDED_MAX {
            return Err(Refusal::ExcludeTooMany);
        }
        let excluded = names
            .into_iter()
            .map(NodeId::new)
            .collect::<Result<_, _>>()
            .map_err(Refusal::ExcludeInvalid)?;
        let limit = match limit {
            None => limit_default.clamp(1, GATEWAYS_LIMIT_MAX),
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=GATEWAYS_LIMIT_MAX).contains(limit))
                .ok_or_else(|| Refusal::LimitOutOfRange(text.chars().take(20).collect()))?,
        };
        Ok(Self {
            app_key,
            excluded,
            limit,
        })
    }

    /// The answer from what is known. Excluded gateways are spared as long as others can be named; a client that has
    /// failed with all of them is told of them again rather than of none.
    pub(crate) fn answer<'v>(
        &self,
        view: &'v View,
        rng: &mut impl Rng,
        server_time_ms: u64,
        refresh_after_s: u64,
    ) -> Result<Answer<'v>, Refusal> {
        let serving = view
            .gateways
            .iter()
            .filter(|gateway| gateway.serves(self.app_key.as_str()));
        let (spared, others): (Vec<&Gateway>, Vec<&Gateway>) = serving.partition(|gateway| {
            self.excluded
                .iter()
                .any(|node| node.as_str() == gateway.node.as_str())
        });
        let candidates = if others.is_empty() { spared } else { others };
        if candidates.is_empty() {
            return Err(Refusal::NoGateway);
        }
        let loads: Vec<Load> = candidates.iter().map(|gateway| gateway.load).collect();
        let gateways = choose(&loads, self.limit, rng)
            .into_iter()
            .filter_map(|index| candidates.get(index))
            .map(|gateway| Listed {
                node: &gateway.node,
                descriptor: &gateway.descriptor,
            })
            .collect();
        Ok(Answer {
            gateways,
            server_time_ms,
            refresh_after_s,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn question(query: &[(&str, &str)]) -> Result<Question, Refusal> {
        let pairs: Vec<_> = query
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Question::parse(&pairs, 4)
    }

    fn view(nodes: &[&str]) -> View {
        let gateways = nodes.iter().map(|node| Gateway {
            node: (*node).to_owned(),
            descriptor: format!("descriptor-of-{node}"),
            load: Load {
                permille: 0,
                connections: 0,
            },
            app_keys: Vec::new(),
        });
        View::of(gateways.collect())
    }

    fn answered(query: &[(&str, &str)], view: &View) -> Result<Vec<String>, Refusal> {
        let answer = question(query)?.answer(view, &mut SmallRng::seed_from_u64(1), 5, 6)?;
        let mut nodes: Vec<_> = answer
            .gateways
            .iter()
            .map(|listed| listed.node.to_owned())
            .collect();
        nodes.sort();
        Ok(nodes)
    }

    #[test]
    fn excluded_gateways_are_spared_while_there_are_others() {
        let view = view(&["g1", "g2", "g3"]);
        assert_eq!(
            answered(&[("app_key", "demo"), ("exclude", "g1,g3")], &view).unwrap(),
            ["g2"]
        );
        let all = [("app_key", "demo"), ("exclude", "g1,g2,g3")];
        assert_eq!(answered(&all, &view).unwrap(), ["g1", "g2", "g3"]);
    }

    #[test]
    fn the_limit_bounds_the_answer() {
        let view = view(&["g1", "g2", "g3"]);
        assert_eq!(
            answered(&[("app_key", "demo"), ("limit", "2")], &view)
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            answered(&[("app_key", "demo"), ("limit", "16")], &view)
                .unwrap()
                .len(),
            3
        );
    }

    #[test]
    fn no_live_gateway_is_a_refusal() {
        assert_eq!(
            answered(&[("app_key", "demo")], &view(&[])).unwrap_err(),
            Refusal::NoGateway
        );
    }

    #[test]
    fn a_parameter_of_a_newer_client_is_ignored() {
        let asked = question(&[("app_key", "demo"), ("room", "1"), ("room", "2"), ("limit", "3")]);
        assert_eq!(asked.unwrap().limit, 3);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let long = "a".repeat(33);
        let many = vec!["g"; EXCLUDED_MAX + 1].join(",");
        let cases: [(&[(&str, &str)], &str); 10] = [
            (&[], "app_key_missing"),
            (&[("app_key", "")], "app_key_invalid"),
            (&[("app_key", &long)], "app_key_invalid"),
            (&[("app_key", "De mo")], "app_key_invalid"),
            (&[("app_key", "demo"), ("limit", "0")], "limit_out_of_range"),
            (&[("app_key", "demo"), ("limit", "17")], "limit_out_of_range"),
            (&[("app_key", "demo"), ("limit", "-1")], "limit_out_of_range"),
            (&[("app_key", "demo"), ("exclude", "g 1")], "exclude_invalid"),
            (&[("app_key", "demo"), ("exclude", &many)], "exclude_invalid"),
            (&[("app_key", "demo"), ("app_key", "demo")], "parameter_twice"),
        ];
        for (query, code) in cases {
            assert_eq!(question(query).unwrap_err().code(), code, "{query:?}");
        }
    }
}
