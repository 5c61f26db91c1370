//! A node of another link version at the far end of a socket: there is no link, and whoever dialled says why.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

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
    let (node, _events) = endpoint("a");
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
