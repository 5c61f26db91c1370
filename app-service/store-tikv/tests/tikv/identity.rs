//! Whose data it is, and what is said of a cluster that does not answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libtest_mimic::Trial;
use whimbrel_store::{Batch, Epoch, Store as _, StoreError};
use whimbrel_store_tikv::{OpenError, SCHEMA_VERSION, TikvConfig, TikvStore};

use crate::{EPOCH, Ground, Test, config, open, trial};

pub(crate) fn trials(ground: &Arc<Ground>) -> Vec<Trial> {
    let with = |name: &str, test: Test<Arc<Ground>>| {
        let ground = Arc::clone(ground);
        trial(format!("identity::{name}"), move || test(ground))
    };
    vec![
        with("the_first_opener_gives_the_epoch_and_it_stays", |ground| {
            Box::pin(the_first_opener_gives_the_epoch_and_it_stays(ground))
        }),
        with("many_first_openers_agree_on_one_epoch", |ground| {
            Box::pin(many_first_openers_agree_on_one_epoch(ground))
        }),
        with("another_deployments_data_is_refused_by_name", |ground| {
            Box::pin(another_deployments_data_is_refused_by_name(ground))
        }),
        with("a_namesake_is_refused_by_its_owner", |ground| {
            Box::pin(a_namesake_is_refused_by_its_owner(ground))
        }),
        with("a_store_of_nobody_is_whose_it_is_opened_by", |ground| {
            Box::pin(a_store_of_nobody_is_whose_it_is_opened_by(ground))
        }),
        with("of_namesakes_that_open_at_once_one_has_the_store", |ground| {
            Box::pin(of_namesakes_that_open_at_once_one_has_the_store(ground))
        }),
        with("a_changed_owner_takes_its_store_over", |ground| {
            Box::pin(a_changed_owner_takes_its_store_over(ground))
        }),
        with("a_newer_schema_is_refused_by_name", |ground| {
            Box::pin(a_newer_schema_is_refused_by_name(ground))
        }),
        with("who_only_reads_begins_and_takes_over_nothing", |ground| {
            Box::pin(who_only_reads_begins_and_takes_over_nothing(ground))
        }),
        with("another_clusters_data_is_refused_until_it_is_adopted", |ground| {
            Box::pin(another_clusters_data_is_refused_until_it_is_adopted(ground))
        }),
        trial(
            "identity::a_silent_pd_is_named_with_the_time_it_was_tried",
            a_silent_pd_is_named_with_the_time_it_was_tried,
        ),
        trial("identity::no_endpoint_is_refused", || async {
            let error = TikvStore::open(config(Vec::new()), EPOCH).await.err();
            assert!(matches!(error, Some(OpenError::NoEndpoint)), "{error:?}");
        }),
    ]
}

async fn the_first_opener_gives_the_epoch_and_it_stays(ground: Arc<Ground>) {
    let config = ground.config();
    let first = open(config.clone()).await;
    assert_eq!(first.epoch().await.unwrap(), EPOCH);
    first.close().await;
    let second = TikvStore::open(config, Epoch([8; 16])).await.unwrap();
    assert_eq!(second.epoch().await.unwrap(), EPOCH);
    assert_eq!(second.cluster(), first.cluster());
}

async fn many_first_openers_agree_on_one_epoch(ground: Arc<Ground>) {
    let config = ground.config();
    let opening: Vec<_> = (0..6u8)
        .map(|i| tokio::spawn(TikvStore::open(config.clone(), Epoch([i; 16]))))
        .collect();
    let mut epochs = Vec::new();
    for store in opening {
        epochs.push(store.await.unwrap().unwrap().epoch().await.unwrap());
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "{epochs:?}");
}

async fn refusal(config: TikvConfig) -> OpenError {
    TikvStore::open(config, EPOCH).await.err().unwrap()
}

async fn another_deployments_data_is_refused_by_name(ground: Arc<Ground>) {
    let config = ground.config();
    open(config.clone()).await.close().await;
    let mut other = config.clone();
    other.deployment = "elsewhere".to_owned();
    let error = refusal(other).await;
    assert!(matches!(error, OpenError::OtherDeployment { .. }), "{error}");
    let text = error.to_string();
    for named in ["\"test\"", "\"elsewhere\"", &config.endpoints[0]] {
        assert!(text.contains(named), "{text} does not name {named}");
    }
}

fn owned(config: &TikvConfig, owner: &str) -> TikvConfig {
    TikvConfig {
        owner: Some(owner.to_owned()),
        ..config.clone()
    }
}

fn reading(config: TikvConfig) -> TikvConfig {
    TikvConfig {
        only_reads: true,
        ..config
    }
}

async fn a_namesake_is_refused_by_its_owner(ground: Arc<Ground>) {
    let config = ground.config();
    open(owned(&config, "0123us")).await.close().await;
    open(owned(&config, "0123us")).await.close().await;
    let error = refusal(reading(owned(&config, "4567them"))).await;
    assert!(matches!(error, OpenError::OtherOwner { .. }), "{error}");
    let error = refusal(owned(&config, "4567them")).await;
    assert!(matches!(error, OpenError::OtherOwner { .. }), "{error}");
    let text = error.to_string();
    for named in [
        "0123us",
        "4567them",
        "\"test\"",
        &config.endpoints[0],
        "secrets differ",
        "`tikv_adopt_owner`",
    ] {
        assert!(text.contains(named), "{text} does not name {named}");
    }
    // Who only reads need not say who it is.
    open(config).await.close().await;
}

/// As a build of before has left it, or a restore by whoever had no secret.
async fn a_store_of_nobody_is_whose_it_is_opened_by(ground: Arc<Ground>) {
    let config = ground.config();
    open(config.clone()).await.close().await;
    // Whoever only reads, a backup say, makes it nobody's.
    open(reading(owned(&config, "them"))).await.close().await;
    let ours = TikvStore::open(owned(&config, "us"), Epoch([8; 16]))
        .await
        .unwrap();
    assert_eq!(ours.epoch().await.unwrap(), EPOCH, "cursors fit as before");
    ours.close().await;
    let error = refusal(owned(&config, "them")).await;
    assert!(matches!(error, OpenError::OtherOwner { .. }), "{error}");
}

async fn of_namesakes_that_open_at_once_one_has_the_store(ground: Arc<Ground>) {
    let (new, of_nobody) = (ground.config(), ground.config());
    open(of_nobody.clone()).await.close().await;
    for config in [new, of_nobody] {
        let opening: Vec<_> = (0..6)
            .map(|i| tokio::spawn(TikvStore::open(owned(&config, ["us", "them"][i % 2]), EPOCH)))
            .collect();
        let mut let_in = [0, 0];
        for (i, opened) in opening.into_iter().enumerate() {
            match opened.await.unwrap() {
                Ok(_) => let_in[i % 2] += 1,
                Err(error) => assert!(matches!(error, OpenError::OtherOwner { .. }), "{error}"),
            }
        }
        assert!(matches!(let_in, [3, 0] | [0, 3]), "{let_in:?}");
    }
}

async fn a_changed_owner_takes_its_store_over(ground: Arc<Ground>) {
    let config = ground.config();
    open(owned(&config, "before")).await.close().await;
    let mut after = owned(&config, "after");
    after.adopt_owner = Some("others".to_owned());
    let error = refusal(after.clone()).await;
    assert!(matches!(error, OpenError::OtherOwner { .. }), "{error}");

    after.adopt_owner = Some("before".to_owned());
    // To compare is not to take over.
    open(reading(after.clone())).await.close().await;
    open(owned(&config, "before")).await.close().await;
    let adopted = TikvStore::open(after.clone(), Epoch([9; 16])).await.unwrap();
    assert_eq!(adopted.epoch().await.unwrap(), EPOCH, "it is the same data");
    adopted.close().await;
    // Once done, neither the setting nor its absence changes anything, and the secret of before is another's.
    open(after.clone()).await.close().await;
    open(owned(&config, "after")).await.close().await;
    let error = refusal(owned(&config, "before")).await;
    assert!(
        matches!(&error, OpenError::OtherOwner { kept, ours, .. } if kept == "after" && ours == "before"),
        "{error}"
    );
}

/// Writes `change` of the identity's bytes, as another build or another cluster would have.
async fn change_identity(config: &TikvConfig, change: impl FnOnce(&mut Vec<u8>)) {
    let store = open(config.clone()).await;
    let key = Bytes::from([&config.own_prefix[..], b"identity"].concat());
    let snapshot = store.snapshot().await.unwrap();
    let mut bytes = snapshot.get(&key).await.unwrap().unwrap().to_vec();
    change(&mut bytes);
    let mut batch = Batch::at(&*snapshot);
    batch.put(key, bytes);
    assert!(store.commit(batch).await.is_committed());
    store.close().await;
}

async fn a_newer_schema_is_refused_by_name(ground: Arc<Ground>) {
    let config = ground.config();
    change_identity(&config, |bytes| {
        bytes[..4].copy_from_slice(&(SCHEMA_VERSION + 1).to_be_bytes());
    })
    .await;
    let error = refusal(config).await;
    assert!(
        matches!(error, OpenError::NewerSchema { schema, .. } if schema == SCHEMA_VERSION + 1),
        "{error}"
    );
    assert!(error.to_string().contains("run a newer one"), "{error}");
}

async fn who_only_reads_begins_and_takes_over_nothing(ground: Arc<Ground>) {
    let mut config = ground.config();
    let error = refusal(reading(owned(&config, "us"))).await;
    assert!(matches!(error, OpenError::Nothing { .. }), "{error}");
    for named in [&config.endpoints[0], "holds nothing of Whimbrel's"] {
        let text = error.to_string();
        assert!(text.contains(named), "{text} does not name {named}");
    }
    // It is nobody's still: whoever comes first gives the epoch, and a name of its own.
    config.deployment = "first".to_owned();
    let first = TikvStore::open(config.clone(), Epoch([8; 16])).await.unwrap();
    assert_eq!(first.epoch().await.unwrap(), Epoch([8; 16]));
    let cluster = first.cluster();
    first.close().await;

    change_identity(&config, |bytes| {
        bytes[4..12].copy_from_slice(&77u64.to_be_bytes())
    })
    .await;
    config.adopt_cluster = Some(cluster);
    let reader = TikvStore::open(reading(config.clone()), Epoch([9; 16]))
        .await
        .unwrap();
    assert_eq!(reader.epoch().await.unwrap(), Epoch([8; 16]));
    reader.close().await;
    let adopted = TikvStore::open(config, Epoch([7; 16])).await.unwrap();
    assert_eq!(
        adopted.epoch().await.unwrap(),
        Epoch([7; 16]),
        "it was still to be taken over"
    );
    adopted.close().await;
}

async fn another_clusters_data_is_refused_until_it_is_adopted(ground: Arc<Ground>) {
    let mut config = ground.config();
    change_identity(&config, |bytes| {
        bytes[4..12].copy_from_slice(&77u64.to_be_bytes())
    })
    .await;
    let error = refusal(config.clone()).await;
    let OpenError::OtherCluster { found, kept: 77, .. } = error else {
        unreachable!("{error}")
    };
    config.adopt_cluster = Some(found + 1);
    assert!(matches!(
        refusal(config.clone()).await,
        OpenError::OtherCluster { .. }
    ));

    config.adopt_cluster = Some(found);
    let adopted = TikvStore::open(config.clone(), Epoch([9; 16])).await.unwrap();
    assert_eq!(
        adopted.epoch().await.unwrap(),
        Epoch([9; 16]),
        "cursors must not fit"
    );
    adopted.close().await;
    assert!(matches!(adopted.epoch().await, Err(StoreError::Closed)));
    // Once done, neither the setting nor its absence changes anything.
    for adopt in [Some(found), None] {
        config.adopt_cluster = adopt;
        let again = open(config.clone()).await;
        assert_eq!(again.epoch().await.unwrap(), Epoch([9; 16]));
    }
}

async fn a_silent_pd_is_named_with_the_time_it_was_tried() {
    // One that accepts and never answers, and one that is not there.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for endpoint in [silent.local_addr().unwrap(), gone] {
        let mut config = config(vec![endpoint.to_string()]);
        config.connect_within = Duration::from_secs(1);
        let error = refusal(config).await;
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&endpoint.to_string()) && text.contains("within 1s"),
            "{text}"
        );
    }
}
