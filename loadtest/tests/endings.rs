//! Runs that end before they are over, or whose figures cannot be kept: what there is is told all the same.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use whimbrel_protocol::descriptor::{
    Address, Certificate, ExchangeKey, IdentityKey, RootKey, STATEMENT_LIFE_MS, Statement, Transport,
    assemble,
};
use whimbrel_protocol::ids::NodeId;
use whimbrel_protocol::keys::StaticKey;

/// A deployment whose gateway lets everybody connect and says nothing.
struct Mute {
    folder: tempfile::TempDir,
    lbs: SocketAddr,
    root: RootKey,
    _gateway: TcpListener,
}

impl Mute {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
        std::fs::create_dir(folder.path().join("tmp")).unwrap();
        let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
        let root = RootKey::from_seed(&[1; 32]);
        let descriptor = descriptor(&root, gateway.local_addr().unwrap());
        let body = serde_json::json!({ "gateways": [{ "descriptor": descriptor }] }).to_string();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let lbs = listener.local_addr().unwrap();
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = BufReader::new(socket.unwrap());
                let mut line = String::new();
                while socket.read_line(&mut line).is_ok_and(|count| count > 2) {
                    line.clear();
                }
                let len = body.len();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n");
                // Whoever has gone needs no answer.
                let _ = socket.get_mut().write_all(format!("{head}{body}").as_bytes());
            }
        });
        Self {
            folder,
            lbs,
            root,
            _gateway: gateway,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run against it, whose clients are coming in.
    fn begin(&self, line: &str) -> Begun {
        let mut child = Command::new(env!("CARGO_BIN_EXE_whimbrel-loadtest"))
            .args(line.split(' '))
            .args(["--lbs", &format!("http://{}", self.lbs)])
            .args(["--app-secret-file", self.path("secret").to_str().unwrap()])
            .args(["--root-key", &self.root.public().to_string()])
            .env("TMPDIR", self.path("tmp"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("clients come in") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
        }
        Begun { child, stderr, said }
    }

    /// Whether temporary ledgers are gone.
    fn is_clean(&self) -> bool {
        self.path("tmp").read_dir().unwrap().next().is_none()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }
}

fn descriptor(root: &RootKey, gateway: SocketAddr) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now_ms = u64::try_from(since.as_millis()).unwrap();
    let identity = IdentityKey::from_seed(&[9; 32]);
    let node = NodeId::new("g1").unwrap();
    let certificate = Certificate {
        node: node.clone(),
        identity: identity.public(),
        not_before_ms: now_ms,
        not_after_ms: now_ms + 30 * 24 * 3_600_000,
    };
    let key = StaticKey::from_secret(&[5; 32]).public();
    let statement = Statement {
        node,
        not_before_ms: now_ms,
        not_after_ms: now_ms + STATEMENT_LIFE_MS,
        versions: vec![1],
        suites: vec![1, 2],
        keys: vec![ExchangeKey::x25519(key, now_ms + STATEMENT_LIFE_MS)],
        tls_key_sha256: None,
        addresses: vec![Address {
            transport: Transport::Tcp,
            endpoint: gateway.to_string(),
        }],
    };
    let certificate = root.certify(&certificate).unwrap();
    let signed = assemble(&certificate, &identity.sign_statement(&statement).unwrap()).unwrap();
    data_encoding::BASE64URL_NOPAD.encode(&signed)
}

/// A run that goes on.
struct Begun {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    said: String,
}

impl Begun {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// How it ended, and what it wrote to standard output and error.
    fn end(mut self) -> (ExitStatus, String, String) {
        let mut told = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut told).unwrap();
        self.stderr.read_to_string(&mut self.said).unwrap();
        (self.child.wait().unwrap(), told, self.said)
    }
}

const CHECKED: &str = "chat --check --users 8 --rate 5 --duration 1h";

#[test]
fn a_run_that_is_interrupted_tells_what_there_is_and_leaves_no_ledger() {
    let mute = Mute::start();
    for (signal, status, workers) in [(Signal::INT, 130, 1), (Signal::TERM, 143, 2)] {
        let json = format!("cut-{workers}.json");
        let path = mute.path(&json);
        let run = mute.begin(&format!(
            "{CHECKED} --workers {workers} --json {}",
            path.display()
        ));
        assert!(!mute.is_clean(), "the ledger is kept somewhere else");
        kill_process(run.pid(), signal).unwrap();
        let (ended, told, said) = run.end();
        assert_eq!(ended.code(), Some(status), "{said}");
        assert!(told.contains("CUT"), "{told}");
        let json = mute.json(&json);
        assert_eq!(
            (&json["is_cut"], &json["violations"]),
            (&true.into(), &0.into()),
            "{json}"
        );
        assert_eq!(json["ledger"], Value::Null);
        assert!(mute.is_clean());
    }
}

#[test]
fn a_ledger_that_was_asked_for_is_named_when_the_run_is_interrupted() {
    let mute = Mute::start();
    let ledger = mute.path("kept");
    let run = mute.begin(&format!("{CHECKED} --ledger {}", ledger.display()));
    kill_process(run.pid(), Signal::INT).unwrap();
    let (_, told, _) = run.end();
    let line = told.lines().find(|line| line.starts_with("ledger")).unwrap();
    assert!(
        line.contains(ledger.to_str().unwrap()) && line.contains("not judged"),
        "{line}"
    );
    assert!(ledger.is_dir());
}

#[test]
fn a_worker_that_is_killed_is_told_with_its_signal() {
    let mute = Mute::start();
    let run = mute.begin(&format!("{CHECKED} --workers 2"));
    let pid = run.child.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let worker: i32 = children.split_whitespace().nth(1).unwrap().parse().unwrap();
    kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
    let (ended, _, said) = run.end();
    assert_eq!(ended.code(), Some(1));
    assert!(
        said.contains("worker 1 ended") && said.contains("SIGKILL"),
        "{said}"
    );
    assert!(mute.is_clean(), "{said}");
}

#[test]
fn figures_that_cannot_be_written_are_told_and_the_other_file_is_written() {
    let mute = Mute::start();
    let page = mute.path("page.html");
    let run = mute.begin(&format!(
        "connect --connections 2 --connect-within 30s --json /dev/full --report {}",
        page.display()
    ));
    kill_process(run.pid(), Signal::INT).unwrap();
    let (ended, told, said) = run.end();
    assert_eq!(ended.code(), Some(130), "{said}");
    assert!(told.contains("connect"), "{told}");
    assert!(said.contains("/dev/full (--json): make room"), "{said}");
    assert!(std::fs::read_to_string(page).unwrap().contains("cut by SIGINT"));
}
