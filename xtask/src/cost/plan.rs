//! What is measured, of what, for how long: from the command line. Pure.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::{Value, json};
use whimbrel_cluster::Shape;

use super::load::Chat;
use super::round_trips;
use crate::built::BuildArgs;

/// The idle load: what section 3 of docs/performance.md has for send to delivery.
const IDLE: (u64, u64) = (200, 50);
/// Seconds of the load that only has everybody known and every pair in a conversation.
const WARM_S: u64 = 2;
/// In this time all of its messages are due.
const BATCHED_S: u64 = 1;
/// How long open sends are waited for; of a step, where whatever waits so long has not been held.
const GRACE_S: u64 = 30;
const STEP_GRACE_S: u64 = 5;
const BATCHED_GRACE_S: u64 = 120;
/// How long a start, and what surrounds each load, take, for what is told beforehand.
const START_GUESS_S: u64 = 20;
const AROUND_GUESS_S: u64 = 6;

/// What is measured.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct CostArgs {
    /// The clusters: SERVICE_NODESxGATEWAYS, and xROUTERS and xLBS behind it where there is not one of each. Default:
    /// 1x1,2x1,4x1,1x3,4x3x2x2.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = shape)]
    shapes: Vec<Shape>,
    /// Leave standalone out.
    #[arg(long)]
    no_standalone: bool,
    /// The shapes of which calls to the store are counted. Default: the first and the last.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = shape)]
    count_calls_of: Vec<Shape>,
    /// For a try, not for figures: everything shorter and less, and one cluster, of 1x1.
    #[arg(long)]
    quick: bool,
    /// People who chat, in pairs, but for the idle load, which has 200. Default: 2,000; quick 200.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    users: Option<u64>,
    /// Messages a second at which the processor time of all deployments is compared. Default: 1,000; quick 200.
    #[arg(long, value_name = "PER_S", value_parser = clap::value_parser!(u64).range(10..=100_000))]
    rate: Option<u64>,
    /// Seconds of the idle load. Default: 15; quick 4.
    #[arg(long, value_name = "S", value_parser = seconds())]
    idle_s: Option<u64>,
    /// Seconds of the load at that rate. Default: 20; quick 5.
    #[arg(long, value_name = "S", value_parser = seconds())]
    loaded_s: Option<u64>,
    /// Seconds of each rate that is tried on the way to the highest that is held. Default: 8; quick 3.
    #[arg(long, value_name = "S", value_parser = seconds())]
    step_s: Option<u64>,
    /// How many rates may be tried beside the one above. Default: 9; quick 3.
    #[arg(long, value_name = "N")]
    steps: Option<u32>,
    /// Seconds of the load of one message a commit, and about as long without any. Default: 15; quick 5.
    #[arg(long, value_name = "S", value_parser = seconds())]
    pair_s: Option<u64>,
    /// Messages a second of two people, few enough for each to have a commit to itself.
    #[arg(long, value_name = "PER_S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pair_rate: u64,
    /// Messages of the load of 64 a commit, all of them due in a second. Default: 12,000; quick 1,500.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(200..=1_000_000))]
    batched: Option<u64>,
    /// People of the group that sends them. A send has at most 32 messages and each person has one on its way: of four, two wait
    /// with theirs while those of the other two are committed.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=64))]
    batched_users: u64,
    /// What nodes log, into a file each.
    #[arg(long, value_name = "DIRECTIVES", default_value = "warn")]
    log: String,
    /// Write all figures to this file too, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Where everything goes; it must not exist. Default: `target/cost/<time>`.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) build: BuildArgs,
}

fn seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=3_600)
}

/// "4x3", "4x3x2x2".
fn shape(text: &str) -> Result<Shape, String> {
    let numbers: Option<Vec<u16>> = text
        .split('x')
        .map(|word| word.parse().ok().filter(|number| *number > 0))
        .collect();
    let of = |service_nodes, gateways, routers, lbs| Shape {
        lbs,
        gateways,
        routers,
        service_nodes,
    };
    match numbers.as_deref() {
        Some([nodes, gateways]) => Ok(of(*nodes, *gateways, 1, 1)),
        Some([nodes, gateways, routers]) => Ok(of(*nodes, *gateways, *routers, 1)),
        Some([nodes, gateways, routers, lbs]) => Ok(of(*nodes, *gateways, *routers, *lbs)),
        _ => Err(
            "expected service nodes x gateways, such as 4x3; or 4x3x2x2 with 2 routers and 2 LBS".to_owned(),
        ),
    }
}

/// What a deployment consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nodes {
    /// `standalone --processes`, over the embedded store.
    Standalone,
    /// Over the store that speaks TiKV's protocol.
    Cluster(Shape),
}

/// Its name in tables, which names a folder too.
impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standalone => f.write_str("standalone"),
            Self::Cluster(shape) => {
                write!(f, "{}x{}", shape.service_nodes, shape.gateways)?;
                if (shape.routers, shape.lbs) != (1, 1) {
                    write!(f, "x{}x{}", shape.routers, shape.lbs)?;
                }
                Ok(())
            }
        }
    }
}

impl Nodes {
    pub(super) fn in_words(self) -> String {
        match self {
            Self::Standalone => "a process of each role, embedded store on disk".to_owned(),
            Self::Cluster(shape) => {
                let of = |count: u16, one: &str, more: &str| match count {
                    1 => format!("1 {one}"),
                    _ => format!("{count} {more}"),
                };
                [
                    of(shape.service_nodes, "service node", "service nodes"),
                    of(shape.gateways, "gateway", "gateways"),
                    of(shape.routers, "router", "routers"),
                    of(shape.lbs, "LBS", "LBS"),
                ]
                .join(", ")
            }
        }
    }
}

/// All of it, decided.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) deployments: Vec<Nodes>,
    counted: Vec<Shape>,
    pub(super) quick: bool,
    pub(super) users: u64,
    pub(super) rate: u64,
    idle_s: u64,
    loaded_s: u64,
    step_s: u64,
    pub(super) steps: u32,
    pub(super) pair_s: u64,
    pair_rate: u64,
    batched: u64,
    batched_users: u64,
    pub(super) log: String,
}

impl CostArgs {
    pub(super) fn plan(&self) -> anyhow::Result<Plan> {
        let or = |given: Option<u64>, whole: u64, quick: u64| {
            given.unwrap_or(if self.quick { quick } else { whole })
        };
        let shapes = if self.shapes.is_empty() {
            default_shapes(self.quick)
        } else {
            self.shapes.clone()
        };
        for (nth, one) in shapes.iter().enumerate() {
            ensure!(
                !shapes[..nth].contains(one),
                "--shapes has {} twice",
                Nodes::Cluster(*one)
            );
        }
        let counted = if self.count_calls_of.is_empty() {
            shapes.first().into_iter().chain(shapes.last()).copied().collect()
        } else {
            self.count_calls_of.clone()
        };
        if let Some(stranger) = counted.iter().find(|shape| !shapes.contains(shape)) {
            bail!(
                "--count-calls-of {}: it is not among the shapes, {}",
                Nodes::Cluster(*stranger),
                names(&shapes)
            );
        }
        let standalone = (!self.no_standalone).then_some(Nodes::Standalone);
        Ok(Plan {
            deployments: standalone
                .into_iter()
                .chain(shapes.into_iter().map(Nodes::Cluster))
                .collect(),
            counted,
            quick: self.quick,
            users: or(self.users, 2_000, 200),
            rate: or(self.rate, 1_000, 200),
            idle_s: or(self.idle_s, 15, 4),
            loaded_s: or(self.loaded_s, 20, 5),
            step_s: or(self.step_s, 8, 3),
            steps: self.steps.unwrap_or(if self.quick { 3 } else { 9 }),
            pair_s: or(self.pair_s, 15, 5),
            pair_rate: self.pair_rate,
            batched: or(self.batched, 12_000, 1_500),
            batched_users: self.batched_users,
            log: self.log.clone(),
        })
    }
}

fn default_shapes(quick: bool) -> Vec<Shape> {
    let of = |service_nodes, gateways, others| Shape {
        lbs: others,
        gateways,
        routers: others,
        service_nodes,
    };
    if quick {
        vec![of(1, 1, 1)]
    } else {
        vec![of(1, 1, 1), of(2, 1, 1), of(4, 1, 1), of(1, 3, 1), of(4, 3, 2)]
    }
}

fn names(shapes: &[Shape]) -> String {
    let names = shapes.iter().map(|shape| Nodes::Cluster(*shape).to_string());
    names.collect::<Vec<_>>().join(", ")
}

impl Plan {
    pub(super) fn counts_calls_of(&self, nodes: Nodes) -> bool {
        matches!(nodes, Nodes::Cluster(shape) if self.counted.contains(&shape))
    }

    /// Whatever is done but once for each user is done by then.
    pub(super) fn warm(&self) -> Chat {
        Chat {
            users: self.users.max(IDLE.0),
            seconds: WARM_S,
            ..self.idle()
        }
    }

    /// 200 people, 50 messages a second.
    pub(super) fn idle(&self) -> Chat {
        let (users, rate) = IDLE;
        Chat {
            users,
            group_size: 0,
            rate,
            seconds: self.idle_s,
            grace_s: GRACE_S,
        }
    }

    /// The rate that all are compared at.
    pub(super) fn loaded(&self) -> Chat {
        Chat {
            seconds: self.loaded_s,
            grace_s: GRACE_S,
            ..self.step(self.rate)
        }
    }

    /// A rate that is tried.
    pub(super) fn step(&self, rate: u64) -> Chat {
        Chat {
            users: self.users,
            group_size: 0,
            rate,
            seconds: self.step_s,
            grace_s: STEP_GRACE_S,
        }
    }

    /// One message a commit.
    pub(super) fn pair(&self) -> Chat {
        Chat {
            users: 2,
            group_size: 0,
            rate: self.pair_rate,
            seconds: self.pair_s,
            grace_s: GRACE_S,
        }
    }

    /// As many messages a commit as come about when people send as fast as they may.
    pub(super) fn batched(&self) -> Chat {
        Chat {
            users: self.batched_users,
            group_size: self.batched_users,
            rate: self.batched / BATCHED_S,
            seconds: BATCHED_S,
            grace_s: BATCHED_GRACE_S,
        }
    }

    /// How long it takes, about: half of the steps are usually enough.
    pub(super) fn takes(&self) -> Duration {
        let steps = u64::from(self.steps) * (self.step_s + AROUND_GUESS_S) / 2;
        let each = START_GUESS_S + self.idle_s + self.loaded_s + 2 * AROUND_GUESS_S + steps;
        let settle = round_trips::SETTLE.as_secs();
        let counting = 2 * (self.pair_s + settle) + 2 * AROUND_GUESS_S + 10;
        let count = |all: usize| u64::try_from(all).unwrap_or(u64::MAX);
        let counted = count(
            self.deployments
                .iter()
                .filter(|nodes| self.counts_calls_of(**nodes))
                .count(),
        );
        Duration::from_secs(count(self.deployments.len()) * each + counted * counting)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "quick": self.quick,
            "users": self.users,
            "rate": self.rate,
            "idle_s": self.idle_s,
            "loaded_s": self.loaded_s,
            "step_s": self.step_s,
            "pair_s": self.pair_s,
            "pair_rate": self.pair_rate,
            "batched": self.batched,
            "batched_users": self.batched_users,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CostArgs,
    }

    fn plan(line: &str) -> anyhow::Result<Plan> {
        Line::try_parse_from(line.split(' '))?.args.plan()
    }

    fn deployments(plan: &Plan) -> Vec<String> {
        plan.deployments.iter().map(Nodes::to_string).collect()
    }

    #[test]
    fn by_default_nodes_and_gateways_become_more_apart_and_together() {
        let plan = plan("cost").unwrap();
        assert_eq!(
            deployments(&plan),
            ["standalone", "1x1", "2x1", "4x1", "1x3", "4x3x2x2"]
        );
        let counted = plan
            .deployments
            .iter()
            .filter(|nodes| plan.counts_calls_of(**nodes));
        let counted: Vec<_> = counted.map(Nodes::to_string).collect();
        assert_eq!(counted, ["1x1", "4x3x2x2"]);
        assert!(plan.takes() < Duration::from_secs(15 * 60), "{:?}", plan.takes());
        assert_eq!(
            Nodes::Cluster(shape("4x3x2x1").unwrap()).in_words(),
            "4 service nodes, 3 gateways, 2 routers, 1 LBS"
        );
    }

    #[test]
    fn a_try_is_short_and_flags_go_before_it() {
        let quick = plan("cost --quick").unwrap();
        assert_eq!(deployments(&quick), ["standalone", "1x1"]);
        assert!(quick.takes() < Duration::from_secs(180), "{:?}", quick.takes());
        let plan =
            plan("cost --quick --shapes 2x2,3x1 --no-standalone --rate 77 --count-calls-of 3x1").unwrap();
        assert_eq!(deployments(&plan), ["2x2", "3x1"]);
        assert_eq!(plan.loaded().rate, 77);
        assert!(!plan.counts_calls_of(plan.deployments[0]));
    }

    #[test]
    fn flags_that_mean_nothing_are_refused_with_what_was_expected() {
        for (line, expected) in [
            ("cost --shapes 4", "such as 4x3"),
            ("cost --shapes 0x1", "such as 4x3"),
            ("cost --shapes 1x1,axb", "such as 4x3"),
            ("cost --shapes 1x1,2x1,1x1x1", "1x1 twice"),
            (
                "cost --shapes 1x1 --count-calls-of 2x1",
                "not among the shapes, 1x1",
            ),
            ("cost --rate 0", "10..=100000"),
            ("cost --idle-s 0", "1..=3600"),
            ("cost --users 1", "not in 2.."),
            ("cost --batched 1", "200..=1000000"),
            ("cost --batched-users 65", "2..=64"),
            ("cost --dev --built there", "cannot be used with"),
        ] {
            let error = plan(line).map(|plan| deployments(&plan)).unwrap_err();
            assert!(error.to_string().contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn the_batched_load_is_due_at_once_and_the_pairs_one_by_one() {
        let plan = plan("cost").unwrap();
        let (pair, batched) = (plan.pair(), plan.batched());
        assert_eq!((pair.users, pair.group_size, pair.rate), (2, 0, 20));
        assert_eq!((batched.users, batched.group_size), (4, 4));
        assert_eq!(batched.rate * batched.seconds, 12_000);
    }
}
