//! What an operator may rely on when something around a deployment is wrong: ready files, signals, a binary that was
//! replaced, secrets that lie open.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A busy machine starts five processes in a few seconds, drains them in as many, and starts a role again within ten.
const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

const WHIMBREL: &str = env!("CARGO_BIN_EXE_whimbrel");

/// A server. Killed when dropped, so that a test that fails leaves nothing behind.
struct Server {
    child: Child,
    ready_file: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts `command` in `folder`, which is told to write `ready.json` there.
    fn spawn(mut command: Command, folder: &Path) -> Self {
        let (ready_file, log) = (folder.join("ready.json"), folder.join("log"));
        let child = command
            .arg("--ready-file")
            .arg(&ready_file)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            ready_file,
            log,
        }
    }

    fn start(command: Command, folder: &Path) -> Self {
        let mut server = Self::spawn(command, folder);
        let pid = server.child.id();
        let ready_file = server.ready_file.clone();
        server.until("ready", || {
            read(&ready_file).is_some_and(|ready| ready["pid"] == pid)
        });
        server
    }

    /// Waits for something that happens while it runs.
    fn until(&mut self, what: &str, mut happened: impl FnMut() -> bool) {
        let since = Instant::now();
        while !happened() {
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "ended before {what}: {}", self.printed());
            assert!(since.elapsed() < WITHIN, "not {what}: {}", self.printed());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(since.elapsed() < WITHIN, "does not end: {}", self.printed());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(ready_file: &Path) -> Option<Value> {
    serde_json::from_str(&fs::read_to_string(ready_file).ok()?).ok()
}

fn role(ready_file: &Path, role: &str) -> Option<Pid> {
    let pid = read(ready_file)?["pids"][role].as_i64()?;
    Pid::from_raw(i32::try_from(pid).ok()?)
}

fn standalone_of(binary: &Path, data: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command
        .args(["standalone", "--port-base", "0", "--data"])
        .arg(data)
        .args(flags);
    command
}

fn standalone(data: &Path, flags: &[&str]) -> Command {
    standalone_of(Path::new(WHIMBREL), data, flags)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_place_that_no_ready_file_can_have_is_named_at_the_start() {
    for flags in [[].as_slice(), &["--processes"]] {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("nowhere");
        let mut command = standalone(&folder.path().join("data"), flags);
        command.arg("--ready-file").arg(nowhere.join("ready.json"));
        let log = folder.path().join("log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = child.stderr(File::create(&log).unwrap()).spawn().unwrap();
        let mut server = Server {
            child,
            ready_file: nowhere,
            log,
        };
        let status = server.ended();
        let printed = server.printed();
        assert_eq!(status.code(), Some(1), "{printed}");
        assert!(
            printed.contains("nowhere/ready.json") && printed.contains("give"),
            "{printed}"
        );
    }
}

#[test]
fn a_ready_file_that_cannot_be_written_any_more_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (data, place) = (folder.path().join("data"), folder.path().join("place"));
    fs::create_dir(&place).unwrap();
    let mut server = Server::start(standalone(&data, &["--processes"]), &place);
    let log = folder.path().join("kept-log");
    fs::rename(&server.log, &log).unwrap();
    server.log = log;
    fs::remove_dir_all(&place).unwrap();
    let own = data.join("ready.json");
    for killed_role in ["gateway", "lbs"] {
        let killed = role(&own, killed_role).unwrap();
        kill_process(killed, Signal::KILL).unwrap();
        server.until("back", || {
            role(&own, killed_role).is_some_and(|pid| pid != killed)
        });
    }
    let printed = server.printed();
    let told = printed.matches("the ready file is not up to date").count();
    assert_eq!(told, 1, "{printed}");
    fs::create_dir(&place).unwrap();
    let ready_file = server.ready_file.clone();
    server.until("written again", || read(&ready_file) == read(&own));
    server.signal(Signal::TERM);
    let status = server.ended();
    assert!(status.success(), "{status}: {}", server.printed());
    assert!(!own.exists() && !ready_file.exists());
}

#[test]
fn a_start_never_touches_the_ready_file_of_a_deployment_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(standalone(&folder.path().join("data"), &[]), folder.path());
    let before = fs::read_to_string(&server.ready_file).unwrap();
    let mut other = standalone(&folder.path().join("other"), &[]);
    let refused = other
        .arg("--ready-file")
        .arg(&server.ready_file)
        .output()
        .unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("ready.json") && said.contains("which runs"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&server.ready_file).unwrap(), before);
}

#[test]
fn a_start_takes_the_ready_files_of_the_dead_away_before_it_is_ready_itself() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut server = Server::start(standalone(&data, &[]), folder.path());
    assert_eq!(mode(&server.ready_file), 0o600, "it names the place of a secret");
    server.signal(Signal::KILL);
    server.ended();
    assert!(server.ready_file.exists() && data.join("ready.json").exists());
    // It gets no further than to its health page, whose port is taken.
    let taken = (10_000..32_000).step_by(250).find_map(|base| {
        let listener = TcpListener::bind(("127.0.0.1", base + 2)).ok()?;
        Some((base, listener))
    });
    let (base, _listener) = taken.unwrap();
    let mut again = Command::new(WHIMBREL);
    again
        .args(["standalone", "--port-base", &base.to_string(), "--data"])
        .arg(&data);
    let refused = again
        .arg("--ready-file")
        .arg(&server.ready_file)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(!server.ready_file.exists() && !data.join("ready.json").exists());
}

#[test]
fn a_hangup_drains() {
    let folder = tempfile::tempdir().unwrap();
    // Whoever runs the tests may ignore it, as `nohup` does, and children would, too.
    let mut command = Command::new("env");
    command
        .args([
            "--default-signal=HUP",
            WHIMBREL,
            "standalone",
            "--port-base",
            "0",
            "--data",
        ])
        .arg(folder.path().join("data"));
    let mut server = Server::start(command, folder.path());
    server.signal(Signal::HUP);
    let status = server.ended();
    assert!(status.success(), "{status}: {}", server.printed());
    assert!(!server.ready_file.exists());
}

#[test]
fn a_second_interrupt_takes_the_ready_file_along() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(
        standalone(&folder.path().join("data"), &["--processes"]),
        folder.path(),
    );
    // It is waited for until its grace is over, or until somebody will not wait.
    kill_process(role(&server.ready_file, "gateway").unwrap(), Signal::STOP).unwrap();
    server.signal(Signal::INT);
    let lbs = role(&server.ready_file, "lbs").unwrap();
    server.until("draining", || rustix::process::test_kill_process(lbs).is_err());
    server.signal(Signal::INT);
    assert!(!server.ended().success());
    assert!(!server.ready_file.exists());
}

#[test]
fn a_role_starts_again_after_the_binary_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("whimbrel");
    fs::copy(WHIMBREL, &binary).unwrap();
    let command = standalone_of(&binary, &folder.path().join("data"), &["--processes"]);
    let mut server = Server::start(command, folder.path());
    fs::write(folder.path().join("upgrade"), "half an upgrade").unwrap();
    fs::rename(folder.path().join("upgrade"), &binary).unwrap();
    let ready_file = server.ready_file.clone();
    let killed = role(&ready_file, "router").unwrap();
    kill_process(killed, Signal::KILL).unwrap();
    server.until("back", || {
        role(&ready_file, "router").is_some_and(|pid| pid != killed)
    });
    let router = role(&ready_file, "router").unwrap().as_raw_nonzero();
    let name = fs::read_to_string(format!("/proc/{router}/comm")).unwrap();
    assert_eq!(name.trim(), "whimbrel");
}

#[test]
fn a_roles_ready_file_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let made = run(
        &["keygen", "cluster-secret", "--out"],
        &folder.path().join("secret"),
    );
    assert!(made.status.success(), "{made:?}");
    let config = folder.path().join("router.toml");
    let text = "[node]\nname = \"router-1\"\n[links]\nsecret_file = \"secret\"\nlisten = \"127.0.0.1:0\"\n";
    fs::write(&config, text).unwrap();
    let mut command = Command::new(WHIMBREL);
    command.args(["router", "--config"]).arg(&config);
    let mut router = Server::start(command, folder.path());
    assert_eq!(mode(&router.ready_file), 0o600);
    router.signal(Signal::TERM);
    assert!(router.ended().success());
    assert!(!router.ready_file.exists());
}

#[test]
fn an_ephemeral_start_removes_what_a_killed_one_left() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let start = || {
        let mut command = Command::new(WHIMBREL);
        command.args(["standalone", "--ephemeral", "--port-base", "0"]);
        command.env("TMPDIR", &temporary);
        Server::start(command, folder.path())
    };
    let folders = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&temporary).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let mut first = start();
    let left = folders();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(mode(&left[0]), 0o700);
    first.signal(Signal::KILL);
    first.ended();
    let mut second = start();
    let now = folders();
    assert_eq!(now.len(), 1, "{now:?}");
    assert_ne!(now, left);
    second.signal(Signal::TERM);
    assert!(second.ended().success());
    assert_eq!(folders(), Vec::<PathBuf>::new());
}

/// A service node that stays at its start for long, for want of what `section` names.
fn waiting(section: &str, folder: &Path) -> Server {
    let config = folder.join("app-service.toml");
    let text = format!(
        "[node]\nname = \"app-1\"\n[links]\nsecret = \"{}\"\nrouters = [\"127.0.0.1:1\"]\n\
         [[app-service.apps]]\nkey = \"demo\"\nsecret_files = []\n{section}",
        "07".repeat(32)
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(WHIMBREL);
    command.args(["app-service", "--config"]).arg(config);
    Server::spawn(command, folder)
}

impl Server {
    /// Reads for how long it will still wait from the first line that says so, as a number between these words.
    fn still_waits_for(&mut self, before: &str, after: &str) -> u64 {
        let log = self.log.clone();
        let said = move || {
            let text = fs::read_to_string(&log).unwrap();
            let line = text.lines().find(|line| line.contains(before))?;
            let rest = line.split_once(before)?.1;
            Some(rest.split_once(after)?.0.parse().unwrap())
        };
        self.until("said for how long it waits", || said().is_some());
        said().unwrap()
    }

    /// Tells it to end at its start: it must, at once and in order.
    fn ends_when_told_to(mut self, meanwhile: &str) {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "{status}: {}", self.printed());
        let said = format!("told to end while {meanwhile}");
        assert!(self.printed().contains(&said), "{}", self.printed());
        assert!(!self.ready_file.exists(), "it never was ready");
    }
}

#[test]
fn a_node_that_waits_for_tikv_says_for_how_long_and_ends_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    // It takes connections and says nothing.
    let pd = TcpListener::bind("127.0.0.1:0").unwrap();
    let section = format!(
        "[store]\ntikv = [\"{}\"]\ntikv_connect_within_s = 600\n",
        pd.local_addr().unwrap()
    );
    let mut server = waiting(&section, folder.path());
    let seconds = server.still_waits_for("TiKV does not answer; it is tried for another ", "s");
    assert!((500..=600).contains(&seconds), "{seconds} s of 600");
    // It is in the middle of the next attempt.
    server.ends_when_told_to("the store was opened");
}

#[test]
fn a_node_that_waits_for_redis_says_for_how_long_and_ends_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let section = format!("[store]\nfolder = \"store\"\n[registry]\nredis = \"redis://{gone}\"\n");
    let mut server = waiting(&section, folder.path());
    let seconds = server.still_waits_for("Redis does not answer; trying for ", " s more");
    assert!((30..=60).contains(&seconds), "{seconds} s of 60");
    server.ends_when_told_to("Redis was waited for");
    assert!(!folder.path().join("store").exists(), "no store was made");
}

#[test]
fn secrets_that_everybody_may_read_bring_a_warning_with_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut server = Server::start(standalone(&data, &[]), folder.path());
    assert!(!server.printed().contains("chmod"), "{}", server.printed());
    server.signal(Signal::TERM);
    server.ended();
    let open = [
        "apps/demo.secret",
        "keys/cluster.secret",
        "keys/identity.key",
        "keys/root.key",
    ];
    for file in open {
        fs::set_permissions(data.join(file), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let server = Server::start(standalone(&data, &[]), folder.path());
    let printed = server.printed();
    for file in open {
        let path = data.canonicalize().unwrap().join(file);
        assert!(
            printed.contains(&format!("chmod 600 {}", path.display())),
            "{file}: {printed}"
        );
    }
}

fn run(args: &[&str], path: &Path) -> Output {
    Command::new(WHIMBREL).args(args).arg(path).output().unwrap()
}

#[test]
fn a_certificate_is_renewed_for_its_key_and_never_lost_by_accident() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(run(&["keygen", "root", "--out"], &at("keys")).status.success());
    let root = at("keys/root.key");
    let root = root.to_str().unwrap();
    let identity = [
        "keygen",
        "identity",
        "--root",
        root,
        "--node",
        "gateway-1",
        "--out",
    ];
    assert!(run(&identity, &at("g1")).status.success());
    let (key, certificate) = (at("g1/identity.key"), at("g1/identity.cert"));
    let (key_before, before) = (fs::read(&key).unwrap(), fs::read(&certificate).unwrap());

    let renew = [
        "keygen",
        "certificate",
        "--root",
        root,
        "--node",
        "gateway-1",
        "--days",
        "90",
    ];
    let renew = [&renew[..], &["--identity-key", key.to_str().unwrap(), "--out"]].concat();
    let renewed = run(&renew, &certificate);
    assert!(renewed.status.success(), "{renewed:?}");
    let after = fs::read(&certificate).unwrap();
    assert_ne!(after, before);
    assert_eq!(fs::read(&key).unwrap(), key_before);
    let refused = run(&renew, &key);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(fs::read(&key).unwrap(), key_before, "a key is no certificate");

    fs::rename(&key, at("key-elsewhere")).unwrap();
    let refused = run(&identity, &at("g1"));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("identity.cert") && said.contains("keygen certificate"),
        "{said}"
    );
    assert_eq!(fs::read(&certificate).unwrap(), after);
    assert!(!key.exists());
}
