//! The nodes' pages, asked from code that does not await.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::Member;

/// A page takes a few milliseconds; a process that stands still would keep whoever asks for ever.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);

/// Asks. It has threads of its own, so that it can be used wherever.
#[derive(Debug)]
pub(crate) struct Pages {
    client: reqwest::Client,
    runtime: Option<Runtime>,
}

impl Pages {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .no_proxy()
            .build()
            .context("an HTTP client")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("pages")
            .enable_all()
            .build()
            .context("a thread that asks for pages")?;
        Ok(Self {
            client,
            runtime: Some(runtime),
        })
    }

    /// What each answers to this path, all asked at once: status and text. Who does not answer is left out.
    pub(crate) fn ask(
        &self,
        of: impl IntoIterator<Item = (Member, SocketAddr)>,
        path: &str,
    ) -> BTreeMap<Member, (u16, String)> {
        let Some(runtime) = &self.runtime else {
            return BTreeMap::new();
        };
        let mut asked = JoinSet::new();
        for (member, address) in of {
            let request = self.client.get(format!("http://{address}/{path}"));
            let answer = async move {
                let answer = request.send().await.ok()?;
                let status = answer.status().as_u16();
                Some((member, (status, answer.text().await.ok()?)))
            };
            asked.spawn_on(answer, runtime.handle());
        }
        // From within another runtime one may wait only where no task of it is held up: a thread apart is always right.
        let (sender, answers) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let _ = sender.send(asked.join_all().await);
        });
        let answers = answers.recv().unwrap_or_default();
        answers.into_iter().flatten().collect()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // Whatever is dropped within a runtime must not wait for one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A page as JSON.
pub(crate) fn json(page: &(u16, String)) -> Option<Value> {
    (page.0 == 200)
        .then(|| serde_json::from_str(&page.1).ok())
        .flatten()
}
