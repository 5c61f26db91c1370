//! The checks, in the order in which they run: what fails fastest comes first.

use super::shell::Shell;
use crate::tikv;

/// The folder of the example client's tests; they find the server's binary by `WHIMBREL_BIN`.
pub(super) const PYTHON_TESTS: &str = "examples/python";
/// What it needs from PyPI.
pub(super) const PYTHON_REQUIREMENTS: &str = "examples/python/requirements.txt";

/// One check.
pub(super) struct Check {
    /// For `--only`, the table and the name of its log.
    pub(super) name: &'static str,
    /// What it holds, in a few words.
    pub(super) about: &'static str,
    /// What it cannot do without.
    pub(super) needs: &'static [Need],
    /// What it does less without. What cannot be had is a skip of its own.
    pub(super) wants: &'static [Want],
    /// What it does.
    pub(super) action: Action,
}

/// What a check does.
pub(super) enum Action {
    /// A command that must succeed.
    Command {
        program: &'static str,
        arguments: &'static [&'static str],
        environment: &'static [(&'static str, &'static str)],
    },
    /// Compares the generated code that is checked in.
    GeneratedCode,
    /// All tests of the workspace.
    RustTests,
    /// The client in Python.
    PythonExample,
}

/// Something without which part of a check is ignored.
pub(super) struct Want {
    /// For the table.
    pub(super) name: &'static str,
    /// What it cannot do without itself.
    pub(super) needs: &'static [Need],
    /// Makes it.
    pub(super) build: fn(&Shell) -> anyhow::Result<()>,
}

/// Something a check cannot do without.
pub(crate) struct Need {
    /// What an operator calls it.
    pub(super) what: &'static str,
    /// Succeeds where it is there.
    pub(super) probe: (&'static str, &'static [&'static str]),
    /// How it is got.
    pub(super) cure: Cure,
}

/// How a need is met.
pub(crate) enum Cure {
    /// A Debian package; installed when run as root.
    Apt(&'static str),
    /// The same, and where newer ones are: what the distribution has may be too old.
    AptOrNewer(&'static str, &'static str),
    /// Something only the developer does.
    Advice(&'static str),
}

const RUSTFMT: Need = Need {
    what: "rustfmt",
    probe: ("cargo", &["fmt", "--version"]),
    cure: Cure::Advice("run `rustup component add rustfmt`"),
};
const CLIPPY: Need = Need {
    what: "clippy",
    probe: ("cargo", &["clippy", "--version"]),
    cure: Cure::Advice("run `rustup component add clippy`"),
};
/// For aws-lc, SQLite and jemalloc.
const C_COMPILER: Need = Need {
    what: "a C compiler",
    probe: ("cc", &["--version"]),
    cure: Cure::Apt("gcc"),
};
/// For jemalloc.
const MAKE: Need = Need {
    what: "make",
    probe: ("make", &["--version"]),
    cure: Cure::Apt("make"),
};
/// For the registry on Redis: its tests start servers of their own.
const REDIS: Need = Need {
    what: "redis-server",
    probe: ("redis-server", &["--version"]),
    cure: Cure::Apt("redis-server"),
};
const PYTHON: Need = Need {
    what: "python3, 3.11 or newer,",
    probe: (
        "python3",
        &["-c", "import sys; sys.exit(sys.version_info < (3, 11))"],
    ),
    cure: Cure::AptOrNewer("python3", "python.org/downloads"),
};
const PYTHON_VENV: Need = Need {
    what: "python3's venv",
    probe: ("python3", &["-c", "import ensurepip, venv"]),
    cure: Cure::Apt("python3-venv"),
};

/// For the programs under `xtask/tikv`. The probe reads their `go.mod`: a Go that is older than what it asks for fails at that, unless
/// it can fetch such a one itself.
pub(crate) const GO: Need = Need {
    what: "go, 1.23.6 or newer,",
    probe: ("go", &["list", "-C", "xtask/tikv", "-m"]),
    // Debian 12's is 1.19.
    cure: Cure::AptOrNewer("golang-go", "go.dev/dl"),
};
const SYSTEMD_ANALYZE: Need = Need {
    what: "systemd-analyze",
    probe: ("systemd-analyze", &["--version"]),
    cure: Cure::Apt("systemd"),
};
const PYTHON_YAML: Need = Need {
    what: "a python3 that reads YAML",
    probe: ("python3", &["-c", "import yaml"]),
    cure: Cure::Apt("python3-yaml"),
};
/// Without them the tests of the store over TiKV are ignored.
const TIKV: Want = Want {
    name: "tikv",
    needs: &[GO],
    build: tikv::build,
};
/// Without it nothing looks at the units in `deploy/systemd`.
const UNITS: Want = Want {
    name: "units",
    needs: &[SYSTEMD_ANALYZE],
    build: |_| Ok(()),
};
/// Without it nothing looks at the compose file in `deploy/compose`.
const COMPOSE: Want = Want {
    name: "compose",
    needs: &[PYTHON_YAML],
    build: |_| Ok(()),
};

/// All of them.
pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "fmt",
        about: "the code is formatted",
        needs: &[RUSTFMT],
        wants: &[],
        action: Action::Command {
            program: "cargo",
            arguments: &["fmt", "--all", "--check"],
            environment: &[],
        },
    },
    Check {
        name: "proto",
        about: "the generated messages are what the .proto files say",
        needs: &[],
        wants: &[],
        action: Action::GeneratedCode,
    },
    Check {
        name: "go",
        about: "the programs under xtask/tikv count their calls, and know where their regions are",
        needs: &[GO],
        wants: &[],
        action: Action::Command {
            program: "go",
            arguments: &["test", "-C", "xtask/tikv", "-trimpath", "./serving", "./pd"],
            environment: &[("CGO_ENABLED", "0")],
        },
    },
    Check {
        name: "clippy",
        about: "no lint objects",
        needs: &[CLIPPY, C_COMPILER, MAKE],
        wants: &[],
        action: Action::Command {
            program: "cargo",
            arguments: &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--keep-going",
                "--",
                "-D",
                "warnings",
            ],
            environment: &[],
        },
    },
    Check {
        name: "doc",
        about: "the documentation builds without warnings",
        needs: &[C_COMPILER, MAKE],
        wants: &[],
        action: Action::Command {
            program: "cargo",
            arguments: &["doc", "--workspace", "--no-deps", "--keep-going"],
            environment: &[("RUSTDOCFLAGS", "-D warnings")],
        },
    },
    Check {
        name: "tests",
        about: "all tests of the workspace",
        needs: &[C_COMPILER, MAKE, REDIS],
        wants: &[TIKV, UNITS, COMPOSE],
        action: Action::RustTests,
    },
    Check {
        name: "python",
        about: "the client written from docs/protocol.md alone talks to the real binary",
        needs: &[C_COMPILER, MAKE, PYTHON, PYTHON_VENV],
        wants: &[],
        action: Action::PythonExample,
    },
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own_fit_for_a_file() {
        let names: BTreeSet<_> = CHECKS.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), CHECKS.len());
        assert!(
            names
                .iter()
                .all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        );
    }

    /// As the probe of [`GO`] in a workspace whose `go.mod` is this.
    fn go_reads(go_mod: &str) -> Option<bool> {
        let workspace = tempfile::tempdir().unwrap();
        let module = workspace.path().join("xtask/tikv");
        std::fs::create_dir_all(&module).unwrap();
        std::fs::write(module.join("go.mod"), go_mod).unwrap();
        let (program, arguments) = GO.probe;
        let ran = std::process::Command::new(program)
            .args(arguments)
            .current_dir(workspace.path())
            // It must not fetch a newer one meanwhile.
            .envs([("GOTOOLCHAIN", "local"), ("GOFLAGS", "")])
            .output();
        ran.ok().map(|ran| ran.status.success())
    }

    #[test]
    fn a_go_that_is_older_than_the_programs_ask_for_is_told_from_one_that_is_not() {
        let go_mod = include_str!("../../tikv/go.mod");
        let asked = go_mod.lines().find_map(|line| line.strip_prefix("go ")).unwrap();
        assert!(
            GO.what.contains(asked),
            "{} are told, {asked} are needed",
            GO.what
        );
        let newer = go_mod.replacen(asked, "1.9999.0", 1);
        // Where there is none, there is none to tell.
        assert!(
            matches!(go_reads(&newer), Some(false) | None),
            "an older one is refused"
        );
    }
}
