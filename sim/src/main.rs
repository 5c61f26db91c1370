//! `whimbrel-sim`: runs seeds and says which of them break a promise. `cargo xtask sim` builds and starts it.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks there"
)]

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum as _};
use whimbrel_sim::{Options, Plant, Report, run};

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Runs the simulated cluster through seeds.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them; by default where the clock points.
    #[arg(long, value_name = "S")]
    from: Option<u64>,
    /// Replay this seed alone, and print what happens.
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// With --seed: print the verdict only.
    #[arg(long, requires = "seed")]
    quiet: bool,
    /// Seeds at once, at most 256: each is a thread.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Runs a cluster with this fault, which should be found.
    #[arg(long, value_name = "FAULT")]
    plant: Option<Plant>,
    /// Go on after a violation.
    #[arg(long)]
    keep_going: bool,
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

fn main() -> ExitCode {
    let args = Args::parse();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("seed {} panicked; replay it with --seed", SEED.get());
        before(panic);
    }));
    match args.seed {
        Some(seed) => replay(seed, &args),
        None => run_many(&args),
    }
}

fn options(args: &Args) -> Options {
    Options {
        faults: true,
        trace: args.seed.is_some() && !args.quiet,
        plant: args.plant,
    }
}

fn replay(seed: u64, args: &Args) -> ExitCode {
    SEED.set(seed);
    let report = run(seed, options(args));
    println!(
        "seed {seed}: {} messages, {} commits, {} events with hash {:016x}, {} virtual ms",
        report.messages, report.commits, report.events, report.hash, report.virtual_ms
    );
    verdict(&report, args)
}

fn run_many(args: &Args) -> ExitCode {
    let from = args.from.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_secs() * 1_000_000)
    });
    let Some(end) = from.checked_add(args.seeds) else {
        eprintln!(
            "error: --from {from} and --seeds {}: seeds end at {}, give a smaller --from",
            args.seeds,
            u64::MAX
        );
        return ExitCode::from(2);
    };
    let options = options(args);
    let (next, started) = (AtomicU64::new(from), Instant::now());
    println!("seeds {from} to {}", end - 1);
    let (tell, told) = mpsc::channel::<Report>();
    let mut failed = Vec::new();
    std::thread::scope(|threads| {
        for _ in 0..args.jobs {
            let (tell, next) = (tell.clone(), &next);
            threads.spawn(move || {
                let take = || next.fetch_update(Relaxed, Relaxed, |seed| (seed < end).then(|| seed + 1));
                while let Ok(seed) = take() {
                    SEED.set(seed);
                    if tell.send(run(seed, options)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        let (mut done, mut messages, mut told_at) = (0_u64, 0, Instant::now());
        for report in told {
            done += 1;
            messages += report.messages;
            if !report.violations.is_empty() {
                verdict(&report, args);
                failed.push(report.seed);
                if !args.keep_going {
                    next.store(end, Relaxed);
                }
            }
            if told_at.elapsed() > PROGRESS_EVERY || done == args.seeds {
                told_at = Instant::now();
                let rate = done as f64 / started.elapsed().as_secs_f64().max(0.001);
                let of = args.seeds;
                println!(
                    "{done} of {of} seeds, {rate:.1} a second, {messages} messages, {} violations",
                    failed.len()
                );
            }
        }
    });
    if failed.is_empty() {
        println!("no violation");
        return ExitCode::SUCCESS;
    }
    println!("seeds with violations: {failed:?}");
    ExitCode::FAILURE
}

fn verdict(report: &Report, args: &Args) -> ExitCode {
    if report.violations.is_empty() {
        println!("seed {}: no violation", report.seed);
        return ExitCode::SUCCESS;
    }
    let plant = args
        .plant
        .and_then(|plant| plant.to_possible_value())
        .map(|plant| format!(" --plant {}", plant.get_name()))
        .unwrap_or_default();
    let seed = report.seed;
    println!("seed {seed}: replay it with `cargo xtask sim --seed {seed}{plant}`");
    for violation in &report.violations {
        println!("  {violation}");
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_nothing_and_of_no_thread_are_refused() {
        let fails = |flags: &[&str]| Args::try_parse_from([&["sim"], flags].concat()).is_err();
        assert!(fails(&["--seeds", "0"]) && fails(&["--jobs", "0"]) && fails(&["--jobs", "257"]));
        assert!(!fails(&["--seeds", "1", "--jobs", "256", "--from", "0"]));
    }
}
