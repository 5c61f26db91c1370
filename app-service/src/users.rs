//! Users: from the customer's uids to the ids inside.
//!
//! A user id is random and never given twice, so a uid that is deleted and created again inherits nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, Uid, UserId};
use whimbrel_store::{Batch, Commit, Snapshot, Store};

use crate::env::Env;
use crate::failure::Failure;
use crate::keys::{self, UserKeys};
use crate::values::storage::{Name, Profile};
use crate::values::{decode, encode};

/// Attempts to create users while others create the same ones or the store answers unclearly.
const ATTEMPTS_MAX: u32 = 8;
/// The pause after the first attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(2);

/// The users of all apps. Clones share the store.
#[derive(Clone)]
pub struct Users {
    store: Arc<dyn Store>,
    env: Env,
}

/// Users who exist now.
struct Settled {
    users: Vec<UserId>,
    /// The ids drawn for those that were not there. The store says of a commit at times that it does not know its end, so whose
    /// it was is told by the id that is there: ids are random, and nobody else draws the same.
    drawn: BTreeSet<UserId>,
}

impl Users {
    /// The users in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, env: Env) -> Self {
        Self { store, env }
    }

    /// The user ids of `uids`, in their order; `None` for who does not exist.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resolve(&self, app: &AppKey, uids: &[Uid]) -> Result<Vec<Option<UserId>>, Failure> {
        let snapshot = self.store.snapshot().await?;
        resolve_at(&*snapshot, app, uids).await
    }

    /// The user ids of `uids`, in their order. Who does not exist is created; all of them or none.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn resolve_or_create(&self, app: &AppKey, uids: &[Uid]) -> Result<Vec<UserId>, Failure> {
        Ok(self.settle(app, uids).await?.users)
    }

    /// Creates the user `uid`; whether it was this call that did. Of any number of calls for one uid, on whichever nodes, at
    /// most one is told so.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn create(&self, app: &AppKey, uid: &Uid) -> Result<bool, Failure> {
        let Settled { users, drawn } = self.settle(app, std::slice::from_ref(uid)).await?;
        Ok(users.iter().all(|user| drawn.contains(user)))
    }

    async fn settle(&self, app: &AppKey, uids: &[Uid]) -> Result<Settled, Failure> {
        let mut drawn = BTreeSet::new();
        let mut last_failure = None;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                self.env
                    .timers
                    .sleep(self.env.jittered(PAUSE * (1 << attempt)))
                    .await;
            }
            let snapshot = self.store.snapshot().await?;
            let found = resolve_at(&*snapshot, app, uids).await?;
            if let Some(users) = found.iter().copied().collect() {
                return Ok(Settled { users, drawn });
            }
            let missing: BTreeSet<&Uid> = uids
                .iter()
                .zip(&found)
                .filter(|(_, user)| user.is_none())
                .map(|(uid, _)| uid)
                .collect();
            let mut batch = Batch::at(&*snapshot);
            for uid in missing {
                drawn.insert(self.draw(&mut batch, app, uid));
            }
            match self.store.commit(batch).await {
                // Whatever happened, the next round reads what is there.
                Commit::Committed => {}
                Commit::Conflict(_) => {}
                Commit::Unknown(error) => last_failure = Some(Failure::from(error)),
                Commit::Refused(error) => return Err(error.into()),
            }
            if let Some(users) = self.resolve(app, uids).await?.into_iter().collect() {
                return Ok(Settled { users, drawn });
            }
        }
        Err(last_failure.unwrap_or_else(|| {
            Failure::later(
                Code::Overloaded,
                "others keep creating the same users: try again",
                100,
            )
        }))
    }

    /// Adds a new user to `batch`, which fails when there is one of that uid.
    fn draw(&self, batch: &mut Batch, app: &AppKey, uid: &Uid) -> UserId {
        // 0 stands for nobody.
        let user = UserId(self.env.entropy.random_u64().max(1));
        let profile = Profile {
            uid: uid.as_str().to_owned(),
            created_ms: self.env.clock.now_ms(),
            last_login_ms: 0,
        };
        batch.insert(keys::name(app, uid), encode(&Name { user_id: user.0 }));
        batch.insert(UserKeys::new(app, user).profile(), encode(&profile));
        user
    }

    /// What is kept about a user; `None` when there is none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn profile(&self, app: &AppKey, user: UserId) -> Result<Option<Profile>, Failure> {
        let snapshot = self.store.snapshot().await?;
        let value = snapshot.get(&UserKeys::new(app, user).profile()).await?;
        Ok(value.as_ref().map(decode).transpose()?)
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").finish_non_exhaustive()
    }
}

async fn resolve_at(
    snapshot: &dyn Snapshot,
    app: &AppKey,
    uids: &[Uid],
) -> Result<Vec<Option<UserId>>, Failure> {
    let names: Vec<Bytes> = uids.iter().map(|uid| keys::name(app, uid)).collect();
    let values = snapshot.multi_get(&names).await?;
    let mut users = Vec::with_capacity(values.len());
    for value in &values {
        let name: Option<Name> = value.as_ref().map(decode).transpose()?;
        users.push(name.map(|name| UserId(name.user_id)));
    }
    Ok(users)
}
