//! Runs commands: output to a log, line by line to whoever counts, and a sign of life to the terminal.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::seconds;

/// Lines of a command's output that are kept in memory; the log has them all.
const LINES_KEPT: usize = 400;
/// Where there is no terminal to show the newest line on, one is printed this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(20);
/// Between two turns of the spinner.
const SPINNER_INTERVAL: Duration = Duration::from_millis(120);

/// Where commands run.
pub(crate) struct Shell {
    root: PathBuf,
    target: PathBuf,
}

/// How a command ended.
pub(crate) struct Run {
    pub(crate) success: bool,
    lines: VecDeque<String>,
}

impl Run {
    /// The end of what it said.
    pub(crate) fn last_lines(&self, count: usize) -> String {
        let from = self.lines.len().saturating_sub(count);
        self.lines
            .iter()
            .skip(from)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Shell {
    /// Commands run in `root`, the workspace's folder.
    pub(crate) fn new(root: PathBuf) -> anyhow::Result<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |folder| root.join(folder));
        let shell = Self { root, target };
        let output = shell.output_folder();
        std::fs::create_dir_all(&output).with_context(|| format!("{}", output.display()))?;
        Ok(shell)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target_folder(&self) -> &Path {
        &self.target
    }

    /// Where logs and the report go.
    pub(crate) fn output_folder(&self) -> PathBuf {
        self.target.join("xtask")
    }

    pub(crate) fn log_of(&self, name: &str) -> PathBuf {
        self.output_folder().join(format!("{name}.log"))
    }

    /// Removes the logs of the run before; within a run they grow.
    pub(crate) fn remove_logs(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(self.output_folder())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                std::fs::remove_file(&path).with_context(|| format!("{}", path.display()))?;
            }
        }
        Ok(())
    }

    /// A command in the workspace's folder.
    pub(crate) fn command(&self, program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(environment.iter().copied())
            .current_dir(&self.root)
            .stdin(Stdio::null());
        // Nobody builds twice there, and what the second build would reuse is half of all that is written: 3 of 6 GiB.
        if is_ci() {
            command.env("CARGO_INCREMENTAL", "0");
        }
        command
    }

    /// Whether a command is there and succeeds, in silence.
    pub(crate) fn succeeds(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = self.command(program, arguments, &[]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Whether this is root.
    pub(crate) fn is_root(&self) -> bool {
        let mut command = self.command("id", &["-u"], &[]);
        command
            .output()
            .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
    }

    /// Runs a command to its end. Each line of its output, in the order written, goes to the log of this name and to
    /// `each_line`; the newest is shown on a terminal meanwhile.
    pub(crate) fn run(
        &self,
        name: &str,
        mut command: Command,
        mut each_line: impl FnMut(&str),
    ) -> anyhow::Result<Run> {
        let path = self.log_of(name);
        let file = File::options().create(true).append(true).open(&path);
        let mut log = BufWriter::new(file.with_context(|| format!("{}", path.display()))?);
        writeln!(log, "$ {command:?}")?;

        // One pipe for both streams keeps their lines in order.
        let (reader, writer) = io::pipe().context("a pipe for the command's output")?;
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdout(writer.try_clone()?).stderr(writer);
        let mut child = command
            .spawn()
            .with_context(|| format!("`{program}` cannot be started"))?;
        // The command holds the pipe's writing ends, and reading ends only when all are closed.
        drop(command);

        let spinner = spinner(name);
        let started = Instant::now();
        let mut shown = started;
        let mut lines = VecDeque::with_capacity(LINES_KEPT);
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes)? > 0 {
            let line = String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned();
            bytes.clear();
            writeln!(log, "{line}")?;
            spinner.set_message(line.clone());
            spinner.suspend(|| each_line(&line));
            if spinner.is_hidden() && shown.elapsed() > PLAIN_INTERVAL {
                println!("    ... {}: {line}", seconds(started.elapsed()));
                shown = Instant::now();
            }
            if lines.len() == LINES_KEPT {
                lines.pop_front();
            }
            lines.push_back(line);
        }
        let status = child.wait().with_context(|| format!("waiting for `{program}`"))?;
        spinner.finish_and_clear();
        writeln!(log, "-> {status}")?;
        if !status.success() {
            lines.push_back(format!(
                "(`{program}` ended with {status}; all it said is in {})",
                path.display()
            ));
        }
        Ok(Run {
            success: status.success(),
            lines,
        })
    }
}

/// Whether this runs for everybody, where a check that is left out has failed.
pub(super) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// A line that turns and shows what is going on; draws nothing where stderr is no terminal.
fn spinner(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}")
        .expect("the template is a constant that parses");
    let spinner = ProgressBar::new_spinner()
        .with_style(style)
        .with_prefix(name.to_owned());
    spinner.enable_steady_tick(SPINNER_INTERVAL);
    spinner
}
