//! What is counted of Redis.
//!
//! | metric | labels | meaning |
//! |---|---|---|
//! | `whimbrel_registry_redis_connected` | | 1 while there is a connection, else 0; of a Cluster 0 while a part of it does not answer |
//! | `whimbrel_registry_redis_connects_total` | | connections made |
//! | `whimbrel_registry_redis_subscribed` | | 1 while change notices are heard, else 0 |
//! | `whimbrel_registry_redis_notices_total` | | change notices heard |
//! | `whimbrel_registry_redis_lives_total` | | times that Redis was found to have lost something, and all was announced again |
//! | `whimbrel_registry_redis_calls_total` | `call`, `outcome` | calls by name; `ok`, `refused` (the caller's fault) or `unavailable` |
//! | `whimbrel_registry_redis_call_seconds` | `call` | how long calls took |
//! | `whimbrel_registry_redis_swept_total` | | entries of ended lives that were removed |

use std::time::Duration;

use whimbrel_registry::RegistryError;

pub(crate) fn connected(is: bool) {
    metrics::gauge!("whimbrel_registry_redis_connected").set(if is { 1.0 } else { 0.0 });
}

pub(crate) fn connect() {
    metrics::counter!("whimbrel_registry_redis_connects_total").increment(1);
}

pub(crate) fn subscribed(is: bool) {
    metrics::gauge!("whimbrel_registry_redis_subscribed").set(if is { 1.0 } else { 0.0 });
}

pub(crate) fn notice() {
    metrics::counter!("whimbrel_registry_redis_notices_total").increment(1);
}

pub(crate) fn new_life() {
    metrics::counter!("whimbrel_registry_redis_lives_total").increment(1);
}

pub(crate) fn swept(entries: u64) {
    metrics::counter!("whimbrel_registry_redis_swept_total").increment(entries);
}

pub(crate) fn called<T>(call: &'static str, outcome: &Result<T, RegistryError>, took: Duration) {
    let outcome = match outcome {
        Ok(_) => "ok",
        Err(RegistryError::Unavailable { .. }) => "unavailable",
        Err(RegistryError::Invalid(_) | RegistryError::Superseded { .. }) => "refused",
    };
    metrics::counter!("whimbrel_registry_redis_calls_total", "call" => call, "outcome" => outcome)
        .increment(1);
    metrics::histogram!("whimbrel_registry_redis_call_seconds", "call" => call).record(took.as_secs_f64());
}
