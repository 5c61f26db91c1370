//! Reads what Rust's test programs print. Pure: lines in, totals out.

use super::report::Outcome;

/// What one test program, or all so far, came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
}

/// A run of many test programs, read line by line.
#[derive(Debug, Default)]
pub(super) struct TestRun {
    totals: Totals,
    failed: Vec<String>,
    failures: Vec<String>,
    in_failures: bool,
    /// The program that has started and not said its totals yet.
    running: Option<String>,
    /// Programs that another followed, or the end, before they said their totals.
    silent: Vec<String>,
}

/// Lines kept of what failing tests said.
const FAILURE_LINES_MAX: usize = 400;

impl TestRun {
    /// Takes one line; gives a program's totals when it was the line that says them.
    pub(super) fn read(&mut self, line: &str) -> Option<Totals> {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.in_failures = false;
            self.running = None;
            let totals = Totals {
                passed: count(rest, "passed")?,
                failed: count(rest, "failed")?,
                ignored: count(rest, "ignored").unwrap_or(0),
            };
            self.totals.passed += totals.passed;
            self.totals.failed += totals.failed;
            self.totals.ignored += totals.ignored;
            return Some(totals);
        }
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failed.push(name.to_owned());
        }
        if let Some(program) = program_of(line) {
            self.in_failures = false;
            self.silent.extend(self.running.replace(program.to_owned()));
        }
        self.in_failures |= line == "failures:";
        if self.in_failures && self.failures.len() < FAILURE_LINES_MAX {
            self.failures.push(line.to_owned());
        }
        None
    }

    /// The outcome, once the command has ended. `last_lines` is the end of what it said.
    ///
    /// In a command that failed, a program that died without its totals is a failure, and so is the command itself if
    /// nothing else is (it did not build). One in which no test ran proves nothing and fails too.
    pub(super) fn outcome(mut self, success: bool, last_lines: &str) -> Outcome {
        let Totals {
            passed,
            mut failed,
            ignored,
        } = self.totals;
        let mut detail = self.failures.join("\n");
        self.silent.extend(self.running.take());
        if !success && !self.silent.is_empty() {
            failed += self.silent.len() as u64;
            let died = self
                .silent
                .iter()
                .map(|program| format!("{program} died before its totals"));
            self.failed.extend(died);
            detail = format!("{detail}\n{last_lines}");
        }
        if !success && failed == 0 {
            failed = 1;
            last_lines.clone_into(&mut detail);
        } else if passed + failed == 0 {
            failed = 1;
            "no test ran".clone_into(&mut detail);
        }
        Outcome::Tests {
            passed,
            failed,
            ignored,
            failed_names: self.failed,
            detail,
        }
    }
}

/// The program whose tests follow, from cargo's `Running ...` or `Doc-tests ...`.
pub(super) fn program_of(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let name = if let Some(rest) = line.strip_prefix("Running ") {
        let path = rest.rsplit_once('(')?.1.strip_suffix(')')?;
        let file = path.rsplit('/').next()?;
        file.rsplit_once('-').map_or(file, |(name, _hash)| name)
    } else {
        line.strip_prefix("Doc-tests ")?
    };
    Some(name)
}

fn count(line: &str, what: &str) -> Option<u64> {
    line.split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(what))
        .find_map(|number| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "a test fails by panicking")]
    use super::*;

    const TWO_PROGRAMS: &str = "\
   Compiling whimbrel-host v0.1.0
     Running unittests src/lib.rs (target/debug/deps/whimbrel_host-4410351b0700c1e6)
running 3 tests
test clock::tests::moves ... ok
test bind::tests::named ... FAILED
test slow ... ignored

failures:

---- bind::tests::named stdout ----
boom

failures:
    bind::tests::named

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.33s
   Doc-tests whimbrel_host
running 2 tests
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    fn read(text: &str) -> TestRun {
        let mut run = TestRun::default();
        for line in text.lines() {
            run.read(line);
        }
        run
    }

    #[test]
    fn programs_add_up_and_failures_are_kept_by_name_and_text() {
        let outcome = read(TWO_PROGRAMS).outcome(false, "the end");
        let Outcome::Tests {
            passed,
            failed,
            ignored,
            failed_names,
            detail,
        } = outcome
        else {
            panic!("tests ran");
        };
        assert_eq!((passed, failed, ignored), (3, 1, 1));
        assert_eq!(failed_names, ["bind::tests::named"]);
        assert!(
            detail.contains("boom") && !detail.contains("Doc-tests"),
            "{detail}"
        );
    }

    #[test]
    fn a_command_that_fails_without_a_failed_test_is_one_failure() {
        let text =
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        let Outcome::Tests {
            passed,
            failed,
            detail,
            ..
        } = read(text).outcome(false, "signal: 6, SIGABRT")
        else {
            panic!("tests ran");
        };
        assert_eq!((passed, failed, detail.as_str()), (5, 1, "signal: 6, SIGABRT"));
    }

    #[test]
    fn a_program_that_dies_is_a_failure_of_its_own_beside_others() {
        let dies =
            "     Running tests/crash.rs (target/debug/deps/crash-0123456789abcdef)\nrunning 3 tests\n";
        let Outcome::Tests {
            passed,
            failed,
            failed_names,
            ..
        } = read(&format!("{dies}{TWO_PROGRAMS}")).outcome(false, "signal: 6, SIGABRT")
        else {
            panic!("tests ran");
        };
        assert_eq!((passed, failed), (3, 2));
        assert_eq!(
            failed_names,
            ["bind::tests::named", "crash died before its totals"]
        );
    }

    #[test]
    fn a_run_without_a_test_proves_nothing() {
        let Outcome::Tests { failed, .. } = read("").outcome(true, "") else {
            panic!("tests ran")
        };
        assert_eq!(failed, 1);
    }

    #[test]
    fn a_test_that_prints_a_result_of_its_own_form_is_no_total() {
        assert_eq!(TestRun::default().read("test result: who knows"), None);
    }

    #[test]
    fn programs_are_named_without_their_hash() {
        let unit = "     Running unittests src/lib.rs (target/debug/deps/whimbrel_host-4410351b0700c1e6)";
        assert_eq!(program_of(unit), Some("whimbrel_host"));
        assert_eq!(program_of("   Doc-tests whimbrel_host"), Some("whimbrel_host"));
        assert_eq!(program_of("running 3 tests"), None);
    }
}
