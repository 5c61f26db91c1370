//! What all calls share: the connection, the keys, what is known of lives and terms; and how a script is run.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt as _};
use redis::{RedisError, Script, Value};
use tokio::sync::{Notify, mpsc, watch};
use whimbrel_protocol::SystemEntropy;
use whimbrel_protocol::cluster::SessionRecord;
use whimbrel_protocol::entropy::Entropy as _;
use whimbrel_registry::validity::Life;
use whimbrel_registry::{RegistryError, STANDSTILL_AFTER};

use crate::keeper::Keeper;
use crate::keys::{Keys, Place, User};
use crate::lives::Lives;
use crate::meter;
use crate::scripts::{Answer, Scripts};
use crate::standing::Standings;
use crate::wire::{Wire, breaks, reason_of};

/// How long a call of the registry may take, with all its round trips: callers refuse and come back rather than wait.
pub(crate) const CALL_WITHIN: Duration = Duration::from_secs(2);
/// How often a step is begun anew because its place had another life than was known: once, and once more if it is lost again.
const LIVES_PER_STEP: usize = 3;
/// A part of a Cluster that gives no sign of life within this is silent. The others' signs wait while the client tries to connect to it
/// again, for as long as an answer may take ([`crate::wire::ANSWER_WITHIN`]).
const SIGN_WITHIN: Duration = Duration::from_millis(1_800);

/// A user that may have nothing any more on a life, to be taken off its index.
pub(crate) struct Leftover {
    pub(crate) user: User,
    pub(crate) life: Life,
}

pub(crate) struct Inner {
    pub(crate) cluster: String,
    pub(crate) owner: String,
    pub(crate) keys: Keys,
    pub(crate) scripts: Scripts,
    pub(crate) keeper: Keeper,
    pub(crate) lives: Lives,
    pub(crate) leftovers: mpsc::Sender<Leftover>,
    /// Has the upkeep look at all places.
    pub(crate) poke: Notify,
    /// Counts up with every change of nodes that is heard of.
    pub(crate) changes: watch::Sender<u64>,
    /// Tells this process's counts of rooms from those of others, and each from those before.
    pub(crate) teller: String,
    pub(crate) orders: AtomicU64,
    /// Another cluster of the same name says that this is its registry.
    pub(crate) is_foreign: AtomicBool,
    standings: Mutex<Standings>,
    /// Parts of a Cluster that give no sign of life.
    silent: Mutex<BTreeSet<Place>>,
    /// Sessions that lost their place in an announcement of which another part failed: told with the next one.
    owed: Mutex<Vec<SessionRecord>>,
}

/// Sessions owed at most; beyond, they are found out by the next push to them.
const OWED_MAX: usize = 16_384;

impl Inner {
    pub(crate) fn new(
        (cluster, owner): (String, String),
        keys: Keys,
        keeper: Keeper,
        leftovers: mpsc::Sender<Leftover>,
    ) -> Self {
        Self {
            cluster,
            owner,
            keys,
            scripts: Scripts::new(),
            keeper,
            lives: Lives::new(),
            leftovers,
            poke: Notify::new(),
            changes: watch::channel(0).0,
            teller: format!("{:016x}", random()),
            orders: AtomicU64::new(0),
            is_foreign: AtomicBool::new(false),
            standings: Mutex::default(),
            silent: Mutex::default(),
            owed: Mutex::default(),
        }
    }

    pub(crate) fn standings(&self) -> MutexGuard<'_, Standings> {
        // Nothing under the lock panics half-way.
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nodes have changed.
    pub(crate) fn nodes_changed(&self) {
        self.standings().doubt();
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn silent(&self) -> MutexGuard<'_, BTreeSet<Place>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every part of a Cluster gave its last sign of life.
    pub(crate) fn all_answer(&self) -> bool {
        self.silent().is_empty()
    }

    /// Asks every part of a Cluster for a sign of life. Of those that give none nothing else is asked until they do, and that by the feeler:
    /// whoever asks would wait for as long as a call may take, each time. Says whether all did.
    pub(crate) async fn feel_out(&self) -> bool {
        let Ok((_, wire)) = self.wire() else {
            return false;
        };
        let Some(feeler) = self.keeper.feeler() else {
            return true;
        };
        let before = self.silent().clone();
        let signs = Place::all().map(|place| {
            let was_silent = before.contains(&place);
            let mut wire = if was_silent { feeler.clone() } else { wire.clone() };
            async move {
                let mut get = redis::cmd("GET");
                get.arg(self.keys.life(place));
                let answer = get.query_async::<Option<String>>(&mut wire);
                let is_heard = matches!(tokio::time::timeout(SIGN_WITHIN, answer).await, Ok(Ok(_)));
                (!is_heard).then_some(place)
            }
        });
        let silent: BTreeSet<Place> = join_all(signs).await.into_iter().flatten().collect();
        self.silent().clone_from(&silent);
        let redis = self.keeper.redis();
        if silent.is_empty() && !before.is_empty() {
            tracing::info!(redis, "all parts of the Cluster answer again");
        } else if silent != before {
            tracing::warn!(
                redis,
                silent = silent.len(),
                of = Place::COUNT,
                "parts of the Cluster do not answer: nothing is asked of them until they do"
            );
        }
        meter::connected(silent.is_empty());
        silent.is_empty()
    }

    pub(crate) fn owe(&self, displaced: impl IntoIterator<Item = SessionRecord>) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OWED_MAX.saturating_sub(owed.len());
        owed.extend(displaced.into_iter().take(room));
    }

    pub(crate) fn owed(&self) -> Vec<SessionRecord> {
        std::mem::take(&mut *self.owed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does one call within its time, and counts it.
    pub(crate) async fn call<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, RegistryError>> + Send,
    ) -> Result<T, RegistryError> {
        if self.is_foreign.load(Ordering::Relaxed) {
            return Err(self.keeper.unavailable(&foreign(&self.cluster)));
        }
        let began = Instant::now();
        let outcome = match tokio::time::timeout(CALL_WITHIN, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self
                .keeper
                .unavailable(&format!("no answer within {CALL_WITHIN:?}"))),
        };
        meter::called(call, &outcome, began.elapsed());
        outcome
    }

    /// Runs a script on the life of its place that is known; when it has another one, that is learnt, and the script run on it.
    pub(crate) async fn run(
        &self,
        place: Place,
        script: &Script,
        keys: &[String],
        arguments: &[Vec<u8>],
    ) -> Result<Answer, RegistryError> {
        if self.silent().contains(&place) {
            return Err(self.keeper.unavailable("a part of the Cluster does not answer"));
        }
        for _ in 0..LIVES_PER_STEP {
            let mut life = self.lives.of(place);
            if life.is_empty() {
                life = self.begin_life(place).await?;
            }
            let mut invocation = script.key(self.keys.life(place));
            for key in keys {
                invocation.key(key);
            }
            invocation.arg(life);
            for argument in arguments {
                invocation.arg(argument.as_slice());
            }
            let (number, mut wire) = self.keeper.wire()?;
            let value = invocation.invoke_async(&mut wire).await;
            let answer = self.answer(number, value)?;
            if answer.word != "life" {
                return Ok(answer);
            }
            self.begin_life(place).await?;
            // Others may be lost as well.
            self.poke.notify_one();
        }
        Err(self.keeper.unavailable("it loses what it is told"))
    }

    /// Runs a script on the nodes.
    pub(crate) async fn run_on_nodes(
        &self,
        script: &Script,
        arguments: Vec<Vec<u8>>,
    ) -> Result<Answer, RegistryError> {
        const NAMES: [&str; 9] = [
            "clock",
            "ends",
            "terms",
            "leases",
            "holders",
            "superseded",
            "ended",
            "lapsed",
            "lapsed_at",
        ];
        let keys = NAMES.map(|name| self.keys.of_nodes(name));
        let standstill_ms = STANDSTILL_AFTER.as_millis().to_string();
        let mut all = vec![standstill_ms.into_bytes(), self.keys.changes().into()];
        all.extend(arguments);
        self.run(Place::Nodes, script, &keys, &all).await
    }

    /// What was lost has yet to be told to whoever would not believe an answer then: it takes one look.
    pub(crate) fn lost_nothing_untold(&self) -> Result<(), RegistryError> {
        if self.lives.is_published() {
            return Ok(());
        }
        Err(self.keeper.unavailable("it has lost something, and looks what"))
    }

    /// Learns the life of a place, which begins now if it has none on this run of its server.
    pub(crate) async fn begin_life(&self, place: Place) -> Result<String, RegistryError> {
        let (number, mut wire) = self.keeper.wire()?;
        let mut invocation = self.scripts.life.key(self.keys.life(place));
        invocation.key(self.keys.run(place));
        invocation
            .arg(format!("{:016x}", random()))
            .arg(self.keys.changes());
        let value = invocation.invoke_async(&mut wire).await;
        let answer = self.answer(number, value)?;
        let life = answer.text(0).ok_or_else(|| self.nonsense())?;
        if self.lives.learn(place, life.clone()) && place == Place::Nodes {
            self.standings().begin_anew();
            self.nodes_changed();
        }
        Ok(life)
    }

    /// The same for several places at once.
    pub(crate) async fn begin_lives(
        &self,
        places: impl IntoIterator<Item = Place>,
    ) -> Result<(), RegistryError> {
        let mut under_way: FuturesUnordered<_> =
            places.into_iter().map(|place| self.begin_life(place)).collect();
        while let Some(outcome) = under_way.next().await {
            outcome?;
        }
        Ok(())
    }

    /// Whose registry this is: an error when it is another cluster's.
    pub(crate) async fn claim_ownership(&self, lasts: Duration) -> Result<bool, RegistryError> {
        let (number, mut wire) = self.keeper.wire()?;
        let mut invocation = self.scripts.own.key(self.keys.of_nodes("owner"));
        invocation
            .arg(&self.owner)
            .arg(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
        let value = invocation.invoke_async(&mut wire).await;
        Ok(self.answer(number, value)?.word != "other")
    }

    /// Reads a script's answer, and notes when the connection is of no more use.
    pub(crate) fn answer(
        &self,
        number: u64,
        value: Result<Value, RedisError>,
    ) -> Result<Answer, RegistryError> {
        let value = value.map_err(|error| self.failure(number, &error))?;
        Answer::of(value).ok_or_else(|| self.nonsense())
    }

    pub(crate) fn failure(&self, number: u64, error: &RedisError) -> RegistryError {
        let reason = reason_of(error);
        if breaks(error) {
            self.keeper.failed(number, &reason);
        }
        self.keeper.unavailable(&reason)
    }

    pub(crate) fn nonsense(&self) -> RegistryError {
        self.keeper
            .unavailable("its answer is none this version understands: do others write to these keys?")
    }

    /// The connection, for a command that is no script.
    pub(crate) fn wire(&self) -> Result<(u64, Wire), RegistryError> {
        self.keeper.wire()
    }
}

/// What is said of a registry that is another cluster's.
pub(crate) fn foreign(cluster: &str) -> String {
    format!(
        "it holds the registry of another cluster named {cluster:?}, whose secret differs: give this one another `node.cluster`, or \
         another Redis"
    )
}

/// A number that nobody guesses and nothing has had before.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    SystemEntropy.fill(&mut bytes);
    u64::from_be_bytes(bytes)
}
