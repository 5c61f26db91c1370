//! A node of another link version at the far end of a socket: there is no link, and whoever dialled says why.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use whimbrel_protocol::cluster::Role;
use whimbrel_protocol::ids::{Incarnation, NodeId};

use crate::error::LinkError;
use crate::{Capacity, ClusterSecret, Endpoint, Identity, tcp};

/// Takes one hello of version 1 and refuses it, as a node that speaks only `version` does.
async fn refuses(listener: TcpListener, version: u8) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut header = [0; 8];
    stream.read_exact(&mut header).await.unwrap();
    let [b'w', b'h', b'l', b'k', 1, _suite, high, low] = header else {
        unreachable!("no hello of version 1: {header:?}")
    };
    let mut message = vec![0; u16::from_be_bytes([high, low]).into()];
    stream.read_exact(&mut message).await.unwrap();
    // Refused, two bytes: the version, and which one it speaks.
    stream.write_all(&[2, 0, 2, 1, version]).await.unwrap();
}

#[tokio::test]
async fn who_dials_a_node_of_another_version_is_told_both_and_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let later = tokio::spawn(refuses(listener, 9));
    let identity = Identity {
        node: NodeId::new("a").unwrap(),
        role: Role::AppService,
        incarnation: Incarnation(1),
        cluster: "test".to_owned(),
        zone: String::new(),
        version_tag: String::new(),
        app_keys: Vec::new(),
        capacity: Capacity::ORDINARY,
    };
    let (node, _events) = Endpoint::new(identity, ClusterSecret::from_bytes([7; 32]));
    let error = tcp::dial(&node.shared, &address).await.err().unwrap();
    later.await.unwrap();
    assert!(matches!(error, LinkError::Version { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        format!(
            "{address} speaks another link version than this node's, 1 (theirs: 9); run builds of one link version on all nodes"
        )
    );
}
