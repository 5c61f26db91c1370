//! What whoever waits for the ready file may rely on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "of what tests share this one needs little")]
mod support;

use serde_json::Value;
use support::{Mode, Standalone};

/// Enough that one which knows some of them is told from one that knows all.
const GATEWAYS: u16 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn the_lbs_lists_every_gateway_once_the_ready_file_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mode = Mode::Processes {
        gateways: GATEWAYS,
        routers: 1,
    };
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let standalone = Standalone::start(folder.path(), mode, 0, &[]).await;
    let question = format!(
        "{}/v1/gateways?app_key={}",
        standalone.said("lbs"),
        standalone.said("app_key")
    );
    let answer = client.get(question).send().await.unwrap();
    let answer = answer.text().await.unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let listed = answer["gateways"].as_array().unwrap();
    assert_eq!(listed.len(), usize::from(GATEWAYS), "{answer}");
}
