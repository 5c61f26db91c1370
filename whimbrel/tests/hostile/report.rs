//! What came of the attacks: a table for people, JSON for programs.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use crate::NEWCOMER_WITHIN;
use crate::bystanders::DELIVERED_WITHIN;
use crate::crowd::Tally;

/// Times taken.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    fn percentile_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted
            .get(index)
            .map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }
}

/// What came of one attack.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) tally: Tally,
    /// From the call to the other user's event.
    pub(crate) chat: Samples,
    /// From the first try to READY.
    pub(crate) newcomers: Samples,
    pub(crate) before_bytes: i64,
    pub(crate) most_bytes: i64,
}

/// Prints the table, and writes the JSON where `WHIMBREL_HOSTILE_JSON` says.
#[expect(clippy::print_stdout, reason = "the table is what it is run for")]
pub(crate) fn print(connections: usize, lasts: Duration, outcomes: &[Outcome]) -> anyhow::Result<()> {
    println!("\n{connections} hostile connections at a time, {lasts:?} each; times in ms, memory in MiB");
    println!(
        "held to: a message delivered within {DELIVERED_WITHIN:?}, a newcomer in within {NEWCOMER_WITHIN:?}, a quarter of a crowd \
         attacking\n"
    );
    println!(
        "| attack | attackers | opened | logged in | sessions | ended early | messages | p50 | p99 | slowest | newcomers | slowest | memory before | most |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for outcome in outcomes {
        let (chat, newcomers) = (&outcome.chat, &outcome.newcomers);
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {:.1} | {} | {:.1} | {} | {} |",
            outcome.name,
            outcome.tally.attackers,
            outcome.tally.opened,
            outcome.tally.answered,
            outcome.tally.ready,
            outcome.tally.ended,
            chat.0.len(),
            chat.percentile_ms(50),
            chat.percentile_ms(99),
            chat.percentile_ms(100),
            newcomers.0.len(),
            newcomers.percentile_ms(100),
            outcome.before_bytes >> 20,
            outcome.most_bytes >> 20,
        );
    }
    let Ok(path) = std::env::var("WHIMBREL_HOSTILE_JSON") else {
        return Ok(());
    };
    let rows: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            json!({
                "attack": outcome.name,
                "attackers": outcome.tally.attackers,
                "opened": outcome.tally.opened,
                "logged_in": outcome.tally.answered,
                "sessions": outcome.tally.ready,
                "ended": outcome.tally.ended,
                "messages": outcome.chat.0.len(),
                "delivery_ms": {
                    "p50": outcome.chat.percentile_ms(50),
                    "p99": outcome.chat.percentile_ms(99),
                    "max": outcome.chat.percentile_ms(100),
                },
                "newcomers": outcome.newcomers.0.len(),
                "login_ms": {
                    "p50": outcome.newcomers.percentile_ms(50),
                    "max": outcome.newcomers.percentile_ms(100),
                },
                "gateway_bytes": { "before": outcome.before_bytes, "most": outcome.most_bytes },
            })
        })
        .collect();
    let bounds = json!({
        "delivery_ms": DELIVERED_WITHIN.as_millis(),
        "login_ms": NEWCOMER_WITHIN.as_millis(),
    });
    let said = json!({
        "connections": connections,
        "seconds": lasts.as_secs(),
        "bounds": bounds,
        "attacks": rows,
    });
    std::fs::write(&path, format!("{said:#}\n")).with_context(|| format!("writing {path}"))
}
