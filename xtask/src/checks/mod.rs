//! `cargo xtask test`: every check, in order, with its progress visible and a table at the end.
//!
//! `plan` is the table of what is run: adding a check is one entry. `libtest` reads what test programs print, `report` is
//! the outcome in its forms; both are pure. `needs` gets what a check cannot do without, `shell` runs commands.

mod libtest;
mod needs;
mod plan;
mod report;
pub(crate) mod shell;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use self::{
    libtest::TestRun,
    plan::{Action, CHECKS, Check},
    report::{Outcome, Report},
    shell::Shell,
};
pub(crate) use self::{needs::missing, plan::GO};
use crate::{proto, root};

/// Between a failing check's name and the rest of the run: the end of what it said.
const FAILURE_LINES_SHOWN: usize = 120;

/// Prints the checks there are.
pub(crate) fn list() {
    for check in CHECKS {
        println!("{:<8} {}", check.name, check.about);
    }
}

/// Runs the checks named, or all.
pub(crate) fn run(only: &[String]) -> anyhow::Result<ExitCode> {
    if let Some(unknown) = only
        .iter()
        .find(|name| !CHECKS.iter().any(|check| check.name == **name))
    {
        let names: Vec<_> = CHECKS.iter().map(|check| check.name).collect();
        bail!("there is no check {unknown:?}; there are: {}", names.join(", "));
    }
    let chosen: Vec<&Check> = CHECKS
        .iter()
        .filter(|check| only.is_empty() || only.iter().any(|name| name == check.name))
        .collect();
    let shell = Shell::new(root()?)?;
    shell.remove_logs()?;

    let mut report = Report::new(shell::is_ci());
    for (place, check) in (1..).zip(&chosen) {
        println!("[{place}/{}] {}: {}", chosen.len(), check.name, check.about);
        for want in check.wants {
            if let Err(why) = needs::fetch(want, &shell) {
                let skipped = Outcome::Skipped(why);
                println!("{}", report::line(want.name, &skipped, Duration::ZERO));
                report.add(want.name, skipped, Duration::ZERO);
            }
        }
        let started = Instant::now();
        let outcome = run_one(check, &shell);
        let took = started.elapsed();
        println!("{}", report::line(check.name, &outcome, took));
        report.add(check.name, outcome, took);
    }

    let json = shell.output_folder().join("test.json");
    let text = serde_json::to_string_pretty(&report.to_json()).context("the report as JSON")?;
    std::fs::write(&json, text).with_context(|| format!("{}", json.display()))?;
    println!("\n{}", report.table());
    // The last line, for scripts.
    println!("{}", report.totals());
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs `cargo deny`.
pub(crate) fn deny() -> anyhow::Result<ExitCode> {
    let shell = Shell::new(root()?)?;
    if !shell.succeeds("cargo", &["deny", "--version"]) {
        bail!("cargo-deny is not installed: run `cargo install --locked cargo-deny`");
    }
    let command = shell.command("cargo", &["deny", "check"], &[]);
    let run = shell.run("deny", command, |line| println!("{line}"))?;
    Ok(if run.success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_one(check: &Check, shell: &Shell) -> Outcome {
    for need in check.needs {
        if let Err(why) = needs::satisfy(need, shell) {
            return Outcome::Skipped(why);
        }
    }
    let outcome = match check.action {
        Action::Command {
            program,
            arguments,
            environment,
        } => command(check.name, shell, program, arguments, environment),
        Action::GeneratedCode => proto::run(true).map(|()| Outcome::passed()),
        Action::RustTests => rust_tests(check.name, shell),
        Action::PythonExample => python_example(check.name, shell),
    };
    outcome.unwrap_or_else(|error| Outcome::failed(format!("{error:#}")))
}

fn command(
    name: &str,
    shell: &Shell,
    program: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> anyhow::Result<Outcome> {
    let run = shell.run(name, shell.command(program, arguments, environment), |_| {})?;
    Ok(if run.success {
        Outcome::passed()
    } else {
        Outcome::failed(run.last_lines(FAILURE_LINES_SHOWN))
    })
}

/// All tests of the workspace; each counts.
fn rust_tests(name: &str, shell: &Shell) -> anyhow::Result<Outcome> {
    let mut tests = TestRun::default();
    let mut program_started = Instant::now();
    let mut program = String::new();
    let arguments = ["test", "--workspace", "--no-fail-fast"];
    let run = shell.run(name, shell.command("cargo", &arguments, &[]), |line| {
        if let Some(started) = libtest::program_of(line) {
            started.clone_into(&mut program);
            program_started = Instant::now();
        }
        if let Some(totals) = tests.read(line)
            && totals.passed + totals.failed > 0
        {
            let seconds = program_started.elapsed().as_secs_f64();
            println!(
                "    {:>4} passed {:>3} failed {seconds:>6.1} s  {program}",
                totals.passed, totals.failed
            );
        }
    })?;
    Ok(tests.outcome(run.success, &run.last_lines(FAILURE_LINES_SHOWN)))
}

/// The example client against the real binary, in an environment of its own under target/.
fn python_example(name: &str, shell: &Shell) -> anyhow::Result<Outcome> {
    let python = needs::python_environment(name, shell, plan::PYTHON_REQUIREMENTS)?;
    // The same selection of packages as the tests', so that nothing is built twice.
    let build = ["test", "--workspace", "--no-run"];
    let built = shell.run(name, shell.command("cargo", &build, &[]), |_| {})?;
    let server = shell.target_folder().join("debug/whimbrel");
    if !built.success || !server.exists() {
        return Ok(Outcome::failed(format!(
            "the server binary {} was not built\n{}",
            server.display(),
            built.last_lines(FAILURE_LINES_SHOWN)
        )));
    }
    let server = server.display().to_string();
    let arguments = [
        "-m",
        "unittest",
        "discover",
        "--start-directory",
        plan::PYTHON_TESTS,
    ];
    command(
        name,
        shell,
        &python.display().to_string(),
        &arguments,
        &[("PYTHONUNBUFFERED", "1"), ("WHIMBREL_BIN", &server)],
    )
}

/// A duration as people read it.
pub(crate) fn seconds(took: Duration) -> String {
    let seconds = took.as_secs();
    if seconds < 60 {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}
