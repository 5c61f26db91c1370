//! The gateway's metrics, by name.

/// Pushes that became a SYNC_HINT because the session's or the gateway's bound was hit.
pub(crate) const PUSHES_COLLAPSED: &str = "whimbrel_gateway_pushes_collapsed_total";
