//! A wire that misbehaves, and links over it: cut, tampered with, frozen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What a proxy does to the bytes that pass it.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
enum Mode {
    Pass,
    Freeze,
    Cut,
    Flip,
}

/// A wire between two endpoints that can misbehave.
struct Proxy {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
}

impl Proxy {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(AtomicU8::new(Mode::Pass as u8));
        let modes = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(target).await.unwrap();
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(Self::carry(near_in, far_out, Arc::clone(&modes)));
                tokio::spawn(Self::carry(far_in, near_out, Arc::clone(&modes)));
            }
        });
        Self { address, mode }
    }

    async fn carry(
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
        modes: Arc<AtomicU8>,
    ) {
        let mut buffer = vec![0; 1_000];
        while let Ok(read) = from.read(&mut buffer).await
            && read > 0
        {
            match modes.load(Ordering::SeqCst) {
                mode if mode == Mode::Freeze as u8 => std::future::pending().await,
                mode if mode == Mode::Cut as u8 => {
                    // Half of what came, then nothing: a frame ends in its middle.
                    let _ = to.write_all(&buffer[..read / 2]).await;
                    return;
                }
                mode if mode == Mode::Flip as u8 => buffer[read - 1] ^= 1,
                _ => {}
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_cut_or_tampered_link_goes_down_and_comes_back() {
    for (mode, tampered) in [(Mode::Cut, false), (Mode::Flip, true)] {
        let ((a, mut at_a), (b, mut at_b)) = (endpoint_with("a", quick()), endpoint_with("b", quick()));
        let proxy = Proxy::to(listen(&a).await).await;
        b.dial(proxy.address.to_string());
        let to_b = up(&mut at_a).await;
        up(&mut at_b).await;
        proxy.set(mode);
        to_b.try_send(envelope(1, 400)).unwrap();
        let reason = down(&mut at_b).await;
        assert_eq!(matches!(reason, DownReason::Unreadable(_)), tampered, "{reason}");
        down(&mut at_a).await;
        proxy.set(Mode::Pass);
        up(&mut at_b).await;
        up(&mut at_a).await.try_send(envelope(2, 400)).unwrap();
        assert_eq!(frame(&mut at_b).await, envelope(2, 400));
    }
}

#[tokio::test]
async fn a_frozen_peer_is_noticed_at_both_ends_and_an_idle_one_is_not() {
    let ((a, mut at_a), (b, mut at_b)) = (endpoint_with("a", quick()), endpoint_with("b", quick()));
    let proxy = Proxy::to(listen(&a).await).await;
    b.dial(proxy.address.to_string());
    let to_b = up(&mut at_a).await;
    up(&mut at_b).await;
    // Idle far longer than the timeout: keep-alives carry it.
    assert!(
        tokio::time::timeout(quick().idle_timeout * 2, at_a.recv())
            .await
            .is_err()
    );
    to_b.try_send(envelope(1, 1)).unwrap();
    assert_eq!(frame(&mut at_b).await, envelope(1, 1));
    proxy.set(Mode::Freeze);
    assert_eq!(down(&mut at_a).await, DownReason::Silent(1_000));
    assert_eq!(down(&mut at_b).await, DownReason::Silent(1_000));
}
