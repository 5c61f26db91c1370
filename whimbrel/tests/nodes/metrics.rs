//! What nodes count, as whoever watches them reads it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use whimbrel_cluster::{Cluster, Member, Role};

/// A page takes some milliseconds, and on a machine that is busy with other tests ten times that.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long what is waited for may take.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
/// Between two looks: pages cost the nodes something.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A metric of a node, by its name and labels as the page has them, or by its name alone: then all its samples together. `None`
/// when it shows none, or does not answer.
pub(crate) async fn of(cluster: &Cluster, member: Member, metric: &str) -> Option<f64> {
    let client = reqwest::Client::builder()
        .timeout(ANSWER_WITHIN)
        .no_proxy()
        .build()
        .expect("an HTTP client");
    let url = format!("http://{}/metrics", cluster.page(member));
    let page = client.get(url).send().await.ok()?.text().await.ok()?;
    let samples = page.lines().filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        let is_it = name == metric || name.split_once('{').is_some_and(|(name, _)| name == metric);
        is_it.then(|| value.parse::<f64>().expect("a sample is a number"))
    });
    samples.fold(None, |sum, sample| Some(sum.unwrap_or(0.0) + sample))
}

/// The same of all nodes of a role together; one that shows none counts for nothing.
pub(crate) async fn of_role(cluster: &Cluster, role: Role, metric: &str) -> f64 {
    let mut sum = 0.0;
    for member in cluster.members_of(role) {
        sum += of(cluster, member, metric).await.unwrap_or(0.0);
    }
    sum
}

/// Of every node.
pub(crate) async fn of_all(cluster: &Cluster, metric: &str) -> BTreeMap<Member, f64> {
    let mut all = BTreeMap::new();
    for member in cluster.members() {
        all.insert(member, of(cluster, member, metric).await.unwrap_or(0.0));
    }
    all
}

/// Waits until every node shows what is wanted of it.
pub(crate) async fn until_all(cluster: &Cluster, metric: &str, wanted: impl Fn(Member, f64) -> bool) {
    let began = Instant::now();
    loop {
        let mut all = of_all(cluster, metric).await;
        all.retain(|member, value| !wanted(*member, *value));
        if all.is_empty() {
            return;
        }
        assert!(
            began.elapsed() < WITHIN,
            "{metric} is not as expected after {WITHIN:?}: {all:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
