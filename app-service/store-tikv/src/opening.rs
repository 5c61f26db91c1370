//! Opening: finding the cluster, and making sure that the data in it is ours.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tikv_client::{TimestampExt as _, Transaction, TransactionClient};
use tokio::time::{Instant, sleep, timeout};
use whimbrel_store::Epoch;

use crate::TikvConfig;
use crate::identity::{Fit, Identity, Misfit, SCHEMA_VERSION};
use crate::limits::{COMMIT_TIME_MAX, READ_TIME_MAX, RETRY_PAUSE};
use crate::outcome::{Verdict, judge};
use crate::overdue;
use crate::owner::{self, Owned};
use crate::pd::Pd;
use crate::pool::{Pool, Slot, connect, options};

/// Between two attempts to reach the cluster at the start.
const CONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No endpoint is configured.
    #[error("no PD endpoint is given; TiKV is found by way of at least one, `host:port`")]
    NoEndpoint,
    /// The cluster did not answer in time.
    #[error(
        "PD at {endpoints} did not answer within {tried:?} ({why}); check the addresses and that PD and TiKV run"
    )]
    Unreachable {
        /// Where it was looked for.
        endpoints: String,
        /// For how long.
        tried: Duration,
        /// What the last attempt said.
        why: String,
    },
    /// The data is another deployment's.
    #[error(
        "TiKV behind PD at {endpoints} keeps the data of the Whimbrel cluster \"{kept}\", and this node is of \"{ours}\"; \
         correct the endpoints or the cluster's name"
    )]
    OtherDeployment {
        /// Where it was found.
        endpoints: String,
        /// Whose it is.
        kept: String,
        /// Whose node this is.
        ours: String,
    },
    /// The data is that of another deployment of the same name.
    #[error(
        "TiKV behind PD at {endpoints} keeps the data of the owner {kept}, another Whimbrel cluster that is called \"{deployment}\" too, \
         and this node's cluster is {ours}: their secrets differ; correct the endpoints or the secret. If the data is this cluster's \
         and its secret was changed, take it over by setting {kept} as the owner to adopt (`tikv_adopt_owner`)"
    )]
    OtherOwner {
        /// Where it was found.
        endpoints: String,
        /// The name of both.
        deployment: String,
        /// Whose it is.
        kept: String,
        /// Whose node this is.
        ours: String,
    },
    /// The data comes from another cluster.
    #[error(
        "the data behind PD at {endpoints} (cluster {found}) was written in cluster {kept}; if it was restored from a \
         backup, take it over by setting the id {found} as the cluster to adopt"
    )]
    OtherCluster {
        /// Where it was found.
        endpoints: String,
        /// The id of the cluster that is there.
        found: u64,
        /// The id kept with the data.
        kept: u64,
    },
    /// A newer build wrote the data.
    #[error(
        "the data behind PD at {endpoints} has schema {schema}, and this build knows up to {SCHEMA_VERSION}; run a newer one"
    )]
    NewerSchema {
        /// Where it was found.
        endpoints: String,
        /// Its schema.
        schema: u32,
    },
    /// There is nothing to read, for whoever only reads.
    #[error(
        "TiKV behind PD at {endpoints} holds nothing of Whimbrel's, and this was to read only; check the endpoints"
    )]
    Nothing {
        /// Where it was found.
        endpoints: String,
    },
    /// The record that says whose data it is cannot be read.
    #[error(
        "the store's own record behind PD at {endpoints} is damaged; restore it from a backup, or use another TiKV cluster"
    )]
    Damaged {
        /// Where it was found.
        endpoints: String,
    },
}

/// A cluster that was found and may be used.
pub(crate) struct Opened {
    pub(crate) pool: Pool,
    pub(crate) epoch: Epoch,
    pub(crate) cluster: u64,
}

/// Finds the cluster within the time that `config` gives it, and makes it ours with `epoch` when it is nobody's. Whoever only reads
/// leaves it as it is, may read what is nobody's and what others of its cluster would take over.
pub(crate) async fn open(config: &TikvConfig, epoch: Epoch) -> Result<Opened, OpenError> {
    if config.endpoints.is_empty() {
        return Err(OpenError::NoEndpoint);
    }
    let begun = Instant::now();
    let endpoints = config.endpoints.join(", ");
    loop {
        let why = match attempt(config, epoch).await {
            Ok(opened) => return Ok(opened),
            Err(Failure::Misfit { misfit, cluster }) => return Err(name(misfit, cluster, config, endpoints)),
            Err(Failure::Passing(why)) => why,
        };
        let left = config.connect_within.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(OpenError::Unreachable {
                endpoints,
                tried: config.connect_within,
                why,
            });
        }
        tracing::warn!(
            endpoints,
            why,
            "TiKV does not answer; it is tried for another {left:.0?}"
        );
        sleep(CONNECT_PAUSE.min(left)).await;
    }
}

enum Failure {
    /// It may go away.
    Passing(String),
    /// It will not.
    Misfit { misfit: Misfit, cluster: u64 },
}

fn passing(error: impl std::fmt::Display) -> Failure {
    Failure::Passing(error.to_string())
}

fn name(misfit: Misfit, found: u64, config: &TikvConfig, endpoints: String) -> OpenError {
    match misfit {
        Misfit::Newer { schema } => OpenError::NewerSchema { endpoints, schema },
        Misfit::OtherDeployment { kept } => OpenError::OtherDeployment {
            endpoints,
            kept,
            ours: config.deployment.clone(),
        },
        Misfit::OtherOwner { kept, ours } => OpenError::OtherOwner {
            endpoints,
            deployment: config.deployment.clone(),
            kept,
            ours,
        },
        Misfit::OtherCluster { kept } => OpenError::OtherCluster {
            endpoints,
            found,
            kept,
        },
        Misfit::Damaged => OpenError::Damaged { endpoints },
        Misfit::Nothing => OpenError::Nothing { endpoints },
    }
}

async fn attempt(config: &TikvConfig, epoch: Epoch) -> Result<Opened, Failure> {
    let cluster = Pd::connect(&config.endpoints).await.map_err(passing)?.cluster();
    let client = connect(&config.endpoints).await.map_err(passing)?;
    let epoch = settle(&client, config, cluster, epoch).await?;
    let mut slots = vec![Arc::new(Slot::new(client))];
    while slots.len() < config.clients {
        let client = connect(&config.endpoints).await.map_err(passing)?;
        slots.push(Arc::new(Slot::new(client)));
    }
    Ok(Opened {
        pool: Pool::new(slots),
        epoch,
        cluster,
    })
}

/// Reads whose data this is, writes it where nothing is written or where it may be adopted, and gives the store's epoch.
async fn settle(
    client: &TransactionClient,
    config: &TikvConfig,
    cluster: u64,
    epoch: Epoch,
) -> Result<Epoch, Failure> {
    let keys = [config.own_key("identity"), config.own_key("owner")];
    let deadline = Instant::now() + READ_TIME_MAX + COMMIT_TIME_MAX;
    loop {
        let settling = settle_once(client, config, &keys, cluster, epoch);
        let error = match timeout(READ_TIME_MAX, settling).await {
            Err(_) => return Err(passing(format!("no answer within {READ_TIME_MAX:?}"))),
            Ok(Ok(Settled::Epoch(epoch))) => return Ok(epoch),
            // Written now, by us or by another node that starts: it counts once it is read.
            Ok(Ok(Settled::Written)) => continue,
            Ok(Ok(Settled::Misfit(misfit))) => return Err(Failure::Misfit { misfit, cluster }),
            Ok(Err(error)) => error,
        };
        if Instant::now() >= deadline {
            return Err(passing(error));
        }
        if let Verdict::Locked(_) = judge(&error) {
            overdue::clear_before_opening(client, &keys)
                .await
                .map_err(passing)?;
        }
        sleep(RETRY_PAUSE).await;
    }
}

enum Settled {
    Epoch(Epoch),
    Written,
    Misfit(Misfit),
}

async fn settle_once(
    client: &TransactionClient,
    config: &TikvConfig,
    [identity_key, owner_key]: &[Bytes; 2],
    cluster: u64,
    epoch: Epoch,
) -> Result<Settled, tikv_client::Error> {
    let mut transaction = client.begin_with_options(options()).await?;
    let identity = transaction.get(identity_key.to_vec()).await?;
    let owner = transaction.get(owner_key.to_vec()).await?;
    let (kept, owned) = match judge_both(config, cluster, identity.as_deref(), owner.as_deref()) {
        Ok(judged) => judged,
        Err(misfit) => return Ok(Settled::Misfit(misfit)),
    };
    let ours = Identity {
        schema: SCHEMA_VERSION,
        cluster,
        deployment: config.deployment.clone(),
        epoch,
    };
    match kept {
        Some((kept, _)) if config.only_reads => return Ok(Settled::Epoch(kept.epoch)),
        None if config.only_reads => return Ok(Settled::Misfit(Misfit::Nothing)),
        Some((kept, Fit::Ours)) if owned == Owned::AsItIs => return Ok(Settled::Epoch(kept.epoch)),
        Some((_, Fit::Ours)) => {}
        Some((kept, Fit::Adopt)) => {
            tracing::warn!(
                from = kept.cluster,
                to = cluster,
                "the data of another cluster is taken over; the store gets a new epoch"
            );
            transaction.put(identity_key.to_vec(), ours.encode()).await?;
        }
        None => transaction.insert(identity_key.to_vec(), ours.encode()).await?,
    }
    if let Owned::Adopt { from } = &owned {
        tracing::warn!(
            from,
            to = config.owner,
            "the store is taken over from another owner"
        );
    }
    if let (Some(owner), true) = (&config.owner, owned != Owned::AsItIs) {
        transaction.put(owner_key.to_vec(), owner::encode(owner)).await?;
    }
    write(transaction).await
}

/// What both records say of this node, if the identity is there.
type Judged = (Option<(Identity, Fit)>, Owned);

fn judge_both(
    config: &TikvConfig,
    cluster: u64,
    identity: Option<&[u8]>,
    owner: Option<&[u8]>,
) -> Result<Judged, Misfit> {
    let kept = match identity {
        Some(bytes) => {
            let kept = Identity::decode(bytes)?;
            let fit = kept.judge(&config.deployment, cluster, config.adopt_cluster)?;
            Some((kept, fit))
        }
        None => None,
    };
    let owned = owner::judge(owner, config.owner.as_deref(), config.adopt_owner.as_deref())?;
    Ok((kept, owned))
}

async fn write(mut transaction: Transaction) -> Result<Settled, tikv_client::Error> {
    match transaction.commit().await {
        Ok(at) => {
            tracing::info!(at = at.map(|at| at.version()), "the store's identity is written");
            Ok(Settled::Written)
        }
        // Another node that starts was quicker.
        Err(error) if matches!(judge(&error), Verdict::Conflict(_)) => {
            transaction.rollback().await?;
            Ok(Settled::Written)
        }
        Err(error) => Err(error),
    }
}
