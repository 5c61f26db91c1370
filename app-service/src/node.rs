//! One service node without its shell: everything between the links and the Store, closed over what it is handed.
//!
//! The shell ([`crate::AppService`]) gives it real links, time and tasks; tests and simulation give it others. Nothing in
//! here opens a socket or asks the machine for anything.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use whimbrel_link::Caller;
use whimbrel_protocol::ids::AppKey;
use whimbrel_registry::Registry;
use whimbrel_store::{Epoch, Store};

use crate::auth::{App, Apps};
use crate::config::AppServiceConfig;
use crate::delivery::Delivery;
use crate::env::Env;
use crate::failure::Failure;
use crate::fanout::Fanout;
use crate::log::{AppOptions, AppOptionsOf, Log};
use crate::markers::{Markers, Redo, Sweeper, SweeperParts};
use crate::placement::{Peer, Placement};
use crate::rooms::Rooms;
use crate::service::{Service, ServiceParts};
use crate::user_lane::{LaneParts, Lanes};

/// What a node is handed.
pub struct NodeParts {
    /// Who it is.
    pub me: Peer,
    /// Whose tokens count.
    pub apps: Apps,
    /// Where everything is.
    pub store: Arc<dyn Store>,
    /// Who is where.
    pub registry: Arc<dyn Registry>,
    /// Reaches gateways and other service nodes.
    pub caller: Arc<dyn Caller>,
    /// Time, randomness, tasks.
    pub env: Env,
}

/// A running node.
pub struct Node {
    service: Service,
    log: Log,
    placement: Placement,
    rooms: Rooms,
    lanes: Arc<Lanes>,
    fanout: Fanout,
    markers: Markers,
    sweeper_stop: CancellationToken,
}

impl Node {
    /// Records this life of the node in the store, and starts its tasks.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn start(config: &AppServiceConfig, parts: NodeParts) -> Result<Self, Failure> {
        let NodeParts {
            me,
            apps,
            store,
            registry,
            caller,
            env,
        } = parts;
        let epoch: Epoch = store.epoch().await?;
        let placement = Placement::alone(me.clone());

        let (fanout, fanout_task) = Fanout::new(
            config.rows.push_queue_max,
            Arc::clone(&registry),
            Arc::clone(&caller),
            Arc::clone(&env.clock),
            Arc::clone(&env.timers),
        );
        env.spawner.spawn("fanout", Box::pin(fanout_task.run()));
        let rooms = Rooms::new(Arc::clone(&registry), Arc::clone(&caller), env.clone());
        let lane_parts = LaneParts {
            store: Arc::clone(&store),
            epoch,
            env: env.clone(),
            fanout: fanout.clone(),
            caller,
            placement: placement.clone(),
        };
        let lanes = Lanes::start(&config.rows, lane_parts);
        let markers = Markers::start(Arc::clone(&store), env.clone());
        let sink = Arc::new(Delivery::new(fanout.clone(), Arc::clone(&lanes), markers.clone()));
        let options_of = options_of(apps.clone());
        let grouping = config.commits.over(store.grouping());
        let log = Log::start(
            (Arc::clone(&store), grouping),
            env.clone(),
            &me.node,
            me.incarnation,
            sink,
            options_of,
        )
        .await?;

        let sweeper_stop = CancellationToken::new();
        let sweeper = Sweeper::new(SweeperParts {
            store: Arc::clone(&store),
            env: env.clone(),
            placement: placement.clone(),
            redo: Redo::new(Arc::clone(&store), Arc::clone(&lanes)),
            markers: markers.clone(),
            config: config.sweep.clone(),
            stop: sweeper_stop.clone(),
        });
        env.spawner.spawn("marker-sweeper", Box::pin(sweeper.run()));

        let service = Service::new(ServiceParts {
            log: log.clone(),
            store,
            epoch,
            apps,
            rooms: rooms.clone(),
            lanes: Arc::clone(&lanes),
            env,
            requests_in_progress_max: config.service.requests_in_progress_max,
            default_deadline: Duration::from_millis(u64::from(config.service.default_deadline_ms)),
        });
        Ok(Self {
            service,
            log,
            placement,
            rooms,
            lanes,
            fanout,
            markers,
            sweeper_stop,
        })
    }

    /// The rooms, as this node sees them.
    #[must_use]
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// What answers requests.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The conversation log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The other nodes, to be kept up to date from the registry. Before the first time nothing is swept.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Refuses what is new, finishes what is in progress and writes the rows that follow.
    pub async fn finish(&self) {
        self.service.drain();
        self.service.idle().await;
        self.log.close().await;
        self.sweeper_stop.cancel();
        self.lanes.close();
        self.lanes.ended().await;
    }

    /// Has all tasks end soon. What was not finished is found by its markers.
    pub fn stop(&self) {
        self.service.drain();
        self.sweeper_stop.cancel();
        self.lanes.close();
        self.fanout.close();
        self.markers.close();
    }
}

fn options_of(apps: Apps) -> AppOptionsOf {
    Arc::new(move |app: &AppKey| AppOptions {
        create_users_on_reference: apps
            .find(app.as_str())
            .is_some_and(App::create_users_on_reference),
    })
}
