//! The owner of a role's tasks: each has a name, each ends, and none dies unnoticed.
//!
//! A panic in a task would leave the process half alive: a committer gone while the listener still accepts. So the
//! default policy is to end the process, loudly. Work for one connection that may fail alone is isolated by its owner,
//! not here.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use futures::FutureExt;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

/// What is done when the task of this name has panicked with this message.
pub type PanicPolicy = fn(task: &'static str, message: &str);

fn abort_the_process(task: &'static str, message: &str) {
    error!(
        task,
        message, "a task panicked; the process ends rather than run on half alive"
    );
    std::process::abort();
}

struct Running {
    name: &'static str,
    abort: Option<AbortHandle>,
}

#[derive(Default)]
struct Register {
    next: u64,
    running: BTreeMap<u64, Running>,
    closed: bool,
}

struct Shared {
    tracker: TaskTracker,
    register: Mutex<Register>,
    on_panic: PanicPolicy,
}

impl Shared {
    fn register(&self) -> MutexGuard<'_, Register> {
        self.register
            .lock()
            .expect("nothing panics while it holds the register of tasks")
    }

    fn spawn<F>(self: &Arc<Self>, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let id = {
            let mut register = self.register();
            if register.closed {
                warn!(task = name, "not started: its owner is shutting down");
                return;
            }
            let id = register.next;
            register.next += 1;
            register.running.insert(id, Running { name, abort: None });
            id
        };
        let entry = Entry {
            shared: Arc::downgrade(self),
            id,
        };
        let on_panic = self.on_panic;
        let task = self.tracker.spawn(async move {
            let entry = entry;
            let outcome = AssertUnwindSafe(future).catch_unwind().await;
            drop(entry);
            if let Err(panic) = outcome {
                on_panic(name, message_of(panic.as_ref()));
            }
        });
        // The task may have ended already, and its entry with it.
        if let Some(running) = self.register().running.get_mut(&id) {
            running.abort = Some(task.abort_handle());
        }
    }

    fn abort_all(&self) -> Vec<&'static str> {
        let mut register = self.register();
        register.closed = true;
        for running in register.running.values() {
            if let Some(abort) = &running.abort {
                abort.abort();
            }
        }
        register.running.values().map(|running| running.name).collect()
    }
}

/// Takes its task off the register however the task ends: done, panicked or aborted.
struct Entry {
    shared: Weak<Shared>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.register().running.remove(&self.id);
        }
    }
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "a panic without a text"
    }
}

/// Owns tasks. Dropping it aborts them; [`shut_down`](Self::shut_down) is the orderly way.
pub struct Tasks {
    shared: Arc<Shared>,
}

impl Tasks {
    /// No tasks yet; a panic in one ends the process.
    #[must_use]
    pub fn new() -> Self {
        Self::with_panic_policy(abort_the_process)
    }

    /// No tasks yet; a panic in one is told to `on_panic`. For tests and simulation, which must live on.
    #[must_use]
    pub fn with_panic_policy(on_panic: PanicPolicy) -> Self {
        let shared = Shared {
            tracker: TaskTracker::new(),
            register: Mutex::new(Register::default()),
            on_panic,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Starts a task on the current tokio runtime. After a shutdown has begun nothing is started any more.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shared.spawn(name, future);
    }

    /// A way to start further tasks of this owner from within its tasks, which does not keep the owner alive.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        Spawner {
            shared: Arc::downgrade(&self.shared),
        }
    }

    /// How many run now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.register().running.len()
    }

    /// Waits up to `grace` for all tasks to end by themselves (tell them to, first), then aborts the rest.
    pub async fn shut_down(self, grace: Duration) -> ShutDownReport {
        self.shared.register().closed = true;
        self.shared.tracker.close();
        let in_time = tokio::time::timeout(grace, self.shared.tracker.wait())
            .await
            .is_ok();
        let aborted = if in_time {
            Vec::new()
        } else {
            self.shared.abort_all()
        };
        ShutDownReport { aborted }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.shared.abort_all();
    }
}

/// Starts tasks for an owner that may be gone; then it starts nothing.
#[derive(Clone)]
pub struct Spawner {
    shared: Weak<Shared>,
}

impl Spawner {
    /// Starts a task, as [`Tasks::spawn`] does.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self.shared.upgrade() {
            Some(shared) => shared.spawn(name, future),
            None => warn!(task = name, "not started: its owner is gone"),
        }
    }
}

/// How a shutdown went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutDownReport {
    /// Names of the tasks that did not end within the grace period and were aborted.
    pub aborted: Vec<&'static str>,
}

impl ShutDownReport {
    /// Whether everything ended by itself.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.aborted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn tasks_that_end_in_time_leave_a_clean_report() {
        let tasks = Tasks::new();
        let (end, ended) = oneshot::channel::<()>();
        tasks.spawn("waits", async move {
            ended.await.unwrap();
        });
        assert_eq!(tasks.running(), 1);
        end.send(()).unwrap();
        assert!(tasks.shut_down(Duration::from_secs(60)).await.is_clean());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_named_and_aborted() {
        struct Dropped(Arc<AtomicBool>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let dropped = Arc::new(AtomicBool::new(false));
        let held = Dropped(Arc::clone(&dropped));
        let tasks = Tasks::new();
        tasks.spawn("ends", async {});
        tasks.spawn("hangs", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        let report = tasks.shut_down(Duration::from_secs(5)).await;
        assert_eq!(report.aborted, ["hangs"]);
        tokio::task::yield_now().await;
        assert!(dropped.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_panic_reaches_the_policy_with_its_task_and_text() {
        static TOLD: Mutex<Option<(String, String)>> = Mutex::new(None);
        let tasks = Tasks::with_panic_policy(|task, message| {
            *TOLD.lock().unwrap() = Some((task.to_owned(), message.to_owned()));
        });
        tasks.spawn("committer", async { panic!("lost the journal") });
        tasks.shut_down(Duration::from_secs(60)).await;
        let told = TOLD.lock().unwrap().take();
        assert_eq!(
            told,
            Some(("committer".to_owned(), "lost the journal".to_owned()))
        );
    }

    #[tokio::test]
    async fn dropping_the_owner_ends_its_tasks_and_its_spawner() {
        let (held, dropped) = oneshot::channel::<()>();
        let tasks = Tasks::new();
        tasks.spawn("held", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        let spawner = tasks.spawner();
        drop(tasks);
        assert!(dropped.await.is_err());
        let (ran, has_run) = oneshot::channel::<()>();
        spawner.spawn("late", async move {
            ran.send(()).unwrap();
        });
        assert!(has_run.await.is_err());
    }
}
