use proptest::prelude::*;
use whimbrel_protocol::descriptor::{
    Address, CERTIFICATE_LIFE_MAX_MS, CLOCK_SKEW_MS, Certificate, DESCRIPTOR_LEN_MAX, DescribeError,
    DescriptorError, GatewayDescriptor, IdentityKey, KeyTextError, KnownTime, RootKey, RootPublicKey,
    STATEMENT_LIFE_MAX_MS, SignedPart, Statement, Transport, assemble, inspect_certificate, verify_chain,
};
use whimbrel_protocol::keys::KeyId;
use whimbrel_protocol::{Suite, SystemEntropy};

use crate::support::{DAY_MS, MADE_MS, certificate, counting, gateway_key, identity, node, root, statement};

fn describe(certificate: &Certificate, statement: &Statement) -> Vec<u8> {
    let certificate = root().certify(certificate).unwrap();
    assemble(&certificate, &identity().sign_statement(statement).unwrap()).unwrap()
}

fn verify(bytes: &[u8], known: KnownTime) -> Result<GatewayDescriptor, DescriptorError> {
    verify_chain(bytes, &[root().public()], known)
}

#[test]
fn what_was_signed_is_what_is_read() {
    let bytes = describe(&certificate(), &statement());
    assert!(bytes.len() < 600, "{} bytes", bytes.len());
    let descriptor = verify(&bytes, KnownTime::Exactly(MADE_MS + DAY_MS)).unwrap();
    assert_eq!(descriptor.statement, statement());
    assert_eq!(descriptor.certificate_not_after_ms, certificate().not_after_ms);
    assert_eq!(descriptor.root, root().public());
    assert_eq!(
        descriptor.choose(&Suite::ALL),
        Some((Suite::AesGcm, gateway_key().public()))
    );
    assert_eq!(
        descriptor.endpoints(Transport::Tcp).collect::<Vec<_>>(),
        ["gateway-1.example.com:7100"]
    );
}

#[test]
fn either_of_two_pins_is_enough() {
    let other = RootKey::from_seed(&counting(3)).public();
    let bytes = describe(&certificate(), &statement());
    for pins in [[other, root().public()], [root().public(), other]] {
        assert!(verify_chain(&bytes, &pins, KnownTime::Unknown).is_ok());
    }
    let found = vec![root().public().id()];
    let error = verify_chain(&bytes, &[other], KnownTime::Unknown).unwrap_err();
    assert_eq!(error, DescriptorError::UnknownRoot { found });
    assert!(error.to_string().contains("root_key"), "{error}");
}

#[test]
fn a_descriptor_altered_or_cut_anywhere_is_refused() {
    let bytes = describe(&certificate(), &statement());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut altered = bytes.clone();
            altered[at] ^= 1 << bit;
            assert!(
                verify(&altered, KnownTime::Unknown).is_err(),
                "bit {bit} of byte {at}"
            );
        }
        assert!(verify(&bytes[..at], KnownTime::Unknown).is_err(), "cut at {at}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(verify(&longer, KnownTime::Unknown).is_err());
}

#[test]
fn a_false_identity_is_refused() {
    let certificate = root().certify(&certificate()).unwrap();
    let other = IdentityKey::from_seed(&counting(5));
    let bytes = assemble(&certificate, &other.sign_statement(&statement()).unwrap()).unwrap();
    let error = verify(&bytes, KnownTime::Unknown).unwrap_err();
    assert_eq!(
        error,
        DescriptorError::UnknownIdentity {
            identity: identity().public().id()
        }
    );
}

#[test]
fn a_signature_on_a_certificate_is_none_on_a_statement() {
    assert_ne!(SignedPart::Certificate.domain(), SignedPart::Statement.domain());
    // One key in both roles: the certificate's bytes and signature are put where the statement belongs.
    let both = IdentityKey::from_seed(&counting(0x80));
    let of_itself = Certificate {
        identity: both.public(),
        ..certificate()
    };
    let signed = root().certify(&of_itself).unwrap();
    let bytes = assemble(&signed, &signed).unwrap();
    let error = verify(&bytes, KnownTime::Unknown).unwrap_err();
    let signer = both.public().id();
    assert_eq!(
        error,
        DescriptorError::BadSignature {
            part: SignedPart::Statement,
            signer
        }
    );
}

#[test]
fn another_nodes_statement_is_refused() {
    let other = Statement {
        node: node("gateway-2"),
        ..statement()
    };
    let error = verify(&describe(&certificate(), &other), KnownTime::Unknown).unwrap_err();
    assert_eq!(
        error,
        DescriptorError::NodeMismatch {
            certified: node("gateway-1"),
            stated: node("gateway-2")
        }
    );
}

#[test]
fn expiry_is_judged_by_what_is_known_and_names_both_dates() {
    let bytes = describe(&certificate(), &statement());
    let end_ms = statement().not_after_ms;
    for late_ms in [end_ms, end_ms + CLOCK_SKEW_MS] {
        assert!(verify(&bytes, KnownTime::AtLeast(late_ms)).is_ok());
        assert!(verify(&bytes, KnownTime::Exactly(late_ms)).is_ok());
    }
    let known_ms = end_ms + CLOCK_SKEW_MS + 1;
    for known in [KnownTime::AtLeast(known_ms), KnownTime::Exactly(known_ms)] {
        let error = verify(&bytes, known).unwrap_err();
        assert_eq!(
            error,
            DescriptorError::Expired {
                part: SignedPart::Statement,
                not_after_ms: end_ms,
                known_ms
            }
        );
        let text = error.to_string();
        assert!(
            text.contains("2026-11-23 00:00 UTC") && text.contains("2026-11-23 01:00 UTC"),
            "{text}"
        );
    }
    let far_ms = MADE_MS + 90 * DAY_MS;
    let error = verify(&bytes, KnownTime::AtLeast(far_ms)).unwrap_err();
    assert!(matches!(
        error,
        DescriptorError::Expired {
            part: SignedPart::Certificate,
            ..
        }
    ));
}

#[test]
fn a_client_without_a_trustworthy_clock_is_not_locked_out() {
    let bytes = describe(&certificate(), &statement());
    // Ten years behind: an old floor judges no beginning. Ten years ahead: the device's clock is not knowledge.
    assert!(verify(&bytes, KnownTime::AtLeast(MADE_MS - 3650 * DAY_MS)).is_ok());
    let descriptor = verify(&bytes, KnownTime::Unknown).unwrap();
    assert!(descriptor.looks_current_at(MADE_MS + DAY_MS));
    assert!(
        !descriptor.looks_current_at(MADE_MS + 3650 * DAY_MS),
        "still only a preference"
    );
}

#[test]
fn a_gateway_proves_no_time_beyond_its_own_descriptor() {
    let descriptor = verify(&describe(&certificate(), &statement()), KnownTime::Unknown).unwrap();
    assert_eq!(descriptor.proven_time_ms(MADE_MS + 5), MADE_MS + 5);
    let far_ms = MADE_MS + 3650 * DAY_MS;
    assert_eq!(descriptor.proven_time_ms(far_ms), statement().not_after_ms);
    // With that floor the next honest statement still holds.
    let floor = KnownTime::AtLeast(descriptor.proven_time_ms(far_ms));
    let (not_before_ms, not_after_ms) = (MADE_MS + DAY_MS, MADE_MS + 3 * DAY_MS);
    let next = Statement {
        not_before_ms,
        not_after_ms,
        ..statement()
    };
    assert!(verify(&describe(&certificate(), &next), floor).is_ok());
}

#[test]
fn the_beginning_is_judged_only_by_a_clock_known_to_be_right() {
    let bytes = describe(&certificate(), &statement());
    assert!(verify(&bytes, KnownTime::Exactly(MADE_MS - CLOCK_SKEW_MS)).is_ok());
    let known_ms = MADE_MS - CLOCK_SKEW_MS - 1;
    assert_eq!(
        verify(&bytes, KnownTime::Exactly(known_ms)).unwrap_err(),
        DescriptorError::NotYetValid {
            part: SignedPart::Statement,
            not_before_ms: MADE_MS,
            known_ms
        }
    );
    assert!(verify(&bytes, KnownTime::AtLeast(known_ms)).is_ok());
}

#[test]
fn a_statement_made_outside_its_certificates_life_is_refused_whatever_the_clock() {
    let ended = Certificate {
        not_after_ms: MADE_MS - DAY_MS,
        ..certificate()
    };
    let later = Certificate {
        not_before_ms: MADE_MS + DAY_MS,
        ..certificate()
    };
    for certificate in [ended, later] {
        let Certificate {
            not_before_ms,
            not_after_ms,
            ..
        } = certificate;
        let error = verify(&describe(&certificate, &statement()), KnownTime::Unknown).unwrap_err();
        let expected = DescriptorError::OutsideCertificate {
            made_ms: MADE_MS,
            not_before_ms,
            not_after_ms,
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn a_gateway_can_look_into_its_own_certificate() {
    let signed = root().certify(&certificate()).unwrap();
    assert_eq!(inspect_certificate(&signed).unwrap(), certificate());
    for cut in 0..signed.len() {
        assert!(inspect_certificate(&signed[..cut]).is_err());
    }
}

#[test]
fn lives_beyond_their_bounds_are_not_signed() {
    let long = Statement {
        not_after_ms: MADE_MS + STATEMENT_LIFE_MAX_MS + 1,
        ..statement()
    };
    assert!(matches!(
        identity().sign_statement(&long),
        Err(DescribeError::Life { .. })
    ));
    let backwards = Statement {
        not_after_ms: MADE_MS - 1,
        ..statement()
    };
    assert!(matches!(
        identity().sign_statement(&backwards),
        Err(DescribeError::Life { life_ms: 0, .. })
    ));
    let long = Certificate {
        not_before_ms: 0,
        not_after_ms: CERTIFICATE_LIFE_MAX_MS + 1,
        ..certificate()
    };
    assert!(matches!(root().certify(&long), Err(DescribeError::Life { .. })));
}

#[test]
fn lists_and_endpoints_have_bounds() {
    let no_keys = Statement {
        keys: vec![],
        ..statement()
    };
    assert!(matches!(
        identity().sign_statement(&no_keys),
        Err(DescribeError::OutOfBounds { len: 0, .. })
    ));
    let address = Address {
        transport: Transport::Tcp,
        endpoint: "x".repeat(301),
    };
    let long = Statement {
        addresses: vec![address],
        ..statement()
    };
    assert!(matches!(
        identity().sign_statement(&long),
        Err(DescribeError::OutOfBounds { len: 301, .. })
    ));
    let too_long = vec![0; DESCRIPTOR_LEN_MAX + 1];
    let error = verify(&too_long, KnownTime::Unknown).unwrap_err();
    assert_eq!(
        error,
        DescriptorError::TooLong {
            len: DESCRIPTOR_LEN_MAX + 1
        }
    );
}

#[test]
fn unknown_suites_transports_and_key_algorithms_are_passed_over() {
    let mut later = statement();
    later.suites.insert(0, 77);
    later.addresses.insert(
        0,
        Address {
            transport: Transport::Other(9),
            endpoint: "somewhere".to_owned(),
        },
    );
    let mut post_quantum = later.keys[0].clone();
    (post_quantum.algorithm, post_quantum.public) = (2, vec![7; 1184]);
    later.keys.insert(0, post_quantum);
    let descriptor = verify(&describe(&certificate(), &later), KnownTime::Unknown).unwrap();
    assert_eq!(descriptor.statement, later);
    assert_eq!(
        descriptor.choose(&[Suite::ChaChaPoly]),
        Some((Suite::ChaChaPoly, gateway_key().public()))
    );
    let other_version = Statement {
        versions: vec![2],
        ..statement()
    };
    let descriptor = verify(&describe(&certificate(), &other_version), KnownTime::Unknown).unwrap();
    assert_eq!(descriptor.choose(&Suite::ALL), None);
}

#[test]
fn keys_survive_their_text_form() {
    let root = RootKey::generate(&mut SystemEntropy);
    let text = root.public().to_string();
    assert!(text.starts_with("root1") && text.len() == 61, "{text}");
    assert_eq!(text.parse::<RootPublicKey>().unwrap(), root.public());
    assert_eq!(
        format!(" {text}\n").parse::<RootPublicKey>().unwrap(),
        root.public()
    );
    let again = RootKey::from_secret_text(&root.to_secret_text()).unwrap();
    assert_eq!(again.public(), root.public());
    let identity = IdentityKey::generate(&mut SystemEntropy);
    assert_eq!(
        IdentityKey::from_secret_text(&identity.to_secret_text())
            .unwrap()
            .public(),
        identity.public()
    );
}

#[test]
fn a_key_that_was_miscopied_is_told_with_its_cure() {
    let text = root().public().to_string();
    let parse = |text: &str| text.parse::<RootPublicKey>().unwrap_err();
    assert!(matches!(
        parse(""),
        KeyTextError::WrongPrefix { prefix: "root1", .. }
    ));
    assert!(matches!(
        parse(&identity().public().to_string()),
        KeyTextError::WrongPrefix { .. }
    ));
    assert!(matches!(
        parse(&text[..text.len() - 1]),
        KeyTextError::WrongLength { found: 55, .. }
    ));
    assert!(matches!(
        parse(&text.to_uppercase()),
        KeyTextError::WrongPrefix { .. }
    ));
    let mut wrong_letter = text.clone();
    wrong_letter.replace_range(7..8, "0");
    assert!(matches!(
        parse(&wrong_letter),
        KeyTextError::WrongLetter { position: 3, .. }
    ));
    for at in 5..text.len() {
        let mut changed = text.clone();
        let other = if &text[at..=at] == "a" { "b" } else { "a" };
        changed.replace_range(at..=at, other);
        assert!(
            matches!(parse(&changed), KeyTextError::WrongChecksum { .. }),
            "letter {at}"
        );
    }
    assert!(parse("nonsense").to_string().contains("keygen"));
}

#[test]
fn secrets_are_shown_by_the_id_of_their_public_half_only() {
    let id: KeyId = root().public().id();
    assert_eq!(format!("{:?}", root()), format!("RootKey({id})"));
    let secret = root().to_secret_text();
    let error = RootKey::from_secret_text(&secret[..30]).unwrap_err().to_string();
    assert!(!error.contains(&secret[11..30]), "{error}");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>) {
        prop_assert!(verify(&bytes, KnownTime::Unknown).is_err());
    }

    #[test]
    fn random_texts_are_no_keys(text: String) {
        prop_assert!(text.parse::<RootPublicKey>().is_err());
    }
}
