//! A gateway's identity, read from its files and checked: what no client would take is found at the start.

use std::{fmt::Display, path::Path};

use anyhow::{Context as _, bail};
use whimbrel_gateway::GatewayKeys;
use whimbrel_protocol::{
    descriptor::{IdentityKey, RootPublicKey},
    ids::NodeId,
};

/// The secret key in `key`, called `key_name` in what is said of it, and the certificate at `certificate`, which must be of that key and `node`, hold at `now_ms`, and
/// be signed by `root` where it is known.
pub(crate) fn read(
    (key, key_name): (&str, &dyn Display),
    certificate: &Path,
    node: &NodeId,
    root: Option<&RootPublicKey>,
    now_ms: u64,
) -> anyhow::Result<GatewayKeys> {
    if key.trim().is_empty() {
        bail!("`identity.key_file` is missing: make an identity with `whimbrel keygen identity`");
    }
    let identity = IdentityKey::from_secret_text(key).with_context(|| {
        format!(
            "the identity key {key_name} is damaged: restore it from your copy; {}",
            crate::keygen::DAMAGED_IDENTITY
        )
    })?;
    let bytes = std::fs::read(certificate)
        .with_context(|| format!("`identity.certificate`: cannot read {}", certificate.display()))?;
    let keys = GatewayKeys {
        identity,
        certificate: bytes.into(),
    };
    keys.check(node, root, now_ms)
        .with_context(|| format!("the gateway's certificate {}", certificate.display()))?;
    Ok(keys)
}
