//! What a store accepts. The embedded backends refuse what TiKV would, so that nothing that works on one
//! machine stops working on a cluster.
//!
//! Every backend calls these checks before it applies or reads anything.

use bytes::Bytes;

use crate::StoreError;

/// Longest key, in bytes: TiKV's own default for a raw key, less what its encoding adds.
pub const KEY_LEN_MAX: usize = 4 * 1024;

/// Longest value, in bytes: the largest frame payload, hence the largest message.
pub const VALUE_LEN_MAX: usize = 64 * 1024;

/// Most operations in one batch. A notice to a group of 2,000 members touches about three keys each.
pub const BATCH_OPS_MAX: usize = 16 * 1024;

/// Most bytes (keys and values) in one batch: what a TiKV region accepts in one raft entry by default.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most entries a single scan may ask for. Longer reads are pages.
pub const SCAN_LIMIT_MAX: usize = 4 * 1024;

/// A scan's page ends early once it holds this many bytes (keys and values), and says that there is
/// more. Without it a page of the largest values would take 256 MiB.
pub const SCAN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most keys in one `multi_get`: the members of a full group, twice.
pub const MULTI_GET_MAX: usize = 4 * 1024;

/// Checks that a key is neither empty nor over [`KEY_LEN_MAX`].
///
/// # Errors
/// [`StoreError::KeyEmpty`], [`StoreError::KeyTooLong`].
pub fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::KeyEmpty);
    }
    if key.len() > KEY_LEN_MAX {
        return Err(StoreError::KeyTooLong { len: key.len() });
    }
    Ok(())
}

/// Checks that a value is neither empty nor over [`VALUE_LEN_MAX`].
///
/// # Errors
/// [`StoreError::ValueEmpty`], [`StoreError::ValueTooLong`].
pub fn check_value(key: &Bytes, value: &[u8]) -> Result<(), StoreError> {
    if value.is_empty() {
        return Err(StoreError::ValueEmpty { key: key.clone() });
    }
    if value.len() > VALUE_LEN_MAX {
        return Err(StoreError::ValueTooLong {
            key: key.clone(),
            len: value.len(),
        });
    }
    Ok(())
}

/// Checks the arguments of `multi_get`.
///
/// # Errors
/// [`StoreError::TooManyKeys`], or the first key's own error.
pub fn check_multi_get(keys: &[Bytes]) -> Result<(), StoreError> {
    if keys.len() > MULTI_GET_MAX {
        return Err(StoreError::TooManyKeys { count: keys.len() });
    }
    keys.iter().try_for_each(|key| check_key(key))
}

/// Checks a scan's limit. A range's bounds were checked when it was made.
///
/// # Errors
/// [`StoreError::ScanLimit`].
pub fn check_scan_limit(limit: usize) -> Result<(), StoreError> {
    if limit == 0 || limit > SCAN_LIMIT_MAX {
        return Err(StoreError::ScanLimit { limit });
    }
    Ok(())
}
