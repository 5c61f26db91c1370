//! `cargo xtask cost`: what a message costs, over a standalone with the embedded store and over clusters of several shapes, one after
//! the other on the same cores: how many it acknowledges and how soon, the processor time of each role, and the calls to the store.
//!
//! The load is `whimbrel-loadtest chat`, which stands outside. Processor time is what it reads of the processes that its ready
//! file names; here Redis, the placement driver and the store are among them. Calls are what the store and the placement driver count
//! themselves. Each deployment starts empty; all that is measured of it, and the tables, are kept in one folder.

mod counters;
mod deployment;
mod load;
mod page;
mod plan;
mod round_trips;
mod search;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::built::Built;
use crate::checks::shell::Shell;
use crate::interrupt::Interrupt;
use crate::{root, tikv};
use counters::Counters;
use deployment::{Deployment, Programs};
use load::{Chat, Generator, LoadFigures};
pub(crate) use plan::CostArgs;
use plan::{Nodes, Plan};
use round_trips::RoundTrips;
use search::Search;

/// Between two looks at whatever is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Between two loads: what the one before has left behind is done by then.
const REST: Duration = Duration::from_secs(2);
/// With more messages than this in a commit, those of two people who hardly write have not had one each.
const ALONE: f64 = 1.1;

/// What was measured of a deployment. What could not be is among the errors.
#[derive(Debug, Default)]
struct Measured {
    /// "standalone", or the shape.
    name: String,
    /// How many nodes, in words.
    nodes: String,
    /// Hardly anything to do.
    idle: Option<LoadFigures>,
    /// The rate that all of them are compared at, and its messages for each commit.
    loaded: Option<LoadFigures>,
    messages_per_commit: Option<f64>,
    /// Each rate that was tried, and the best of those that were held.
    tried: Vec<(LoadFigures, bool)>,
    most: Option<LoadFigures>,
    round_trips: Vec<RoundTrips>,
    errors: Vec<String>,
}

/// Runs it. Succeeds when everything could be measured.
pub(crate) fn run(args: &CostArgs) -> anyhow::Result<ExitCode> {
    let plan = args.plan()?;
    let root = root()?;
    let shell = Shell::new(root.clone())?;
    let tikv = tikv::binaries(&shell)?;
    let [server, generator] = Built::with_generator(&root, &args.build)?;
    let programs = Programs { server, tikv };
    let out = out_folder(shell.target_folder(), args)?;
    let interrupt = Interrupt::listen()?;
    let started = Instant::now();
    let say = move |what: &str| println!("[{:6.1} s] {what}", started.elapsed().as_secs_f64());
    say(&format!(
        "about {} min; everything goes to {}",
        plan.takes().as_secs().div_ceil(60),
        out.display()
    ));
    let mut all = Vec::new();
    for nodes in &plan.deployments {
        let mut course = Course {
            plan: &plan,
            interrupt: &interrupt,
            generator: &generator,
            say: &say,
            measured: Measured {
                name: nodes.to_string(),
                nodes: nodes.in_words(),
                ..Measured::default()
            },
        };
        if let Err(error) = course.go(*nodes, &programs, &out) {
            course.fail("", &error);
        }
        all.push(course.measured);
        // After each: what is known is kept, whatever becomes of the rest.
        write(args, &out, &plan, &all)?;
        ensure!(
            !interrupt.is_heard(),
            "interrupted; {} has what was measured until then",
            out.display()
        );
    }
    println!("\n{}", table::of(&plan, &all));
    println!("{}", out.display());
    let complete = all.iter().all(|measured| measured.errors.is_empty());
    Ok(if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn out_folder(target: &Path, args: &CostArgs) -> anyhow::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let own = || target.join(format!("cost/{}", now.as_secs()));
    let out = args.out.clone().unwrap_or_else(own);
    ensure!(
        !out.exists(),
        "{} exists: give --out a folder that does not, so that no figures of another run are among these",
        out.display()
    );
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    Ok(out.canonicalize()?)
}

/// The tables and the JSON, in the folder and where else they are wanted.
fn write(args: &CostArgs, out: &Path, plan: &Plan, all: &[Measured]) -> anyhow::Result<()> {
    let keep = |path: &Path, text: String| {
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    keep(&out.join("cost.md"), table::of(plan, all))?;
    let figures = json!({
        "plan": plan.json(),
        "deployments": all.iter().map(Measured::json).collect::<Vec<_>>(),
    });
    keep(&out.join("cost.json"), format!("{figures:#}\n"))?;
    match &args.json {
        Some(path) => keep(path, format!("{figures:#}\n")),
        None => Ok(()),
    }
}

/// Sleeps, unless it was interrupted.
fn sleep(length: Duration, interrupt: &Interrupt) -> anyhow::Result<()> {
    let until = Instant::now() + length;
    while Instant::now() < until {
        ensure!(!interrupt.is_heard(), "interrupted");
        thread::sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

/// The measuring of one deployment.
struct Course<'a> {
    plan: &'a Plan,
    interrupt: &'a Interrupt,
    generator: &'a Path,
    say: &'a dyn Fn(&str),
    measured: Measured,
}

impl Course<'_> {
    fn say(&self, what: &str) {
        (self.say)(&format!("{}: {what}", self.measured.name));
    }

    /// Notes that something could not be measured. What else can be still is.
    fn fail(&mut self, what: &str, error: &anyhow::Error) {
        let colon = if what.is_empty() { "" } else { ": " };
        let text = format!("{what}{colon}{error:#}");
        self.say(&format!("NOT MEASURED: {text}"));
        self.measured.errors.push(text);
    }

    /// Fails when it was interrupted, else notes what went wrong and says whether nothing did.
    fn done(&mut self, what: &str, result: anyhow::Result<()>) -> anyhow::Result<()> {
        if let Err(error) = result {
            ensure!(!self.interrupt.is_heard(), "interrupted");
            self.fail(what, &error);
        }
        sleep(REST, self.interrupt)
    }

    fn go(&mut self, nodes: Nodes, programs: &Programs, out: &Path) -> anyhow::Result<()> {
        let folder = out.join(&self.measured.name);
        fs::create_dir_all(&folder)?;
        self.say("starting");
        let deployment = Deployment::start(nodes, programs, &folder, &self.plan.log, self.interrupt)?;
        let generator = Generator {
            program: self.generator,
            ready_file: deployment.ready_file(),
            folder: &folder,
            interrupt: self.interrupt,
        };
        let measured = self.measure(nodes, &generator, &deployment.counters());
        deployment.stop().context("at its end")?;
        measured
    }

    /// What needs an unhurried deployment comes first.
    fn measure(
        &mut self,
        nodes: Nodes,
        generator: &Generator<'_>,
        counters: &Counters,
    ) -> anyhow::Result<()> {
        let warm = generator.chat("warm", self.plan.warm());
        self.done("making everybody known", warm.map(drop))?;
        let idle = self.idle(generator);
        self.done("idle", idle)?;
        if self.plan.counts_calls_of(nodes) {
            let counted = self.round_trips(generator, counters);
            self.done("calls to the store", counted)?;
        }
        let loaded = self.loaded(generator, counters);
        self.done("loaded", loaded)?;
        let most = self.most(generator);
        self.done("the most", most)
    }

    fn idle(&mut self, generator: &Generator<'_>) -> anyhow::Result<()> {
        let figures = generator.chat("idle", self.plan.idle())?;
        self.say(&format!("idle: {figures}"));
        self.complain(&figures, "idle");
        self.measured.idle = Some(figures);
        Ok(())
    }

    fn loaded(&mut self, generator: &Generator<'_>, counters: &Counters) -> anyhow::Result<()> {
        let (figures, watched) =
            generator.watched("loaded", self.plan.loaded(), Duration::ZERO, &|| counters.read())?;
        self.say(&format!("loaded: {figures}"));
        self.complain(&figures, "loaded");
        match watched {
            Ok((before, after)) => {
                self.measured.messages_per_commit =
                    counters::per(figures.acked, after.commits.saturating_sub(before.commits));
            }
            Err(error) => self.fail("messages per commit, loaded", &error),
        }
        self.measured.loaded = Some(figures);
        Ok(())
    }

    /// What is wrong with figures that are kept all the same.
    fn complain(&mut self, figures: &LoadFigures, what: &str) {
        for wrong in &figures.wrong {
            self.wrong(format!("{what}: {wrong}"));
        }
    }

    fn wrong(&mut self, text: String) {
        self.say(&format!("WRONG: {text}"));
        self.measured.errors.push(text);
    }

    fn most(&mut self, generator: &Generator<'_>) -> anyhow::Result<()> {
        let mut search = Search::new(self.plan.rate, self.plan.steps);
        if let Some(loaded) = &self.measured.loaded {
            search.take(loaded.rate, loaded.is_held());
            if loaded.is_held() {
                self.measured.most = Some(loaded.clone());
            }
        }
        while let Some(rate) = search.next() {
            let figures = generator.chat(&format!("step-{rate}"), self.plan.step(rate))?;
            let held = figures.is_held();
            search.take(rate, held);
            let word = if held { "held" } else { "not held" };
            self.say(&format!("{rate}/s: {word}, {figures}"));
            if held {
                self.measured.most = Some(figures.clone());
            }
            self.measured.tried.push((figures, held));
            sleep(REST, self.interrupt)?;
        }
        match &self.measured.most {
            Some(most) => self.say(&format!("the most that it holds: {}/s", most.rate)),
            None => ensure!(false, "none of the rates that were tried was held"),
        }
        Ok(())
    }

    fn round_trips(&mut self, generator: &Generator<'_>, counters: &Counters) -> anyhow::Result<()> {
        let window = Duration::from_secs(self.plan.pair_s) + round_trips::SETTLE;
        self.say(&format!(
            "what calls the store while nobody chats, for {} s",
            window.as_secs()
        ));
        let before = counters.read()?;
        sleep(window, self.interrupt)?;
        let background = counters.read()?.since(&before);
        for (name, chat) in [("pair", self.plan.pair()), ("batched", self.plan.batched())] {
            let counted = self.count_calls(name, chat, generator, counters, &background);
            let counted = match counted {
                Ok(counted) => counted,
                Err(error) => {
                    ensure!(!self.interrupt.is_heard(), "interrupted");
                    self.fail(&format!("calls to the store, {name}"), &error);
                    continue;
                }
            };
            self.say(&format!("calls to the store, {name}: {counted}"));
            if name == "pair"
                && let Some(messages) = counted.messages_per_commit.filter(|messages| *messages > ALONE)
            {
                self.wrong(format!(
                    "pair: {messages:.1} messages a commit, not one: give a lower --pair-rate"
                ));
            }
            self.measured.round_trips.push(counted);
        }
        Ok(())
    }

    fn count_calls(
        &mut self,
        name: &'static str,
        chat: Chat,
        generator: &Generator<'_>,
        counters: &Counters,
        background: &counters::Difference,
    ) -> anyhow::Result<RoundTrips> {
        let (figures, watched) = generator.watched(name, chat, round_trips::SETTLE, &|| counters.read())?;
        self.complain(&figures, name);
        let (before, after) = watched?;
        RoundTrips::new(name, &figures, &after.since(&before), background)
    }
}

impl Measured {
    fn json(&self) -> Value {
        let figures = |figures: &Option<LoadFigures>| figures.as_ref().map(LoadFigures::json);
        let tried = self.tried.iter().map(|(figures, held)| {
            let mut tried = figures.json();
            tried["held"] = json!(held);
            tried
        });
        json!({
            "name": self.name,
            "nodes": self.nodes,
            "idle": figures(&self.idle),
            "loaded": figures(&self.loaded),
            "messages_per_commit": self.messages_per_commit,
            "most": figures(&self.most),
            "tried": tried.collect::<Vec<_>>(),
            "round_trips": self.round_trips.iter().map(RoundTrips::json).collect::<Vec<_>>(),
            "errors": self.errors,
        })
    }
}
