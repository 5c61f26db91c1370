//! What every backend refuses before it looks at what it holds, in the same words. Pure.

use std::time::Duration;

use whimbrel_protocol::cluster::{NodeLease, Role, RoomCounts, RoomKey, SessionHandle, SessionRecord};
use whimbrel_protocol::ids::{AppKey, DeviceId, IdError, Incarnation, NodeId, RoomId};

use crate::{LEASE_TTL_MAX, NODES_MAX, ROOM_COUNTS_LEN_MAX, RegistryError};

/// One life of a node.
pub type Life = (NodeId, Incarnation);

/// Who a lease is for and how long it lasts, once it is known to be whole.
///
/// # Errors
/// When its name, role or time to live is none.
pub fn lease(lease: &NodeLease) -> Result<(Life, Duration), RegistryError> {
    let node = NodeId::new(&lease.node).map_err(invalid)?;
    if !Role::try_from(lease.role).is_ok_and(|role| role != Role::Unspecified) {
        return Err(RegistryError::Invalid(format!(
            "role {} is not a role: give one of the four",
            lease.role
        )));
    }
    let ttl = Duration::from_millis(lease.ttl_ms.into());
    if ttl.is_zero() || ttl > LEASE_TTL_MAX {
        let max = LEASE_TTL_MAX.as_millis();
        return Err(RegistryError::Invalid(format!(
            "ttl_ms {} is out of bounds: give 1 to {max}",
            lease.ttl_ms
        )));
    }
    Ok(((node, Incarnation(lease.incarnation)), ttl))
}

/// The gateway's life a session record hangs on, once the record is known to be whole.
///
/// # Errors
/// When an id of it is none, or it has no handle.
pub fn session(record: &SessionRecord) -> Result<Life, RegistryError> {
    AppKey::new(&record.app_key).map_err(invalid)?;
    DeviceId::new(&record.device_id).map_err(invalid)?;
    match &record.session {
        Some(SessionHandle {
            gateway, incarnation, ..
        }) => Ok((NodeId::new(gateway).map_err(invalid)?, Incarnation(*incarnation))),
        None => Err(RegistryError::Invalid(
            "a session record has no handle: say on which gateway it lives".to_owned(),
        )),
    }
}

/// The life of a gateway whose rooms are counted.
///
/// # Errors
/// When its name is none, or there are too many counts.
pub fn room_counts(counts: &RoomCounts) -> Result<Life, RegistryError> {
    bounded(
        "counts of rooms in one request",
        counts.counts.len(),
        ROOM_COUNTS_LEN_MAX,
    )?;
    let gateway = NodeId::new(&counts.gateway).map_err(invalid)?;
    Ok((gateway, Incarnation(counts.incarnation)))
}

/// Holds the key of a room to its form.
///
/// # Errors
/// When an id of it is none.
pub fn room(key: &RoomKey) -> Result<(), RegistryError> {
    AppKey::new(&key.app_key).map_err(invalid)?;
    RoomId::new(&key.room).map_err(invalid)?;
    Ok(())
}

/// Holds the number of something to its bound.
///
/// # Errors
/// When there are more than `max`.
pub fn bounded(what: &str, len: usize, max: usize) -> Result<(), RegistryError> {
    if len > max {
        return Err(RegistryError::Invalid(format!(
            "{len} {what}: at most {max} are allowed"
        )));
    }
    Ok(())
}

/// What a new node is told when there are [`NODES_MAX`] already.
#[must_use]
pub fn too_many_nodes() -> RegistryError {
    RegistryError::Invalid(format!(
        "there are {NODES_MAX} nodes already, the most there may be"
    ))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn invalid(error: IdError) -> RegistryError {
    RegistryError::Invalid(error.to_string())
}
