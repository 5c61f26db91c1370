//! The reference: what it costs this machine to write so many bytes to a loopback socket, with nothing around it.
//!
//! One thread writes a buffer to every socket in turn, from a mio loop, as a gateway's reactor would; another process reads
//! and throws away. What counts is the writing thread's own processor time, which on loopback includes the kernel's work of
//! putting the bytes into the reader's socket. A gateway's cost per delivery is compared to that.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::clock;
use crate::engine::{Sources, dial};

/// Writes to be measured, at least.
const WRITES_MIN: u64 = 100_000;

/// Between two bursts: time for the reader on its own core.
const BURST_PAUSE: Duration = Duration::from_millis(20);

/// Writes of one burst, if that does not put more than this many bytes into any one socket.
const BURST_WRITES: u32 = 2_000;
const BURST_BYTES_PER_SOCKET: u32 = 32 * 1024;

/// For how long the reader may take to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(60);

const LISTENER: Token = Token(usize::MAX);

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Raw {
    /// Processor time of one write, microseconds.
    pub write_us: f64,
    /// How many there were.
    pub writes: u64,
}

/// The process that reads; it ends with this value.
struct Reader(Child);

impl Drop for Reader {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes `bytes` to each of `connections` sockets, many times.
///
/// # Errors
/// When the system gives no sockets or no process.
pub fn measure(connections: u32, bytes: u32) -> anyhow::Result<Raw> {
    let mut listener =
        TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).context("cannot listen on loopback")?;
    let address = listener.local_addr().context("a listener has an address")?;
    let program = std::env::current_exe().context("cannot find this program's own file to start a reader")?;
    let _reader = Reader(
        Command::new(program)
            .args(["raw-reader", "--address", &address.to_string()])
            .args(["--connections", &connections.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the process that reads")?,
    );
    let mut poll = Poll::new().context("the system gives no epoll instance")?;
    let mut sockets = accept(&mut poll, &mut listener, connections)?;
    let buffer = vec![0xa5; bytes as usize];
    let mut events = Events::with_capacity(1024);
    let (mut spent, mut writes) = (Duration::ZERO, 0_u64);
    // The first round warms sockets and caches up.
    write_round(&mut sockets, &buffer)?;
    let rounds = (BURST_WRITES / connections)
        .min(BURST_BYTES_PER_SOCKET / bytes)
        .max(1);
    while writes < WRITES_MIN {
        thread::sleep(BURST_PAUSE);
        let before = clock::thread_cpu();
        poll.poll(&mut events, Some(Duration::ZERO))
            .context("the system refuses to wait for sockets")?;
        for _ in 0..rounds {
            writes += write_round(&mut sockets, &buffer)?;
        }
        spent += clock::thread_cpu().saturating_sub(before);
    }
    #[expect(clippy::cast_precision_loss, reason = "a few hundred thousand")]
    let write_us = spent.as_secs_f64() * 1_000_000.0 / writes as f64;
    Ok(Raw { write_us, writes })
}

fn accept(poll: &mut Poll, listener: &mut TcpListener, connections: u32) -> anyhow::Result<Vec<TcpStream>> {
    poll.registry()
        .register(listener, LISTENER, Interest::READABLE)
        .context("a listener can be waited for")?;
    let mut sockets = Vec::with_capacity(connections as usize);
    let until = Instant::now() + CONNECT_WITHIN;
    let mut events = Events::with_capacity(16);
    while sockets.len() < connections as usize {
        match listener.accept() {
            Ok((mut socket, _)) => {
                socket.set_nodelay(true).context("a socket takes options")?;
                poll.registry()
                    .register(
                        &mut socket,
                        Token(sockets.len()),
                        Interest::READABLE | Interest::WRITABLE,
                    )
                    .context("a socket can be waited for")?;
                sockets.push(socket);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() >= until {
                    bail!("only {} of {connections} sockets connected", sockets.len());
                }
                poll.poll(&mut events, Some(Duration::from_millis(100)))
                    .context("the system refuses to wait for sockets")?;
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot accept socket {} of {connections}: give fewer connections",
                        sockets.len()
                    )
                });
            }
        }
    }
    Ok(sockets)
}

/// Writes to each socket that takes it: how many did.
fn write_round(sockets: &mut [TcpStream], buffer: &[u8]) -> anyhow::Result<u64> {
    let mut writes = 0;
    for socket in sockets {
        match socket.write(buffer) {
            Ok(_) => writes += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("the reader is gone"),
        }
    }
    Ok(writes)
}

/// Connects so often to `address`, and reads everything until the other side closes.
///
/// # Errors
/// When it cannot connect.
pub fn read_until_end(address: SocketAddr, connections: u32) -> anyhow::Result<()> {
    let mut poll = Poll::new().context("the system gives no epoll instance")?;
    let sources = Sources::new(249, 0, connections);
    let mut sockets = Vec::with_capacity(connections as usize);
    for index in 0..connections {
        let mut socket = dial(address, sources.of(index, address))
            .with_context(|| format!("cannot connect socket {index} of {connections}"))?;
        poll.registry()
            .register(
                &mut socket,
                Token(index as usize),
                Interest::READABLE | Interest::WRITABLE,
            )
            .context("a socket can be waited for")?;
        sockets.push(Some(socket));
        if index % 256 == 255 {
            // The listener's queue is short.
            thread::sleep(Duration::from_millis(5));
        }
    }
    let mut events = Events::with_capacity(4096);
    let mut scratch = vec![0; 64 * 1024];
    let mut open = sockets.len();
    while open > 0 {
        poll.poll(&mut events, None)
            .context("the system refuses to wait for sockets")?;
        for event in &events {
            let Some(slot) = sockets.get_mut(event.token().0) else {
                continue;
            };
            let Some(socket) = slot else {
                continue;
            };
            if event.is_writable() {
                // A listener whose queue was full has forgotten some that are connected from here. A byte, which the system sends
                // again until it is taken, makes it learn of them.
                let _ = socket.write(&[0]);
            }
            loop {
                match socket.read(&mut scratch) {
                    Ok(count) if count > 0 => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Ok(_) | Err(_) => {
                        *slot = None;
                        open -= 1;
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}
