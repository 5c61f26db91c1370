//! `cargo xtask cluster`: a cluster of separate processes on this machine, as large as wished, with a table of how it is.
//!
//! What is started, and how it ends with this process whatever becomes of it, is the business of the crate
//! `whimbrel-cluster`; here it is asked for and shown.

mod table;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use whimbrel_cluster::{Cluster, Member, Setup, Shape, Standing};

use crate::built::{BuildArgs, Built};
use crate::checks::shell::Shell;
use crate::interrupt::Interrupt;
use crate::{root, tikv};

/// How long everything may take to be ready, on a machine that is busy with other things.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(90);
/// Between two tables.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// Between two looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Clears a terminal.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J\u{1b}[3J";

/// How large.
#[derive(clap::Args, Debug, Clone, Copy)]
pub(crate) struct ShapeArgs {
    /// LBS.
    #[arg(long, value_name = "N", default_value_t = 2)]
    lbs: u16,
    /// Gateways.
    #[arg(long, value_name = "N", default_value_t = 3)]
    gateways: u16,
    /// Routers.
    #[arg(long, value_name = "N", default_value_t = 2)]
    routers: u16,
    /// Service nodes.
    #[arg(long, value_name = "N", default_value_t = 4)]
    service_nodes: u16,
}

impl ShapeArgs {
    pub(crate) fn shape(self) -> Shape {
        Shape {
            lbs: self.lbs,
            gateways: self.gateways,
            routers: self.routers,
            service_nodes: self.service_nodes,
        }
    }
}

/// What to start.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    shape: ShapeArgs,
    /// Folder for keys, configurations and logs; emptied first. Default: `target/cluster`. Messages are kept elsewhere, and end
    /// with the cluster.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to say what runs where, besides `ready.json` in the folder.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// The first of its ports; 0: free ones.
    #[arg(long, value_name = "N", default_value_t = 0)]
    port_base: u16,
    /// Leave nodes that end as they are.
    #[arg(long)]
    no_restart: bool,
    /// What nodes log, into a file each.
    #[arg(long, value_name = "DIRECTIVES", default_value = "info")]
    log: String,
    #[command(flatten)]
    build: BuildArgs,
}

/// Starts it, shows it, and ends it.
pub(crate) fn run(args: &ClusterArgs) -> anyhow::Result<ExitCode> {
    let root = root()?;
    let shell = Shell::new(root.clone())?;
    let tikv = tikv::binaries(&shell)?;
    let binary = Built::server(&root, &args.build)?;
    let interrupt = Interrupt::listen()?;
    let folder = args.data.clone();
    let cluster = Cluster::start(Setup {
        binary,
        tikv,
        folder: folder.unwrap_or_else(|| shell.target_folder().join("cluster")),
        ready_file: args.ready_file.clone(),
        shape: args.shape.shape(),
        held_back: Vec::new(),
        port_base: args.port_base,
        proxies: false,
        restart: !args.no_restart,
        log: args.log.clone(),
    })?;
    println!("starting {} nodes", cluster.shape().members().len());
    let ready = cluster.wait_until_ready(READY_WITHIN, &|| interrupt.is_heard());
    if let Err(error) = ready {
        // Nobody is served yet: what runs is ended all the same, in order.
        cluster.stop()?;
        return if interrupt.is_heard() {
            Ok(ExitCode::SUCCESS)
        } else {
            Err(error)
        };
    }
    show(&cluster, &interrupt)?;
    println!("ending; once more Ctrl-C ends it at once");
    let killed = cluster.stop()?;
    for member in killed {
        println!("{member} did not drain in time and was killed");
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows it until it is to end: a table that changes on a terminal, else the table once and then what changes.
fn show(cluster: &Cluster, interrupt: &Interrupt) -> anyhow::Result<()> {
    let is_terminal = std::io::stdout().is_terminal();
    let mut before = cluster.standings();
    let mut due = Instant::now();
    let mut is_first = true;
    while !interrupt.is_heard() {
        if is_terminal && Instant::now() >= due || is_first {
            let table = table::of(cluster.shape(), &cluster.standings(), &cluster.views());
            let clear = if is_terminal { CLEAR } else { "" };
            let mut out = std::io::stdout().lock();
            write!(out, "{clear}{}\n{table}\n", how_to_use(cluster))?;
            out.flush()?;
            (due, is_first) = (Instant::now() + SHOW_EVERY, false);
        }
        let now = cluster.standings();
        if !is_terminal {
            changes(&before, &now).iter().for_each(|line| println!("{line}"));
        }
        before = now;
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn how_to_use(cluster: &Cluster) -> String {
    let ready = cluster.ready();
    let file = cluster.ready_file();
    let here = std::env::current_dir().ok();
    let short = here.and_then(|here| Some(file.strip_prefix(here).ok()?.to_owned()));
    let file = short.unwrap_or(file);
    let file = file.display();
    let [pd, store] = cluster.tikv().process_ids();
    let text = |name: &str| ready[name].as_str().unwrap_or_default().to_owned();
    format!(
        "\
Whimbrel runs as a cluster of processes, pid {pid}; Ctrl-C drains and ends it

  clients ask   {lbs}   (the first LBS)
  HTTP API      {api}   (the first service node; app {app})
  ready file    {file}
  beneath       redis-server {redis_at} (pid {redis}), placement driver {pd_at} (pid {pd}), store (pid {store})

In more terminals:

  cargo run --release -- chat --uid alice --to bob --ready-file {file}
  cargo run --release -- chat --uid bob --to alice --ready-file {file}
  cargo run --release -- top --ready-file {file}
",
        pid = std::process::id(),
        lbs = text("lbs"),
        api = text("api"),
        app = text("app_key"),
        redis_at = cluster.redis().address(),
        redis = cluster.redis().pid(),
        pd_at = cluster.tikv().pd_address(),
    )
}

/// What has become different, a line each.
fn changes(before: &BTreeMap<Member, Standing>, now: &BTreeMap<Member, Standing>) -> Vec<String> {
    let mut lines = Vec::new();
    for (member, standing) in now {
        let then = before.get(member).copied().unwrap_or_default();
        if then.pid.is_some()
            && then.pid != standing.pid
            && let Some(status) = standing.ended
        {
            lines.push(format!("{member} has ended: {status}"));
        }
        if let Some(pid) = standing.pid
            && standing.up
            && (!then.up || then.pid != standing.pid)
        {
            lines.push(format!("{member} is up, pid {pid}, start {}", standing.starts));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use whimbrel_cluster::Role;

    use super::*;

    #[test]
    fn an_end_and_a_new_start_are_told_once_each() {
        let member = Member {
            role: Role::Gateway,
            nth: 1,
        };
        let standing = |pid, up, starts| {
            let ended = (starts > 1).then(std::process::ExitStatus::default);
            let standing = Standing {
                pid,
                up,
                last_up: None,
                starts,
                ended,
            };
            BTreeMap::from([(member, standing)])
        };
        let first = standing(Some(7), true, 1);
        let second = standing(Some(8), true, 2);
        assert!(changes(&first, &first).is_empty());
        let lines = changes(&first, &second);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(lines[1], "gateway-2 is up, pid 8, start 2");
        let starting = standing(Some(8), false, 2);
        assert_eq!(changes(&first, &starting).len(), 1);
        assert_eq!(changes(&starting, &second).len(), 1);
    }
}
