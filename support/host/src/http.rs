//! An HTTP/1.1 server that hostile clients cannot hold up: axum's routes over hyper, with every wait and size bounded.

use std::{fmt, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Request as Asked},
    http::{StatusCode, header::CONTENT_LENGTH},
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
};
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
use tower_http::limit::RequestBodyLimitLayer;
use tracing::{debug, warn};

use crate::shares::Ledger;

/// hyper answers what is over its own bounds by itself, without a body. It is given this many times ours, so that a head that is
/// somewhat over them is read whole and refused by us, in the words of whoever serves.
const HYPER_BOUNDS_FACTOR: usize = 2;
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
    /// Bytes of request line and headers together, at least 4 KiB (hyper takes no less than 8 KiB for its double). More is
    /// answered 431.
    pub head_len_max: usize,
    /// Headers of one request. More are answered 431.
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
    /// How what is over a bound is answered.
    pub refuse: fn(&OverBound) -> Response,
}

/// What a request is refused for before it reaches a route, or instead of the route's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverBound {
    /// The handler took longer than [`HttpLimits::request_timeout`].
    RequestTimeout(Duration),
    /// The body's announced length is over [`HttpLimits::body_len_max`].
    BodyLen(usize),
    /// The head is longer than [`HttpLimits::head_len_max`].
    HeadLen(usize),
    /// It has more headers than [`HttpLimits::headers_max`].
    Headers(usize),
}

impl OverBound {
    /// 408, 413 or 431.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::RequestTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::BodyLen(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadLen(_) | Self::Headers(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    /// A word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::RequestTimeout(_) => "request_timeout",
            Self::BodyLen(_) => "body_too_large",
            Self::HeadLen(_) | Self::Headers(_) => "head_too_large",
        }
    }

    /// `{"error": {"code", "message"}}`, with [`Self::code`].
    pub fn json(&self) -> Response {
        let error = serde_json::json!({"error": {"code": self.code(), "message": self.to_string()}});
        (self.status(), Json(error)).into_response()
    }
}

impl fmt::Display for OverBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestTimeout(bound) => {
                write!(
                    f,
                    "there was no answer within {} ms: try again later",
                    bound.as_millis()
                )
            }
            Self::BodyLen(bound) => write!(f, "the body is longer than {bound} bytes: send less at a time"),
            Self::HeadLen(bound) => write!(
                f,
                "request line and headers are longer than {bound} bytes together: send shorter ones"
            ),
            Self::Headers(bound) => write!(f, "there are more than {bound} headers: send fewer"),
        }
    }
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
            refuse: OverBound::json,
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
    let limits = limits.clone();
    routes
        // For bodies that do not say how long they are.
        .layer(RequestBodyLimitLayer::new(limits.body_len_max))
        .layer(from_fn(move |request: Asked, next: Next| {
            let (over, timeout, refuse) = (
                over_bound(&request, &limits),
                limits.request_timeout,
                limits.refuse,
            );
            async move {
                if let Some(over) = over {
                    return refuse(&over);
                }
                tokio::time::timeout(timeout, next.run(request))
                    .await
                    .unwrap_or_else(|_| refuse(&OverBound::RequestTimeout(timeout)))
            }
        }))
}

/// The bound that `request` is over by what its head says.
fn over_bound(request: &Asked, limits: &HttpLimits) -> Option<OverBound> {
    if head_len(request) > limits.head_len_max {
        return Some(OverBound::HeadLen(limits.head_len_max));
    }
    if request.headers().len() > limits.headers_max {
        return Some(OverBound::Headers(limits.headers_max));
    }
    let announced = request.headers().get(CONTENT_LENGTH)?.to_str().ok()?;
    let announced: u64 = announced.parse().ok()?;
    (announced > limits.body_len_max as u64).then_some(OverBound::BodyLen(limits.body_len_max))
}

/// Bytes that the head takes when it is written without needless spaces.
fn head_len(request: &Asked) -> usize {
    const SPACES_AND_LINE_END: usize = 4;
    const COLON_SPACE_LINE_END: usize = 4;
    let uri = request.uri();
    let target = [
        uri.scheme_str().map_or(0, |scheme| scheme.len() + "://".len()),
        uri.authority().map_or(0, |authority| authority.as_str().len()),
        uri.path_and_query().map_or(0, |path| path.as_str().len()),
    ];
    let line = request.method().as_str().len() + "HTTP/1.1".len() + SPACES_AND_LINE_END;
    let headers = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + COLON_SPACE_LINE_END);
    line + target.into_iter().chain(headers).sum::<usize>() + "\r\n".len()
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
        .max_buf_size(limits.head_len_max.saturating_mul(HYPER_BOUNDS_FACTOR))
        .max_headers(limits.headers_max.saturating_mul(HYPER_BOUNDS_FACTOR))
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
    async fn whatever_is_somewhat_over_a_bound_is_told_which() {
        let server = server(HttpLimits {
            body_len_max: 10,
            request_timeout: Duration::from_millis(50),
            ..HttpLimits::default()
        })
        .await;
        let get = |path: &str, headers: &str| {
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")
        };
        let long = get("/who", &format!("x: {}\r\n", "a".repeat(16 * 1_024)));
        let long_line = get(&format!("/who?{}", "a".repeat(16 * 1_024)), "");
        let many = get("/who", &"x: a\r\n".repeat(70));
        let body =
            "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 11\r\n\r\n01234567890";
        for (request, status, code) in [
            (long.as_str(), "431", "head_too_large"),
            (&long_line, "431", "head_too_large"),
            (&many, "431", "head_too_large"),
            (body, "413", "body_too_large"),
            (&get("/never", ""), "408", "request_timeout"),
        ] {
            let answer = say(&server, request.as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            assert!(
                answer.contains(&format!("{{\"error\":{{\"code\":\"{code}\"")),
                "{answer}"
            );
        }
        let just = get("/who", &format!("x: {}\r\n", "a".repeat(16 * 1_024 - 62)));
        assert!(
            just.len() <= 16 * 1_024 && just.len() > 16 * 1_024 - 10,
            "{}",
            just.len()
        );
        assert!(say(&server, just.as_bytes()).await.starts_with("HTTP/1.1 200"));
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
