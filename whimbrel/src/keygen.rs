//! `whimbrel keygen`: the keys of a deployment, each in a file of its own.

use std::path::Path;

use anyhow::{Context as _, bail};
use whimbrel_link::ClusterSecret;
use whimbrel_protocol::{
    SystemEntropy,
    descriptor::{Certificate, IdentityKey, RootKey, inspect_certificate},
    entropy::Entropy,
    ids::NodeId,
};

use crate::{cli::KeygenCommand, secret_file, terminal};

/// Bytes of randomness in a secret that is not a key pair.
const SECRET_LEN: usize = 32;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// A certificate holds from a little before now, for clocks that are slow.
const BACKDATED_MS: u64 = 3600 * 1000;

/// Runs one `keygen` subcommand and says what it made.
pub(crate) fn run(command: &KeygenCommand, now_ms: u64) -> anyhow::Result<()> {
    let entropy = &mut SystemEntropy;
    match command {
        KeygenCommand::Root { out } => {
            let root = make_root(out, entropy)?;
            terminal::answer(&format!(
                "made {} (keep it offline) and {}",
                out.join(ROOT_KEY).display(),
                out.join(ROOT_PUB).display()
            ))?;
            terminal::answer(&format!("clients pin this root key: {}", root.public()))?;
        }
        KeygenCommand::Identity {
            root,
            node,
            days,
            out,
        } => {
            let node: NodeId = node.parse()?;
            let root = read_root(root)?;
            make_identity(out, &root, node, u64::from(*days) * DAY_MS, now_ms, entropy)?;
            terminal::answer(&format!(
                "made {} and {}",
                out.join(IDENTITY_KEY).display(),
                out.join(IDENTITY_CERT).display()
            ))?;
        }
        KeygenCommand::Certificate {
            root,
            identity_key,
            node,
            days,
            out,
        } => {
            let node: NodeId = node.parse()?;
            let root = read_root(root)?;
            renew_certificate(out, &root, identity_key, node, u64::from(*days) * DAY_MS, now_ms)?;
            terminal::answer(&format!("made {}", out.display()))?;
        }
        KeygenCommand::ClusterSecret { out } => {
            make_cluster_secret(out)?;
            terminal::answer(&format!("made {}", out.display()))?;
        }
        KeygenCommand::AppSecret { out } => {
            make_app_secret(out, entropy)?;
            terminal::answer(&format!("made {}", out.display()))?;
        }
    }
    Ok(())
}

/// The root's secret key.
pub(crate) const ROOT_KEY: &str = "root.key";
/// The root's public key.
pub(crate) const ROOT_PUB: &str = "root.pub";
/// A gateway's secret identity key.
pub(crate) const IDENTITY_KEY: &str = "identity.key";
/// The root's certificate of it.
pub(crate) const IDENTITY_CERT: &str = "identity.cert";

/// Makes a root in `folder`.
pub(crate) fn make_root(folder: &Path, entropy: &mut dyn Entropy) -> anyhow::Result<RootKey> {
    let public = folder.join(ROOT_PUB);
    if public.exists() {
        bail!(
            "{} is there already: clients may have pinned it, so remove it first if it is no longer wanted",
            public.display()
        );
    }
    let root = RootKey::generate(entropy);
    secret_file::create(&folder.join(ROOT_KEY), &root.to_secret_text())?;
    secret_file::create_public(&public, format!("{}\n", root.public()).as_bytes())?;
    Ok(root)
}

/// The root whose secret lies at `path`.
pub(crate) fn read_root(path: &Path) -> anyhow::Result<RootKey> {
    RootKey::from_secret_text(&secret_file::read(path, "root key")?).with_context(|| {
        format!(
            "{} holds no root key: make one with `whimbrel keygen root`",
            path.display()
        )
    })
}

/// Makes a gateway's identity in `folder`, certified by `root` for `life_ms`.
pub(crate) fn make_identity(
    folder: &Path,
    root: &RootKey,
    node: NodeId,
    life_ms: u64,
    now_ms: u64,
    entropy: &mut dyn Entropy,
) -> anyhow::Result<()> {
    let certificate_path = folder.join(IDENTITY_CERT);
    if certificate_path.exists() {
        bail!(
            "{} is there already, and is of another key: remove it first if it is no longer wanted, or renew the certificate of a \
             key that you have with `whimbrel keygen certificate`",
            certificate_path.display()
        );
    }
    let identity = IdentityKey::generate(entropy);
    let certificate = certify(root, node, &identity, life_ms, now_ms)?;
    secret_file::create(&folder.join(IDENTITY_KEY), &identity.to_secret_text())?;
    secret_file::create_public(&certificate_path, &certificate)
}

/// Makes a new certificate for the identity key in `key`, at `path`, in the place of an earlier one of that key.
fn renew_certificate(
    path: &Path,
    root: &RootKey,
    key: &Path,
    node: NodeId,
    life_ms: u64,
    now_ms: u64,
) -> anyhow::Result<()> {
    let identity = IdentityKey::from_secret_text(&secret_file::read(key, "identity key")?)
        .with_context(|| format!("{} holds no identity key", key.display()))?;
    if path.exists() {
        let before = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let is_of_this_key =
            inspect_certificate(&before).is_ok_and(|before| before.identity == identity.public());
        if !is_of_this_key {
            bail!(
                "{} is there already and is no certificate of the key in {}: give --out another path",
                path.display(),
                key.display()
            );
        }
    }
    secret_file::create_public(path, &certify(root, node, &identity, life_ms, now_ms)?)
}

/// A certificate of `identity` by `root` for `life_ms`.
pub(crate) fn certify(
    root: &RootKey,
    node: NodeId,
    identity: &IdentityKey,
    life_ms: u64,
    now_ms: u64,
) -> anyhow::Result<Vec<u8>> {
    root.certify(&Certificate {
        node,
        identity: identity.public(),
        not_before_ms: now_ms.saturating_sub(BACKDATED_MS),
        not_after_ms: now_ms.saturating_add(life_ms),
    })
    .context("the certificate cannot be made")
}

/// Makes the secret that authenticates links.
pub(crate) fn make_cluster_secret(path: &Path) -> anyhow::Result<()> {
    secret_file::create(path, &ClusterSecret::generate().to_text())
}

/// Makes a secret for an app's tokens: random, one line of text, and the text is the secret.
pub(crate) fn make_app_secret(path: &Path, entropy: &mut dyn Entropy) -> anyhow::Result<()> {
    let mut secret = zeroize::Zeroizing::new([0_u8; SECRET_LEN]);
    entropy.fill(&mut secret[..]);
    secret_file::create(path, &data_encoding::BASE64URL_NOPAD.encode(&*secret))
}
