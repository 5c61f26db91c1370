//! Where a role finds its registry.

use std::sync::Arc;

use whimbrel_link::Caller;
use whimbrel_protocol::ids::NodeId;

use crate::{LinkRegistry, Registry};

/// Where the registry is.
#[derive(Clone)]
pub enum RegistryAt {
    /// In this process, or reached by a way of its own.
    Here(Arc<dyn Registry>),
    /// At a router, over this node's own links; with no name, whichever router passes the call on.
    Linked {
        /// The router that is its home.
        home: Option<NodeId>,
    },
}

impl RegistryAt {
    /// The registry, for a node that reaches routers through `caller`.
    #[must_use]
    pub fn reached_through(self, caller: &Arc<dyn Caller>) -> Arc<dyn Registry> {
        match self {
            Self::Here(registry) => registry,
            Self::Linked { home } => Arc::new(LinkRegistry::new(Arc::clone(caller), home.as_ref())),
        }
    }
}
