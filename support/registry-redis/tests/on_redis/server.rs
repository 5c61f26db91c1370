//! Redis servers of a test's own: on free loopback ports, in folders that go with them, ended by pid.

use std::hash::{BuildHasher as _, RandomState};
use std::net::TcpListener;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Client, Connection, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take that will happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a master stands still on a busy machine, in milliseconds: it is not to be replaced for that.
pub(crate) const STANDSTILL_MAX_MS: u32 = 15_000;
const POLL: Duration = Duration::from_millis(20);
/// They and those 10,000 above are below the range from which systems give connections theirs (32768 on
/// Linux), so that a server that is started again finds its port still free.
const PORTS: Range<u16> = 10_240..22_000;

/// Whether this machine has a Redis.
pub(crate) fn is_there() -> bool {
    Command::new("redis-server")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Waits until `is` gives something.
pub(crate) fn wait_for<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(it) = is() {
            return it;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(POLL);
    }
}

/// One server.
pub(crate) struct Server {
    pub(crate) port: u16,
    folder: TempDir,
    options: Vec<String>,
    process: Option<Child>,
}

impl Server {
    /// A server that keeps nothing on disk unless it is told to.
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut server = Self {
            port: free_port(),
            folder: TempDir::new().unwrap(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            process: None,
        };
        // Somebody else may have taken the port meanwhile.
        wait_for("a Redis on a port of its own", || {
            let is_up = server.comes_up();
            if !is_up {
                server.port = free_port();
            }
            is_up.then_some(())
        });
        server
    }

    /// Starts it where it was.
    pub(crate) fn run(&mut self) {
        assert!(self.comes_up(), "it ended at once: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Starts it; whether it answers before it ends.
    fn comes_up(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        if let Some(file) = self.configuration() {
            command.arg(file);
        }
        let port = self.port.to_string();
        command.args(["--port", &port, "--bind", "127.0.0.1", "--appendonly", "no"]);
        command.arg("--dir").arg(self.folder.path());
        command.args(&self.options);
        command.stdin(Stdio::null());
        command.stdout(std::fs::File::create(self.folder.path().join("log")).unwrap());
        let client = Client::open(self.url()).unwrap();
        let process = self.process.insert(command.spawn().unwrap());
        let id = format!("process_id:{}\r\n", process.id());
        wait_for("a Redis that answers", || {
            if process.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let mut connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
            let answers = redis::cmd("PING").exec(&mut connection);
            let info =
                answers.and_then(|()| redis::cmd("INFO").arg("server").query::<String>(&mut connection));
            match info {
                // Another may have its port.
                Ok(info) => info.contains(&id).then_some(true),
                // One with a password answers by asking for it.
                Err(error) => (error.code() == Some("NOAUTH")).then_some(true),
            }
        })
    }

    /// A Sentinel has a file that it writes to.
    fn configuration(&self) -> Option<PathBuf> {
        let file = self.folder.path().join("sentinel.conf");
        let is_sentinel = self.options.iter().any(|option| option == "--sentinel");
        is_sentinel.then(|| {
            if !file.exists() {
                std::fs::write(&file, "").unwrap();
            }
            file
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn connection(&self) -> Connection {
        Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Asks it something, in words.
    pub(crate) fn ask<T: FromRedisValue>(&self, words: &str) -> T {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        command.query(&mut self.connection()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            kill_process(Pid::from_child(process), signal).unwrap();
        }
    }

    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _gone_already = process.kill();
            process.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last slot of each master of a Cluster.
const LAST_SLOTS: [u16; 3] = [5_460, 10_922, 16_383];

/// Three masters that share all slots.
pub(crate) struct Cluster {
    pub(crate) masters: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let options = [
            "--save",
            "",
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
        ];
        let masters: Vec<_> = (0..3).map(|_| Server::start(&options)).collect();
        let mut first = 0;
        for (master, last) in masters.iter().zip(LAST_SLOTS) {
            let _: redis::Value = master.ask(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            first = last + 1;
            let _: redis::Value = master.ask(&format!("CLUSTER MEET 127.0.0.1 {}", masters[0].port));
        }
        let cluster = Self { masters };
        cluster.wait_until_whole();
        cluster
    }

    /// The index of the master that has this key.
    pub(crate) fn master_of(&self, key: &str) -> usize {
        let slot: u16 = self.masters[0].ask(&format!("CLUSTER KEYSLOT {key}"));
        LAST_SLOTS
            .iter()
            .position(|last| slot <= *last)
            .unwrap_or_default()
    }

    pub(crate) fn wait_until_whole(&self) {
        wait_for("a whole Cluster", || {
            let is_whole = |master: &Server| {
                let info: String = master.ask("CLUSTER INFO");
                info.contains("cluster_state:ok")
                    && info.contains("cluster_known_nodes:3")
                    && info.contains("cluster_size:3")
            };
            self.masters.iter().all(is_whole).then_some(())
        });
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self
            .masters
            .iter()
            .map(|master| format!("127.0.0.1:{}", master.port))
            .collect();
        format!("redis+cluster://{}", hosts.join(","))
    }
}

/// A master, a replica, and a Sentinel that may decide alone.
pub(crate) struct Watched {
    pub(crate) master: Server,
    pub(crate) replica: Server,
    pub(crate) sentinel: Server,
}

impl Watched {
    /// The master is replaced when it has said nothing for so long, in milliseconds.
    pub(crate) fn start(dead_after_ms: u32) -> Self {
        let master = Server::start(&["--save", ""]);
        let port = master.port.to_string();
        let replica = Server::start(&["--save", "", "--replicaof", "127.0.0.1", &port]);
        let sentinel = Server::start(&["--sentinel"]);
        let _: redis::Value = sentinel.ask(&format!("SENTINEL MONITOR mymaster 127.0.0.1 {port} 1"));
        for (option, value) in [
            ("down-after-milliseconds", dead_after_ms),
            ("failover-timeout", 3_000),
        ] {
            let _: redis::Value = sentinel.ask(&format!("SENTINEL SET mymaster {option} {value}"));
        }
        let watched = Self {
            master,
            replica,
            sentinel,
        };
        wait_for("a Sentinel that knows the replica", || {
            let known: String = watched.sentinel.ask("INFO sentinel");
            let linked: String = watched.replica.ask("INFO replication");
            (known.contains("slaves=1") && linked.contains("master_link_status:up")).then_some(())
        });
        watched
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/mymaster", self.sentinel.port)
    }
}

/// A port that is free now, as is the one 10,000 above, where nodes of a Cluster speak to each other.
fn free_port() -> u16 {
    wait_for("a free port", || {
        let any = RandomState::new().hash_one(()) % PORTS.len() as u64;
        let port = PORTS.start + u16::try_from(any).unwrap();
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        (is_free(port) && is_free(port + 10_000)).then_some(port)
    })
}
