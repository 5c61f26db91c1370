//! Which nodes there are, and where they stand.

use std::fmt;

/// The zones of a cluster: nodes of a role are spread over them in turn.
const ZONES: [&str; 2] = ["east", "west"];

/// A role of the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Tells clients which gateways there are.
    Lbs,
    /// Holds clients.
    Gateway,
    /// Switches between the others.
    Router,
    /// A service node.
    AppService,
}

impl Role {
    /// All of them, in the order in which they are started.
    pub const ALL: [Self; 4] = [Self::Router, Self::AppService, Self::Gateway, Self::Lbs];

    /// The subcommand of the binary, which is also the role's name in ready files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lbs => "lbs",
            Self::Gateway => "gateway",
            Self::Router => "router",
            Self::AppService => "app-service",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// What it does.
    pub role: Role,
    /// Counted from 0, among those of its role.
    pub nth: u16,
}

impl Member {
    /// Where it stands.
    #[must_use]
    pub fn zone(self) -> &'static str {
        ZONES[usize::from(self.nth) % ZONES.len()]
    }
}

/// Its node's name: `gateway-1` is the first gateway.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.role, self.nth + 1)
    }
}

/// How many nodes of each role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// LBS.
    pub lbs: u16,
    /// Gateways.
    pub gateways: u16,
    /// Routers.
    pub routers: u16,
    /// Service nodes.
    pub service_nodes: u16,
}

impl Shape {
    /// How many of a role.
    #[must_use]
    pub const fn of(self, role: Role) -> u16 {
        match role {
            Role::Lbs => self.lbs,
            Role::Gateway => self.gateways,
            Role::Router => self.routers,
            Role::AppService => self.service_nodes,
        }
    }

    /// All nodes, in the order in which they are started.
    #[must_use]
    pub fn members(self) -> Vec<Member> {
        let of_role = |role| (0..self.of(role)).map(move |nth| Member { role, nth });
        Role::ALL.into_iter().flat_map(of_role).collect()
    }

    /// All nodes of a role.
    pub fn members_of(self, role: Role) -> impl Iterator<Item = Member> {
        (0..self.of(role)).map(move |nth| Member { role, nth })
    }

    /// The zones that have nodes.
    #[must_use]
    pub fn zones(self) -> Vec<&'static str> {
        let is_used = |zone: &&str| self.members().iter().any(|member| member.zone() == *zone);
        ZONES.into_iter().filter(is_used).collect()
    }
}
