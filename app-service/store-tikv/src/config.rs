//! Where the cluster is, and whose.

use std::time::Duration;

use bytes::Bytes;

use crate::limits::HISTORY_MIN;

/// What [`crate::TikvStore::open`] needs to know.
#[derive(Debug, Clone)]
pub struct TikvConfig {
    /// PD's endpoints, `host:port` each.
    pub endpoints: Vec<String>,
    /// The deployment whose data this is: the cluster's name in Whimbrel's configuration. It is kept with the data.
    pub deployment: String,
    /// Tells deployments of one name apart: a digest of the cluster's secret, the same on all its nodes. The first that opens a
    /// store without one is recorded in it; then no other opens it. `None`: nothing is compared or recorded; for whoever only reads.
    pub owner: Option<String>,
    /// Take over a store from this owner: after a change of the cluster's secret. The epoch stays, for it is the same data. Once
    /// that is done it does nothing.
    pub adopt_owner: Option<String>,
    /// Opening writes nothing: whose the data is is only compared, a store that holds nothing is refused, and old versions are
    /// collected by others. For a backup. Writing is not kept from whoever opened it.
    pub only_reads: bool,
    /// How long the cluster is tried at the start before opening fails.
    pub connect_within: Duration,
    /// Clients in the pool. TiKV's client has one connection to each store; several carry more.
    pub clients: usize,
    /// Take over a cluster whose data came from another one, by the new cluster's id: after a restore from a backup. The
    /// store then gets a new epoch. Harmless once that is done.
    pub adopt_cluster: Option<u64>,
    /// Old versions are kept this long, at least [`HISTORY_MIN`]; `None`: another program collects garbage in this
    /// cluster.
    pub keep_history: Option<Duration>,
    /// Before every key of the store's own. Whimbrel's is `w\0s`: the first byte is Whimbrel's, the second says that it
    /// belongs to no app, the third is the store's.
    pub own_prefix: Bytes,
}

impl TikvConfig {
    /// The defaults for a cluster at `endpoints`.
    pub fn new(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        deployment: impl Into<String>,
    ) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            deployment: deployment.into(),
            owner: None,
            adopt_owner: None,
            only_reads: false,
            connect_within: Duration::from_secs(30),
            clients: 4,
            adopt_cluster: None,
            keep_history: Some(2 * HISTORY_MIN),
            own_prefix: Bytes::from_static(b"w\0s"),
        }
    }

    pub(crate) fn own_key(&self, name: &str) -> Bytes {
        Bytes::from([&self.own_prefix, name.as_bytes()].concat())
    }
}
