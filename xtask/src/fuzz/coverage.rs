//! Which lines of each target's modules its corpus reaches, by the compiler's own counters.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::LINES_SHOWN;
use crate::checks::shell::Shell;

/// Percent of a module's lines that must be reached.
const LINES_PERCENT_MIN: f64 = 85.0;

/// What each target is for: modules in one file, or in a folder of several.
const MODULES: [(&str, &[&str]); 8] = [
    (
        "hello",
        &[
            "protocol/src/hello.rs",
            "protocol/src/answer.rs",
            "protocol/src/handshake.rs",
            "protocol/src/noise/mod.rs",
            "protocol/src/noise/resolver.rs",
        ],
    ),
    ("records", &["protocol/src/record.rs"]),
    (
        "frames",
        &[
            "protocol/src/frame/",
            "protocol/src/varint.rs",
            "protocol/src/request_ids.rs",
        ],
    ),
    ("messages", &["protocol/src/ids.rs"]),
    (
        "requests",
        &[
            "app-service/src/service/admission.rs",
            "app-service/src/service/client.rs",
            "app-service/src/service/mod.rs",
            "app-service/src/service/session.rs",
            "app-service/src/rooms/",
            "app-service/src/log/",
            "app-service/src/sync/",
            "app-service/src/reads/members.rs",
            "app-service/src/reads/pages.rs",
            "app-service/src/reads/view.rs",
            "app-service/src/auth/token.rs",
        ],
    ),
    (
        "session",
        &["gateway/src/session/", "protocol/src/client_session/"],
    ),
    ("directory", &["protocol/src/descriptor/", "protocol/src/utc.rs"]),
    (
        "lbs",
        &[
            "lbs/src/answer.rs",
            "lbs/src/choose.rs",
            "lbs/src/server.rs",
            "lbs/src/view.rs",
        ],
    ),
];

/// Not under test, though beside what is.
const LEFT_OUT: [&str; 1] = ["gateway/src/session/fuzzing.rs"];

/// Lines of a file: how many there are, and how many were reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lines {
    count: u64,
    reached: u64,
}

impl Lines {
    #[expect(
        clippy::cast_precision_loss,
        reason = "files have thousands of lines, not 2^52"
    )]
    fn percent(self) -> f64 {
        if self.count == 0 {
            return 100.0;
        }
        self.reached as f64 * 100.0 / self.count as f64
    }
}

/// Measures and prints a table in Markdown; fails when a module is below what it must have.
pub(super) fn run(shell: &Shell, targets: &[String]) -> anyhow::Result<ExitCode> {
    let tools = Tools::find(shell)?;
    let folder = shell.target_folder().join("coverage");
    let profiles = folder.join("profiles");
    fs::create_dir_all(&profiles).with_context(|| format!("{}", profiles.display()))?;
    let program = build(shell, &folder)?;
    println!("| target | module | lines | reached | % |\n|---|---|--:|--:|--:|");
    let mut good = true;
    for target in targets {
        let report = tools.measure(shell, &program, target, &profiles)?;
        for (module, lines) in modules(target, &lines_of(&report, shell.root())?) {
            let enough = lines.percent() >= LINES_PERCENT_MIN;
            good &= enough;
            println!(
                "| {target} | {module} | {} | {} | {:.1}{} |",
                lines.count,
                lines.reached,
                lines.percent(),
                if enough { "" } else { " (too few)" }
            );
        }
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The program that replays the corpora, built with counters, in a folder of its own.
fn build(shell: &Shell, folder: &Path) -> anyhow::Result<PathBuf> {
    let target_folder = folder.display().to_string();
    let profile = folder.join("build-%p.profraw").display().to_string();
    let environment = [
        ("RUSTFLAGS", "-C instrument-coverage"),
        ("CARGO_TARGET_DIR", target_folder.as_str()),
        // Build scripts are counted too, and of no interest.
        ("LLVM_PROFILE_FILE", profile.as_str()),
    ];
    let arguments = [
        "test",
        "--package",
        "whimbrel-fuzz-targets",
        "--test",
        "corpora",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ];
    let mut program = None;
    let command = shell.command("cargo", &arguments, &environment);
    let run = shell.run("coverage", command, |line| {
        let executable = serde_json::from_str::<Value>(line).ok().and_then(|message| {
            let is_replay = message["target"]["name"] == "corpora";
            message["executable"]
                .as_str()
                .filter(|_| is_replay)
                .map(PathBuf::from)
        });
        program = executable.or(program.take());
    })?;
    if !run.success {
        bail!("the replay could not be built:\n{}", run.last_lines(LINES_SHOWN));
    }
    program.context("cargo says which program it built")
}

/// The compiler's own LLVM tools: others do not read its profiles.
struct Tools {
    profdata: PathBuf,
    cov: PathBuf,
}

impl Tools {
    fn find(shell: &Shell) -> anyhow::Result<Self> {
        let mut rustc = shell.command("rustc", &["--print", "target-libdir"], &[]);
        let libraries = rustc.output().context("`rustc` cannot be started")?.stdout;
        let libraries = String::from_utf8(libraries).context("a path in UTF-8")?;
        let tools = Path::new(libraries.trim()).with_file_name("bin");
        let tools = Self {
            profdata: tools.join("llvm-profdata"),
            cov: tools.join("llvm-cov"),
        };
        if !tools.profdata.exists() || !tools.cov.exists() {
            bail!(
                "{} is missing: run `rustup component add llvm-tools`",
                tools.profdata.display()
            );
        }
        Ok(tools)
    }

    /// Replays one target and gives llvm-cov's report.
    fn measure(&self, shell: &Shell, program: &Path, target: &str, profiles: &Path) -> anyhow::Result<Value> {
        let raw = profiles.join(format!("{target}.profraw")).display().to_string();
        let merged = profiles.join(format!("{target}.profdata"));
        let program_text = program.display().to_string();
        let replay = shell.command(
            &program_text,
            &["--exact", target],
            &[("LLVM_PROFILE_FILE", &raw)],
        );
        let run = shell.run("coverage", replay, |_| {})?;
        if !run.success {
            bail!(
                "the corpus of {target} does not pass:\n{}",
                run.last_lines(LINES_SHOWN)
            );
        }
        let profdata = self.profdata.display().to_string();
        let merged_text = merged.display().to_string();
        let merge = shell.command(&profdata, &["merge", "--sparse", &raw, "-o", &merged_text], &[]);
        let run = shell.run("coverage", merge, |_| {})?;
        if !run.success {
            bail!("{profdata} failed:\n{}", run.last_lines(LINES_SHOWN));
        }
        let cov = self.cov.display().to_string();
        let profile = format!("--instr-profile={merged_text}");
        let mut export = shell.command(&cov, &["export", "--summary-only", &profile, &program_text], &[]);
        let output = export
            .output()
            .with_context(|| format!("`{cov}` cannot be started"))?;
        if !output.status.success() {
            bail!("{cov} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("llvm-cov's report as JSON")
    }
}

/// Lines by file, named from the workspace's folder.
fn lines_of(report: &Value, root: &Path) -> anyhow::Result<BTreeMap<String, Lines>> {
    let files = report["data"][0]["files"]
        .as_array()
        .context("llvm-cov's report lists files")?;
    let mut lines = BTreeMap::new();
    for file in files {
        let Some(name) = file["filename"].as_str() else {
            continue;
        };
        let Ok(name) = Path::new(name).strip_prefix(root) else {
            continue;
        };
        let summary = &file["summary"]["lines"];
        let (count, reached) = (summary["count"].as_u64(), summary["covered"].as_u64());
        let counted = Lines {
            count: count.context("a number of lines")?,
            reached: reached.context("a number of lines reached")?,
        };
        lines.insert(name.display().to_string(), counted);
    }
    Ok(lines)
}

/// Those of a target.
fn modules(target: &str, files: &BTreeMap<String, Lines>) -> Vec<(&'static str, Lines)> {
    let wanted = MODULES
        .iter()
        .find(|(name, _)| *name == target)
        .map_or(&[][..], |(_, modules)| modules);
    wanted
        .iter()
        .map(|module| {
            let parts = files
                .iter()
                .filter(|(name, _)| name.starts_with(module) && !LEFT_OUT.contains(&name.as_str()));
            let sum = parts.fold(Lines::default(), |sum, (_, lines)| Lines {
                count: sum.count + lines.count,
                reached: sum.reached + lines.reached,
            });
            (*module, sum)
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_into_the_modules_of_a_target() {
        let file = |name: &str, covered: u64| serde_json::json!({"filename": name, "summary": {"lines": {"count": 10, "covered": covered}}});
        let report = serde_json::json!({"data": [{"files": [
            file("/w/protocol/src/record.rs", 9),
            file("/w/protocol/src/hello.rs", 1),
            file("/elsewhere/protocol/src/record.rs", 1),
        ]}]});
        let lines = lines_of(&report, Path::new("/w")).unwrap();
        let found = modules("records", &lines);
        assert_eq!(
            found,
            [(
                "protocol/src/record.rs",
                Lines {
                    count: 10,
                    reached: 9
                }
            )]
        );
        assert!(found[0].1.percent() > 89.0);
    }

    #[test]
    fn every_module_named_exists() {
        let root = crate::root().unwrap();
        for (target, modules) in MODULES {
            for module in modules {
                assert!(root.join(module).exists(), "{target}: {module}");
            }
        }
    }
}
