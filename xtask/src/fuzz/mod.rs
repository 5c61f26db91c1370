//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/`, keeps what they learn small, and says how much they reach.
//!
//! A run grows a working corpus under `fuzz/target/`; at its end few inputs that reach as much, or some of each size where those
//! are too many, are what `fuzz/corpus` holds and every test run replays. `coverage` measures which lines those inputs reach.

mod coverage;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    checks::{seconds, shell::Shell},
    root,
};

/// Bytes of a target's corpus in the repository, at most; its test holds the same number.
const CORPUS_BYTES_MAX: u64 = 190 * 1024;
/// Files of it at most.
const CORPUS_FILES_MAX: usize = 600;
/// How names of inputs begin that once found something: they stay, whatever else is kept.
const FOUND: &str = "found-";
/// Bytes of an input: several frames, or a script of some hundred steps. Longer ones are slower and say no more.
const INPUT_BYTES_MAX: u32 = 4_096;
/// A single input takes milliseconds; one that takes this long is a finding.
const INPUT_SECONDS_MAX: u32 = 20;
/// Memory of a fuzzer, MiB: several times what the largest bounds of a target allow.
const MEMORY_MIB_MAX: u32 = 2_048;
/// How much of an end is shown.
const LINES_SHOWN: usize = 60;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this target; may be given more than once.
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// How long each target runs.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Instead: build each target with a panic planted behind a few steps, and see that it is found within the time.
    #[arg(long, conflicts_with = "coverage")]
    planted_panic: bool,
    /// Instead: run the corpora once and say which lines of each target's modules they reach.
    #[arg(long)]
    coverage: bool,
    /// Build without AddressSanitizer: faster, and for machines that cannot have it.
    #[arg(long)]
    no_sanitizer: bool,
}

/// Does it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let shell = Shell::new(root()?)?;
    let targets = targets(&shell, &arguments.target)?;
    if arguments.coverage {
        return coverage::run(&shell, &targets);
    }
    install(&shell)?;
    let fuzzer = Fuzzer {
        shell: &shell,
        arguments,
    };
    let seeds = fuzzer.write_seeds()?;
    let mut good = true;
    for (place, target) in (1..).zip(&targets) {
        println!("[{place}/{}] {target}", targets.len());
        good &= if arguments.planted_panic {
            fuzzer.find_planted(target, &seeds)?
        } else {
            fuzzer.fuzz(target, &seeds)?
        };
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The targets there are, or those of them that were named.
fn targets(shell: &Shell, named: &[String]) -> anyhow::Result<Vec<String>> {
    let folder = shell.root().join("fuzz/fuzz_targets");
    let mut all = Vec::new();
    for file in fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
        let path = file?.path();
        all.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    all.sort();
    if let Some(unknown) = named.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown:?}; there are: {}", all.join(", "));
    }
    Ok(if named.is_empty() { all } else { named.to_vec() })
}

/// Gets cargo-fuzz, or says what is missing.
fn install(shell: &Shell) -> anyhow::Result<()> {
    if !shell.succeeds("c++", &["--version"]) {
        bail!("libFuzzer needs a C++ compiler, and there is no `c++`: run `sudo apt-get install g++`");
    }
    if shell.succeeds("cargo", &["fuzz", "--version"]) {
        return Ok(());
    }
    println!("cargo-fuzz is missing: installing it with `cargo install --locked cargo-fuzz`");
    let command = shell.command("cargo", &["install", "--locked", "cargo-fuzz"], &[]);
    let run = shell.run("fuzz", command, |_| {})?;
    if !run.success {
        bail!(
            "cargo-fuzz could not be installed:\n{}",
            run.last_lines(LINES_SHOWN)
        );
    }
    Ok(())
}

struct Fuzzer<'a> {
    shell: &'a Shell,
    arguments: &'a Arguments,
}

impl Fuzzer<'_> {
    fn folder(&self, name: &str, target: &str) -> anyhow::Result<PathBuf> {
        let folder = self.shell.root().join("fuzz/target").join(name).join(target);
        fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        Ok(folder)
    }

    fn corpus(&self, target: &str) -> anyhow::Result<PathBuf> {
        let folder = self.shell.root().join("fuzz/corpus").join(target);
        fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        Ok(folder)
    }

    /// What the encoders of production make: fresh each time, since they may have changed.
    fn write_seeds(&self) -> anyhow::Result<PathBuf> {
        let folder = self.shell.root().join("fuzz/target/seeds");
        let path = folder.display().to_string();
        let arguments = [
            "run",
            "--package",
            "whimbrel-fuzz-targets",
            "--bin",
            "fuzz-seeds",
            "--",
            &path,
        ];
        let run = self
            .shell
            .run("fuzz", self.shell.command("cargo", &arguments, &[]), |_| {})?;
        if !run.success {
            bail!("the seeds could not be made:\n{}", run.last_lines(LINES_SHOWN));
        }
        Ok(folder)
    }

    /// `cargo fuzz run` of a target over corpora, the first of which grows.
    fn command(&self, target: &str, corpora: &[&Path], options: &[String]) -> Command {
        // Sanitizers and coverage counters are behind flags that stable compilers have and hide.
        let mut command = self
            .shell
            .command("cargo", &["fuzz", "run"], &[("RUSTC_BOOTSTRAP", "1")]);
        if self.arguments.planted_panic {
            command.args(["--features", "planted-panic"]);
        }
        if self.arguments.no_sanitizer {
            command.args(["--sanitizer", "none"]);
        }
        command.arg(target).args(corpora).arg("--").args(options);
        command
    }

    fn options(&self, more: &[&str]) -> Vec<String> {
        let fixed = [
            format!("-max_len={INPUT_BYTES_MAX}"),
            format!("-timeout={INPUT_SECONDS_MAX}"),
            format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
            format!("-max_total_time={}", self.arguments.seconds),
        ];
        fixed
            .into_iter()
            .chain(more.iter().map(|&option| option.to_owned()))
            .collect()
    }

    /// Runs a target for its time; says whether nothing was found.
    fn fuzz(&self, target: &str, seeds: &Path) -> anyhow::Result<bool> {
        let (work, corpus) = (self.folder("work", target)?, self.corpus(target)?);
        let options = self.options(&["-print_final_stats=1"]);
        let command = self.command(target, &[&work, &corpus, &seeds.join(target)], &options);
        let mut artifact = None;
        let run = self.shell.run(&format!("fuzz-{target}"), command, |line| {
            if let Some((_, path)) = line.split_once("Test unit written to ") {
                artifact = Some(path.to_owned());
            }
            if let Some(stat) = line.strip_prefix("stat::").filter(|stat| {
                ["number_of_executed_units", "peak_rss_mb"]
                    .iter()
                    .any(|wanted| stat.starts_with(wanted))
            }) {
                println!("    {stat}");
            }
        })?;
        if !run.success {
            println!("{}", run.last_lines(LINES_SHOWN));
            if let Some(artifact) = artifact {
                println!(
                    "found by {target}: repeat it with `RUSTC_BOOTSTRAP=1 cargo fuzz run {target} {artifact}`;"
                );
                println!(
                    "once it is mended, copy the input into {} under a name that begins with {FOUND}, for good",
                    corpus.display()
                );
            }
            return Ok(false);
        }
        self.keep_few(target, &work, &corpus, seeds)?;
        Ok(true)
    }

    /// Makes the repository's corpus few inputs that reach as much as all there are; where those are too many, some of each size.
    /// What once found something stays beside them.
    fn keep_few(&self, target: &str, work: &Path, corpus: &Path, seeds: &Path) -> anyhow::Result<()> {
        let merged = self.shell.root().join("fuzz/target/merged").join(target);
        if merged.exists() {
            fs::remove_dir_all(&merged).with_context(|| format!("{}", merged.display()))?;
        }
        fs::create_dir_all(&merged)?;
        let options = [
            "-set_cover_merge=1".to_owned(),
            format!("-max_len={INPUT_BYTES_MAX}"),
        ];
        let seeds = seeds.join(target);
        let command = self.command(target, &[&merged, &seeds, corpus, work], &options);
        let run = self.shell.run(&format!("fuzz-{target}"), command, |_| {})?;
        if !run.success {
            bail!(
                "the corpus of {target} could not be minimised:\n{}",
                run.last_lines(LINES_SHOWN)
            );
        }
        let mut inputs = Vec::new();
        for file in fs::read_dir(&merged)? {
            let file = file?;
            inputs.push((file.metadata()?.len(), file.path()));
        }
        inputs.sort();
        let (mut found, mut found_bytes) = (0, 0);
        for file in fs::read_dir(corpus)? {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with(FOUND) {
                (found, found_bytes) = (found + 1, found_bytes + file.metadata()?.len());
            } else {
                fs::remove_file(file.path())?;
            }
        }
        let (files_max, bytes_max) = (
            CORPUS_FILES_MAX.saturating_sub(found),
            CORPUS_BYTES_MAX.saturating_sub(found_bytes),
        );
        let kept = spread(&inputs, files_max, bytes_max);
        for (_, path) in &kept {
            let name = path.file_name().context("a file of a folder has a name")?;
            fs::copy(path, corpus.join(name)).with_context(|| format!("{}", path.display()))?;
        }
        let (files, bytes) = (kept.len(), kept.iter().map(|(len, _)| len).sum::<u64>());
        println!(
            "    corpus: {files} of {} inputs kept, {bytes} bytes",
            inputs.len()
        );
        Ok(())
    }

    /// Runs a target that has a panic planted in it; says whether it was found.
    fn find_planted(&self, target: &str, seeds: &Path) -> anyhow::Result<bool> {
        // A folder of its own: what leads to the plant teaches nothing for good.
        let work = self.folder("planted", target)?;
        for file in fs::read_dir(&work)? {
            fs::remove_file(file?.path())?;
        }
        let artifacts = format!("-artifact_prefix={}/", work.display());
        let options = self.options(&[&artifacts]);
        // From the seeds alone: how much a corpus has grown says nothing of how well a fuzzer climbs.
        let command = self.command(target, &[&work, &seeds.join(target)], &options);
        let (mut found, mut started, mut took) = (false, Instant::now(), Duration::ZERO);
        self.shell.run(&format!("planted-{target}"), command, |line| {
            if line.starts_with("INFO: Seed:") {
                started = Instant::now();
            }
            if line.contains(&format!("the panic planted in {target} was reached")) {
                (found, took) = (true, started.elapsed());
            }
        })?;
        if found {
            println!("    the planted panic was found after {}", seconds(took));
        } else {
            println!(
                "    the planted panic was not found within {} s",
                self.arguments.seconds
            );
        }
        Ok(found)
    }
}

/// At most `files_max` of the inputs, of `bytes_max` bytes together, evenly over their order: the smallest alone reach little.
fn spread(inputs: &[(u64, PathBuf)], files_max: usize, bytes_max: u64) -> Vec<&(u64, PathBuf)> {
    let evenly = |count: usize| (0..count).filter_map(move |nth| inputs.get(nth * inputs.len() / count));
    let fits = |count: &usize| evenly(*count).map(|(len, _)| len).sum::<u64>() <= bytes_max;
    let count = (0..=files_max.min(inputs.len())).rev().find(fits);
    evenly(count.unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_inputs_some_of_each_size_are_kept() {
        let inputs: Vec<_> = (0..100)
            .map(|len| (len, PathBuf::from(len.to_string())))
            .collect();
        let lens = |files, bytes| -> Vec<u64> {
            spread(&inputs, files, bytes)
                .iter()
                .map(|(len, _)| *len)
                .collect()
        };
        assert_eq!(lens(4, 1_000), [0, 25, 50, 75]);
        assert_eq!(lens(4, 100), [0, 33, 66]);
        assert_eq!(lens(1_000, u64::MAX).len(), 100);
        assert_eq!(spread(&[], 4, 100), Vec::<&(u64, PathBuf)>::new());
    }
}
