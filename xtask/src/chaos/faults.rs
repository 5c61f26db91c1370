//! Faults as they happen, and as they end.

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use whimbrel_cluster::{Cluster, Line, Member, Routes};
use whimbrel_tikv_cluster::Part;

use super::plan::{Fault, Kind};

/// Lets it begin.
pub(super) fn strike(fault: &Fault, cluster: &mut Cluster) -> anyhow::Result<()> {
    match fault.kind {
        Kind::KillServiceNode | Kind::KillGateway | Kind::KillRouter | Kind::KillLbs | Kind::KillZone => {
            signal(fault, cluster, Signal::KILL)
        }
        Kind::StopServiceNode | Kind::StopGateway | Kind::StopRouter | Kind::StopLbs => {
            signal(fault, cluster, Signal::STOP)
        }
        Kind::DrainServiceNode | Kind::DrainGateway | Kind::DrainRouter => {
            each(fault, |member| cluster.drain(member))
        }
        Kind::CutZone | Kind::CutNode => lines(fault, cluster, Line::Cut),
        Kind::CutLink => link(fault, cluster, Line::Cut),
        Kind::CutNodeFromStore => store(fault, cluster, Line::Cut),
        Kind::SlowNode => lines(fault, cluster, Line::Slow(fault.delay)),
        Kind::WipeRedis => cluster.redis().wipe(),
        Kind::RestartRedis => cluster.redis_mut().restart(),
        Kind::PauseRedis => cluster.redis().pause(),
        Kind::CutRedis => {
            routes(cluster)?.redis(Line::Cut);
            Ok(())
        }
        Kind::PausePd => beneath(cluster, Part::Pd, Signal::STOP),
        Kind::PauseStore => beneath(cluster, Part::Store, Signal::STOP),
        Kind::CutPd => {
            cluster.tikv().proxy(Part::Pd).refuse();
            Ok(())
        }
        Kind::CutStore => {
            cluster.tikv().proxy(Part::Store).refuse();
            Ok(())
        }
    }
}

/// Lets it end, if it is one that lasts.
pub(super) fn heal(fault: &Fault, cluster: &Cluster) -> anyhow::Result<()> {
    match fault.kind {
        Kind::KillServiceNode
        | Kind::KillGateway
        | Kind::KillRouter
        | Kind::KillLbs
        | Kind::DrainServiceNode
        | Kind::DrainGateway
        | Kind::DrainRouter
        | Kind::KillZone
        | Kind::WipeRedis
        | Kind::RestartRedis => Ok(()),
        Kind::StopServiceNode | Kind::StopGateway | Kind::StopRouter | Kind::StopLbs => {
            signal(fault, cluster, Signal::CONT)
        }
        Kind::CutZone | Kind::CutNode | Kind::SlowNode => lines(fault, cluster, Line::Whole),
        Kind::CutLink => link(fault, cluster, Line::Whole),
        Kind::CutNodeFromStore => store(fault, cluster, Line::Whole),
        Kind::PauseRedis => cluster.redis().resume(),
        Kind::CutRedis => {
            routes(cluster)?.redis(Line::Whole);
            Ok(())
        }
        Kind::PausePd => beneath(cluster, Part::Pd, Signal::CONT),
        Kind::PauseStore => beneath(cluster, Part::Store, Signal::CONT),
        Kind::CutPd => {
            cluster.tikv().proxy(Part::Pd).heal();
            Ok(())
        }
        Kind::CutStore => {
            cluster.tikv().proxy(Part::Store).heal();
            Ok(())
        }
    }
}

fn signal(fault: &Fault, cluster: &Cluster, signal: Signal) -> anyhow::Result<()> {
    each(fault, |member| cluster.signal(member, signal))
}

/// Does it to each of its nodes, which all must be there.
fn each(fault: &Fault, hit: impl Fn(Member) -> bool) -> anyhow::Result<()> {
    let missed: Vec<_> = fault
        .members
        .iter()
        .filter(|member| !hit(**member))
        .map(Member::to_string)
        .collect();
    ensure!(
        missed.is_empty(),
        "{} does not run, so that it cannot be hit",
        missed.join(", ")
    );
    Ok(())
}

fn beneath(cluster: &Cluster, part: Part, signal: Signal) -> anyhow::Result<()> {
    let [pd, store] = cluster.tikv().process_ids();
    let pid = match part {
        Part::Pd => pd,
        Part::Store => store,
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.context("a process has an id")?;
    kill_process(pid, signal).with_context(|| format!("{part:?} does not run"))
}

fn routes(cluster: &Cluster) -> anyhow::Result<&Routes> {
    cluster.routes().context("the cluster was started with proxies")
}

fn lines(fault: &Fault, cluster: &Cluster, line: Line) -> anyhow::Result<()> {
    let routes = routes(cluster)?;
    for member in &fault.members {
        routes.all_of(*member, line);
    }
    Ok(())
}

fn link(fault: &Fault, cluster: &Cluster, line: Line) -> anyhow::Result<()> {
    if let [node, router] = fault.members[..] {
        routes(cluster)?.link(node, router, line);
    }
    Ok(())
}

fn store(fault: &Fault, cluster: &Cluster, line: Line) -> anyhow::Result<()> {
    let routes = routes(cluster)?;
    for member in &fault.members {
        routes.store(*member, line);
    }
    Ok(())
}
