//! In the place of rustls-pemfile 1: reads nothing and says why. See `rustls` beside it.

#![forbid(unsafe_code)]

use std::io::{self, BufRead};

/// What a PEM file could hold.
#[derive(Debug)]
pub enum Item {
    /// A key.
    RSAKey(Vec<u8>),
    /// A key.
    PKCS8Key(Vec<u8>),
    /// A key.
    ECKey(Vec<u8>),
}

fn no_tls() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this build speaks no TLS to TiKV")
}

/// Fails.
///
/// # Errors
/// Always.
pub fn read_one(_: &mut dyn BufRead) -> io::Result<Option<Item>> {
    Err(no_tls())
}

/// Fails.
///
/// # Errors
/// Always.
pub fn certs(_: &mut dyn BufRead) -> io::Result<Vec<Vec<u8>>> {
    Err(no_tls())
}
