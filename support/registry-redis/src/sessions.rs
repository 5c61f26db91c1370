//! Login sessions: who is where, by compare-and-set on the login epoch.
//!
//! All that a call has in one part is one step of the server. What has ended stands in nobody's way: a script that would refuse or
//! displace because of it names the terms it met, and is run again with those of them that have ended.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use redis::Value;
use whimbrel_protocol::cluster::{SessionRecord, UserKey};
use whimbrel_registry::validity::{self, Life};
use whimbrel_registry::{
    ANNOUNCE_LEN_MAX, LOOK_UP_LEN_MAX, RETOLD_FOR, RETOLD_LEN_MAX, Registered, RegistryError,
    SESSIONS_PER_USER_MAX,
};

use prost::Message as _;

use crate::inner::{Inner, Leftover};
use crate::keys::{Place, User, life_of_text};
use crate::scripts::{Answer, bytes, list, number, text};
use crate::value::{self, Found, Term, epoch_text, handle_text};

/// How often what has ended is looked for before a registration: once, and once more for what ended meanwhile.
const CHECKS: usize = 3;

/// A session to be registered, in the order of the request.
struct Wanted {
    nth: usize,
    user: User,
    life: Life,
    term: Term,
    record: SessionRecord,
}

/// What became of one.
struct Placed {
    nth: usize,
    accepted: bool,
    displaced: Vec<Found>,
}

impl Inner {
    pub(crate) async fn register(&self, record: SessionRecord) -> Result<Registered, RegistryError> {
        let (placed, failed) = self.place_sessions(vec![record]).await?;
        if let Some(error) = failed {
            return Err(error);
        }
        let placed = placed.into_iter().next().ok_or_else(|| self.nonsense())?;
        Ok(placed.1)
    }

    pub(crate) async fn announce(
        &self,
        records: Vec<SessionRecord>,
    ) -> Result<Vec<SessionRecord>, RegistryError> {
        validity::bounded("records in an announcement", records.len(), ANNOUNCE_LEN_MAX)?;
        let (placed, failed) = self.place_sessions(records).await?;
        let mut displaced = Vec::new();
        for (record, registered) in placed {
            if !registered.accepted {
                displaced.push(record);
            }
            displaced.extend(registered.displaced);
        }
        if let Some(error) = failed {
            // The caller comes again, and then these have lost their place already: they must not be forgotten.
            self.owe(displaced);
            return Err(error);
        }
        displaced.extend(self.owed());
        Ok(displaced)
    }

    /// Registers these, in their order, part by part. With an error, some parts may have been done: what became of those is told.
    async fn place_sessions(
        &self,
        records: Vec<SessionRecord>,
    ) -> Result<(Vec<(SessionRecord, Registered)>, Option<RegistryError>), RegistryError> {
        let mut lives = Vec::with_capacity(records.len());
        for record in &records {
            lives.push(validity::session(record)?);
        }
        let terms = self.terms_of(lives.iter().cloned()).await?;
        let mut parts: BTreeMap<Place, Vec<Wanted>> = BTreeMap::new();
        for (nth, (record, life)) in records.iter().zip(lives).enumerate() {
            let user = User {
                app: record.app_key.clone(),
                id: record.user_id,
            };
            let term = *terms.get(&life).ok_or_else(|| self.nonsense())?;
            parts.entry(user.place()).or_default().push(Wanted {
                nth,
                user,
                life,
                term,
                record: record.clone(),
            });
        }
        let parts = parts
            .iter()
            .map(|(place, wanted)| self.place_in_part(*place, wanted));
        let (mut placed, mut failed) = (Vec::new(), None);
        for outcome in join_all(parts).await {
            match outcome {
                Ok(some) => placed.extend(some),
                Err(error) => failed = Some(error),
            }
        }
        placed.sort_by_key(|placed| placed.nth);
        let found = placed.iter().flat_map(|placed| &placed.displaced);
        let pairs: Vec<_> = found.map(|found| (found.life.clone(), found.term)).collect();
        // Where that cannot be found out they are told: to close one that has ended is nothing.
        let ended = self.ended(pairs).await.unwrap_or_default();
        let mut all = Vec::with_capacity(placed.len());
        for Placed {
            nth,
            accepted,
            displaced,
        } in placed
        {
            let Some(record) = records.get(nth) else { continue };
            let mut lost = Vec::new();
            for found in displaced {
                self.leave_over(&found);
                if !ended.contains(&found.term) {
                    lost.push(found.record);
                }
            }
            all.push((
                record.clone(),
                Registered {
                    accepted,
                    displaced: lost,
                },
            ));
        }
        Ok((all, failed))
    }

    async fn place_in_part(&self, place: Place, wanted: &[Wanted]) -> Result<Vec<Placed>, RegistryError> {
        let mut keys = Vec::with_capacity(wanted.len() * 3);
        for session in wanted {
            keys.push(self.keys.user(&session.user));
            keys.push(self.keys.index(place, &session.life));
            keys.push(self.keys.lost(&session.user, &session.record.device_id));
        }
        let mut ended: Option<BTreeSet<Term>> = None;
        for _ in 0..CHECKS {
            let arguments = arguments_of(wanted, ended.as_ref());
            let answer = self.run(place, &self.scripts.register, &keys, &arguments).await?;
            match answer.word.as_str() {
                "ok" => return self.placed(wanted, &answer),
                "check" => {
                    let met = answer.list(0).ok_or_else(|| self.nonsense())?;
                    ended = Some(self.ended(pairs(met)).await?);
                }
                _ => return Err(self.nonsense()),
            }
        }
        Err(self.nonsense())
    }

    fn placed(&self, wanted: &[Wanted], answer: &Answer) -> Result<Vec<Placed>, RegistryError> {
        let outcomes = answer.list(0).ok_or_else(|| self.nonsense())?;
        if outcomes.len() != wanted.len() {
            return Err(self.nonsense());
        }
        let placed = wanted.iter().zip(outcomes).map(|(session, outcome)| {
            let outcome = list(outcome)?;
            let displaced = list(outcome.get(1)?)?;
            Some(Placed {
                nth: session.nth,
                accepted: number(outcome.first()?)? == 1,
                displaced: displaced
                    .iter()
                    .filter_map(|value| value::session(bytes(value)?))
                    .collect(),
            })
        });
        placed.collect::<Option<Vec<_>>>().ok_or_else(|| self.nonsense())
    }

    /// One that lost its place may have been its user's last on its life: the index is tidied up by and by, or with the life.
    fn leave_over(&self, found: &Found) {
        let user = User {
            app: found.record.app_key.clone(),
            id: found.record.user_id,
        };
        let life = found.life.clone();
        let _full = self.leftovers.try_send(Leftover { user, life });
    }

    pub(crate) async fn unregister(&self, record: SessionRecord) -> Result<(), RegistryError> {
        let life = validity::session(&record)?;
        let handle = record
            .session
            .as_ref()
            .map(|handle| handle_text(&life, handle))
            .unwrap_or_default();
        let user = User {
            app: record.app_key,
            id: record.user_id,
        };
        self.forget(&user, &life, (&record.device_id, &handle)).await
    }

    /// Takes a user off the index of a life on which nothing is left.
    pub(crate) async fn tidy(&self, leftover: &Leftover) -> Result<(), RegistryError> {
        self.forget(&leftover.user, &leftover.life, ("", "")).await
    }

    async fn forget(
        &self,
        user: &User,
        life: &Life,
        (device, handle): (&str, &str),
    ) -> Result<(), RegistryError> {
        let place = user.place();
        let keys = [self.keys.user(user), self.keys.index(place, life)];
        let arguments = [
            device.into(),
            handle.into(),
            crate::keys::life_text(life).into_bytes(),
            user.name().into_bytes(),
        ];
        self.run(place, &self.scripts.unregister, &keys, &arguments)
            .await
            .map(drop)
    }

    pub(crate) async fn look_up(&self, users: Vec<UserKey>) -> Result<Vec<SessionRecord>, RegistryError> {
        validity::bounded("users in a look-up", users.len(), LOOK_UP_LEN_MAX)?;
        let users: BTreeSet<User> = users
            .into_iter()
            .map(|user| User {
                app: user.app_key,
                id: user.user_id,
            })
            .collect();
        let mut parts: BTreeMap<Place, Vec<String>> = BTreeMap::new();
        for user in &users {
            parts.entry(user.place()).or_default().push(self.keys.user(user));
        }
        let parts = parts
            .iter()
            .map(|(place, keys)| self.run(*place, &self.scripts.look_up, keys, &[]));
        let mut found = Vec::new();
        for answer in join_all(parts).await {
            let answer = answer?;
            let values = answer.list(0).ok_or_else(|| self.nonsense())?;
            found.extend(values.iter().filter_map(|value| value::session(bytes(value)?)));
        }
        let pairs: Vec<_> = found
            .iter()
            .map(|found| (found.life.clone(), found.term))
            .collect();
        let ended = self.ended(pairs).await?;
        let mut sessions: Vec<SessionRecord> = found
            .into_iter()
            .filter(|found| !ended.contains(&found.term))
            .map(|found| found.record)
            .collect();
        let order =
            |record: &SessionRecord| (record.app_key.clone(), record.user_id, record.device_id.clone());
        sessions.sort_by_cached_key(order);
        Ok(sessions)
    }
}

fn arguments_of(wanted: &[Wanted], ended: Option<&BTreeSet<Term>>) -> Vec<Vec<u8>> {
    let checked = if ended.is_some() { "1" } else { "0" };
    let ended: Vec<_> = ended.into_iter().flatten().collect();
    let mut arguments: Vec<Vec<u8>> = vec![
        SESSIONS_PER_USER_MAX.to_string().into_bytes(),
        RETOLD_FOR.as_millis().to_string().into_bytes(),
        RETOLD_LEN_MAX.to_string().into_bytes(),
        checked.into(),
        ended.len().to_string().into_bytes(),
    ];
    arguments.extend(ended.iter().map(|term| term.text().into_bytes()));
    for session in wanted {
        let handle = session.record.session.as_ref();
        arguments.push(session.record.device_id.as_bytes().to_vec());
        arguments.push(session.term.text().into_bytes());
        arguments.push(epoch_text(session.record.login_epoch).into_bytes());
        let handle = handle.map(|handle| handle_text(&session.life, handle));
        arguments.push(handle.unwrap_or_default().into_bytes());
        arguments.push(session.record.encode_to_vec());
        arguments.push(session.user.name().into_bytes());
    }
    arguments
}

/// Lives and terms in turn.
fn pairs(values: &[Value]) -> Vec<(Life, Term)> {
    let pair = |pair: &[Value]| {
        let [life, term] = pair else { return None };
        Some((life_of_text(&text(life)?)?, Term::of_text(&text(term)?)?))
    };
    values.chunks(2).filter_map(pair).collect()
}
