//! Opening a listening socket, with an error that an operator can act on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::TcpListener;

/// Why a listening socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot listen on {address}: {}", reason(.source, .key))]
pub struct BindError {
    /// Who wanted to listen, as an operator calls it: "the LBS".
    pub what: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// The configuration key that holds the address.
    pub key: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

fn reason(source: &io::Error, key: &str) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("the port is taken by another process; stop that one, or set `{key}` to another port")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; set `{key}` to one it has, or to 0.0.0.0 for all")
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need a privilege; set `{key}` to a higher port")
        }
        _ => format!("{source}; the address comes from `{key}`"),
    }
}

/// Where this machine at least reaches what listens on `address`, when that is every address; `None` for any other.
#[must_use]
pub fn loopback_of(address: SocketAddr) -> Option<SocketAddr> {
    let loopback = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    address
        .ip()
        .is_unspecified()
        .then_some(SocketAddr::new(loopback, address.port()))
}

/// Listens on `address`; port 0 takes a free one (ask the listener which).
///
/// # Errors
/// When the system refuses; the text names `what`, the address, and the `key` to change.
pub async fn bind_tcp(
    what: &'static str,
    key: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError {
        what,
        address,
        key,
        source,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[tokio::test]
    async fn an_occupied_port_is_named_with_its_cure() {
        let first = bind_tcp("the LBS", "lbs.listen", "127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let taken = first.local_addr().unwrap();
        let error = bind_tcp("the LBS", "lbs.listen", taken)
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!(
                "the LBS cannot listen on {taken}: the port is taken by another process; stop that one, or set \
                 `lbs.listen` to another port"
            )
        );
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_told_from_a_taken_port() {
        let error = bind_tcp("the LBS", "lbs.listen", "192.0.2.1:0".parse().unwrap())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no such address"), "{error}");
    }
}
