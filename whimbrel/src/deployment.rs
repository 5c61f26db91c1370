//! What a command needs to know of a running deployment: from its ready file, with flags over it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::{
    cli::{DATA_DIR_DEFAULT, DeploymentArgs},
    data_dir,
    ready_file::ReadyFile,
};

/// A deployment as a command line describes it.
#[derive(Debug)]
pub(crate) struct Deployment {
    ready: Option<ReadyFile>,
    ready_file: PathBuf,
    app_key: Option<String>,
    app_secret_file: Option<PathBuf>,
}

impl Deployment {
    /// Reads the ready file that is named, or standalone's usual one when it is there.
    pub(crate) fn new(args: &DeploymentArgs) -> anyhow::Result<Self> {
        let usual = Path::new(DATA_DIR_DEFAULT).join("ready.json");
        let ready_file = args.ready_file.clone().unwrap_or(usual);
        let named = args.ready_file.is_some();
        let ready = (named || is_there(&ready_file))
            .then(|| ReadyFile::read(&ready_file))
            .transpose()?;
        Ok(Self {
            ready,
            ready_file,
            app_key: args.app_key.clone(),
            app_secret_file: args.app_secret_file.clone(),
        })
    }

    /// The app: the flag, the ready file's, or standalone's.
    pub(crate) fn app_key(&self) -> String {
        self.app_key
            .clone()
            .or_else(|| self.ready.as_ref().map(|ready| ready.app_key.clone()))
            .unwrap_or_else(|| data_dir::APP_KEY.to_owned())
    }

    /// The file of the app's token secret.
    pub(crate) fn app_secret_file(&self) -> anyhow::Result<PathBuf> {
        self.app_secret_file
            .clone()
            .or_else(|| self.ready.as_ref().map(|ready| ready.app_secret_file.clone()))
            .with_context(|| self.missing("the app's token secret", "--app-secret-file FILE"))
    }

    /// The LBS to ask, in turn.
    pub(crate) fn lbs(&self, flags: &[String]) -> anyhow::Result<Vec<String>> {
        if !flags.is_empty() {
            return Ok(flags.to_vec());
        }
        let ready = self
            .ready
            .as_ref()
            .with_context(|| self.missing("the LBS", "--lbs URL"))?;
        Ok(if ready.lbs_urls.is_empty() {
            vec![ready.lbs.clone()]
        } else {
            ready.lbs_urls.clone()
        })
    }

    /// The root key to trust.
    pub(crate) fn root_key(&self, flag: Option<&str>) -> anyhow::Result<String> {
        flag.map(str::to_owned)
            .or_else(|| self.ready.as_ref().map(|ready| ready.root_key.clone()))
            .with_context(|| self.missing("the root key to trust", "--root-key KEY"))
    }

    /// The folder that holds this deployment's local client state.
    pub(crate) fn clients_dir(&self) -> PathBuf {
        self.ready_file
            .parent()
            .unwrap_or(Path::new("."))
            .join(data_dir::CLIENTS)
    }

    fn missing(&self, what: &str, flag: &str) -> String {
        format!(
            "nothing says where to find {what}: start `whimbrel standalone` in this folder ({} is not there), or give --ready-file FILE or {flag}",
            self.ready_file.display()
        )
    }
}

/// What cannot be looked at may be there, and reading it says why not.
fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}
