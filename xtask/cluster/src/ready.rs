//! The ready file: what `whimbrel standalone` writes, for the same readers, with a list where there are several.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::folder::{APP_KEY, Folder};
use crate::ports::Ports;
use crate::{Member, Role, Routes, Shape, Standing};

/// What of it stays the same from start to end.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    fixed: Value,
    shape: Shape,
}

impl Ready {
    pub(crate) fn new(
        folder: &Folder,
        ports: Ports,
        shape: Shape,
        routes: Option<&Routes>,
    ) -> anyhow::Result<Self> {
        let url = |address| format!("http://{address}");
        let of_each = |role| -> Vec<Member> { shape.members_of(role).collect() };
        let routers = of_each(Role::Router).into_iter();
        let gateways = of_each(Role::Gateway).into_iter();
        let lbs_urls = of_each(Role::Lbs).into_iter().map(|lbs| {
            let reached = routes.and_then(|routes| routes.clients_of(lbs));
            url(reached.unwrap_or(ports.lbs(lbs.nth)))
        });
        let lbs_urls: Vec<_> = lbs_urls.collect();
        let fixed = json!({
            "pid": std::process::id(),
            "lbs": lbs_urls.first(),
            "lbs_urls": lbs_urls,
            "api": url(ports.api(0)),
            "metrics": url(ports.page(Member { role: Role::Router, nth: 0 })),
            "gateway_tcp": one_or_more(gateways.map(|gateway| json!(ports.clients(gateway.nth))).collect()),
            "app_key": APP_KEY,
            "app_secret_file": folder.app_secret(),
            "root_key": folder.root_key()?,
            "routers": routers.map(|router| url(ports.page(router))).collect::<Vec<_>>(),
        });
        Ok(Self { fixed, shape })
    }

    /// All of it.
    pub(crate) fn value(&self, standings: &BTreeMap<Member, Standing>) -> Value {
        let mut value = self.fixed.clone();
        for role in Role::ALL {
            let members = self.shape.members_of(role);
            let pids = members.filter_map(|member| standings.get(&member)?.last_up);
            value["pids"][role.name()] = one_or_more(pids.map(|pid| json!(pid)).collect());
        }
        value
    }
}

fn one_or_more(mut all: Vec<Value>) -> Value {
    match all.len() {
        1 => all.remove(0),
        _ => Value::Array(all),
    }
}

/// Writes it to a file beside `path` and renames it there, readable by its owner only: it names the place of a secret.
pub(crate) fn write(path: &Path, value: &Value) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let in_place = || -> std::io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        writeln!(options.open(&beside)?, "{value:#}")?;
        fs::rename(&beside, path)
    };
    in_place().with_context(|| format!("cannot write {}", path.display()))
}
