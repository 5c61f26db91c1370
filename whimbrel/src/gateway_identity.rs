//! A gateway's identity, read from its files.

use std::path::Path;

use anyhow::{Context as _, bail};
use whimbrel_gateway::GatewayKeys;
use whimbrel_protocol::descriptor::IdentityKey;

/// The secret key in `key` and the certificate at `certificate`.
pub(crate) fn read(key: &str, certificate: &Path) -> anyhow::Result<GatewayKeys> {
    if key.trim().is_empty() {
        bail!("`identity.key_file` is missing: make an identity with `whimbrel keygen identity`");
    }
    let identity = IdentityKey::from_secret_text(key).context("`identity.key`")?;
    let bytes = std::fs::read(certificate)
        .with_context(|| format!("`identity.certificate`: cannot read {}", certificate.display()))?;
    Ok(GatewayKeys {
        identity,
        certificate: bytes.into(),
    })
}
