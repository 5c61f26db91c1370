//! The deployment under load: from its ready file, with flags over it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use whimbrel_protocol::descriptor::RootPublicKey;
use whimbrel_protocol::ids::AppKey;
use zeroize::Zeroizing;

/// A secret file is one short line; anything longer is some other file.
const SECRET_LEN_MAX: usize = 4096;

/// The app that standalone makes.
const APP_KEY_DEFAULT: &str = "demo";

/// What a command line says about the deployment.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct DeploymentArgs {
    /// The ready file of a running deployment; the flags below override what it says.
    #[arg(long, value_name = "FILE", global = true)]
    pub ready_file: Option<PathBuf>,
    /// The LBS to ask; may be given more than once.
    #[arg(long, value_name = "URL", global = true)]
    pub lbs: Vec<String>,
    /// The app; without it the ready file's, or `demo`.
    #[arg(long, value_name = "KEY", global = true)]
    pub app_key: Option<String>,
    /// The app's token secret.
    #[arg(long, value_name = "FILE", global = true)]
    pub app_secret_file: Option<PathBuf>,
    /// The root key to trust.
    #[arg(long, value_name = "KEY", global = true)]
    pub root_key: Option<String>,
}

/// What a load run needs of a ready file; the rest of it is others'.
#[derive(Debug, Deserialize)]
struct ReadyFile {
    #[serde(default)]
    pids: BTreeMap<String, Pids>,
    lbs: String,
    /// All of them, where there are several.
    #[serde(default)]
    lbs_urls: Vec<String>,
    app_key: String,
    app_secret_file: PathBuf,
    root_key: String,
}

/// A role's process, or processes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Pids {
    One(u32),
    More(Vec<u32>),
}

impl Pids {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(pid) => vec![pid],
            Self::More(pids) => pids,
        }
    }
}

impl ReadyFile {
    fn lbs(&self) -> Vec<String> {
        if self.lbs_urls.is_empty() {
            vec![self.lbs.clone()]
        } else {
            self.lbs_urls.clone()
        }
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| {
            format!(
                "no ready file at {}: start `whimbrel standalone --ready-file FILE` first, or give --lbs, --app-secret-file and --root-key",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not a ready file: expected the JSON that `whimbrel standalone --ready-file` writes",
                path.display()
            )
        })
    }
}

/// A deployment, as far as clients and their customer know it.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// Base URLs of the LBS; at least one.
    pub lbs: Vec<String>,
    /// The app.
    pub app_key: String,
    /// The app's token secret.
    pub secret: Zeroizing<Vec<u8>>,
    /// The root to trust.
    pub root: RootPublicKey,
    /// The processes of the roles, if known; several roles may share one, and a role may have several.
    pub pids: BTreeMap<String, Vec<u32>>,
}

impl Deployment {
    /// Reads the ready file and the secret, and checks every part.
    ///
    /// # Errors
    /// When something is missing or is not what it should be.
    pub fn read(args: &DeploymentArgs) -> anyhow::Result<Self> {
        let ready = args.ready_file.as_deref().map(ReadyFile::read).transpose()?;
        let of_ready = |part: fn(&ReadyFile) -> String| ready.as_ref().map(part);
        let missing = |what: &str, flag: &str| {
            format!("nothing says {what}: give --ready-file FILE of a running deployment, or {flag}")
        };
        let lbs = match (&args.lbs[..], &ready) {
            ([], Some(ready)) => ready.lbs(),
            ([], None) => bail!(missing("where the LBS is", "--lbs URL")),
            (given, _) => given.to_vec(),
        };
        for lbs in &lbs {
            let url = reqwest::Url::parse(lbs).ok();
            if !url.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
                bail!("--lbs {lbs}: expected a URL such as http://127.0.0.1:7000");
            }
        }
        let app_key = args
            .app_key
            .clone()
            .or_else(|| of_ready(|ready| ready.app_key.clone()))
            .unwrap_or_else(|| APP_KEY_DEFAULT.to_owned());
        AppKey::new(&app_key).with_context(|| format!("--app-key {app_key}"))?;
        let secret_file = args
            .app_secret_file
            .clone()
            .or_else(|| ready.as_ref().map(|ready| ready.app_secret_file.clone()))
            .with_context(|| missing("where the app's token secret is", "--app-secret-file FILE"))?;
        let root = args
            .root_key
            .clone()
            .or_else(|| of_ready(|ready| ready.root_key.clone()))
            .with_context(|| missing("which root key to trust", "--root-key KEY"))?;
        Ok(Self {
            lbs,
            app_key,
            secret: read_secret(&secret_file)?,
            root: root.parse().with_context(|| {
                format!("the root key {root:?} is not one (--root-key, or `root_key` of the ready file)")
            })?,
            pids: ready
                .map(|ready| ready.pids.into_iter())
                .into_iter()
                .flatten()
                .map(|(role, pids)| (role, pids.into_vec()))
                .collect(),
        })
    }
}

/// The secret's bytes as they stand, without white space around them.
fn read_secret(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let bytes = Zeroizing::new(fs::read(path).with_context(|| {
        format!(
            "no app secret at {}: give --app-secret-file the file that the deployment uses",
            path.display()
        )
    })?);
    let secret = bytes.trim_ascii();
    if secret.is_empty() || secret.len() > SECRET_LEN_MAX {
        bail!(
            "{} has {} bytes, which is no app secret: expected one line of text",
            path.display(),
            bytes.len()
        );
    }
    Ok(Zeroizing::new(secret.to_vec()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use whimbrel_protocol::descriptor::RootKey;

    use super::*;

    fn root() -> String {
        RootKey::from_seed(&[3; 32]).public().to_string()
    }

    fn folder_with_ready_file() -> (tempfile::TempDir, DeploymentArgs) {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("demo.secret");
        fs::write(&secret, " s3cret\n").unwrap();
        let ready = serde_json::json!({
            "pid": 7, "pids": {"gateway": [7, 8], "router": 9}, "lbs": "http://127.0.0.1:7000", "api": "x", "metrics": "x",
            "gateway_tcp": "x", "app_key": "demo", "app_secret_file": secret, "root_key": root(),
        });
        let ready_file = folder.path().join("ready.json");
        fs::write(&ready_file, ready.to_string()).unwrap();
        let args = DeploymentArgs {
            ready_file: Some(ready_file),
            ..DeploymentArgs::default()
        };
        (folder, args)
    }

    #[test]
    fn a_ready_file_says_everything_and_flags_go_before_it() {
        let (_folder, mut args) = folder_with_ready_file();
        let deployment = Deployment::read(&args).unwrap();
        assert_eq!(deployment.lbs, ["http://127.0.0.1:7000"]);
        assert_eq!(&**deployment.secret, b"s3cret");
        assert_eq!(deployment.pids["gateway"], [7, 8]);
        assert_eq!(deployment.pids["router"], [9]);
        args.lbs = vec!["http://10.0.0.1:1".into()];
        assert_eq!(Deployment::read(&args).unwrap().lbs, ["http://10.0.0.1:1"]);
    }

    #[test]
    fn a_ready_file_of_several_lbs_names_them_all() {
        let (folder, args) = folder_with_ready_file();
        let path = folder.path().join("ready.json");
        let mut ready: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let both = ["http://127.0.0.1:7000", "http://127.0.0.1:7001"];
        ready["lbs_urls"] = serde_json::json!(both);
        fs::write(&path, ready.to_string()).unwrap();
        assert_eq!(Deployment::read(&args).unwrap().lbs, both);
    }

    #[test]
    fn whatever_is_missing_or_wrong_is_named_with_its_cure() {
        let (folder, good) = folder_with_ready_file();
        let secret = folder.path().join("demo.secret");
        let empty = folder.path().join("empty");
        fs::write(&empty, "\n").unwrap();
        let bare = DeploymentArgs::default();
        let with = |change: fn(&mut DeploymentArgs, &Path), path: &Path| {
            let mut args = good.clone();
            change(&mut args, path);
            args
        };
        let cases = [
            (bare.clone(), "--lbs URL"),
            (
                DeploymentArgs {
                    lbs: vec!["http://x".into()],
                    ..bare.clone()
                },
                "--app-secret-file FILE",
            ),
            (
                DeploymentArgs {
                    lbs: vec!["http://x".into()],
                    app_secret_file: Some(secret),
                    ..bare
                },
                "--root-key KEY",
            ),
            (
                with(|args, _| args.lbs = vec!["127.0.0.1:7000".into()], &empty),
                "http://",
            ),
            (
                with(|args, _| args.lbs = vec!["http://".into()], &empty),
                "expected a URL",
            ),
            (
                with(|args, _| args.root_key = Some("nonsense".into()), &empty),
                "nonsense",
            ),
            (
                with(|args, path| args.app_secret_file = Some(path.to_owned()), &empty),
                "one line of text",
            ),
            (
                with(
                    |args, path| args.ready_file = Some(path.join("nowhere")),
                    folder.path(),
                ),
                "whimbrel standalone",
            ),
            (
                with(|args, path| args.ready_file = Some(path.to_owned()), &empty),
                "is not a ready file",
            ),
        ];
        for (args, expected) in cases {
            let error = format!("{:#}", Deployment::read(&args).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
