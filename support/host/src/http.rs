//! An HTTP/1.1 server that hostile clients cannot hold up: axum's routes over hyper, with every wait and size bounded.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, http::StatusCode};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower_http::{limit::RequestBodyLimitLayer, timeout::TimeoutLayer};
use tracing::{debug, warn};

use crate::shares::Ledger;

/// Waited after an accept that failed for want of descriptors or memory: others must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of one server.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Connections at once; more wait in the kernel's backlog.
    pub connections_max: usize,
    /// Connections at once of one address (IPv6 by /64); more are closed. Those of the machine itself, a proxy's, are not
    /// counted.
    pub connections_per_address_max: usize,
    /// Bytes of request line and headers together; hyper takes no less than 8 KiB. More is answered 431.
    pub head_len_max: usize,
    /// Headers of one request.
    pub headers_max: usize,
    /// Bytes of a request's body. More is answered 413.
    pub body_len_max: usize,
    /// From the first moment of waiting for a request until its head is complete; an idle connection ends after it.
    pub head_timeout: Duration,
    /// From the head to the handler's answer. After it, 408 is answered.
    pub request_timeout: Duration,
    /// How long a connection may live before it is asked to close; bounds a client that reads its answer byte by byte.
    pub connection_lifetime: Duration,
    /// How long a connection that was asked to close, or is drained, may take to finish what it is at.
    pub close_grace: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            connections_per_address_max: 256,
            head_len_max: 16 * 1_024,
            headers_max: 64,
            body_len_max: 64 * 1_024,
            head_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            connection_lifetime: Duration::from_secs(300),
            close_grace: Duration::from_secs(5),
        }
    }
}

/// Serves `routes` until `until` is over; then connections finish the request they are at, for at most
/// [`HttpLimits::close_grace`]. Handlers may extract `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: HttpLimits,
    until: impl Future<Output = ()> + Send,
) {
    let routes = bounded(routes, &limits);
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let shares = Ledger::default();
    let limits = Arc::new(limits);
    let closing = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut until = pin!(until);
    loop {
        let accept = async {
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .expect("nobody closes the semaphore");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = &mut until => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let Some(share) = shares.take(remote.ip(), limits.connections_per_address_max) else {
                    debug!(%remote, "an HTTP connection was closed: its address has its share");
                    continue;
                };
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%remote, %error, "TCP_NODELAY");
                }
                let connection = connection(
                    stream,
                    remote,
                    routes.clone(),
                    Arc::clone(&limits),
                    closing.clone(),
                );
                connections.spawn(async move {
                    connection.await;
                    drop((place, share));
                });
            }
            Err(error) => {
                warn!(%error, "an HTTP connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    closing.cancel();
    while connections.join_next().await.is_some() {}
}

/// Serves `routes` to one peer, over whatever carries bytes, as [`serve`] does to each that it accepts; ends with the
/// connection.
pub async fn serve_stream<S>(stream: S, remote: SocketAddr, routes: Router, limits: HttpLimits)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let routes = bounded(routes, &limits);
    connection(stream, remote, routes, Arc::new(limits), CancellationToken::new()).await;
}

/// The routes behind the bounds of a request.
fn bounded(routes: Router, limits: &HttpLimits) -> Router {
    routes
        .layer(RequestBodyLimitLayer::new(limits.body_len_max))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            limits.request_timeout,
        ))
}

async fn connection<S>(
    stream: S,
    remote: SocketAddr,
    routes: Router,
    limits: Arc<HttpLimits>,
    closing: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(remote));
        routes.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_len_max)
        .max_headers(limits.headers_max)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let asked_to_close = async {
        tokio::select! {
            () = closing.cancelled() => {}
            () = tokio::time::sleep(limits.connection_lifetime) => {}
        }
    };
    let outcome = tokio::select! {
        outcome = &mut served => outcome,
        () = asked_to_close => {
            served.as_mut().graceful_shutdown();
            match tokio::time::timeout(limits.close_grace, &mut served).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    debug!(%remote, "an HTTP connection was cut: it did not finish in time");
                    return;
                }
            }
        }
    };
    if let Err(error) = outcome {
        debug!(%remote, %error, "an HTTP connection ended in an error");
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use axum::routing::{get, post};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;

    struct Server {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        ended: tokio::task::JoinHandle<()>,
    }

    async fn server(limits: HttpLimits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route(
                "/who",
                get(async |ConnectInfo(remote): ConnectInfo<SocketAddr>| remote.ip().to_string()),
            )
            .route("/echo", post(async |body: String| body))
            .route("/never", get(std::future::pending::<()>));
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(serve(listener, routes, limits, async {
            // A dropped sender stops it too.
            drop(stopped.await);
        }));
        Server { address, stop, ended }
    }

    /// Everything the server says to `request` until it closes.
    async fn say(server: &Server, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A server that closes with our bytes unread resets the connection: what came before that counts.
        drop(stream.read_to_end(&mut answer).await);
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_handler_learns_who_asks() {
        let server = server(HttpLimits::default()).await;
        let answer = say(
            &server,
            b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_let_go() {
        let limits = HttpLimits {
            head_timeout: Duration::from_millis(50),
            ..HttpLimits::default()
        };
        let server = server(limits).await;
        let answer = tokio::time::timeout(Duration::from_secs(20), say(&server, b""))
            .await
            .unwrap();
        assert!(!answer.contains("200"), "{answer}");
    }

    #[tokio::test]
    async fn a_head_or_body_over_its_bound_is_refused() {
        let server = server(HttpLimits {
            body_len_max: 10,
            ..HttpLimits::default()
        })
        .await;
        let head = format!("GET /who?{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(40_000));
        let answer = say(&server, head.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        let body =
            b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\nconnection: close\r\n\r\n01234567890";
        assert!(say(&server, body).await.starts_with("HTTP/1.1 413"));
    }

    #[tokio::test]
    async fn a_handler_that_hangs_is_answered_for() {
        let limits = HttpLimits {
            request_timeout: Duration::from_millis(50),
            ..HttpLimits::default()
        };
        let server = server(limits).await;
        let answer = say(
            &server,
            b"GET /never HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }

    #[tokio::test]
    async fn a_stop_lets_go_of_idle_connections_at_once_and_of_hanging_ones_after_the_grace() {
        let limits = HttpLimits {
            close_grace: Duration::from_millis(50),
            ..HttpLimits::default()
        };
        let server = server(limits).await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        let mut hanging = TcpStream::connect(server.address).await.unwrap();
        hanging
            .write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        // An answered request on a third connection, opened after them, shows that both were accepted.
        say(
            &server,
            b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
        server.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(20), server.ended)
            .await
            .unwrap()
            .unwrap();
        let mut rest = Vec::new();
        drop(idle.read_to_end(&mut rest).await);
        drop(hanging.read_to_end(&mut rest).await);
        assert!(rest.is_empty(), "nobody was answered");
    }
}
