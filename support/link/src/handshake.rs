//! How two nodes meet over TCP. Pure: bytes in, bytes out, randomness handed in.
//!
//! ```text
//! hello  = "whlk" | version(1) | suite(1) | length(2) | Noise message 1 {LinkHello}
//! answer = kind(1) | length(2) | accepted: Noise message 2 {LinkHello} / refused: reason(1)
//! ```
//! Noise_NNpsk0 with the cluster's secret, the hello's header as prologue. A refusal in clear text only says why the
//! secret could not be checked; what depends on who asks is said inside message 2, authenticated. Message 1 can be
//! replayed, so the acceptor holds the link back until the dialler's first record has opened.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use prost::Message as _;
use whimbrel_protocol::cluster::LinkHello;
use whimbrel_protocol::noise::{self, NotAuthentic};
use whimbrel_protocol::{Entropy, SessionKeys, Suite};

use crate::error::LinkError;
use crate::identity::{ClusterSecret, Identity};

/// The version of this handshake and of what follows it. 1: the first.
pub(crate) const LINK_VERSION: u8 = 1;
/// First on every link; neither TLS nor text nor a client's hello begins so.
const MAGIC: [u8; 4] = *b"whlk";
/// Servers have AES instructions.
const SUITE: Suite = Suite::AesGcm;
/// Bytes before Noise message 1.
pub(crate) const HELLO_HEADER_LEN: usize = 8;
/// Bytes before an answer's body.
pub(crate) const ANSWER_HEADER_LEN: usize = 3;
/// Bytes of the longest Noise message here: a hello's five texts, its app keys and their tag fit, with room for as much
/// again that later versions may say.
pub(crate) const MESSAGE_LEN_MAX: usize = 4_096;

const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;
const REFUSED_VERSION: u8 = 1;
const REFUSED_SECRET: u8 = 2;
const REFUSED_BUSY: u8 = 3;

/// The dialling end between hello and answer.
pub(crate) struct Dialer {
    state: noise::InitiatorState,
}

impl Dialer {
    /// Starts a handshake: the hello to send.
    pub(crate) fn new(secret: &ClusterSecret, own: &Identity, entropy: &mut dyn Entropy) -> (Self, Vec<u8>) {
        let payload = own.to_hello(LINK_VERSION.into()).encode_to_vec();
        let message_len = noise::MESSAGE_OVERHEAD.saturating_add(payload.len());
        let message_len = u16::try_from(message_len).expect("an identity's texts are bounded");
        let mut hello = header(LINK_VERSION, SUITE.id(), message_len).to_vec();
        let prologue = hello.clone();
        let state = noise::link::initiate(SUITE, &prologue, secret.bytes(), &payload, entropy, &mut hello);
        (Self { state }, hello)
    }

    /// Judges the answer: the keys and the node at the other end.
    pub(crate) fn finish(
        self,
        kind: u8,
        body: &[u8],
        own: &Identity,
        peer: &str,
    ) -> Result<(SessionKeys, Identity), LinkError> {
        if kind != ACCEPTED {
            return Err(clear_refusal(kind, body, peer));
        }
        let wrong_secret = |NotAuthentic| LinkError::WrongSecret {
            peer: peer.to_owned(),
        };
        let (keys, payload) = self.state.read(body).map_err(wrong_secret)?;
        let hello = parse_hello(&payload, peer)?;
        // Our own judgement first: it can say more about the mistake than the peer's sentence.
        let refusal = hello.refusal.clone();
        let identity = introduce(hello, own, peer)?;
        if refusal.is_empty() {
            Ok((keys, identity))
        } else if refusal == ALREADY_LINKED {
            Err(LinkError::AlreadyLinked {
                peer: peer.to_owned(),
                node: identity.node.to_string(),
            })
        } else if refusal == SUPERSEDED {
            Err(LinkError::Superseded {
                peer: peer.to_owned(),
                by: identity.node,
                node: own.node.to_string(),
            })
        } else {
            Err(LinkError::Refused {
                peer: peer.to_owned(),
                refusal,
            })
        }
    }
}

/// The refusal a dialler passes over in silence: both ends dialled, and the other connection was first.
pub(crate) const ALREADY_LINKED: &str = "already linked";
/// The refusal of a process whose name a later one has.
pub(crate) const SUPERSEDED: &str = "superseded";

/// A connection that gets no link.
#[derive(Debug)]
pub(crate) struct TurnedAway {
    /// Why.
    pub(crate) error: LinkError,
    /// What to answer first; empty when an answer would help nobody.
    pub(crate) answer: Vec<u8>,
}

impl TurnedAway {
    fn new(error: LinkError, answer: Vec<u8>) -> Box<Self> {
        Box::new(Self { error, answer })
    }
}

/// A hello's header, parsed as far as it can be trusted before the secret is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HelloHeader {
    bytes: [u8; HELLO_HEADER_LEN],
    suite: Suite,
    /// How many bytes of Noise message 1 follow.
    pub(crate) message_len: usize,
}

impl HelloHeader {
    /// Judges a header; the error comes with the answer to send, if one is deserved.
    pub(crate) fn parse(bytes: [u8; HELLO_HEADER_LEN], peer: &str) -> Result<Self, Box<TurnedAway>> {
        let [m0, m1, m2, m3, version, suite, l0, l1] = bytes;
        let not_a_link = || {
            TurnedAway::new(
                LinkError::NotALink {
                    peer: peer.to_owned(),
                },
                Vec::new(),
            )
        };
        if [m0, m1, m2, m3] != MAGIC {
            return Err(not_a_link());
        }
        let suite = Suite::from_id(suite);
        let (LINK_VERSION, Some(suite)) = (version, suite) else {
            let theirs = version.to_string();
            let error = LinkError::Version {
                peer: peer.to_owned(),
                ours: LINK_VERSION,
                theirs,
            };
            return Err(TurnedAway::new(error, refusal(REFUSED_VERSION)));
        };
        let message_len = usize::from(u16::from_be_bytes([l0, l1]));
        if message_len > MESSAGE_LEN_MAX {
            return Err(not_a_link());
        }
        Ok(Self {
            bytes,
            suite,
            message_len,
        })
    }
}

/// The accepting end, knowing who asks.
pub(crate) struct Acceptor {
    state: noise::ResponderState,
}

impl Acceptor {
    /// Opens message 1: who asks. The error comes with the answer to send.
    pub(crate) fn new(
        header: &HelloHeader,
        message: &[u8],
        secret: &ClusterSecret,
        peer: &str,
        entropy: &mut dyn Entropy,
    ) -> Result<(Self, LinkHello), Box<TurnedAway>> {
        let wrong_secret = |NotAuthentic| {
            let error = LinkError::WrongSecret {
                peer: peer.to_owned(),
            };
            TurnedAway::new(error, refusal(REFUSED_SECRET))
        };
        let (state, payload) =
            noise::link::respond(header.suite, &header.bytes, secret.bytes(), message, entropy)
                .map_err(wrong_secret)?;
        let hello = parse_hello(&payload, peer).map_err(|error| TurnedAway::new(error, Vec::new()))?;
        Ok((Self { state }, hello))
    }

    /// The answer to send and the keys; with a `refusal`, the reason to close afterwards.
    pub(crate) fn answer(self, own: &Identity, refusal: Option<&str>) -> (Vec<u8>, SessionKeys) {
        let hello = LinkHello {
            refusal: refusal.unwrap_or_default().to_owned(),
            ..own.to_hello(LINK_VERSION.into())
        };
        let mut message = Vec::with_capacity(MESSAGE_LEN_MAX);
        let keys = self.state.write(&hello.encode_to_vec(), &mut message);
        (answer(ACCEPTED, &message), keys)
    }
}

/// The node a hello introduces, when it may link with `own` as far as the two alone can tell.
pub(crate) fn introduce(hello: LinkHello, own: &Identity, peer: &str) -> Result<Identity, LinkError> {
    let identity = Identity::from_hello(hello).map_err(|error| LinkError::Malformed {
        peer: peer.to_owned(),
        reason: error.to_string(),
    })?;
    if identity.cluster != own.cluster {
        return Err(LinkError::WrongCluster {
            peer: peer.to_owned(),
            node: identity.node.to_string(),
            theirs: identity.cluster,
            ours: own.cluster.clone(),
        });
    }
    if identity.node == own.node {
        let (peer, node) = (peer.to_owned(), identity.node.to_string());
        return Err(if identity.incarnation == own.incarnation {
            LinkError::Itself { peer, node }
        } else {
            LinkError::DuplicateNode { peer, node }
        });
    }
    Ok(identity)
}

/// The answer that turns a connection away unread.
pub(crate) fn busy() -> Vec<u8> {
    refusal(REFUSED_BUSY)
}

/// The header of an answer: its kind and the length of its body.
pub(crate) fn parse_answer_header(
    bytes: [u8; ANSWER_HEADER_LEN],
    peer: &str,
) -> Result<(u8, usize), LinkError> {
    let [kind, l0, l1] = bytes;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    if !matches!(kind, ACCEPTED | REFUSED) || len > MESSAGE_LEN_MAX {
        return Err(LinkError::NotALink {
            peer: peer.to_owned(),
        });
    }
    Ok((kind, len))
}

fn header(version: u8, suite: u8, message_len: u16) -> [u8; HELLO_HEADER_LEN] {
    let [m0, m1, m2, m3] = MAGIC;
    let [l0, l1] = message_len.to_be_bytes();
    [m0, m1, m2, m3, version, suite, l0, l1]
}

fn answer(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("an answer holds one bounded identity");
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn refusal(reason: u8) -> Vec<u8> {
    answer(REFUSED, &[reason, LINK_VERSION])
}

fn clear_refusal(kind: u8, body: &[u8], peer: &str) -> LinkError {
    let peer = peer.to_owned();
    match (kind, body) {
        (REFUSED, [REFUSED_SECRET, ..]) => LinkError::WrongSecret { peer },
        (REFUSED, [REFUSED_BUSY, ..]) => LinkError::Busy { peer },
        (REFUSED, [REFUSED_VERSION, theirs, ..]) => LinkError::Version {
            peer,
            ours: LINK_VERSION,
            theirs: theirs.to_string(),
        },
        _ => LinkError::NotALink { peer },
    }
}

fn parse_hello(payload: &[u8], peer: &str) -> Result<LinkHello, LinkError> {
    LinkHello::decode(payload).map_err(|error| LinkError::Malformed {
        peer: peer.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]
mod tests {
    use whimbrel_protocol::SystemEntropy;
    use whimbrel_protocol::cluster::Role;
    use whimbrel_protocol::ids::{Incarnation, NodeId};

    use super::*;

    fn identity(node: &str, cluster: &str) -> Identity {
        Identity {
            node: NodeId::new(node).unwrap(),
            role: Role::Router,
            incarnation: Incarnation(1),
            cluster: cluster.to_owned(),
            zone: "zone-a".to_owned(),
            version_tag: String::new(),
            app_keys: Vec::new(),
            capacity: crate::Capacity::ORDINARY,
        }
    }

    fn meet(dialer: &Identity, acceptor: &Identity, refusal: Option<&str>) -> Result<Identity, LinkError> {
        let secret = ClusterSecret::from_bytes([7; 32]);
        let (state, hello) = Dialer::new(&secret, dialer, &mut SystemEntropy);
        let header = HelloHeader::parse(*hello.first_chunk().unwrap(), "peer").unwrap();
        assert_eq!(hello.len(), HELLO_HEADER_LEN + header.message_len);
        let message = &hello[HELLO_HEADER_LEN..];
        let (accepted, seen) = Acceptor::new(&header, message, &secret, "peer", &mut SystemEntropy).unwrap();
        assert_eq!(Identity::from_hello(seen).unwrap(), *dialer);
        let (answer, _) = accepted.answer(acceptor, refusal);
        let (kind, len) = parse_answer_header(*answer.first_chunk().unwrap(), "peer").unwrap();
        assert_eq!(answer.len(), ANSWER_HEADER_LEN + len);
        state
            .finish(kind, &answer[ANSWER_HEADER_LEN..], dialer, "peer")
            .map(|(_, identity)| identity)
    }

    #[test]
    fn both_ends_learn_who_the_other_is() {
        let (a, b) = (identity("a", "c"), identity("b", "c"));
        assert_eq!(meet(&a, &b, None).unwrap(), b);
    }

    #[test]
    fn another_secret_is_named_at_both_ends() {
        let own = identity("a", "c");
        let (state, hello) = Dialer::new(&ClusterSecret::from_bytes([1; 32]), &own, &mut SystemEntropy);
        let header = HelloHeader::parse(*hello.first_chunk().unwrap(), "peer").unwrap();
        let other = ClusterSecret::from_bytes([2; 32]);
        let TurnedAway { error, answer } = *Acceptor::new(
            &header,
            &hello[HELLO_HEADER_LEN..],
            &other,
            "peer",
            &mut SystemEntropy,
        )
        .err()
        .unwrap();
        assert!(matches!(error, LinkError::WrongSecret { .. }));
        let error = state
            .finish(answer[0], &answer[ANSWER_HEADER_LEN..], &own, "peer")
            .err()
            .unwrap();
        assert!(error.to_string().contains("same secret file"), "{error}");
    }

    #[test]
    fn cluster_name_and_self_are_checked() {
        let a = identity("a", "c");
        assert!(matches!(
            meet(&a, &identity("b", "d"), None),
            Err(LinkError::WrongCluster { .. })
        ));
        assert!(matches!(meet(&a, &a, None), Err(LinkError::Itself { .. })));
        let twin = Identity {
            incarnation: Incarnation(2),
            ..a.clone()
        };
        assert!(matches!(
            meet(&a, &twin, None),
            Err(LinkError::DuplicateNode { .. })
        ));
    }

    #[test]
    fn a_refusal_comes_through_with_its_reason() {
        let (a, b) = (identity("a", "c"), identity("b", "c"));
        assert!(matches!(
            meet(&a, &b, Some(ALREADY_LINKED)),
            Err(LinkError::AlreadyLinked { .. })
        ));
        assert!(matches!(
            meet(&a, &b, Some(SUPERSEDED)),
            Err(LinkError::Superseded { node, .. }) if node == "a"
        ));
        let error = meet(&a, &b, Some("no room")).err().unwrap();
        assert!(error.to_string().ends_with("no room"), "{error}");
    }

    #[test]
    fn other_versions_and_other_protocols_are_told_apart() {
        let TurnedAway { error, answer } = *HelloHeader::parse(header(9, 1, 10), "peer").err().unwrap();
        assert!(matches!(error, LinkError::Version { .. }));
        let error = clear_refusal(answer[0], &answer[ANSWER_HEADER_LEN..], "peer");
        assert!(matches!(error, LinkError::Version { .. }));
        let TurnedAway { error, answer } = *HelloHeader::parse(*b"GET / HT", "peer").err().unwrap();
        assert!(matches!(error, LinkError::NotALink { .. }) && answer.is_empty());
        assert!(HelloHeader::parse(header(1, 1, u16::MAX), "peer").is_err());
        assert!(parse_answer_header(*b"HTT", "peer").is_err());
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_never_panic(
            header: [u8; HELLO_HEADER_LEN],
            suite in 0_u8..3,
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..MESSAGE_LEN_MAX),
        ) {
            let (own, secret) = (identity("a", "c"), ClusterSecret::from_bytes([7; 32]));
            for header in [header, super::header(LINK_VERSION, suite, 40)] {
                if let Ok(header) = HelloHeader::parse(header, "peer") {
                    let refused = Acceptor::new(&header, &bytes, &secret, "peer", &mut SystemEntropy);
                    proptest::prop_assert!(refused.is_err());
                }
            }
            let (dialer, _) = Dialer::new(&secret, &own, &mut SystemEntropy);
            proptest::prop_assert!(dialer.finish(ACCEPTED, &bytes, &own, "peer").is_err());
        }
    }
}
