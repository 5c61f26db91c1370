//! What a deployment stands on: its data folder, its ports, its configuration. Beside one that runs, others are started
//! on ground that does not carry.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::deployment::{Deployment, ended, whimbrel};
use crate::table::{Gets, Row};

/// A refusal is quick; this is for a debug build on a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);
/// Rows that start a process which reads a file and ends at once.
const REPEATS: u32 = 50;
/// Rows on a data folder stay few: each attempt copies or makes one, opens its store and compares it afterwards, up to a fifth of a second of
/// disk. The running server has no part in them but for the machine's disk, so that repeats would tell little of its memory.
const DISK_REPEATS: u32 = 4;

/// A running deployment with a data folder, and copies of such a folder to spoil.
pub(crate) struct Ground {
    data: PathBuf,
    port_base: String,
    /// A data folder in which there were messages, and which nobody uses.
    seed: PathBuf,
    scratch: tempfile::TempDir,
}

impl Ground {
    /// `data` is the running deployment's folder; `seed` one that was left in order.
    pub(crate) fn new(running: &Deployment, data: &Path, seed: &Path) -> anyhow::Result<Self> {
        let port_base = running
            .ready
            .lbs
            .rsplit(':')
            .next()
            .context("a URL with a port")?;
        Ok(Self {
            data: data.to_owned(),
            port_base: port_base.to_owned(),
            seed: seed.to_owned(),
            scratch: tempfile::tempdir()?,
        })
    }

    /// A copy of the seed.
    fn copy(&self) -> anyhow::Result<tempfile::TempDir> {
        let copy = tempfile::tempdir_in(self.scratch.path())?;
        copy_tree(&self.seed, copy.path())?;
        Ok(copy)
    }

    /// Runs a command that must end by itself, with a failure, soon; gives what it said.
    fn refused(&self, args: &[&OsStr]) -> anyhow::Result<String> {
        let log = self.scratch.path().join("log");
        let mut child = whimbrel(self.scratch.path(), args)
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        let status = ended(&mut child, REFUSED_WITHIN);
        if status.is_err() {
            child.kill()?;
            child.wait()?;
        }
        let said = fs::read_to_string(&log)?;
        let status = status.with_context(|| format!("it said {said:?}"))?;
        ensure!(
            status.code() == Some(1),
            "it ended with {status} and said {said:?}"
        );
        ensure!(!said.contains("panicked"), "it panicked: {said}");
        Ok(said)
    }

    /// A standalone over `folder` must refuse to start, and say all of `expected`.
    fn refuses_folder(&self, folder: &Path, expected: &[&str]) -> anyhow::Result<Gets> {
        let args = ["standalone", "--port-base", "0", "--data"].map(OsStr::new);
        let said = self.refused(&[&args[..], &[folder.as_os_str()]].concat())?;
        says(&said, expected)?;
        Ok(Gets::NoStart)
    }

    /// A copy of the seed, spoiled by `spoil`, is refused and left as it was.
    fn refuses_spoiled(
        &self,
        expected: &[&str],
        spoil: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Gets> {
        let copy = self.copy()?;
        spoil(copy.path())?;
        let before = content(copy.path())?;
        let got = self.refuses_folder(copy.path(), expected)?;
        let after = content(copy.path())?;
        ensure!(
            before == after,
            "the folder was changed from {before:?} to {after:?}"
        );
        Ok(got)
    }

    /// A gateway with this configuration must refuse to start; gives what it said.
    fn refused_config(&self, toml: &str) -> anyhow::Result<String> {
        self.refused_file("gateway", "gateway.toml", toml)
    }

    /// The same of any role, and a file of any name.
    fn refused_file(&self, role: &str, name: &str, toml: &str) -> anyhow::Result<String> {
        let file = self.scratch.path().join(name);
        fs::write(&file, toml)?;
        self.refused(&[OsStr::new(role), OsStr::new("--config"), file.as_os_str()])
    }

    /// A service node with all that it needs but for what `rest` should have, must say what is missing, and open no store.
    fn refused_service_node(&self, rest: &str, expected: &[&str]) -> anyhow::Result<Gets> {
        let secret = self.seed.join("keys/cluster.secret");
        let toml = format!(
            "[node]\nname = \"app-service-1\"\n[links]\nsecret_file = {secret:?}\nrouters = [\"127.0.0.1:1\"]\n{rest}"
        );
        let before = content(self.scratch.path())?.len();
        let said = self.refused_file("app-service", "gateway.toml", &toml)?;
        says(&said, expected)?;
        let after = content(self.scratch.path())?.len();
        // Its configuration and its log are there from the second time on.
        ensure!(after <= before + 2, "it left something behind: {said}");
        Ok(Gets::NoStart)
    }
}

fn says(said: &str, expected: &[&str]) -> anyhow::Result<()> {
    for expected in expected {
        ensure!(
            said.contains(expected),
            "it says {said:?}, expected {expected:?} in it"
        );
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Files and their lengths, but for locks.
fn content(folder: &Path) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() != "lock" {
                found.push((entry.path(), entry.metadata()?.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

const NEWER: &str = "use the version of Whimbrel that made it";

pub(crate) const ROWS: &[Row<Ground>] = &[
    Row {
        name: "a data folder in use by another process",
        attack: |ground| ground.refuses_folder(&ground.data, &["in use by another process", "--data"]),
        gets: Gets::NoStart,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a data folder of a newer version",
        attack: |ground| {
            ground.refuses_spoiled(&["whimbrel-data 9", NEWER], |folder| {
                Ok(fs::write(folder.join("format"), "whimbrel-data 9\n")?)
            })
        },
        gets: Gets::NoStart,
        repeats: DISK_REPEATS,
        says: &[],
    },
    Row {
        name: "a store of a newer version",
        attack: |ground| {
            ground.refuses_spoiled(
                &[
                    "format 9",
                    "knows formats up to 1",
                    "run the version that wrote it",
                ],
                |folder| {
                    let format = folder.join("store/current/format");
                    let text = fs::read_to_string(&format)?.replace("whimbrel-store 1", "whimbrel-store 9");
                    Ok(fs::write(format, text)?)
                },
            )
        },
        gets: Gets::NoStart,
        repeats: DISK_REPEATS,
        says: &[],
    },
    Row {
        name: "a folder of something else",
        attack: |ground| {
            let folder = tempfile::tempdir_in(ground.scratch.path())?;
            fs::write(folder.path().join("thesis.tex"), "three years")?;
            let got = ground.refuses_folder(folder.path(), &["thesis.tex", "--data"])?;
            ensure!(!folder.path().join("keys").exists(), "it left keys there");
            Ok(got)
        },
        gets: Gets::NoStart,
        repeats: DISK_REPEATS,
        says: &[],
    },
    Row {
        name: "a corrupt store: its format file",
        attack: |ground| {
            ground.refuses_spoiled(
                &["cannot be read", "current/format", "restore a backup"],
                |folder| {
                    Ok(fs::write(
                        folder.join("store/current/format"),
                        [0xff, 0xfe, 0, 1],
                    )?)
                },
            )
        },
        gets: Gets::NoStart,
        repeats: DISK_REPEATS,
        says: &[],
    },
    Row {
        name: "a corrupt store: its trees are gone",
        attack: |ground| {
            ground.refuses_spoiled(&["cannot be read", "restore a backup"], |folder| {
                Ok(fs::remove_dir_all(folder.join("store/current/db/keyspaces"))?)
            })
        },
        gets: Gets::NoStart,
        repeats: DISK_REPEATS,
        says: &[],
    },
    Row {
        name: "a corrupt key",
        attack: |ground| {
            ground.refuses_spoiled(&["identity.key", "copy"], |folder| {
                let key = folder.join("keys/identity.key");
                let text = fs::read_to_string(&key)?;
                let cut = text.trim().len() / 2;
                Ok(fs::write(key, text.get(..cut).unwrap_or_default())?)
            })
        },
        gets: Gets::NoStart,
        repeats: DISK_REPEATS,
        says: &[],
    },
    Row {
        name: "a corrupt app secret",
        attack: |ground| {
            ground.refuses_spoiled(&["app secret", "4 bytes", "at least 32"], |folder| {
                Ok(fs::write(folder.join("apps/demo.secret"), "shh!")?)
            })
        },
        gets: Gets::NoStart,
        repeats: DISK_REPEATS,
        says: &[],
    },
    Row {
        name: "a corrupt app secret, found by one process of several",
        attack: |ground| {
            let copy = ground.copy()?;
            fs::write(copy.path().join("apps/demo.secret"), "shh!")?;
            let args = ["standalone", "--processes", "--port-base", "0", "--data"].map(OsStr::new);
            let said = ground.refused(&[&args[..], &[copy.path().as_os_str()]].concat())?;
            says(&said, &["app secret", "the app-service-1 process did not start"])?;
            let times = said.matches("4 bytes").count();
            ensure!(
                times == 1,
                "it was tried {times} times, and is the same each time: {said}"
            );
            Ok(Gets::NoStart)
        },
        gets: Gets::NoStart,
        repeats: DISK_REPEATS,
        says: &[],
    },
    Row {
        name: "an occupied port",
        attack: |ground| {
            // No role is started and started again, and no key is named that nobody has written.
            for more in [[].as_slice(), &[OsStr::new("--processes")]] {
                let folder = tempfile::tempdir_in(ground.scratch.path())?;
                let args = ["standalone", "--port-base", &ground.port_base, "--data"].map(OsStr::new);
                let said = ground.refused(&[&args[..], &[folder.path().as_os_str()], more].concat())?;
                says(
                    &said,
                    &[
                        "the LBS cannot listen on 127.0.0.1:",
                        "taken by another process",
                        "`--port-base`",
                    ],
                )?;
                ensure!(
                    said.trim().lines().count() == 1,
                    "it is said once, and nothing else: {said}"
                );
            }
            Ok(Gets::NoStart)
        },
        gets: Gets::NoStart,
        repeats: DISK_REPEATS,
        says: &[],
    },
    Row {
        name: "a config typo in a key",
        attack: |ground| {
            // The gateway goes on past a typo, to the first thing that it cannot do without.
            let said = ground.refused_config(
                "[node]\nname = \"g\"\n[gateway.sesion]\nheartbeat_ms = 1000\n[gateway]\nlissten = \"127.0.0.1:0\"\n",
            )?;
            says(
                &said,
                &[
                    "`gateway.sesion`",
                    "did you mean `gateway.session`?",
                    "`gateway.lissten`",
                    "did you mean `gateway.listen`?",
                ],
            )?;
            Ok(Gets::Warning)
        },
        gets: Gets::Warning,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a config typo in a key that is needed",
        attack: |ground| {
            let said = ground.refused_config("[node]\nnaem = \"g\"\n")?;
            says(
                &said,
                &[
                    "`node.name` is missing",
                    "the key `node.naem` is unknown: did you mean `node.name`?",
                ],
            )?;
            Ok(Gets::NoStart)
        },
        gets: Gets::NoStart,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a config value of the wrong kind",
        attack: |ground| {
            let said = ground.refused_config("[gateway]\nreactors = \"many\"\n")?;
            says(&said, &["gateway.toml", "`gateway.reactors`", "many"])?;
            Ok(Gets::NoStart)
        },
        gets: Gets::NoStart,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a config of another role",
        attack: |ground| {
            for (own, other, toml) in [
                ("lbs", "app-service", "[lbs]\nlisten = \"127.0.0.1:0\"\n"),
                ("gateway", "router", "[gateway]\nlisten = \"127.0.0.1:0\"\n"),
                (
                    "app-service",
                    "lbs",
                    "[app-service.http]\nlisten = \"127.0.0.1:0\"\n",
                ),
            ] {
                let name = format!("{own}.toml");
                let said = ground.refused_file(other, &name, toml)?;
                let cure = format!("start it with `whimbrel {own} --config ");
                says(&said, &["is the configuration of a", &name, &cure])?;
            }
            Ok(Gets::NoStart)
        },
        gets: Gets::NoStart,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a config of a service node without an app",
        attack: |ground| {
            ground.refused_service_node(
                "[store]\nfolder = \"store\"\n[[app-service.aps]]\nkey = \"demo\"\n",
                &[
                    "`app-service.apps` is missing",
                    "`[[app-service.apps]]`",
                    "did you mean `app-service.apps`?",
                ],
            )
        },
        gets: Gets::NoStart,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a config of a service node that names no store",
        attack: |ground| {
            ground.refused_service_node(
                "[store]\nfoldr = \"store\"\n[[app-service.apps]]\nkey = \"demo\"\nsecret_files = []\n",
                &[
                    "`store.folder` is missing",
                    "`store.tikv`",
                    "did you mean `store.folder`?",
                ],
            )
        },
        gets: Gets::NoStart,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a config that is not TOML",
        attack: |ground| {
            let said = ground.refused_config("[gateway\nreactors = 1\n")?;
            says(&said, &["gateway.toml:1:", "not TOML"])?;
            Ok(Gets::NoStart)
        },
        gets: Gets::NoStart,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a config value that cannot work",
        attack: |ground| {
            let seed = ground.seed.join("keys");
            let toml = format!(
                "[node]\nname = \"gateway-1\"\n[links]\nsecret_file = {:?}\nrouters = [\"127.0.0.1:1\"]\n[identity]\nkey_file = {:?}\ncertificate = {:?}\n[gateway]\nlisten = \"127.0.0.1:0\"\n[gateway.lease]\nttl_ms = 10\n",
                seed.join("cluster.secret"),
                seed.join("identity.key"),
                seed.join("identity.cert"),
            );
            let said = ground.refused_config(&toml)?;
            says(
                &said,
                &[
                    "`gateway.lease.ttl_ms` is 10",
                    "at least three times `gateway.lease.renew_ms`",
                ],
            )?;
            Ok(Gets::NoStart)
        },
        gets: Gets::NoStart,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a gateway with a certificate of another node, key or root",
        attack: |ground| {
            let other = tempfile::tempdir_in(ground.scratch.path())?;
            for what in ["root", "identity"] {
                let mut made = whimbrel(ground.scratch.path(), &["keygen", what].map(OsStr::new));
                if what == "identity" {
                    let root = other.path().join("root.key");
                    made.arg("--root").arg(root).args(["--node", "gateway-1"]);
                }
                let made = made.arg("--out").arg(other.path()).output()?;
                ensure!(made.status.success(), "{made:?}");
            }
            let (own, other) = (ground.seed.join("keys"), other.path());
            for (node, key, certificate, expected) in [
                (
                    "gateway-2",
                    &*own,
                    &*own,
                    "it is for the node `gateway-1`, this one is `gateway-2`",
                ),
                ("gateway-1", other, &*own, "it certifies another identity key"),
                ("gateway-1", other, other, "a client that pins the root root1"),
            ] {
                let toml = format!(
                    "[node]\nname = \"{node}\"\n[links]\nsecret_file = {:?}\nrouters = [\"127.0.0.1:1\"]\n[identity]\nkey_file = {:?}\ncertificate = {:?}\nroot = {:?}\n[gateway]\nlisten = \"127.0.0.1:0\"\nadvertise = [\"127.0.0.1:7100\"]\n",
                    own.join("cluster.secret"),
                    key.join("identity.key"),
                    certificate.join("identity.cert"),
                    own.join("root.pub"),
                );
                let said = ground.refused_config(&toml)?;
                says(&said, &["the gateway's certificate", "identity.cert", expected])?;
            }
            Ok(Gets::NoStart)
        },
        gets: Gets::NoStart,
        repeats: DISK_REPEATS,
        says: &[],
    },
    Row {
        name: "a Redis URL that is none",
        attack: |ground| {
            let keys = ground.seed.join("keys");
            let toml = format!(
                "[node]\nname = \"gateway-1\"\n[links]\nsecret_file = {:?}\n[identity]\nkey_file = {:?}\ncertificate = {:?}\n[registry]\nredis = \"http://:hush@127.0.0.1\"\n",
                keys.join("cluster.secret"),
                keys.join("identity.key"),
                keys.join("identity.cert"),
            );
            let said = ground.refused_config(&toml)?;
            says(
                &said,
                &["`registry.redis`", "begins with \"http\"", "expected redis://"],
            )?;
            ensure!(!said.contains("hush"), "it told the password: {said}");
            Ok(Gets::NoStart)
        },
        gets: Gets::NoStart,
        repeats: REPEATS,
        says: &[],
    },
];
