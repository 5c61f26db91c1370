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
    let parsed = |text: &str| Ok(RootKey::from_secret_text(text)?);
    read_key(
        path,
        "root key",
        parsed,
        "make one with `whimbrel keygen root`",
        "do not make another, which would lock out every client that pinned this root",
    )
}

/// The gateway's identity key at `path`.
pub(crate) fn read_identity(path: &Path) -> anyhow::Result<IdentityKey> {
    let parsed = |text: &str| Ok(IdentityKey::from_secret_text(text)?);
    read_key(
        path,
        "identity key",
        parsed,
        "make one with `whimbrel keygen identity`",
        DAMAGED_IDENTITY,
    )
}

/// What a damaged identity key means.
pub(crate) const DAMAGED_IDENTITY: &str = "its certificate is of no other key";

/// The key in `path`. One that is missing is to be made as `missing` says; one that is there and is no key is to be restored, for the
/// reason in `damaged`.
fn read_key<K>(
    path: &Path,
    what: &str,
    parsed: impl FnOnce(&str) -> anyhow::Result<K>,
    missing: &str,
    damaged: &str,
) -> anyhow::Result<K> {
    let key = secret_file::read(path, what).and_then(|text| parsed(&text));
    key.map_err(|error| match std::fs::File::open(path) {
        // It can be read, so what it holds is at fault.
        Ok(_) => error.context(format!(
            "the {what} in {} is damaged: restore the file from your copy; {damaged}",
            path.display()
        )),
        Err(open) if open.kind() == std::io::ErrorKind::NotFound => error.context(missing.to_owned()),
        Err(_) => error,
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
    let identity = read_identity(key)?;
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_key_is_to_be_restored_and_only_a_missing_one_to_be_made() {
        let folder = tempfile::tempdir().unwrap();
        let root = make_root(folder.path(), &mut SystemEntropy).unwrap();
        let node: NodeId = "gateway-1".parse().unwrap();
        make_identity(folder.path(), &root, node, DAY_MS, DAY_MS, &mut SystemEntropy).unwrap();
        let root_said = |path: &Path| format!("{:#}", read_root(path).err().unwrap());
        let identity_said = |path: &Path| format!("{:#}", read_identity(path).err().unwrap());
        for (name, said) in [
            (ROOT_KEY, &root_said as &dyn Fn(&Path) -> String),
            (IDENTITY_KEY, &identity_said),
        ] {
            let path = folder.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            let mut flipped = whole.clone();
            flipped[20] ^= 1;
            let mut no_text = whole.clone();
            no_text[20] ^= 0x80;
            for damage in [
                flipped,
                no_text,
                whole[..30].to_vec(),
                Vec::new(),
                vec![b'a'; 5000],
            ] {
                std::fs::write(&path, &damage).unwrap();
                let said = said(&path);
                assert!(said.contains("restore the file from your copy"), "{said}");
                assert!(said.contains(name) && !said.contains("keygen root"), "{said}");
            }
            std::fs::remove_file(&path).unwrap();
            let said = said(&path);
            assert!(said.contains("make one with `whimbrel keygen"), "{said}");
        }
        let path = folder.path().join(ROOT_KEY);
        std::fs::write(&path, "rootsecret1").unwrap();
        let said = root_said(&path);
        assert!(said.contains("lock out every client"), "{said}");
    }
}
