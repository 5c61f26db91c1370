//! Plants one fault in this process, for runs that prove the checker. Compiled only with the feature `planted-faults`,
//! which no build that serves anybody has; a test holds that.

use std::sync::OnceLock;

use anyhow::bail;
use whimbrel_app_service::planted as app_service;
use whimbrel_gateway::planted as gateway;
use whimbrel_planted::Fault;
use whimbrel_store::PlantedFaults;

/// Names the fault.
const VARIABLE: &str = "WHIMBREL_PLANT";
/// The store's fault: commits are answered without the fsync.
const NO_FSYNC: &str = "no-fsync";

static NO_FSYNC_PLANTED: OnceLock<()> = OnceLock::new();

/// Plants what the environment names, in this process; its roles' processes inherit the environment.
pub(crate) fn plant() -> anyhow::Result<()> {
    let Ok(name) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    if let Some(fault) = app_service::Fault::named(&name) {
        whimbrel_planted::plant(fault);
    } else if let Some(fault) = gateway::Fault::named(&name) {
        whimbrel_planted::plant(fault);
    } else if name == NO_FSYNC {
        NO_FSYNC_PLANTED.get_or_init(|| ());
    } else {
        let of_gateway = gateway::Fault::ALL.iter().map(|(known, _)| *known);
        let known: Vec<_> = app_service::Fault::ALL
            .iter()
            .map(|(known, _)| *known)
            .chain(of_gateway)
            .chain([NO_FSYNC])
            .collect();
        bail!("{VARIABLE} is {name:?}: expected one of {}", known.join(", "));
    }
    Ok(())
}

/// The faults of this process's store.
pub(crate) fn of_the_store() -> PlantedFaults {
    PlantedFaults {
        no_fsync: NO_FSYNC_PLANTED.get().is_some(),
        ..PlantedFaults::default()
    }
}
