//! Connecting to what a URL names, and what a connection can do.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, ServerErrorKind,
    TlsMode, Value,
};

use crate::url::{Kind, Target};

/// A server that has not answered a command within this is in trouble: logins and pushes wait behind it.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How long one attempt to connect may take, Sentinels or the Cluster's map included.
pub(crate) const DIAL_WITHIN: Duration = Duration::from_secs(3);
/// How often the client of a Cluster tries a command again by itself, after a slot has moved or a master was replaced.
const CLUSTER_RETRIES: u32 = 2;

/// A connection for commands. Clones share it.
#[derive(Clone)]
pub(crate) enum Wire {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Wire {
    /// The runs of all servers that take writes: one that was not there before has begun anew or followed another.
    pub(crate) async fn runs(&mut self) -> Result<Vec<String>, RedisError> {
        let mut info = redis::cmd("INFO");
        info.arg("server");
        let answer = match self {
            Self::One(connection) => info.query_async(connection).await,
            Self::Cluster(connection) => {
                let masters = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                connection.route_command(info, masters).await
            }
        };
        match answer {
            Ok(value) => Ok(texts(&value).iter().filter_map(|text| run_id(text)).collect()),
            // Who may not ask goes without: then only a server that lost its data is noticed.
            Err(error) if is_denied(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(cmd, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// What dialling has come to.
pub(crate) struct Dialled {
    pub(crate) wire: Wire,
    /// Another one of a Cluster, on which the parts that do not answer are asked: the client's calls to all others wait while it
    /// connects again to a server that says nothing.
    pub(crate) feeler: Option<Wire>,
    /// Where notices are subscribed to, on a connection of their own.
    pub(crate) notices: Client,
}

/// Why it has not.
#[derive(Debug)]
pub(crate) struct DialError {
    pub(crate) reason: String,
    /// Trying again will not help: somebody has to change something.
    pub(crate) is_final: bool,
}

impl DialError {
    pub(crate) fn passing(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            is_final: false,
        }
    }

    fn lasting(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            is_final: true,
        }
    }
}

impl From<RedisError> for DialError {
    fn from(error: RedisError) -> Self {
        if is_denied(&error) {
            return Self::lasting(format!(
                "it refuses us ({error}): give the URL a user and password that may use the keys and the channel of this cluster"
            ));
        }
        Self::passing(reason_of(&error))
    }
}

/// Dials one target again and again.
pub(crate) struct Dialer {
    target: Target,
    sentinel: Option<SentinelClient>,
    /// The host of a Cluster whose turn it is to carry notices.
    turn: usize,
}

impl Dialer {
    pub(crate) fn new(target: Target) -> Self {
        Self {
            target,
            sentinel: None,
            turn: 0,
        }
    }

    pub(crate) async fn dial(&mut self) -> Result<Dialled, DialError> {
        match tokio::time::timeout(DIAL_WITHIN, self.connect()).await {
            Ok(outcome) => outcome,
            Err(_) => {
                // What hangs in there is not to be met again.
                self.sentinel = None;
                Err(DialError::passing(format!("no answer within {DIAL_WITHIN:?}")))
            }
        }
    }

    async fn connect(&mut self) -> Result<Dialled, DialError> {
        let client = match &self.target.kind {
            Kind::Single => Client::open(self.target.servers().swap_remove(0))?,
            Kind::Sentinel { .. } => self.master().await?,
            Kind::Cluster => return self.connect_to_cluster().await,
        };
        let connection = inspected(&client, &self.target.kind).await?;
        Ok(Dialled {
            wire: Wire::One(connection),
            feeler: None,
            notices: client,
        })
    }

    /// The master as the Sentinels see it now.
    async fn master(&mut self) -> Result<Client, DialError> {
        let Kind::Sentinel { master } = &self.target.kind else {
            return Err(DialError::passing("no Sentinels are named"));
        };
        let sentinel = match &mut self.sentinel {
            Some(sentinel) => sentinel,
            empty => {
                let mut server = SentinelNodeConnectionInfo::default()
                    .set_redis_connection_info(self.target.credentials());
                if self.target.tls {
                    server = server.set_tls_mode(TlsMode::Secure);
                }
                let sentinels = self.target.sentinels();
                let made =
                    SentinelClient::build(sentinels, master, Some(server), SentinelServerType::Master)?;
                empty.insert(made)
            }
        };
        let found = sentinel.async_get_client().await;
        found.map_err(|error| match error.kind() {
            ErrorKind::MasterNameNotFoundBySentinel => DialError::passing(format!(
                "the Sentinels know no reachable master {master:?}: check the name in the URL"
            )),
            _ => error.into(),
        })
    }

    /// The address of the master that the Sentinels name now; `None` where there are none, or they do not say.
    pub(crate) async fn master_address(&mut self) -> Option<String> {
        if !matches!(self.target.kind, Kind::Sentinel { .. }) {
            return None;
        }
        let found = tokio::time::timeout(DIAL_WITHIN, self.master()).await.ok()?;
        Some(found.ok()?.get_connection_info().addr().to_string())
    }

    async fn connect_to_cluster(&mut self) -> Result<Dialled, DialError> {
        let mut servers = self.target.servers();
        // Another one each time, so that a dead one is in the way once only.
        let turn = self.turn % servers.len().max(1);
        servers.rotate_left(turn);
        self.turn += 1;
        // One of them tells what the client of a Cluster would not: that it is none, or that we may not.
        let mut carrier = Err(DialError::passing("no host is named"));
        for server in &servers {
            let client = Client::open(server.clone())?;
            match inspected(&client, &self.target.kind).await {
                Ok(_) => carrier = Ok(client),
                Err(error) if error.is_final => return Err(error),
                Err(error) => {
                    carrier = Err(error);
                    continue;
                }
            }
            break;
        }
        let notices = carrier?;
        let connection = async |retries| {
            let client = ClusterClientBuilder::new(servers.clone())
                .connection_timeout(ANSWER_WITHIN)
                .response_timeout(ANSWER_WITHIN)
                .retries(retries)
                .build()?;
            Ok::<_, RedisError>(Wire::Cluster(client.get_async_connection().await?))
        };
        let mut wire = connection(CLUSTER_RETRIES).await?;
        // So that one that cannot serve is not taken for one that does.
        wire.runs().await?;
        let feeler = Some(connection(0).await?);
        Ok(Dialled {
            wire,
            feeler,
            notices,
        })
    }
}

/// Connects to one server and asks it what it is.
async fn inspected(client: &Client, kind: &Kind) -> Result<MultiplexedConnection, DialError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN));
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    match redis::cmd("INFO").query_async::<String>(&mut connection).await {
        Ok(info) => fit(&info, kind)?,
        Err(error) if error.code() == Some("NOPERM") => {}
        Err(error) => return Err(error.into()),
    }
    Ok(connection)
}

/// Whether a server that says this of itself can hold a registry.
fn fit(info: &str, kind: &Kind) -> Result<(), DialError> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
    };
    match (field("redis_mode"), kind) {
        ("cluster", Kind::Single | Kind::Sentinel { .. }) => {
            return Err(DialError::lasting(
                "it is a node of a Redis Cluster: use redis+cluster:// and name a few of its nodes",
            ));
        }
        ("sentinel", _) => {
            return Err(DialError::lasting(
                "it is a Sentinel: use redis+sentinel:// and name the master behind it",
            ));
        }
        ("standalone", Kind::Cluster) => {
            return Err(DialError::lasting(
                "it is no node of a Redis Cluster: use redis:// for a single server",
            ));
        }
        _ => {}
    }
    match (field("role"), kind) {
        ("slave", Kind::Single) => {
            let cure = "name its master, or use redis+sentinel:// where masters change";
            return Err(DialError::passing(format!("it is a replica: {cure}")));
        }
        ("slave", Kind::Sentinel { .. }) => {
            return Err(DialError::passing("the Sentinels are changing masters"));
        }
        _ => {}
    }
    if field("maxmemory_policy").starts_with("allkeys-") && field("maxmemory") != "0" {
        tracing::warn!(
            policy = field("maxmemory_policy"),
            "this Redis forgets keys when its memory is full, and with them sessions: set maxmemory-policy noeviction"
        );
    }
    Ok(())
}

fn is_denied(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
        || error.kind() == ErrorKind::AuthenticationFailed
}

/// Whether a connection that gave this is of no more use.
pub(crate) fn breaks(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(
                ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
            )
        )
}

/// An error as people read it.
pub(crate) fn reason_of(error: &RedisError) -> String {
    if error.is_timeout() {
        return format!("no answer within {ANSWER_WITHIN:?}");
    }
    error.to_string()
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::BulkString(bytes) => vec![String::from_utf8_lossy(bytes).into_owned()],
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => vec![text.clone()],
        Value::Array(values) | Value::Set(values) => values.iter().flat_map(texts).collect(),
        Value::Map(pairs) => pairs.iter().flat_map(|(_, value)| texts(value)).collect(),
        _ => Vec::new(),
    }
}

fn run_id(info: &str) -> Option<String> {
    info.lines()
        .find_map(|line| line.trim_end().strip_prefix("run_id:"))
        .map(str::to_owned)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_hold_a_registry_is_refused_with_the_cure() {
        let sentinel = Kind::Sentinel {
            master: "m".to_owned(),
        };
        assert!(fit("redis_mode:standalone\r\nrole:master\r\n", &Kind::Single).is_ok());
        assert!(fit("redis_mode:cluster\r\nrole:slave\r\n", &Kind::Cluster).is_ok());
        for (mode, role, kind, is_final, cure) in [
            ("cluster", "master", &Kind::Single, true, "redis+cluster://"),
            ("sentinel", "", &Kind::Single, true, "redis+sentinel://"),
            ("standalone", "master", &Kind::Cluster, true, "redis://"),
            ("standalone", "slave", &Kind::Single, false, "name its master"),
            ("standalone", "slave", &sentinel, false, "changing masters"),
        ] {
            let error = fit(&format!("redis_mode:{mode}\r\nrole:{role}\r\n"), kind).unwrap_err();
            assert_eq!(error.is_final, is_final);
            assert!(error.reason.contains(cure), "{}", error.reason);
        }
    }

    #[test]
    fn the_runs_of_all_servers_are_found() {
        let info = |id: &str| Value::BulkString(format!("a:b\r\nrun_id:{id}\r\n").into_bytes());
        let masters = Value::Map(vec![(Value::Nil, info("ab")), (Value::Nil, info("cd"))]);
        let runs: Vec<_> = texts(&masters).iter().filter_map(|text| run_id(text)).collect();
        assert_eq!(runs, ["ab", "cd"]);
    }
}
