//! The directory with real signatures.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use whimbrel_protocol::descriptor::{
    Address, Certificate, ExchangeKey, IdentityKey, RootKey, Statement, assemble,
};
use whimbrel_protocol::ids::NodeId;
use whimbrel_protocol::keys::StaticKey;

use super::*;

const DAY_MS: u64 = 86_400_000;
const T0: u64 = 1_800_000_000_000;

fn descriptor(root: u8, node: &str, made_ms: u64) -> Bytes {
    let root = RootKey::from_seed(&[root; 32]);
    let identity = IdentityKey::from_seed(&[7; 32]);
    let certificate = Certificate {
        node: NodeId::new(node).unwrap(),
        identity: identity.public(),
        not_before_ms: T0 - DAY_MS,
        not_after_ms: T0 + 100 * DAY_MS,
    };
    let statement = Statement {
        node: NodeId::new(node).unwrap(),
        not_before_ms: made_ms,
        not_after_ms: made_ms + 2 * DAY_MS,
        versions: vec![1],
        suites: vec![1, 2],
        keys: vec![ExchangeKey::x25519(
            StaticKey::from_secret(&[3; 32]).public(),
            made_ms + 2 * DAY_MS,
        )],
        tls_key_sha256: None,
        addresses: vec![
            Address {
                transport: Transport::Tcp,
                endpoint: format!("{node}:1"),
            },
            Address {
                transport: Transport::Tcp,
                endpoint: format!("{node}:2"),
            },
        ],
    };
    assemble(
        &root.certify(&certificate).unwrap(),
        &identity.sign_statement(&statement).unwrap(),
    )
    .unwrap()
    .into()
}

fn directory() -> Directory {
    Directory::new(vec![
        RootKey::from_seed(&[1; 32]).public(),
        RootKey::from_seed(&[2; 32]).public(),
    ])
}

fn endpoints(directory: &Directory, at_ms: u64, avoid: Option<&str>) -> Vec<String> {
    directory
        .candidates(at_ms, avoid)
        .into_iter()
        .map(|candidate| candidate.endpoint)
        .collect()
}

#[test]
fn both_pins_count_and_false_descriptors_are_left_out() {
    let mut directory = directory();
    let mut forged = descriptor(1, "g3", T0).to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let list = [
        descriptor(1, "g1", T0),
        descriptor(9, "evil", T0),
        forged.into(),
        descriptor(2, "g2", T0),
    ];
    directory
        .take_list(&list, 0, KnownTime::Unknown, Duration::ZERO)
        .unwrap();
    assert_eq!(endpoints(&directory, T0, None), ["g1:1", "g2:1", "g1:2", "g2:2"]);
    assert_eq!(
        endpoints(&directory, T0, Some("g1")),
        ["g2:1", "g1:1", "g2:2", "g1:2"]
    );
}

#[test]
fn a_list_with_nothing_true_changes_nothing_and_says_why() {
    let mut directory = directory();
    directory
        .take_list(&[descriptor(1, "g1", T0)], 0, KnownTime::Unknown, Duration::ZERO)
        .unwrap();
    let error = directory
        .take_list(
            &[descriptor(9, "evil", T0)],
            0,
            KnownTime::Unknown,
            Duration::ZERO,
        )
        .unwrap_err();
    assert!(error.to_string().contains("root"), "{error}");
    assert_eq!(endpoints(&directory, T0, None).len(), 2);
    let expired = directory.take_list(
        &[descriptor(1, "g1", T0)],
        0,
        KnownTime::AtLeast(T0 + 3 * DAY_MS),
        Duration::ZERO,
    );
    assert!(expired.unwrap_err().to_string().contains("ended"));
}

#[test]
fn a_device_clock_ten_years_off_locks_nobody_out() {
    let mut directory = directory();
    directory
        .take_list(&[descriptor(1, "g1", T0)], 0, KnownTime::Unknown, Duration::ZERO)
        .unwrap();
    for years in [-10_i64, 10] {
        let device_ms = T0.saturating_add_signed(years * 365 * i64::try_from(DAY_MS).unwrap());
        assert_eq!(endpoints(&directory, device_ms, None).len(), 2);
    }
}

#[test]
fn refresh_age_is_apart_from_trust_age() {
    let mut directory = directory();
    assert!(!directory.is_fresh(Duration::ZERO));
    let list = [descriptor(1, "g1", T0)];
    directory
        .take_list(&list, 60_000, KnownTime::Unknown, Duration::ZERO)
        .unwrap();
    assert!(directory.is_fresh(Duration::from_secs(59)));
    assert!(!directory.is_fresh(Duration::from_secs(60)));
    assert_eq!(
        endpoints(&directory, T0, None).len(),
        2,
        "an old list is still used"
    );
    directory
        .take_list(&list, 1, KnownTime::Unknown, Duration::ZERO)
        .unwrap();
    assert!(
        directory.is_fresh(Duration::from_secs(29)),
        "an LBS cannot make us ask all the time"
    );
    directory.expire();
    assert!(!directory.is_fresh(Duration::ZERO));
}

#[test]
fn what_is_kept_comes_back_verified_and_not_fresh() {
    let mut first = directory();
    let list = [descriptor(1, "g1", T0), descriptor(2, "g2", T0)];
    first
        .take_list(&list, 0, KnownTime::Unknown, Duration::ZERO)
        .unwrap();
    let kept = first.to_bytes();
    let mut second = directory();
    second.restore(&kept, KnownTime::Unknown);
    assert_eq!(endpoints(&second, T0, None), endpoints(&first, T0, None));
    assert!(!second.is_fresh(Duration::ZERO));
    for cut in 0..kept.len() {
        directory().restore(kept.get(..cut).unwrap(), KnownTime::Unknown);
    }
}

#[test]
fn a_stale_key_answer_replaces_only_its_own_nodes_older_descriptor() {
    let mut directory = directory();
    directory
        .take_list(&[descriptor(1, "g1", T0)], 0, KnownTime::Unknown, Duration::ZERO)
        .unwrap();
    let other = directory.take_current("g1", descriptor(1, "g2", T0 + 5), KnownTime::Unknown);
    assert!(matches!(other, Err(StaleKeyError::OtherNode { .. })));
    let older = directory.take_current("g1", descriptor(1, "g1", T0 - 5), KnownTime::Unknown);
    assert!(matches!(older, Err(StaleKeyError::Older)));
    let false_one = directory.take_current("g1", descriptor(9, "g1", T0 + 5), KnownTime::Unknown);
    assert!(matches!(false_one, Err(StaleKeyError::Descriptor(_))));
    directory
        .take_current("g1", descriptor(1, "g1", T0 + 5), KnownTime::Unknown)
        .unwrap();
    // An LBS that lags behind does not bring the old one back.
    directory
        .take_list(&[descriptor(1, "g1", T0)], 0, KnownTime::Unknown, Duration::ZERO)
        .unwrap();
    let older = directory.take_current("g1", descriptor(1, "g1", T0), KnownTime::Unknown);
    assert!(matches!(older, Err(StaleKeyError::Older)));
}
