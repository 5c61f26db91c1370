//! Users: one id per uid, whoever asks first and however the store answers.

use std::sync::Arc;

use whimbrel_app_service::users::Users;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, Uid};

use crate::world::{Fault, World, app};

fn uids(names: &[&str]) -> Vec<Uid> {
    names.iter().map(|name| Uid::new(name).unwrap()).collect()
}

#[tokio::test]
async fn concurrent_first_references_make_one_user() {
    for seed in 0..30 {
        let world = Arc::new(World::new(seed));
        world.store.fail_often(200);
        let tasks: Vec<_> = (0..6)
            .map(|n| {
                let users = Users::new(world.shared_store(), world.env.clone());
                let named = uids(if n % 2 == 0 {
                    &["ann", "bob"]
                } else {
                    &["bob", "cleo", "bob"]
                });
                tokio::spawn(async move { (n, users.resolve_or_create(&app(), &named).await) })
            })
            .collect();
        let users = Users::new(world.shared_store(), world.env.clone());
        let mut made = Vec::new();
        for task in tasks {
            made.push(task.await.unwrap());
        }
        world.store.fail_often(0);
        let all = users
            .resolve_or_create(&app(), &uids(&["ann", "bob", "cleo"]))
            .await
            .unwrap();
        assert!(all[0] != all[1] && all[1] != all[2]);
        for (n, answer) in made {
            let expected = if n % 2 == 0 {
                vec![all[0], all[1]]
            } else {
                vec![all[1], all[2], all[1]]
            };
            match answer {
                Ok(answer) => assert_eq!(answer, expected, "seed {seed}"),
                Err(failure) => assert!(failure.is_transient(), "seed {seed}: {failure}"),
            }
        }
    }
}

#[tokio::test]
async fn of_all_who_create_a_user_at_once_one_is_told_that_they_did() {
    for seed in 0..30 {
        // Half of the worlds fail often: a commit whose end is unknown may be theirs who asked, and counts as such.
        let world = Arc::new(World::new(seed));
        world.store.fail_often(if seed % 2 == 0 { 0 } else { 200 });
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let users = Users::new(world.shared_store(), world.env.clone());
                tokio::spawn(async move { users.create(&app(), &Uid::new("ann").unwrap()).await })
            })
            .collect();
        let mut told = Vec::new();
        for task in tasks {
            told.push(task.await.unwrap());
        }
        let created = told.iter().filter(|answer| **answer == Ok(true)).count();
        if told.iter().all(Result::is_ok) {
            assert_eq!(created, 1, "seed {seed}: {told:?}");
        }
        assert!(created <= 1, "seed {seed}: {told:?}");
        world.store.fail_often(0);
        let users = Users::new(world.shared_store(), world.env.clone());
        let again = users.create(&app(), &Uid::new("ann").unwrap()).await;
        assert!(created == 0 || again == Ok(false), "seed {seed}");
    }
}

#[tokio::test]
async fn users_are_their_apps_own_and_keep_their_uid() {
    let world = World::new(1);
    let users = Users::new(world.shared_store(), world.env.clone());
    let here = users.resolve_or_create(&app(), &uids(&["ann"])).await.unwrap()[0];
    let other_app = AppKey::new("other").unwrap();
    assert_eq!(users.resolve(&other_app, &uids(&["ann"])).await.unwrap(), [None]);
    assert_ne!(
        users
            .resolve_or_create(&other_app, &uids(&["ann"]))
            .await
            .unwrap()[0],
        here
    );
    assert_eq!(users.profile(&app(), here).await.unwrap().unwrap().uid, "ann");
    assert_eq!(users.profile(&other_app, here).await.unwrap(), None);
}

#[tokio::test]
async fn a_full_disk_is_told_and_makes_nobody() {
    let world = World::new(2);
    let users = Users::new(world.shared_store(), world.env.clone());
    world.store.next_commit(Fault::OutOfSpace);
    let failure = users
        .resolve_or_create(&app(), &uids(&["ann"]))
        .await
        .unwrap_err();
    assert_eq!(failure.code, Code::StoreReadOnly);
    assert_eq!(users.resolve(&app(), &uids(&["ann"])).await.unwrap(), [None]);
}
