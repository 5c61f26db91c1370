//! `standalone --processes`: the four roles as real processes of this machine, linked over loopback TCP, each with a
//! configuration file like those an operator writes.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use axum::{Router, http::StatusCode, routing::get};
use serde_json::{Value, json};
use whimbrel_host::{HostParts, bind_tcp, http, warn_if_exposed};

use crate::{
    cli::StandaloneArgs,
    data_dir::{self, DataDir},
    metrics_merge,
    ports::Ports,
    posted::Posted,
    ready_file::{self, OneOrMore, ReadyFile},
    roles,
    standalone::{self, DRAIN_GRACE_MS, GOAWAY_WINDOW_MS},
    supervisor::{self, Event, Member, RoleProcess, Stop},
    terminal,
};

/// The roles, in the order in which they are started. They are drained in the reverse of what they depend on.
pub(crate) const ROLES: [&str; 4] = ["router", "app-service", "gateway", "lbs"];
/// Each step of the drain: who is told together, the next step waits for them.
const DRAIN_STEPS: [&[&str]; 3] = [&["lbs", "gateway"], &["app-service"], &["router"]];
/// How long a role may drain before it is killed.
const ROLE_DRAIN_GRACE: Duration = Duration::from_secs(15);
/// How long the processes of a deployment that was killed may take to be gone: they have memory to give back.
pub(crate) const PREDECESSORS_END_WITHIN: Duration = Duration::from_secs(3);
/// What a role ends with that says why it does not start; one that is killed has no such status.
const ROLE_REFUSES: i32 = 1;
/// Where each process shows its pages.
type Pages = Vec<(Member, SocketAddr)>;
/// The page that routers have and others have not.
const TOPOLOGY: &str = "topology";
/// How long the roles' own pages may take to answer.
const PAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// The processes: one of each role, and as many gateways and routers as were asked for.
fn members(args: &StandaloneArgs) -> Vec<Member> {
    let all_of = |role| {
        let count = match role {
            "gateway" => args.gateways,
            "router" => args.routers,
            _ => 1,
        };
        (0..count).map(move |nth| Member { role, nth })
    };
    ROLES.into_iter().flat_map(all_of).collect()
}

/// Runs until drained.
pub(crate) async fn run(
    args: &StandaloneArgs,
    data: &DataDir,
    ports: Ports,
    posted: &Posted,
) -> anyhow::Result<()> {
    let host = HostParts::on_system_clock();
    roles::drain_on_signals(&host, posted.clone());
    // Here, and not by each of the roles that read it.
    warn_if_exposed(&data.cluster_secret());
    let pages = bind_tcp("the health page", "--port-base", ports.metrics(0)).await?;
    let drain = host.drain.clone();
    let listed: Pages = members(args)
        .into_iter()
        .zip(1..)
        .map(|(member, nth)| (member, ports.metrics(nth)))
        .collect();
    let routes = page_routes(listed.clone())?;

    let folder = data.processes();
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let processes = listed
        .iter()
        .map(|(member, page)| prepare(*member, *page, &folder, args, data, ports))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let pages = tokio::spawn(async move {
        http::serve(pages, routes, http::HttpLimits::default(), drain.finished()).await;
    });
    // From here on roles run: whatever happens, they are drained below.
    let (mut supervised, events, started) = supervise_all(processes);
    let watch = Watch {
        args,
        data,
        ports,
        posted,
        listed: &listed,
        started: Instant::now(),
    };
    let mut outcome = match started {
        Ok(()) => watch.watch(forward(events), &host).await,
        Err(error) => Err(error),
    };
    if outcome.is_ok() {
        terminal::say("draining; once more Ctrl-C ends it at once");
    }
    for step in DRAIN_STEPS {
        let leaving: Vec<_> = supervised
            .extract_if(.., |member, _| step.contains(&member.role))
            .collect();
        leaving.iter().for_each(|(_, (stop, _))| stop.stop());
        for (_, (_, thread)) in leaving {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                outcome = outcome.and(Err(anyhow::anyhow!("a supervisor panicked")));
            }
        }
    }
    host.drain.finish();
    // It ends with the drain; a panic in it has been reported already.
    let _ = pages.await;
    outcome
}

/// The supervisor of each process, and how to stop it.
type Supervised = BTreeMap<Member, (Stop, std::thread::JoinHandle<()>)>;

/// Starts a supervisor for each; after one that could not be started no more.
fn supervise_all(processes: Vec<RoleProcess>) -> (Supervised, mpsc::Receiver<Event>, anyhow::Result<()>) {
    let (sender, events) = mpsc::channel();
    let mut supervised = BTreeMap::new();
    for process in processes {
        let (member, stop) = (process.member, Stop::default());
        match supervisor::supervise(process, stop.clone(), ROLE_DRAIN_GRACE, sender.clone()) {
            Ok(thread) => supervised.insert(member, (stop, thread)),
            Err(error) => {
                let error = anyhow::Error::new(error).context("a thread for a supervisor");
                return (supervised, events, Err(error));
            }
        };
    }
    (supervised, events, Ok(()))
}

/// What follows the roles' starts and ends, and tells where they are.
struct Watch<'a> {
    args: &'a StandaloneArgs,
    data: &'a DataDir,
    ports: Ports,
    posted: &'a Posted,
    listed: &'a Pages,
    started: Instant,
}

impl Watch<'_> {
    /// Until the drain starts; fails when the roles cannot be started, or when it cannot be said that they were.
    async fn watch(
        &self,
        mut events: tokio::sync::mpsc::UnboundedReceiver<Event>,
        host: &HostParts,
    ) -> anyhow::Result<()> {
        let mut pids = BTreeMap::new();
        while pids.len() < self.listed.len() {
            tokio::select! {
                event = events.recv() => match event.context("no role is supervised any more")? {
                    Event::Up { member, pid } => { pids.insert(member, pid); }
                    event => self.ended(&event, false)?,
                },
                () = host.drain.started() => return Ok(()),
            }
        }
        tokio::select! {
            () = standalone::wait_until(|| is_complete(self.listed, self.ports.lbs(), self.args.gateways)) => {}
            () = host.drain.started() => return Ok(()),
        }
        standalone::say_ready(self.args, self.data, &self.ready(&pids)?, self.posted)?;
        // What the last change of the ready file is at, while it cannot be written.
        let mut unwritten: Option<Pin<Box<dyn Future<Output = ()> + '_>>> = None;
        loop {
            let written = async {
                match &mut unwritten {
                    Some(writing) => writing.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.recv() => match event.context("no role is supervised any more")? {
                    Event::Up { member, pid } => {
                        pids.insert(member, pid);
                        let text = self.ready(&pids)?.text()?;
                        unwritten = match self.posted.write(text.as_bytes()) {
                            Ok(()) => None,
                            Err(error) => {
                                let news = unwritten.is_none().then_some(error);
                                let posted = self.posted;
                                Some(Box::pin(async move { posted.write_at_last(news, text.as_bytes()).await }))
                            }
                        };
                    }
                    event => self.ended(&event, true)?,
                },
                () = written => unwritten = None,
                () = host.drain.started() => return Ok(()),
            }
        }
    }

    fn ready(&self, pids: &BTreeMap<Member, u32>) -> anyhow::Result<ReadyFile> {
        standalone::ready(
            self.args,
            self.data,
            self.ports,
            std::process::id(),
            by_role(pids),
        )
    }

    /// A process is not there. It is tried again; at the start that is enough for a while only, and not at all for one that has ended by
    /// itself with an error before it listened: nothing in its configuration or its folder will be another the next time, and what a
    /// deployment that was killed just now may hold for a moment it has waited for.
    fn ended(&self, event: &Event, told: bool) -> anyhow::Result<()> {
        let is_starting = !told;
        let is_late = is_starting && self.started.elapsed() > PREDECESSORS_END_WITHIN;
        match event {
            Event::Up { .. } => {}
            Event::NotStarted { member, error, .. } if is_late => {
                bail!("the {member} process cannot be started: {error}");
            }
            // Said once: it is tried again and again.
            Event::NotStarted {
                member,
                error,
                again: false,
            } => {
                tracing::error!(process = %member, error, "the role's process cannot be started and is tried again");
            }
            Event::NotStarted { .. } => {}
            Event::Ended {
                member,
                status,
                was_up: false,
            } if is_late || (is_starting && status.code() == Some(ROLE_REFUSES)) => {
                bail!("the {member} process did not start ({status}): see its message above");
            }
            Event::Ended { member, status, .. } => {
                tracing::warn!(process = %member, %status, "the role's process ended and is started again");
            }
        }
        Ok(())
    }
}

/// From the supervisors' threads into this runtime.
fn forward(events: mpsc::Receiver<Event>) -> tokio::sync::mpsc::UnboundedReceiver<Event> {
    // Unbounded: a supervisor says a word per start and end of a process.
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::task::spawn_blocking(move || {
        while let Ok(event) = events.recv() {
            if sender.send(event).is_err() {
                break;
            }
        }
    });
    receiver
}

fn by_role(pids: &BTreeMap<Member, u32>) -> BTreeMap<String, OneOrMore<u32>> {
    let of = |role: &str| {
        let pids = pids.iter().filter(|(member, _)| member.role == role);
        pids.map(|(_, pid)| *pid).collect::<Vec<_>>()
    };
    ROLES
        .iter()
        .map(|role| ((*role).to_owned(), OneOrMore::of(&of(role))))
        .collect()
}

fn prepare(
    member: Member,
    page: SocketAddr,
    folder: &Path,
    args: &StandaloneArgs,
    data: &DataDir,
    ports: Ports,
) -> anyhow::Result<RoleProcess> {
    let config = config_of(member, page, args, data, ports);
    let text = toml::to_string(&config).context("a role's configuration is plain data")?;
    let path = folder.join(format!("{member}.toml"));
    ready_file::write_whole(&path, text.as_bytes())?;
    Ok(RoleProcess {
        member,
        config: path,
        ready_file: folder.join(format!("{member}.ready.json")),
    })
}

fn config_of(member: Member, page: SocketAddr, args: &StandaloneArgs, data: &DataDir, ports: Ports) -> Value {
    let Member { role, nth } = member;
    let mut config = json!({
        "node": { "name": member.to_string() },
        "links": { "secret_file": data.cluster_secret() },
        "health": { "listen": page },
        "telemetry": { "log": "warn" },
    });
    if args.routers > 1 {
        config["registry"] = json!({ "home": Member { role: "router", nth: 0 }.to_string() });
    }
    if role == "router" {
        config["links"]["listen"] = json!(ports.router_links(nth));
        if args.routers == 1 {
            // Nobody has another one to move to.
            config["router"] = json!({ "drain_window": "0s" });
        }
    } else {
        let routers: Vec<_> = (0..args.routers)
            .map(|nth| ports.router_links(nth).to_string())
            .collect();
        config["links"]["routers"] = json!(routers);
    }
    match role {
        "gateway" => {
            config["identity"] = json!({ "key_file": data.identity_key(nth), "certificate": data.identity_certificate(nth), "root": data.root_public() });
            config["gateway"] = json!({
                "listen": ports.gateway_tcp(nth),
                "drain": { "window_ms": GOAWAY_WINDOW_MS, "grace_ms": DRAIN_GRACE_MS },
            });
        }
        "app-service" => {
            config["store"] = json!({ "folder": standalone::store_section(args, data).folder });
            config["app-service"] = json!({
                "apps": [{ "key": data_dir::APP_KEY, "secret_files": [data.app_secret()] }],
                "http": { "listen": ports.http() },
            });
        }
        "lbs" => config["lbs"] = json!({ "listen": ports.lbs() }),
        _ => {}
    }
    config
}

/// The pages of all roles on one: metrics with the label `process`, readiness when all are ready, and a list of what each
/// router sees.
fn page_routes(members: Pages) -> anyhow::Result<Router> {
    let client = http_client().context("an HTTP client for the roles' pages")?;
    let fetch = move |path: &'static str| {
        let (client, mut members) = (client.clone(), members.clone());
        members.retain(|(member, _)| path != TOPOLOGY || member.role == "router");
        async move {
            let mut pages = Vec::new();
            for (member, address) in members {
                pages.push((member.to_string(), page(&client, address, path).await));
            }
            pages
        }
    };
    let metrics = {
        let fetch = fetch.clone();
        move || async move {
            let pages = fetch("metrics").await;
            metrics_merge::merge(
                pages
                    .iter()
                    .filter_map(|(member, page)| Some((member.as_str(), page.as_ref().ok()?.1.as_str()))),
            )
        }
    };
    let topology = {
        let fetch = fetch.clone();
        move || async move {
            let pages = fetch(TOPOLOGY).await;
            let seen = pages.iter().filter_map(|(_, page)| page.as_ref().ok());
            let seen = seen.filter(|(status, _)| *status == 200);
            let seen = seen.filter_map(|(_, text)| serde_json::from_str(text).ok());
            axum::Json(seen.collect::<Vec<Value>>())
        }
    };
    let ready = move || async move {
        let pages = fetch("readyz").await;
        let all = pages
            .iter()
            .all(|(_, page)| matches!(page, Ok((status, _)) if *status == 200));
        let lines: Vec<_> = pages
            .iter()
            .map(|(member, page)| match page {
                Ok((status, text)) => format!("{member}: {status} {}", text.trim()),
                Err(error) => format!("{member}: {error}"),
            })
            .collect();
        let status = if all {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        (status, lines.join("\n") + "\n")
    };
    Ok(Router::new()
        .route("/metrics", get(metrics))
        .route("/topology", get(topology))
        .route("/readyz", get(ready))
        .route("/healthz", get(|| async { "ok\n" })))
}

/// Whether every process says that it is ready, and the LBS lists all `gateways`: whoever asked it sooner would crowd those
/// that it knows for minutes.
async fn is_complete(members: &Pages, lbs: SocketAddr, gateways: u16) -> bool {
    let Ok(client) = http_client() else { return false };
    for (_, address) in members {
        if !matches!(page(&client, *address, "readyz").await, Ok((200, _))) {
            return false;
        }
    }
    let question = format!("v1/gateways?app_key={}&limit={gateways}", data_dir::APP_KEY);
    let listed = page(&client, lbs, &question).await.ok();
    let listed = listed.and_then(|(_, answer)| serde_json::from_str::<Value>(&answer).ok());
    listed.is_some_and(|answer| {
        answer["gateways"]
            .as_array()
            .is_some_and(|list| list.len() >= usize::from(gateways))
    })
}

fn http_client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(PAGE_TIMEOUT)
        .no_proxy()
        .build()
}

async fn page(client: &reqwest::Client, address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let answer = client
        .get(format!("http://{address}/{path}"))
        .send()
        .await
        .map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    Ok((status, answer.text().await.map_err(|error| error.to_string())?))
}
