//! In the place of rustls 0.21: its names as far as tonic 0.10 uses them, and no TLS behind them.
//!
//! tikv-client turns tonic's TLS on whether it is used or not, and with it comes ring. Whimbrel has one crypto provider, and
//! does not speak TLS to TiKV. Whoever configures it is told so: reading certificates fails (see `rustls-pemfile` here).

#![forbid(unsafe_code)]

use std::marker::PhantomData;

/// Why anything here fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error;

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this build speaks no TLS to TiKV")
    }
}

impl std::error::Error for Error {}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate(pub Vec<u8>);

impl AsRef<[u8]> for Certificate {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A private key.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(pub Vec<u8>);

/// Trusted certificates: none.
#[derive(Debug, Clone, Default)]
pub struct RootCertStore;

impl RootCertStore {
    /// None.
    pub fn empty() -> Self {
        Self
    }

    /// Takes none of them.
    pub fn add_parsable_certificates(&mut self, certificates: &[Vec<u8>]) -> (usize, usize) {
        (0, certificates.len())
    }
}

/// A server's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName(());

impl TryFrom<&str> for ServerName {
    type Error = Error;

    fn try_from(_: &str) -> Result<Self, Error> {
        Ok(Self(()))
    }
}

/// Builds a configuration of either side.
pub struct Builder<C>(PhantomData<C>);

impl<C> Builder<C> {
    /// As it is.
    pub fn with_safe_defaults(self) -> Self {
        self
    }

    /// As it is.
    pub fn with_root_certificates(self, _: RootCertStore) -> Self {
        self
    }

    /// As it is.
    pub fn with_client_cert_verifier(self, _: server::Verifier) -> Self {
        self
    }
}

impl Builder<ClientConfig> {
    /// A configuration that connects to nobody.
    pub fn with_no_client_auth(self) -> ClientConfig {
        ClientConfig::default()
    }

    /// Fails.
    pub fn with_client_auth_cert(self, _: Vec<Certificate>, _: PrivateKey) -> Result<ClientConfig, Error> {
        Err(Error)
    }
}

impl Builder<ServerConfig> {
    /// As it is.
    pub fn with_no_client_auth(self) -> Self {
        self
    }

    /// Fails.
    pub fn with_single_cert(self, _: Vec<Certificate>, _: PrivateKey) -> Result<ServerConfig, Error> {
        Err(Error)
    }
}

/// A client's configuration.
#[derive(Debug, Clone, Default)]
pub struct ClientConfig {
    /// Protocols to agree on.
    pub alpn_protocols: Vec<Vec<u8>>,
}

impl ClientConfig {
    /// Begins one.
    pub fn builder() -> Builder<Self> {
        Builder(PhantomData)
    }
}

/// A server's configuration.
#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    /// Protocols to agree on.
    pub alpn_protocols: Vec<Vec<u8>>,
}

impl ServerConfig {
    /// Begins one.
    pub fn builder() -> Builder<Self> {
        Builder(PhantomData)
    }
}

/// A client's end of a connection; there is none.
#[derive(Debug)]
pub enum ClientConnection {}

impl ClientConnection {
    /// What was agreed on.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        match *self {}
    }
}

/// A server's end of a connection; there is none.
#[derive(Debug)]
pub enum ServerConnection {}

impl ServerConnection {
    /// Who the client is.
    pub fn peer_certificates(&self) -> Option<&[Certificate]> {
        match *self {}
    }
}

/// What a server asks of clients.
pub mod server {
    use super::RootCertStore;

    /// Lets nobody in.
    pub struct Verifier(());

    macro_rules! verifier {
        ($($name:ident)*) => {$(
            /// Lets nobody in.
            pub struct $name(());

            impl $name {
                /// Trusts nobody.
                pub fn new(_: RootCertStore) -> Self {
                    Self(())
                }

                /// The same.
                pub fn boxed(self) -> Verifier {
                    Verifier(())
                }
            }
        )*};
    }

    verifier! { AllowAnyAuthenticatedClient AllowAnyAnonymousOrAuthenticatedClient }
}
