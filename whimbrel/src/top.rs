//! `whimbrel top`: the cluster as its routers see it, in a terminal, refreshed each second; with `--once` a plain table.

mod rows;
mod screen;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use whimbrel_router::Topology;

use crate::{
    cli::{DATA_DIR_DEFAULT, TopArgs},
    ready_file::ReadyFile,
    terminal,
};

/// How long a router may take to answer: longer than it ever does, and short beside what a person waits for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What one address answered.
pub(crate) struct Answer {
    pub(crate) url: String,
    pub(crate) seen: Result<Vec<Topology>, String>,
}

/// A router's page shows one view, that of a supervised deployment all of its routers'.
#[derive(Deserialize)]
#[serde(untagged)]
enum Page {
    One(Box<Topology>),
    All(Vec<Topology>),
}

/// Runs until it is ended from the keyboard, or once.
pub(crate) async fn run(args: TopArgs) -> anyhow::Result<()> {
    let urls = urls(&args)?;
    let client = reqwest::Client::builder()
        .timeout(ANSWER_TIMEOUT)
        .no_proxy()
        .build()
        .context("an HTTP client")?;
    if !args.once {
        return screen::run(&client, &urls).await;
    }
    let answers = ask(&client, &urls).await;
    terminal::answer(&rows::plain(&answers))?;
    if answers.iter().all(|answer| answer.seen.is_err()) {
        bail!("no router answered");
    }
    Ok(())
}

/// Where to ask: the flags, or the pages that the ready file names.
fn urls(args: &TopArgs) -> anyhow::Result<Vec<String>> {
    if !args.router.is_empty() {
        args.router.iter().try_for_each(|url| is_page(url))?;
        return Ok(args.router.clone());
    }
    let usual = Path::new(DATA_DIR_DEFAULT).join("ready.json");
    let path = args.ready_file.as_deref().unwrap_or(&usual);
    let ready = ReadyFile::read(path).context("nothing says which routers to ask: give --router URL")?;
    Ok(if ready.routers.is_empty() {
        vec![ready.metrics]
    } else {
        ready.routers
    })
}

/// That `url` is one that can be asked; whether a router answers there shows later.
fn is_page(url: &str) -> anyhow::Result<()> {
    let parsed = reqwest::Url::parse(url).ok();
    if parsed.is_none_or(|url| !matches!(url.scheme(), "http" | "https") || !url.has_host()) {
        bail!(
            "--router {url:?} is no URL: expected that of a router's page of metrics and health, such as http://127.0.0.1:7003"
        );
    }
    Ok(())
}

/// What every address answers now, all asked at once.
async fn ask(client: &reqwest::Client, urls: &[String]) -> Vec<Answer> {
    let asked: Vec<_> = urls
        .iter()
        .map(|url| tokio::spawn(topology(client.clone(), url.clone())))
        .collect();
    let mut answers = Vec::with_capacity(urls.len());
    for (asked, url) in asked.into_iter().zip(urls) {
        let seen = match asked.await {
            Ok(seen) => seen.map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        };
        answers.push(Answer {
            url: url.clone(),
            seen,
        });
    }
    answers
}

async fn topology(client: reqwest::Client, url: String) -> anyhow::Result<Vec<Topology>> {
    let page = format!("{}/topology", url.trim_end_matches('/'));
    let answer = client.get(&page).send().await.context("no answer")?;
    let status = answer.status();
    if !status.is_success() {
        bail!("{page} answers {status}: give the address of a router's health page");
    }
    let page: Page = answer.json().await.context("the answer is no topology")?;
    Ok(match page {
        Page::One(one) => vec![*one],
        Page::All(all) => all,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_is_no_url_is_named_with_the_flag_and_what_one_looks_like() {
        for bad in ["foo", "127.0.0.1:7003", "localhost:7003", "ftp://h", ""] {
            let said = is_page(bad).unwrap_err().to_string();
            for named in [&format!("--router {bad:?}"), "http://127.0.0.1:7003"] {
                assert!(said.contains(named), "{said}");
            }
        }
        is_page("http://[::1]:7003/").unwrap();
    }
}
