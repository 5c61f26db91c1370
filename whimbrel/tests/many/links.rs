//! Nodes that must not be linked, and two of one name.

use serde_json::json;

use crate::eventually;
use crate::role::{OTHER_SECRET, Role, SECRET};

/// As many attempts as show that each is not logged.
const ATTEMPTS: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_secret_or_cluster_gets_no_link_and_both_ends_say_why_once() {
    let router = Role::router("router-1", SECRET);
    let address = router.links().await;
    let stranger = Role::lbs(&json!({ "name": "lbs-7" }), OTHER_SECRET, address);
    let elsewhere = json!({ "name": "lbs-8", "cluster": "elsewhere" });
    let elsewhere = Role::lbs(&elsewhere, SECRET, address);
    for (node, reason, words) in [
        (&stranger, "wrong_secret", "another cluster secret"),
        (
            &elsewhere,
            "wrong_cluster",
            "correct the address or the cluster name",
        ),
    ] {
        eventually(reason, || async {
            let attempts = router.refused(reason).await.min(node.refused(reason).await);
            (attempts >= ATTEMPTS).then_some(())
        })
        .await;
        for end in [&router, node] {
            let lines = end.logged(words);
            assert_eq!(lines.len(), 1, "once, not per attempt: {lines:?}");
            assert!(lines[0].contains("ERROR"), "{lines:?}");
        }
        let ready = node.page("readyz").await.unwrap();
        assert!(ready.contains("\"ready\":false"), "{ready}");
    }
    assert!(router.linked().await.is_empty());
    let ready = router.page("readyz").await.unwrap();
    assert!(ready.contains("no service node is ready"), "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_of_one_name_the_later_stays_and_the_earlier_leaves() {
    let router = Role::router("router-1", SECRET);
    let address = router.links().await;
    let node = || json!({ "name": "lbs-1", "zone": "east", "capacity_percent": 50 });
    let mut earlier = Role::lbs(&node(), SECRET, address);
    let first = eventually("the first is linked", || async { router.linked().await.pop() }).await;
    let mut later = Role::lbs(&node(), SECRET, address);
    let status = earlier.ends().await;
    assert!(
        status.success(),
        "in order, or it would be started again: {status}"
    );
    assert_eq!(
        earlier.logged("another process has taken this node's name").len(),
        1
    );
    let second = eventually("the second is linked", || async { router.linked().await.pop() }).await;
    assert!(first.0 == "lbs-1" && second.0 == "lbs-1" && first.1 != second.1);
    assert!(later.is_running());

    // What it is shows, to scripts as well.
    let top = std::process::Command::new(env!("CARGO_BIN_EXE_whimbrel"))
        .args(["top", "--once", "--router", &router.health_url()])
        .output()
        .unwrap();
    assert!(top.status.success(), "{top:?}");
    let table = String::from_utf8(top.stdout).unwrap();
    let row = table.lines().find(|line| line.starts_with("lbs ")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..3], ["lbs", "lbs-1", "east"], "{table}");
    assert_eq!(cells[4..6], ["50%", "1/1"], "{table}");
}

#[test]
fn top_says_when_no_router_answers() {
    let top = std::process::Command::new(env!("CARGO_BIN_EXE_whimbrel"))
        .args(["top", "--once", "--router", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    assert!(!top.status.success());
    let said = String::from_utf8(top.stderr).unwrap();
    assert!(said.contains("no router answered"), "{said}");
}
