//! Why two nodes have no link, in words for whoever has to cure it.

use std::net::SocketAddr;

use whimbrel_protocol::ids::NodeId;

/// Why two nodes have no link. Logged once, where it is found; `peer` is always the other end's address.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The address cannot be listened on.
    #[error("cannot listen for links on {address}: {source}; free the port or set another link address")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection could not be made or broke.
    #[error("no link to {peer}: {source}; is the node running, and the address right?")]
    Io {
        /// The other end.
        peer: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It took too long.
    #[error(
        "no link to {peer}: it did not finish the handshake within {timeout_ms} ms; is the address that of a Whimbrel link?"
    )]
    TimedOut {
        /// The other end.
        peer: String,
        /// The bound.
        timeout_ms: u128,
    },
    /// Not Whimbrel, or not a link.
    #[error(
        "{peer} does not speak Whimbrel's link protocol; check that the address is a link address, not a client or HTTP one"
    )]
    NotALink {
        /// The other end.
        peer: String,
    },
    /// Another version.
    #[error(
        "{peer} speaks another link version than this node's, {ours} (theirs: {theirs}); run builds of one link version on all nodes"
    )]
    Version {
        /// The other end.
        peer: String,
        /// Ours.
        ours: u8,
        /// Theirs, as far as known.
        theirs: String,
    },
    /// Another secret.
    #[error("{peer} has another cluster secret; give every node of the cluster the same secret file")]
    WrongSecret {
        /// The other end.
        peer: String,
    },
    /// Another cluster.
    #[error(
        "{peer} is node {node} of cluster {theirs:?}, this is cluster {ours:?}; correct the address or the cluster name"
    )]
    WrongCluster {
        /// The other end.
        peer: String,
        /// Its name.
        node: String,
        /// Its cluster.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// Another process with this node's name.
    #[error("{peer} calls itself {node}, which is this node's name; give each node a name of its own")]
    DuplicateNode {
        /// The other end.
        peer: String,
        /// The name.
        node: String,
    },
    /// The peer is an earlier process of a name that a later one has.
    #[error(
        "{peer} calls itself {node}, and a later process of that name has taken its place; end it, or give it a name of its own"
    )]
    EarlierLife {
        /// The other end.
        peer: String,
        /// The name.
        node: String,
    },
    /// This node is such an earlier process.
    #[error(
        "{peer} refused the link: node {node} has been taken over by a later process of that name; this one must end or be renamed"
    )]
    Superseded {
        /// The other end.
        peer: String,
        /// Its name.
        by: NodeId,
        /// This node's name.
        node: String,
    },
    /// The two nodes have a link already.
    #[error("{peer} is node {node}, which is linked already; one address per node is enough")]
    AlreadyLinked {
        /// The other end.
        peer: String,
        /// The name.
        node: String,
    },
    /// A node reached itself.
    #[error("{peer} is this node ({node}) itself; take it out of the list of nodes to link to")]
    Itself {
        /// The other end.
        peer: String,
        /// The name.
        node: String,
    },
    /// The other end shakes too many hands.
    #[error("{peer} is busy with other handshakes; it is tried again")]
    Busy {
        /// The other end.
        peer: String,
    },
    /// The other end refuses this node.
    #[error("{peer} refused the link: {refusal}")]
    Refused {
        /// The other end.
        peer: String,
        /// Its words, authenticated.
        refusal: String,
    },
    /// The other end introduces itself with nonsense.
    #[error("{peer} introduces itself with nonsense: {reason}")]
    Malformed {
        /// The other end.
        peer: String,
        /// What is wrong.
        reason: String,
    },
}

impl LinkError {
    /// The label it is counted under.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "listen",
            Self::Io { .. } => "io",
            Self::TimedOut { .. } => "timed_out",
            Self::NotALink { .. } => "not_a_link",
            Self::Version { .. } => "version",
            Self::WrongSecret { .. } => "wrong_secret",
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::DuplicateNode { .. } => "duplicate_node",
            Self::AlreadyLinked { .. } => "already_linked",
            Self::EarlierLife { .. } => "earlier_life",
            Self::Superseded { .. } => "superseded",
            Self::Itself { .. } => "itself",
            Self::Busy { .. } => "busy",
            Self::Refused { .. } => "refused",
            Self::Malformed { .. } => "malformed",
        }
    }

    /// The node it is about, where that is known.
    pub(crate) fn node(&self) -> Option<&str> {
        match self {
            Self::WrongCluster { node, .. }
            | Self::DuplicateNode { node, .. }
            | Self::EarlierLife { node, .. }
            | Self::AlreadyLinked { node, .. }
            | Self::Itself { node, .. } => Some(node),
            _ => None,
        }
    }

    /// Whether it is of the kind that passes by itself while nodes come and go.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Io { .. } | Self::AlreadyLinked { .. } | Self::Busy { .. } | Self::TimedOut { .. }
        )
    }
}
