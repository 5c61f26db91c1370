//! Who gets no link, or loses it, and that nobody else is disturbed.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[tokio::test]
async fn another_secret_or_cluster_or_a_second_link_is_refused_with_the_reason() {
    let (a, mut at_a) = endpoint("a");
    let address = listen(&a).await.to_string();
    let (b, mut at_b) = endpoint("b");
    b.dial(address.clone());
    up(&mut at_a).await;
    up(&mut at_b).await;

    let secret = ClusterSecret::from_bytes([7; 32]);
    let refused = async |identity: Identity, secret: ClusterSecret| {
        let (stranger, _events) = Endpoint::new(identity, secret);
        tcp::dial(&stranger.shared, &address).await.err().unwrap()
    };
    let error = refused(identity("c", 1), ClusterSecret::from_bytes([8; 32])).await;
    assert!(matches!(error, LinkError::WrongSecret { .. }), "{error}");
    assert!(error.to_string().contains(&address));
    let elsewhere = Identity {
        cluster: "other".to_owned(),
        ..identity("c", 1)
    };
    let error = refused(elsewhere, secret.clone()).await;
    assert!(matches!(error, LinkError::WrongCluster { .. }), "{error}");
    let error = refused(identity("b", 1), secret.clone()).await;
    assert!(matches!(error, LinkError::AlreadyLinked { .. }), "{error}");
    let error = refused(identity("a", 1), secret.clone()).await;
    assert!(matches!(error, LinkError::Itself { .. }), "{error}");

    // None of it disturbed the link that was there.
    let (c, mut at_c) = endpoint("c");
    c.dial(address);
    up(&mut at_c).await.try_send(envelope(1, 1)).unwrap();
    up(&mut at_a).await;
    assert_eq!(frame(&mut at_a).await, envelope(1, 1));
}

#[tokio::test]
async fn what_is_over_the_bound_ends_the_link_at_its_receiver_and_nothing_else() {
    let ((a, mut at_a), (b, _at_b), (c, mut at_c)) = (endpoint("a"), endpoint("b"), endpoint("c"));
    let address = listen(&a).await.to_string();
    c.dial(address.clone());
    up(&mut at_c).await;
    up(&mut at_a).await;
    // A node that does not keep the bound: 16 MiB are announced, and memory for them is never taken.
    let (mut connection, _) = tcp::dial(&b.shared, &address).await.unwrap();
    up(&mut at_a).await;
    connection.writer.append_raw(&[1, 0, 0, 0]);
    connection.writer.write_burst(&[]).unwrap();
    let reason = down(&mut at_a).await;
    assert!(
        matches!(&reason, DownReason::Unreadable(why) if why.contains("16777216 bytes is over the bound")),
        "{reason}"
    );
    // The others go on.
    assert!(a.is_linked(&identity("c", 1).node) && !a.is_linked(&identity("b", 1).node));
}

#[tokio::test]
async fn strangers_get_no_link_and_disturb_nobody() {
    let options = LinkOptions {
        handshake_timeout: Duration::from_millis(300),
        ..LinkOptions::default()
    };
    let (a, mut at_a) = endpoint_with("a", options);
    let address = listen(&a).await;
    let nonsense: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        &[0; 4_000],
        b"whlk\x01\x01\xff\xff",
        b"whlk\x09\x01\x00\x10",
    ];
    for bytes in nonsense {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        // The listener lets go by itself: a refusal, or nothing, then the end.
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok() && answer.len() < 16);
    }
    // One that says nothing at all is let go after the handshake's time.
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert_eq!(
        tokio::time::timeout(PATIENCE, silent.read(&mut [0; 1]))
            .await
            .unwrap()
            .unwrap(),
        0
    );

    let (b, mut at_b) = endpoint("b");
    b.dial(address.to_string());
    up(&mut at_b).await;
    assert_eq!(up(&mut at_a).await.peer().node.as_str(), "b");
}

#[tokio::test]
async fn a_node_of_another_version_learns_why_it_is_refused() {
    let (a, _at_a) = endpoint("a");
    let mut stream = TcpStream::connect(listen(&a).await).await.unwrap();
    stream
        .write_all(b"whlk\x09\x01\x00\x10 a later hello...")
        .await
        .unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    // Refused, two bytes: the version, and that this node speaks 1.
    assert_eq!(answer, [2, 0, 2, 1, 1]);
}

#[tokio::test]
async fn a_replayed_hello_takes_nobodys_place() {
    let (a, mut at_a) = endpoint_with("a", quick());
    let address = listen(&a).await;
    // Record b's hello without letting it through.
    let tap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (b, mut at_b) = endpoint_with("b", quick());
    b.dial(tap.local_addr().unwrap().to_string());
    let (mut tapped, _) = tap.accept().await.unwrap();
    let mut hello = vec![0; 8];
    tapped.read_exact(&mut hello).await.unwrap();
    let message_len = usize::from(u16::from_be_bytes([hello[6], hello[7]]));
    hello.resize(8 + message_len, 0);
    tapped.read_exact(&mut hello[8..]).await.unwrap();
    drop((tapped, tap));

    let mut replay = TcpStream::connect(address).await.unwrap();
    replay.write_all(&hello).await.unwrap();
    let mut answer = [0; 3];
    replay.read_exact(&mut answer).await.unwrap();
    // Accepted as far as it goes; the replayer cannot go on, and the real b is let in meanwhile.
    b.dial(address.to_string());
    up(&mut at_b).await;
    up(&mut at_a).await;
    replay
        .write_all(&[
            0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
        ])
        .await
        .unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, replay.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    at_b.close();
    b.shut_down().await;
    assert_eq!(down(&mut at_a).await, DownReason::PeerClosed);
}
