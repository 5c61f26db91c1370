//! In the place of tokio-rustls 0.24: nobody connects and nobody is let in. See `rustls` beside it.

#![forbid(unsafe_code)]

use std::future::{Future, ready};
use std::io;
use std::sync::Arc;

pub use rustls;
use rustls::{ClientConfig, ServerConfig, ServerName};

fn no_tls() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, rustls::Error)
}

/// Connects to nobody.
#[derive(Clone)]
pub struct TlsConnector(());

impl From<Arc<ClientConfig>> for TlsConnector {
    fn from(_: Arc<ClientConfig>) -> Self {
        Self(())
    }
}

impl TlsConnector {
    /// Fails.
    pub fn connect<IO>(&self, _: ServerName, _: IO) -> impl Future<Output = io::Result<client::TlsStream<IO>>> {
        ready(Err(no_tls()))
    }
}

/// Lets nobody in.
#[derive(Clone)]
pub struct TlsAcceptor(());

impl From<Arc<ServerConfig>> for TlsAcceptor {
    fn from(_: Arc<ServerConfig>) -> Self {
        Self(())
    }
}

impl TlsAcceptor {
    /// Fails.
    pub fn accept<IO>(&self, _: IO) -> impl Future<Output = io::Result<server::TlsStream<IO>>> {
        ready(Err(no_tls()))
    }
}

macro_rules! side {
    ($side:ident, $connection:ident) => {
        /// One side's streams, of which there are none.
        pub mod $side {
            use std::convert::Infallible;
            use std::io;
            use std::marker::PhantomData;
            use std::pin::Pin;
            use std::task::{Context, Poll};

            use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

            /// A stream; there is none.
            #[derive(Debug)]
            pub struct TlsStream<IO> {
                never: Infallible,
                io: PhantomData<IO>,
            }

            impl<IO> TlsStream<IO> {
                /// What it runs over.
                pub fn get_ref(&self) -> (&IO, &rustls::$connection) {
                    match self.never {}
                }
            }

            impl<IO> AsyncRead for TlsStream<IO> {
                fn poll_read(
                    self: Pin<&mut Self>,
                    _: &mut Context<'_>,
                    _: &mut ReadBuf<'_>,
                ) -> Poll<io::Result<()>> {
                    match self.never {}
                }
            }

            impl<IO> AsyncWrite for TlsStream<IO> {
                fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
                    match self.never {}
                }

                fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                    match self.never {}
                }

                fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                    match self.never {}
                }
            }
        }
    };
}

side!(client, ClientConnection);
side!(server, ServerConnection);
