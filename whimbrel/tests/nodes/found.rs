//! Nodes that know nothing of one another but the Redis: they find each other in it, people chat through them, and whatever is killed
//! is found again.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use whimbrel_cluster::{Cluster, Member, Role, Shape};
use whimbrel_tikv_cluster::Binaries;

use crate::cluster::{Deployed, LOOK_EVERY, Nodes, READY_WITHIN};

const SHAPE: Shape = Shape {
    lbs: 2,
    gateways: 2,
    routers: 2,
    service_nodes: 2,
};
/// The one that the ready file names first.
const FIRST_LBS: Member = Member {
    role: Role::Lbs,
    nth: 0,
};
/// How long anything may take, on a machine that is busy with other tests.
const WITHIN: Duration = Duration::from_secs(60);

/// `whimbrel chat --plain` of a user. Killed when dropped.
struct Chat {
    child: Child,
    input: ChildStdin,
    printed: PathBuf,
    said: PathBuf,
}

impl Chat {
    fn start(folder: &Path, ready_file: &Path, uid: &str, to: &str) -> Self {
        let [printed, said] = ["out", "err"].map(|kind| folder.join(format!("{uid}.{kind}")));
        let mut child = whimbrel(&["chat", "--plain", "--uid", uid, "--to", to], ready_file)
            .arg("--state")
            .arg(folder.join(uid))
            .stdin(Stdio::piped())
            .stdout(File::create(&printed).expect("a file in the test's folder"))
            .stderr(File::create(&said).expect("a file in the test's folder"))
            .spawn()
            .expect("the binary starts");
        let input = child.stdin.take().expect("it was asked for");
        Self {
            child,
            input,
            printed,
            said,
        }
    }

    /// Types a line and waits until the other one has it.
    fn says(&mut self, line: &str, other: &Self) {
        writeln!(self.input, "{line}").expect("it reads");
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        until(
            || {
                read(&other.printed)
                    .lines()
                    .any(|printed| printed.ends_with(&format!("\t{line}")))
            },
            || {
                format!(
                    "{line:?} does not come: {} {}",
                    read(&self.said),
                    read(&other.said)
                )
            },
        );
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn whimbrel(words: &[&str], ready_file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whimbrel"));
    command.args(words).arg("--ready-file").arg(ready_file);
    command
}

fn until(happened: impl Fn() -> bool, what: impl Fn() -> String) {
    let began = Instant::now();
    while !happened() {
        assert!(began.elapsed() < WITHIN, "after {WITHIN:?} {}", what());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What `whimbrel top` shows.
fn top(ready_file: &Path) -> String {
    let shown = whimbrel(&["top", "--once"], ready_file)
        .output()
        .expect("the binary starts");
    assert!(shown.status.success(), "{shown:?}");
    String::from_utf8(shown.stdout).expect("a table is text")
}

/// Whether it shows this life of every node as one that both routers are linked with and that can be given work.
fn shows_all(table: &str, cluster: &Cluster) -> bool {
    let is_shown = |member: &Member| {
        let name = member.to_string();
        let mut rows = table
            .lines()
            .filter(|row| row.split_whitespace().any(|cell| cell == name));
        match member.role {
            Role::Router => rows.next().is_some(),
            _ => rows.any(|row| {
                row.contains("2/2")
                    && (row.contains("ready") || row.contains("starting"))
                    && !row.contains("not_ready")
            }),
        }
    };
    cluster.members().iter().all(is_shown)
}

pub(crate) fn nodes_find_each_other_in_redis(tikv: Binaries) {
    let folder = tempfile::tempdir().expect("a folder for the cluster");
    let mut deployed = Deployed::start(
        &folder.path().join("cluster"),
        tikv,
        Nodes {
            shape: SHAPE,
            // Where clients ask first nobody is: they ask the next.
            held_back: vec![FIRST_LBS],
            proxies: false,
        },
    );
    let cluster = deployed.cluster();
    let ready_file = cluster.ready_file();
    let mut alice = Chat::start(folder.path(), &ready_file, "alice", "bob");
    let mut bob = Chat::start(folder.path(), &ready_file, "bob", "alice");
    alice.says("is anybody there?", &bob);
    bob.says("I am", &alice);

    cluster.add(FIRST_LBS).expect("it was held back");
    cluster
        .wait_until_ready(READY_WITHIN, &|| false)
        .expect("it becomes ready");
    until(|| shows_all(&top(&ready_file), cluster), || top(&ready_file));

    for role in Role::ALL {
        let member = Member { role, nth: 0 };
        let before = cluster.standings()[&member].last_up;
        assert!(cluster.signal(member, Signal::KILL), "{member} runs");
        until(
            || cluster.standings()[&member].last_up != before,
            || format!("{member} is not back; see {}", cluster.log_of(member).display()),
        );
    }
    cluster
        .wait_until_ready(READY_WITHIN, &|| false)
        .expect("all are ready again");
    until(|| shows_all(&top(&ready_file), cluster), || top(&ready_file));
    alice.says("still there?", &bob);
    bob.says("still here", &alice);
    let mut carol = Chat::start(folder.path(), &ready_file, "carol", "bob");
    carol.says("hello, I am new", &bob);
}
