//! Which Redis a URL means. Pure.
//!
//! ```text
//! redis://[user:password@]host[:6379][/database]                              a single server
//! redis+sentinel://[user:password@]host[:26379],host.../master[/database]     the master that Sentinels name
//! redis+cluster://[user:password@]host[:6379],host...                         a Cluster, found through any of these
//! ```
//! `rediss` instead of `redis` speaks TLS. User and password are percent-encoded; those of Sentinels, if they have any, are given
//! behind: `?sentinel_user=...&sentinel_password=...`.

use std::fmt;

use percent_encoding::percent_decode_str;
use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};

/// The port of a server that names none.
const PORT: u16 = 6_379;
/// The port of a Sentinel that names none.
const SENTINEL_PORT: u16 = 26_379;
/// Hosts in one URL: any of them leads to the others.
const HOSTS_MAX: usize = 64;
/// What a usable URL looks like.
const EXPECTED: &str = "expected redis://HOST:PORT/DATABASE, redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DATABASE or \
                        redis+cluster://HOST:PORT,HOST:PORT (rediss for TLS)";

/// Why this cannot be the URL of a registry. It never quotes a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It begins with none of the schemes.
    #[error("the Redis URL begins with {found:?}: {}", EXPECTED)]
    Scheme {
        /// What stands before `://`, shortened.
        found: String,
    },
    /// Something behind the scheme is amiss.
    #[error("the Redis URL's {part} is {found:?}: expected {expected}")]
    Part {
        /// Which part.
        part: &'static str,
        /// What stands there; empty for what is secret.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// The cluster's name does not fit into keys.
    #[error("the cluster's name takes {len} bytes in Redis keys: give `node.cluster` a name of 1 to {max}")]
    Cluster {
        /// Bytes it takes.
        len: usize,
        /// Bytes it may take.
        max: usize,
    },
}

fn wrong(part: &'static str, found: &str, expected: &'static str) -> UrlError {
    UrlError::Part {
        part,
        found: found.chars().take(60).collect(),
        expected,
    }
}

/// What kind of Redis it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Single,
    /// The master of this name, as Sentinels know it.
    Sentinel {
        master: String,
    },
    Cluster,
}

/// A Redis, as a URL names it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) tls: bool,
    hosts: Vec<(String, u16)>,
    user: Option<String>,
    password: Option<String>,
    sentinel_user: Option<String>,
    sentinel_password: Option<String>,
    database: i64,
}

impl Target {
    /// The Redis that `url` names.
    pub(crate) fn parse(url: &str) -> Result<Self, UrlError> {
        let url = url.trim();
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let kind = match scheme {
            "redis" | "rediss" => Kind::Single,
            "redis+sentinel" | "rediss+sentinel" => Kind::Sentinel {
                master: String::new(),
            },
            "redis+cluster" | "rediss+cluster" => Kind::Cluster,
            // Without a scheme, all of it may be secret.
            found => {
                let found = found.chars().take(40).collect();
                return Err(UrlError::Scheme { found });
            }
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user_info, rest) = match rest.rsplit_once('@') {
            Some((user_info, rest)) => (Some(user_info), rest),
            None => (None, rest),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut target = Self {
            tls: scheme.starts_with("rediss"),
            hosts: Vec::new(),
            user: None,
            password: None,
            sentinel_user: None,
            sentinel_password: None,
            database: 0,
            kind,
        };
        if let Some(user_info) = user_info {
            let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
            target.user = decoded(user)?;
            target.password = decoded(password)?;
        }
        target.take_path(path)?;
        target.take_hosts(hosts)?;
        target.take_query(query)?;
        Ok(target)
    }

    fn take_path(&mut self, path: &str) -> Result<(), UrlError> {
        let database = match &mut self.kind {
            Kind::Single => path,
            Kind::Sentinel { master } => {
                let (name, database) = path.split_once('/').unwrap_or((path, ""));
                if name.is_empty() {
                    let expected = "the name by which the Sentinels know the master, such as .../mymaster";
                    return Err(wrong("path", path, expected));
                }
                name.clone_into(master);
                database
            }
            Kind::Cluster if path.trim_matches('/').is_empty() => "",
            Kind::Cluster => return Err(wrong("path", path, "none: a Cluster has one database")),
        };
        let database = database.trim_end_matches('/');
        if !database.is_empty() {
            let number = database.parse().ok().filter(|number: &u16| *number < 16_384);
            let expected = "the number of a database, such as 0";
            self.database = number
                .ok_or_else(|| wrong("database", database, expected))?
                .into();
        }
        Ok(())
    }

    fn take_hosts(&mut self, hosts: &str) -> Result<(), UrlError> {
        const EXPECTED: &str = "HOST or HOST:PORT, several with commas between them but for a single server";
        let port = if matches!(self.kind, Kind::Sentinel { .. }) {
            SENTINEL_PORT
        } else {
            PORT
        };
        for host in hosts.split(',') {
            let (name, port) = match host.rsplit_once(':') {
                // The colons of an address of IPv6 stand in brackets.
                Some((name, digits)) if !digits.ends_with(']') => {
                    let port = digits.parse().ok().filter(|port: &u16| *port != 0);
                    (name, port.ok_or_else(|| wrong("host", host, EXPECTED))?)
                }
                _ => (host, port),
            };
            let name = name.trim_start_matches('[').trim_end_matches(']');
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(wrong("host", host, EXPECTED));
            }
            self.hosts.push((name.to_owned(), port));
        }
        let most = if self.kind == Kind::Single { 1 } else { HOSTS_MAX };
        if self.hosts.len() > most {
            let expected = "one host; more are given to redis+sentinel:// or redis+cluster://";
            return Err(wrong("host", hosts, expected));
        }
        Ok(())
    }

    fn take_query(&mut self, query: &str) -> Result<(), UrlError> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let is_sentinel = matches!(self.kind, Kind::Sentinel { .. });
            match name {
                "sentinel_user" if is_sentinel => self.sentinel_user = decoded(value)?,
                "sentinel_password" if is_sentinel => self.sentinel_password = decoded(value)?,
                _ => {
                    let expected = "nothing, or for Sentinels sentinel_user and sentinel_password";
                    return Err(wrong("query", name, expected));
                }
            }
        }
        Ok(())
    }

    fn address(&self, (host, port): &(String, u16)) -> ConnectionAddr {
        let (host, port) = (host.clone(), *port);
        if self.tls {
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    /// How each of the hosts is connected to, as a server.
    pub(crate) fn servers(&self) -> Vec<ConnectionInfo> {
        let info = |host| info_of(self.address(host), self.credentials());
        self.hosts.iter().flat_map(info).collect()
    }

    /// How each of the hosts is connected to, as a Sentinel.
    pub(crate) fn sentinels(&self) -> Vec<ConnectionInfo> {
        let credentials = settings(self.sentinel_user.as_deref(), self.sentinel_password.as_deref());
        let info = |host| info_of(self.address(host), credentials.clone());
        self.hosts.iter().flat_map(info).collect()
    }

    /// As whom a server is spoken to, and in which database.
    pub(crate) fn credentials(&self) -> RedisConnectionInfo {
        settings(self.user.as_deref(), self.password.as_deref()).set_db(self.database)
    }
}

/// Without the passwords.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss" } else { "redis" })?;
        match self.kind {
            Kind::Single => f.write_str("://")?,
            Kind::Sentinel { .. } => f.write_str("+sentinel://")?,
            Kind::Cluster => f.write_str("+cluster://")?,
        }
        for (nth, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            if host.contains(':') {
                write!(f, "{comma}[{host}]:{port}")?;
            } else {
                write!(f, "{comma}{host}:{port}")?;
            }
        }
        if let Kind::Sentinel { master } = &self.kind {
            write!(f, "/{master}")?;
        }
        if self.database != 0 {
            write!(f, "/{}", self.database)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

fn settings(user: Option<&str>, password: Option<&str>) -> RedisConnectionInfo {
    let mut settings = RedisConnectionInfo::default();
    if let Some(user) = user {
        settings = settings.set_username(user);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    settings
}

fn info_of(address: ConnectionAddr, credentials: RedisConnectionInfo) -> Option<ConnectionInfo> {
    let info = address.into_connection_info().ok()?;
    let tcp = TcpSettings::default().set_nodelay(true);
    Some(info.set_redis_settings(credentials).set_tcp_settings(tcp))
}

fn decoded(text: &str) -> Result<Option<String>, UrlError> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded =
        decoded.map_err(|_| wrong("user or password", "", "UTF-8, other characters percent-encoded"))?;
    Ok((!decoded.is_empty()).then(|| decoded.into_owned()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_understood_and_shown_without_its_password() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://10.0.0.1:7000/3\n", "redis://10.0.0.1:7000/3"),
            ("rediss://:p%40ss@[::1]:7000", "rediss://[::1]:7000"),
            (
                "redis+sentinel://me:secret@a,b:26380/mymaster/2?sentinel_password=hush",
                "redis+sentinel://a:26379,b:26380/mymaster/2",
            ),
            ("redis+cluster://u:p@a:1,b:2/", "redis+cluster://a:1,b:2"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(target.to_string(), shown);
            assert_eq!(format!("{target:?}"), format!("Target({shown})"));
        }
        let target = Target::parse("redis://me:p%40ss:x@h").unwrap();
        assert_eq!(target.user.as_deref(), Some("me"));
        assert_eq!(target.password.as_deref(), Some("p@ss:x"));
        assert_eq!(target.servers().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_expected_and_no_password() {
        for (url, named) in [
            ("", "begins with \"\""),
            ("localhost:6379", "begins with \"\": expected redis://"),
            ("http://:hush@x", "begins with \"http\""),
            ("redis://:hush@", "host is \"\""),
            ("redis://:hush@h:0", "host is \"h:0\""),
            ("redis://:hush@h:port", "host is \"h:port\""),
            ("redis://:hush@h/x", "database is \"x\""),
            ("redis://:hush@a,b", "host is \"a,b\": expected one host"),
            (
                "redis+sentinel://:hush@a",
                "path is \"\": expected the name by which",
            ),
            ("redis+cluster://:hush@a/1", "path is \"1\": expected none"),
            ("redis://:hush@a?timeout=1", "query is \"timeout\""),
            ("redis://%ff:hush@a", "user or password is \"\""),
        ] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains(named), "{url}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
