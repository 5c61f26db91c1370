//! Getting what a check cannot do without: Debian packages as root, Python packages into an environment under target/.

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};

use super::{
    plan::{Cure, Need, Want},
    shell::Shell,
};

/// Makes sure that `need` is met, or says why it cannot be and what to do.
pub(super) fn satisfy(need: &Need, shell: &Shell) -> Result<(), String> {
    let Some(by_hand) = missing(need, shell) else {
        return Ok(());
    };
    let package = match need.cure {
        Cure::Apt(package) | Cure::AptOrNewer(package, _) => package,
        Cure::Advice(_) => return Err(by_hand),
    };
    if !shell.is_root() || !shell.succeeds("apt-get", &["--version"]) {
        return Err(by_hand);
    }
    println!("    {} is missing: installing {package} with apt-get", need.what);
    let installed = install(shell, package);
    if installed && is_met(need, shell) {
        return Ok(());
    }
    Err(match need.cure {
        Cure::AptOrNewer(_, place) if installed => format!(
            "{} is missing: the distribution's {package} is too old, install one from {place}",
            need.what
        ),
        _ => format!(
            "{by_hand} (trying that here failed: see {})",
            shell.log_of("apt").display()
        ),
    })
}

/// What to do about `need` by hand, if it is not met.
pub(crate) fn missing(need: &Need, shell: &Shell) -> Option<String> {
    (!is_met(need, shell)).then(|| by_hand(need))
}

fn is_met(need: &Need, shell: &Shell) -> bool {
    let (program, arguments) = need.probe;
    shell.succeeds(program, arguments)
}

fn by_hand(need: &Need) -> String {
    let what = need.what;
    match need.cure {
        Cure::Advice(advice) => format!("{what} is missing: {advice}"),
        Cure::Apt(package) => format!("{what} is missing: run `sudo apt-get install {package}`"),
        Cure::AptOrNewer(package, place) => format!(
            "{what} is missing: run `sudo apt-get install {package}`, or, if that is there and too old, install one from {place}"
        ),
    }
}

/// Makes what is wanted, or says why it cannot be had.
pub(super) fn fetch(want: &Want, shell: &Shell) -> Result<(), String> {
    for need in want.needs {
        satisfy(need, shell)?;
    }
    (want.build)(shell).map_err(|error| format!("{error:#}"))
}

fn install(shell: &Shell, package: &str) -> bool {
    let environment = [("DEBIAN_FRONTEND", "noninteractive")];
    let apt = |arguments: &[&str]| {
        let command = shell.command("apt-get", arguments, &environment);
        shell.run("apt", command, |_| {}).is_ok_and(|run| run.success)
    };
    let install = ["install", "--yes", "--no-install-recommends", package];
    // The lists may be absent or old; they are fetched only then.
    apt(&install) || (apt(&["update"]) && apt(&install))
}

/// Makes target/venv hold what `requirements` names and gives its python. Made anew when the requirements change.
pub(super) fn python_environment(name: &str, shell: &Shell, requirements: &str) -> anyhow::Result<PathBuf> {
    let requirements = shell.root().join(requirements);
    let wanted = fs::read_to_string(&requirements).with_context(|| format!("{}", requirements.display()))?;
    let venv = shell.target_folder().join("venv");
    let python = venv.join("bin/python");
    let installed = venv.join("installed.txt");
    if python.exists() && fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Ok(python);
    }
    println!(
        "    installing {} into {}",
        requirements.display(),
        venv.display()
    );
    let (venv, file) = (venv.display().to_string(), requirements.display().to_string());
    let python_path = python.display().to_string();
    let steps: [(&str, &[&str]); 2] = [
        ("python3", &["-m", "venv", "--clear", &venv]),
        (
            &python_path,
            &[
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
                &file,
            ],
        ),
    ];
    for (program, arguments) in steps {
        let run = shell.run(name, shell.command(program, arguments, &[]), |_| {})?;
        if !run.success {
            bail!(
                "{program} {} failed:\n{}",
                arguments.join(" "),
                run.last_lines(40)
            );
        }
    }
    fs::write(&installed, wanted).with_context(|| format!("{}", installed.display()))?;
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::plan::GO;

    #[test]
    fn what_is_there_and_too_old_is_not_only_to_be_installed_again() {
        assert_eq!(
            by_hand(&GO),
            "go, 1.23.6 or newer, is missing: run `sudo apt-get install golang-go`, or, if that is there and too old, \
             install one from go.dev/dl"
        );
    }
}
