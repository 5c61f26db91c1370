//! Getting what a check cannot do without: Debian packages as root, Python packages into an environment under target/.

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};

use super::{
    plan::{Cure, Need, Want},
    shell::Shell,
};

/// Makes sure that `need` is met, or says why it cannot be.
pub(super) fn satisfy(need: &Need, shell: &Shell) -> Result<(), String> {
    let (program, arguments) = need.probe;
    if shell.succeeds(program, arguments) {
        return Ok(());
    }
    let package = match need.cure {
        Cure::Advice(advice) => return Err(format!("{} is missing: {advice}", need.what)),
        Cure::Apt(package) => package,
    };
    let by_hand = format!("{} is missing: run `sudo apt-get install {package}`", need.what);
    if !shell.is_root() || !shell.succeeds("apt-get", &["--version"]) {
        return Err(by_hand);
    }
    println!("    {} is missing: installing {package} with apt-get", need.what);
    if !(install(shell, package) && shell.succeeds(program, arguments)) {
        return Err(format!(
            "{by_hand} (trying that here failed: see {})",
            shell.log_of("apt").display()
        ));
    }
    Ok(())
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
