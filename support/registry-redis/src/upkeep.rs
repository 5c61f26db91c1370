//! What is done by itself: looking whether anything was lost, saying whose registry it is, and sweeping after ended lives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;
use redis::FromRedisValue;
use redis::aio::ConnectionLike;
use tokio::sync::mpsc;
use whimbrel_registry::RegistryError;
use whimbrel_registry::validity::Life;

use crate::inner::{Inner, Leftover, foreign, random};
use crate::keys::{Place, life_of_text};
use crate::meter;
use crate::value::Term;
use crate::wire::Wire;

/// How often it is looked whether anything was lost; somewhat more or less each time, so that nodes do not ask in step.
const LOOK_INTERVAL_MS: u64 = 1_000;
const LOOK_JITTER_MS: u64 = 200;
/// How long one look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(4);
/// Looks that fail before a connection that mends itself is made anew.
const LOOKS_FAILED_MAX: u32 = 3;
/// How often it is said whose registry this is.
const OWNING_INTERVAL: Duration = Duration::from_secs(10);
/// How long that holds when nobody says it any more: another cluster may take the name a minute after this one has gone.
const OWNING_HOLDS: Duration = Duration::from_secs(60);
/// How often ended lives are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long a node has a life to itself to sweep after it.
const CLAIM_HOLDS: Duration = Duration::from_secs(30);
/// When it is swept once more, for calls that were on their way.
const SWEEP_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Names of an index read, and their entries cleaned, in one step.
const SWEEP_STEP: usize = 200;
/// Parts swept at once.
const SWEEP_PARTS: usize = 8;

/// The task, and what it remembers.
pub(crate) struct Upkeep {
    inner: Arc<Inner>,
    /// The runs of all servers at the last look.
    runs: BTreeSet<String>,
    owned_at: Option<Instant>,
    swept_at: Option<Instant>,
    looks_failed: u32,
}

impl Upkeep {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            runs: BTreeSet::new(),
            owned_at: None,
            swept_at: None,
            looks_failed: 0,
        }
    }

    /// Looks every second, with each new connection, and when somebody has seen that something is lost.
    pub(crate) async fn run(mut self, mut leftovers: mpsc::Receiver<Leftover>) {
        let mut connection = self.inner.keeper.state();
        loop {
            let pause = LOOK_INTERVAL_MS - LOOK_JITTER_MS / 2 + random() % LOOK_JITTER_MS;
            let pause = tokio::time::sleep(Duration::from_millis(pause));
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    () = self.inner.poke.notified() => break,
                    changed = connection.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    leftover = leftovers.recv() => match leftover {
                        // What is not tidied up now goes with its life.
                        Some(leftover) => drop(self.inner.tidy(&leftover).await),
                        None => return,
                    },
                }
            }
            let Ok((number, _)) = self.inner.wire() else {
                continue;
            };
            let looked = if self.inner.feel_out().await {
                self.look().await
            } else {
                self.inner.lives.publish();
                Err(self.inner.keeper.unavailable("parts of it do not answer"))
            };
            if let Err(error) = looked {
                tracing::debug!(%error, "it was not seen whether Redis has lost anything");
                self.looks_failed += 1;
                if self.looks_failed >= LOOKS_FAILED_MAX {
                    self.looks_failed = 0;
                    self.inner.keeper.is_beyond_mending(number, &error.to_string());
                }
                continue;
            }
            self.looks_failed = 0;
            if self.swept_at.is_none_or(|at| at.elapsed() >= SWEEP_INTERVAL) {
                self.swept_at = Some(Instant::now());
                if let Err(error) = self.sweep().await {
                    tracing::debug!(%error, "what ended lives left is swept later");
                }
            }
        }
    }

    /// Sees what has been lost, and whose registry it is.
    pub(crate) async fn look(&mut self) -> Result<(), RegistryError> {
        let looked = tokio::time::timeout(LOOK_WITHIN, self.look_at_leisure()).await;
        self.inner.lives.publish();
        looked.unwrap_or_else(|_| {
            let reason = format!("no answer within {LOOK_WITHIN:?}");
            Err(self.inner.keeper.unavailable(&reason))
        })
    }

    async fn look_at_leisure(&mut self) -> Result<(), RegistryError> {
        let inner = Arc::clone(&self.inner);
        let (number, mut wire) = inner.wire()?;
        let runs = wire.runs().await.map_err(|error| inner.failure(number, &error))?;
        let runs: BTreeSet<String> = runs.into_iter().collect();
        if !runs.is_subset(&self.runs) || inner.lives.registry().borrow().is_none() {
            // A server began anew, or another took its place: what was written last may not be there.
            inner.begin_lives(Place::all()).await?;
        } else {
            let lives = lives_of(&inner, number, wire).await?;
            let differs = |(place, life): (Place, Option<String>)| {
                (life.as_deref() != Some(inner.lives.of(place).as_str())).then_some(place)
            };
            inner.begin_lives(lives.into_iter().filter_map(differs)).await?;
        }
        self.runs = runs;
        if self.owned_at.is_none_or(|at| at.elapsed() >= OWNING_INTERVAL) {
            let is_ours = inner.claim_ownership(OWNING_HOLDS).await?;
            self.owned_at = is_ours.then(Instant::now);
            if inner.is_foreign.swap(!is_ours, Ordering::Relaxed) == is_ours {
                if is_ours {
                    tracing::info!(redis = inner.keeper.redis(), "the registry is ours again");
                } else {
                    tracing::error!(redis = inner.keeper.redis(), "{}", foreign(&inner.cluster));
                }
            }
        }
        Ok(())
    }

    /// Sweeps after every life that has ended and that nobody else sweeps after.
    async fn sweep(&self) -> Result<(), RegistryError> {
        let inner = &*self.inner;
        loop {
            let holds = CLAIM_HOLDS.as_millis().to_string().into_bytes();
            let answer = inner.run_on_nodes(&inner.scripts.claim, vec![holds]).await?;
            if answer.word != "ok" {
                return Ok(());
            }
            let claimed = answer.text(0).ok_or_else(|| inner.nonsense())?;
            let (life, term) = ended_of(&claimed).ok_or_else(|| inner.nonsense())?;
            let mut swept = 0;
            let places: Vec<Place> = Place::all().filter(|place| *place != Place::Nodes).collect();
            for places in places.chunks(SWEEP_PARTS) {
                let parts = places.iter().map(|place| self.sweep_part(*place, &life, term));
                for outcome in join_all(parts).await {
                    swept += outcome?;
                }
            }
            let again = SWEEP_AGAIN_AFTER.as_millis().to_string().into_bytes();
            inner
                .run_on_nodes(&inner.scripts.swept, vec![claimed.into_bytes(), again])
                .await?;
            meter::swept(swept);
            if swept > 0 {
                tracing::info!(gateway = %life.0, entries = swept, "removed what a gateway's ended life left in Redis");
            }
        }
    }

    async fn sweep_part(&self, place: Place, life: &Life, term: Term) -> Result<u64, RegistryError> {
        let inner = &*self.inner;
        let index = inner.keys.index(place, life);
        let (mut swept, mut cursor) = (0, 0_u64);
        loop {
            let (number, mut wire) = inner.wire()?;
            let mut scan = redis::cmd("SSCAN");
            scan.arg(&index).arg(cursor).arg("COUNT").arg(SWEEP_STEP);
            let scanned: (u64, Vec<Vec<u8>>) = scan
                .query_async(&mut wire)
                .await
                .map_err(|error| inner.failure(number, &error))?;
            cursor = scanned.0;
            let names: Vec<String> = scanned
                .1
                .into_iter()
                .filter_map(|name| String::from_utf8(name).ok())
                .collect();
            if !names.is_empty() {
                let mut keys = vec![index.clone()];
                keys.extend(names.iter().map(|name| inner.keys.entry(place, name)));
                let mut arguments = vec![
                    crate::keys::life_text(life).into_bytes(),
                    term.text().into_bytes(),
                ];
                arguments.extend(names.into_iter().map(String::into_bytes));
                let answer = inner.run(place, &inner.scripts.sweep, &keys, &arguments).await?;
                swept += answer.number(0).unwrap_or_default();
            }
            if cursor == 0 {
                return Ok(swept);
            }
        }
    }
}

/// The lives that the places have now.
async fn lives_of(
    inner: &Inner,
    number: u64,
    wire: Wire,
) -> Result<Vec<(Place, Option<String>)>, RegistryError> {
    let places: Vec<Place> = Place::all().collect();
    let lives: Result<Vec<Option<String>>, _> = if let Wire::One(mut connection) = wire {
        let mut get = redis::cmd("MGET");
        for place in &places {
            get.arg(inner.keys.life(*place));
        }
        query(&get, &mut connection).await
    } else {
        let gets = places.iter().map(|place| {
            let mut wire = wire.clone();
            async move {
                let mut get = redis::cmd("GET");
                get.arg(inner.keys.life(*place));
                query(&get, &mut wire).await
            }
        });
        join_all(gets).await.into_iter().collect()
    };
    let lives = lives.map_err(|error| inner.failure(number, &error))?;
    Ok(places.into_iter().zip(lives).collect())
}

async fn query<T: FromRedisValue>(
    command: &redis::Cmd,
    connection: &mut impl ConnectionLike,
) -> Result<T, redis::RedisError> {
    command.query_async(connection).await
}

/// The life and term of `life term`, with ` +` behind it the second time.
fn ended_of(claimed: &str) -> Option<(Life, Term)> {
    let mut words = claimed.split(' ');
    Some((life_of_text(words.next()?)?, Term::of_text(words.next()?)?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_swept_is_read_both_times() {
        let first = ended_of("g1/0000000000000007 00000000000000ab").unwrap();
        assert_eq!(first.0.0.as_str(), "g1");
        assert_eq!(first.1, Term(0xab));
        assert_eq!(ended_of("g1/0000000000000007 00000000000000ab +"), Some(first));
    }
}
