//! Several processes that do one run together: more connections than one may have descriptors, more work than one core does.
//!
//! The first process starts the others with its own command line and a share each. They tell it lines of JSON on their
//! standard output (seconds, phases reached, the tally at the end); it tells them on their standard input when to go on.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{self, Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGKILL;

use crate::clock;
use crate::interrupt::{Interrupt, Signal};
use crate::lead::{Conductor, Lead, Phase};
use crate::schedule::Share;
use crate::tally::{Second, Tally};

/// The longest that nothing may be heard of one worker: each tells something every second, until it has finished.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Between two looks whether there was a signal.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long a process that has closed its pipes may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// What a worker tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Second(Box<Second>),
    Reached(Phase),
    Finished(Box<Tally>),
    Failed(String),
}

/// What a worker is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// All are there; the run goes on at this moment of the monotonic clock.
    Go { phase: Phase, at_ns: u64 },
    /// This signal came: the run is over.
    Cut(Signal),
}

/// Leads a worker by what its first process tells it.
#[derive(Debug)]
pub struct ByPipe {
    reached: Option<Phase>,
    passed: BTreeMap<Phase, Duration>,
    told: Receiver<(Phase, Duration)>,
    interrupt: Interrupt,
}

impl ByPipe {
    /// Listens on standard input. What comes to the first process comes to `interrupt` too.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn start(interrupt: Interrupt) -> anyhow::Result<Self> {
        let (tell, told) = mpsc::channel();
        let passed_on = interrupt.clone();
        thread::Builder::new()
            .name("lead".to_owned())
            .spawn(move || {
                for line in io::stdin().lines().map_while(Result::ok) {
                    match serde_json::from_str(&line) {
                        Ok(Order::Go { phase, at_ns }) => {
                            if tell.send((phase, Duration::from_nanos(at_ns))).is_err() {
                                return;
                            }
                        }
                        Ok(Order::Cut(signal)) => passed_on.pass_on(signal),
                        Err(_) => break,
                    }
                }
                // The first process is gone, or speaks no more sense: nobody waits for this one, and it is not to stay
                // behind with all its connections.
                process::exit(1);
            })
            .context("cannot start the thread that listens to the first process")?;
        Ok(Self {
            reached: None,
            passed: BTreeMap::new(),
            told,
            interrupt,
        })
    }

    /// Tells how the run ended.
    pub fn finish(outcome: anyhow::Result<Tally>) {
        tell(&match outcome {
            Ok(tally) => Told::Finished(Box::new(tally)),
            Err(error) => Told::Failed(format!("{error:#}")),
        });
    }
}

fn tell(told: &Told) {
    let mut line = serde_json::to_string(told).expect("plain data is JSON");
    line.push('\n');
    // Without a first process there is nobody to tell, and the next line read says so.
    let _ = io::stdout().lock().write_all(line.as_bytes());
}

impl Lead for ByPipe {
    fn second(&mut self, second: Second) {
        tell(&Told::Second(Box::new(second)));
    }

    fn pass(&mut self, phase: Phase) -> Option<Duration> {
        if self.reached < Some(phase) {
            self.reached = Some(phase);
            tell(&Told::Reached(phase));
        }
        loop {
            match self.told.try_recv() {
                Ok((phase, at)) => {
                    self.passed.insert(phase, at);
                }
                Err(TryRecvError::Empty) => break,
                // The thread that listens is about to end this process.
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        self.passed.get(&phase).copied()
    }

    fn cut_by(&self) -> Option<Signal> {
        self.interrupt.heard()
    }
}

struct Worker {
    child: Child,
    input: ChildStdin,
    tally: Option<Tally>,
}

impl Worker {
    fn order(&mut self, order: &Order) -> io::Result<()> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.input.write_all(line.as_bytes())
    }

    /// What became of a worker that neither speaks nor listens any more, though it has not finished.
    fn fate(&mut self) -> String {
        let until = clock::now() + ENDS_WITHIN;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.signal() == Some(SIGKILL) => {
                    return format!(
                        "ended before the run did: {status}. If nobody here sent it, the system was short of memory"
                    );
                }
                Ok(Some(status)) => {
                    return format!(
                        "ended before the run did: {status}. What it said of it is above, if anything"
                    );
                }
                Ok(None) if clock::now() < until => thread::sleep(ENDS_WITHIN / 100),
                Ok(None) => return "speaks no more, and has not ended".to_owned(),
                Err(error) => return format!("is gone: {error}"),
            }
        }
    }
}

/// When each worker was heard last, on the monotonic clock; `None` of those from whom nothing more is to come.
#[derive(Debug)]
struct Voices(Vec<Option<Duration>>);

impl Voices {
    fn new(count: usize, now: Duration) -> Self {
        Self(vec![Some(now); count])
    }

    fn heard(&mut self, index: usize, is_finished: bool, now: Duration) {
        if let Some(last) = self.0.get_mut(index) {
            *last = (!is_finished).then_some(now);
        }
    }

    /// How long to wait for the one that has been silent for longest.
    ///
    /// # Errors
    /// Which worker it is, when it has been silent for too long.
    fn patience(&self, now: Duration) -> Result<Duration, usize> {
        let open = self.0.iter().enumerate();
        let oldest = open.filter_map(|(index, last)| Some(((*last)?, index))).min();
        let Some((last, index)) = oldest else {
            return Ok(SILENCE_MAX);
        };
        let left = last.saturating_add(SILENCE_MAX).saturating_sub(now);
        if left.is_zero() { Err(index) } else { Ok(left) }
    }
}

/// The workers of a run; those that are still there end with it.
struct Workers(Vec<Worker>);

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            // Gone already is as good.
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

/// Starts `count` processes of this program and conducts them to the end, which is near once there is an `interrupt`. `arguments`
/// gives a worker's command line.
///
/// # Errors
/// When one cannot be started, fails, or is silent for too long.
pub fn conduct(
    count: u32,
    arguments: impl Fn(Share) -> Vec<String>,
    conductor: &mut Conductor,
    interrupt: &Interrupt,
) -> anyhow::Result<Tally> {
    let program =
        std::env::current_exe().context("cannot find this program's own file to start workers of it")?;
    let (tell, told) = mpsc::channel();
    let mut workers = Workers(Vec::new());
    for index in 0..count {
        let mut child = Command::new(&program)
            .args(arguments(Share { index, of: count }))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start worker {index} of {count}"))?;
        let (input, output) = child
            .stdin
            .take()
            .zip(child.stdout.take())
            .context("a worker's pipes are there")?;
        let tell = Sender::clone(&tell);
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if tell.send((index, Some(line))).is_err() {
                        return;
                    }
                }
                // Whoever conducts may be gone by now.
                let _ = tell.send((index, None));
            })
            .context("cannot start a thread that listens to a worker")?;
        workers.0.push(Worker {
            child,
            input,
            tally: None,
        });
    }
    drop(tell);
    hear(&mut workers, &told, conductor, interrupt)
}

fn hear(
    workers: &mut Workers,
    told: &Receiver<(u32, Option<String>)>,
    conductor: &mut Conductor,
    interrupt: &Interrupt,
) -> anyhow::Result<Tally> {
    let mut is_cut = false;
    let mut reached: BTreeMap<Phase, usize> = BTreeMap::new();
    let mut voices = Voices::new(workers.0.len(), clock::now());
    while workers.0.iter().any(|worker| worker.tally.is_none()) {
        if let Some(signal) = interrupt.heard().filter(|_| !is_cut) {
            is_cut = true;
            for worker in &mut workers.0 {
                // Whoever does not listen any more has finished, or is told of below.
                let _ = worker.order(&Order::Cut(signal));
            }
        }
        let patience = voices.patience(clock::now()).map_err(|index| {
            let silent = SILENCE_MAX.as_secs();
            anyhow!(
                "worker {index} said nothing for {silent} s: it is stopped, or its machine has no time for it"
            )
        })?;
        let (index, line) = match told.recv_timeout(patience.min(LOOK_EVERY)) {
            Ok(told) => told,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => bail!("the workers are gone"),
        };
        let all = workers.0.len();
        let Some(worker) = workers.0.get_mut(index as usize) else {
            continue;
        };
        let Some(line) = line else {
            if worker.tally.is_none() {
                bail!("worker {index} {}", worker.fate());
            }
            continue;
        };
        voices.heard(index as usize, false, clock::now());
        match serde_json::from_str(&line).with_context(|| format!("worker {index} said {line:?}"))? {
            Told::Second(second) => conductor.take_second(&second),
            Told::Finished(tally) => {
                // A signal that came to one of them is meant for all.
                if let Some(signal) = tally.cut_by {
                    interrupt.pass_on(signal);
                }
                worker.tally = Some(*tally);
                voices.heard(index as usize, true, clock::now());
            }
            Told::Failed(why) => bail!("worker {index}: {why}"),
            Told::Reached(phase) => {
                let there = reached.entry(phase).or_default();
                *there += 1;
                if *there == all {
                    conductor.reach(phase);
                    go(workers, phase)?;
                }
            }
        }
    }
    let mut sum = Tally::default();
    for worker in &workers.0 {
        if let Some(tally) = &worker.tally {
            sum.merge(tally);
        }
    }
    Ok(sum)
}

fn go(workers: &mut Workers, phase: Phase) -> anyhow::Result<()> {
    let at_ns = u64::try_from(clock::now().as_nanos()).unwrap_or(u64::MAX);
    for (index, worker) in workers.0.iter_mut().enumerate() {
        if worker.order(&Order::Go { phase, at_ns }).is_err() {
            bail!("worker {index} {}", worker.fate());
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn one_worker_that_says_nothing_is_missed_though_the_others_talk() {
        let s = Duration::from_secs;
        let mut voices = Voices::new(3, s(100));
        voices.heard(0, true, s(110));
        for at in 110..220 {
            voices.heard(2, false, s(at));
        }
        assert_eq!(voices.patience(s(219)), Ok(s(1)));
        assert_eq!(voices.patience(s(220)), Err(1));
        voices.heard(1, true, s(220));
        assert_eq!(
            voices.patience(s(220)),
            Ok(s(119)),
            "who has finished is not missed"
        );
    }

    #[test]
    fn what_workers_tell_survives_the_pipe() {
        let told = Told::Reached(Phase::Round(3));
        let line = serde_json::to_string(&told).unwrap();
        let Told::Reached(phase) = serde_json::from_str(&line).unwrap() else {
            panic!("{line}");
        };
        assert_eq!(phase, Phase::Round(3));
        let mut tally = Tally::default();
        tally.ack.record(Duration::from_millis(3));
        let line = serde_json::to_string(&Told::Finished(Box::new(tally))).unwrap();
        let Told::Finished(tally) = serde_json::from_str(&line).unwrap() else {
            panic!("{line}");
        };
        assert_eq!(tally.ack.count(), 1);
    }
}
