//! The record that says whose data this is: schema, PD cluster, deployment, epoch. Pure.

use whimbrel_store::Epoch;

/// The schema that this build writes and the newest that it reads. One line per bump:
/// 1: the first.
pub const SCHEMA_VERSION: u32 = 1;

/// What is kept under the store's own key `identity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The schema that the data has.
    pub(crate) schema: u32,
    /// The PD cluster that the data was written in.
    pub(crate) cluster: u64,
    /// The deployment that wrote it.
    pub(crate) deployment: String,
    /// The store's epoch.
    pub(crate) epoch: Epoch,
}

/// Bytes before the deployment's name.
const FIXED_LEN: usize = 4 + 8 + 16;

impl Identity {
    /// `schema u32 | cluster u64 | epoch 16 | deployment`, big-endian. The schema comes first in every version, so that an
    /// older build can name what it does not understand.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_LEN + self.deployment.len());
        bytes.extend(self.schema.to_be_bytes());
        bytes.extend(self.cluster.to_be_bytes());
        bytes.extend(self.epoch.0);
        bytes.extend(self.deployment.as_bytes());
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`Misfit::Newer`] when a newer build wrote it, [`Misfit::Damaged`] when nobody did.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Misfit> {
        let (schema, rest) = bytes.split_first_chunk().ok_or(Misfit::Damaged)?;
        let schema = u32::from_be_bytes(*schema);
        if schema > SCHEMA_VERSION {
            return Err(Misfit::Newer { schema });
        }
        let (cluster, rest) = rest.split_first_chunk().ok_or(Misfit::Damaged)?;
        let (epoch, rest) = rest.split_first_chunk().ok_or(Misfit::Damaged)?;
        let deployment = std::str::from_utf8(rest).map_err(|_| Misfit::Damaged)?;
        Ok(Self {
            schema,
            cluster: u64::from_be_bytes(*cluster),
            deployment: deployment.to_owned(),
            epoch: Epoch(*epoch),
        })
    }

    /// Whether a node of `deployment` that stands before `cluster` may use this data, or what is to be written first.
    ///
    /// # Errors
    /// [`Misfit::OtherDeployment`], [`Misfit::OtherCluster`].
    pub(crate) fn judge(&self, deployment: &str, cluster: u64, adopt: Option<u64>) -> Result<Fit, Misfit> {
        if self.deployment != deployment {
            return Err(Misfit::OtherDeployment {
                kept: self.deployment.clone(),
            });
        }
        if self.cluster == cluster {
            return Ok(Fit::Ours);
        }
        if adopt == Some(cluster) {
            return Ok(Fit::Adopt);
        }
        Err(Misfit::OtherCluster { kept: self.cluster })
    }
}

/// Why data may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It is this deployment's, in the cluster it was written in.
    Ours,
    /// It is this deployment's, restored into this cluster: it needs a new epoch.
    Adopt,
}

/// Why data may not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// A newer build wrote it.
    Newer {
        /// With this schema.
        schema: u32,
    },
    /// Another deployment wrote it.
    OtherDeployment {
        /// Of this name.
        kept: String,
    },
    /// A deployment of the same name has it.
    OtherOwner {
        /// Whose it is.
        kept: String,
        /// Whose it would have become.
        ours: String,
    },
    /// It was written in another cluster.
    OtherCluster {
        /// Of this id.
        kept: u64,
    },
    /// It is no identity at all.
    Damaged,
    /// There is none, for whoever only reads.
    Nothing,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn identity() -> Identity {
        Identity {
            schema: SCHEMA_VERSION,
            cluster: 7,
            deployment: "whimbrel".to_owned(),
            epoch: Epoch([9; 16]),
        }
    }

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        let bytes = identity().encode();
        assert_eq!(Identity::decode(&bytes).unwrap(), identity());
        assert_eq!(bytes[..12], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn a_newer_schema_is_named_whatever_follows_it() {
        let bytes = [&(SCHEMA_VERSION + 1).to_be_bytes()[..], b"?"].concat();
        assert_eq!(
            Identity::decode(&bytes),
            Err(Misfit::Newer {
                schema: SCHEMA_VERSION + 1
            })
        );
    }

    #[test]
    fn what_is_cut_short_or_no_text_is_damaged() {
        for bytes in [&b""[..], &[0, 0, 0], &[0; FIXED_LEN - 1]] {
            assert_eq!(Identity::decode(bytes), Err(Misfit::Damaged), "{bytes:?}");
        }
        let no_text = [&[0; FIXED_LEN][..], &[0xff]].concat();
        assert_eq!(Identity::decode(&no_text), Err(Misfit::Damaged));
    }

    #[test]
    fn anothers_data_is_refused_and_a_restored_cluster_adopted_only_by_its_id() {
        let kept = identity();
        assert_eq!(kept.judge("whimbrel", 7, None), Ok(Fit::Ours));
        assert_eq!(kept.judge("whimbrel", 7, Some(7)), Ok(Fit::Ours));
        assert_eq!(kept.judge("whimbrel", 8, Some(8)), Ok(Fit::Adopt));
        for adopt in [None, Some(7), Some(9)] {
            assert_eq!(
                kept.judge("whimbrel", 8, adopt),
                Err(Misfit::OtherCluster { kept: 7 })
            );
        }
        assert!(matches!(
            kept.judge("other", 7, Some(7)),
            Err(Misfit::OtherDeployment { .. })
        ));
    }
}
