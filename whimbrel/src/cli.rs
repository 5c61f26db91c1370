//! The command line: what may be said, and its defaults.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use humantime_serde::re::humantime;
use whimbrel_protocol::ids::{RoomId, Uid};

/// Where standalone keeps everything, unless told otherwise.
pub(crate) const DATA_DIR_DEFAULT: &str = "whimbrel-data";
/// The first of the ports of standalone, unless told otherwise.
pub(crate) const PORT_BASE_DEFAULT: u16 = 7000;

/// Gateways of a standalone deployment, at most: more than two cores' worth, and as many ports as stay free for them.
pub(crate) const GATEWAYS_MAX: u16 = 16;
/// Routers of a standalone deployment, at most, for the same reasons.
pub(crate) const ROUTERS_MAX: u16 = 8;

#[derive(Parser, Debug)]
#[command(
    name = "whimbrel",
    version,
    about = "An instant-messaging backbone: all roles in one binary"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run every role on this machine, over an embedded store.
    Standalone(StandaloneArgs),
    /// Run a gateway: holds clients' encrypted connections.
    Gateway(RoleArgs),
    /// Run a router: spreads requests over service nodes, passes pushes on.
    Router(RoleArgs),
    /// Run a service node: messages, conversations, sync, HTTP API.
    AppService(RoleArgs),
    /// Run an LBS: tells clients which gateways they may use.
    Lbs(RoleArgs),
    /// Make the keys of a deployment.
    #[command(subcommand)]
    Keygen(KeygenCommand),
    /// Sign a token for a user, as a customer's server would.
    Token(TokenArgs),
    /// Chat in a terminal. Without --to, --group or --room and without input it only listens, until it is interrupted.
    Chat(ChatArgs),
    /// Watch the cluster as its routers see it.
    Top(TopArgs),
    /// Save everything that a store holds at one moment in a file, while nodes run or not.
    Backup(BackupArgs),
    /// Make a store from a backup; it must be empty. Clients sync anew.
    Restore(RestoreArgs),
}

/// A store by whoever uses it.
#[derive(Args, Debug, Clone)]
pub(crate) struct WhichStore {
    /// The configuration of a service node.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub(crate) config: Option<PathBuf>,
    /// The folder of a standalone deployment.
    #[arg(long, value_name = "DIR", default_value = DATA_DIR_DEFAULT)]
    pub(crate) data: PathBuf,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) of: WhichStore,
    /// The file to make. It is as secret as the messages in it.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) into: WhichStore,
    /// The backup.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// Only read the backup and say whether it is whole.
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct StandaloneArgs {
    /// Folder for keys, secrets and messages; made when absent.
    #[arg(long, value_name = "DIR", default_value = DATA_DIR_DEFAULT)]
    pub(crate) data: PathBuf,
    /// Keep nothing: messages in memory, keys in a temporary folder.
    #[arg(long, conflicts_with = "data")]
    pub(crate) ephemeral: bool,
    /// First port: LBS N, HTTP N+1, metrics N+2, gateway N+100, links from N+200. 0 finds free ports.
    #[arg(long, value_name = "N", default_value_t = PORT_BASE_DEFAULT)]
    pub(crate) port_base: u16,
    /// Write where everything listens to this file, as JSON, once all of it does.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Run each role as a process of its own, linked over loopback TCP.
    #[arg(long)]
    pub(crate) processes: bool,
    /// Gateways, each a process on a port of its own, from N+100.
    #[arg(long, value_name = "COUNT", default_value_t = 1, requires = "processes",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(GATEWAYS_MAX)))]
    pub(crate) gateways: u16,
    /// Routers, each a process that takes links on a port of its own, from N+200. The first keeps the registry.
    #[arg(long, value_name = "COUNT", default_value_t = 1, requires = "processes",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(ROUTERS_MAX)))]
    pub(crate) routers: u16,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct TopArgs {
    /// A router's page of metrics and health, such as http://127.0.0.1:7003; may be given more than once. Without it, what
    /// the ready file names.
    #[arg(long, value_name = "URL")]
    pub(crate) router: Vec<String>,
    /// Print the table once and exit, for scripts; fails when no router answers.
    #[arg(long)]
    pub(crate) once: bool,
    /// A running deployment's ready file.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct RoleArgs {
    /// The role's configuration, TOML; deploy/config has a commented example of each.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Write where this role listens to this file, as JSON, once it does.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// End when standard input does: for a supervisor that must not leave orphans.
    #[arg(long, hide = true)]
    pub(crate) end_with_stdin: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum KeygenCommand {
    /// The root that clients pin. Keep its secret offline.
    Root {
        /// Folder for root.key (secret) and root.pub.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// A gateway's identity, certified by the root.
    Identity {
        /// The root's secret key file.
        #[arg(long, value_name = "FILE")]
        root: PathBuf,
        /// The gateway's node name.
        #[arg(long, value_name = "NAME")]
        node: String,
        /// How long the certificate holds, days; clients refuse more than 400.
        #[arg(long, value_name = "DAYS", default_value_t = 180, value_parser = clap::value_parser!(u32).range(1..=400))]
        days: u32,
        /// Folder for identity.key (secret) and identity.cert.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// A new certificate for a gateway's identity key that is there, before the old one ends.
    Certificate {
        /// The root's secret key file.
        #[arg(long, value_name = "FILE")]
        root: PathBuf,
        /// The gateway's secret identity key file.
        #[arg(long, value_name = "FILE")]
        identity_key: PathBuf,
        /// The gateway's node name.
        #[arg(long, value_name = "NAME")]
        node: String,
        /// How long the certificate holds, days; clients refuse more than 400.
        #[arg(long, value_name = "DAYS", default_value_t = 180, value_parser = clap::value_parser!(u32).range(1..=400))]
        days: u32,
        /// The certificate's file; an earlier certificate of the same key there is replaced.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// The secret that authenticates links between nodes.
    ClusterSecret {
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// The secret with which a customer's server signs tokens.
    AppSecret {
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Args, Debug, Clone)]
pub(crate) struct DeploymentArgs {
    /// A running deployment's ready file; the flags below override what it says.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// The app.
    #[arg(long, value_name = "KEY")]
    pub(crate) app_key: Option<String>,
    /// The app's token secret.
    #[arg(long, value_name = "FILE")]
    pub(crate) app_secret_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    /// Whom the token is for.
    #[arg(long, value_parser = uid)]
    pub(crate) uid: String,
    /// How long it holds, such as 12h or 30days.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time)]
    pub(crate) ttl: humantime::Duration,
    /// A token for the HTTP API instead of a user's.
    #[arg(long)]
    pub(crate) server: bool,
    #[command(flatten)]
    pub(crate) deployment: DeploymentArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ChatArgs {
    /// Who you are.
    #[arg(long, value_parser = uid)]
    pub(crate) uid: String,
    /// Chat with this user.
    #[arg(long, value_name = "UID", conflicts_with_all = ["group", "room"], value_parser = uid)]
    pub(crate) to: Option<String>,
    /// Chat in this group.
    #[arg(long, value_name = "ID")]
    pub(crate) group: Option<String>,
    /// Be in this room and chat there: nothing of it is kept.
    #[arg(long, value_name = "ID", conflicts_with = "group", value_parser = room)]
    pub(crate) room: Option<String>,
    /// For scripts: read lines, print `conversation<TAB>seq<TAB>sender<TAB>text` per message; of a room
    /// `room:ID<TAB>0<TAB>sender<TAB>text`.
    #[arg(long)]
    pub(crate) plain: bool,
    /// At the end of input: give up when nothing has moved for so long, such as 60s; an outage of a minute is ridden out.
    /// Without --to, --group or --room and without a line of input there is no such end: it prints what comes until it is
    /// interrupted.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    pub(crate) wait: humantime::Duration,
    /// A token from your server, instead of signing one with the app secret.
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// The LBS to ask; may be given more than once.
    #[arg(long, value_name = "URL")]
    pub(crate) lbs: Vec<String>,
    /// The root key to trust.
    #[arg(long, value_name = "KEY")]
    pub(crate) root_key: Option<String>,
    /// Folder for this client's messages and unsent lines.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) deployment: DeploymentArgs,
}

/// What no server would take is refused before one is asked, and with its flag.
fn uid(text: &str) -> Result<String, String> {
    Uid::new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn room(text: &str) -> Result<String, String> {
    RoomId::new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn time(text: &str) -> Result<humantime::Duration, String> {
    text.parse()
        .map_err(|_| "expected a number with its unit, such as 500ms, 60s, 12h or 30days".to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use whimbrel_gateway::CertificateError;
    use whimbrel_protocol::ids::NodeId;

    use super::*;

    #[test]
    fn the_cure_of_a_certificate_is_a_command_that_there_is() {
        let certified = NodeId::new("gateway-1").unwrap();
        let own = NodeId::new("gateway-2").unwrap();
        let [one, two] = ["one", "two"].map(str::to_owned);
        for error in [
            CertificateError::Expired { days: 3 },
            CertificateError::Node { certified, own },
            CertificateError::Identity {
                certified: one,
                own: two,
            },
        ] {
            let said = error.to_string();
            let (_, command) = said.rsplit_once("`whimbrel ").unwrap();
            let (command, _) = command.split_once('`').unwrap();
            let words = ["whimbrel"].into_iter().chain(command.split(' '));
            let Command::Keygen(KeygenCommand::Certificate { .. }) =
                Cli::try_parse_from(words).unwrap().command
            else {
                unreachable!("{said}: an identity that is there is not made again")
            };
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_flag() {
        let long = "u".repeat(65);
        for (args, named) in [
            (
                ["chat", "--uid", "alice", "--to", ""].as_slice(),
                ["--to", "empty"],
            ),
            (&["chat", "--uid", "alice", "--room", ""], ["--room", "empty"]),
            (&["chat", "--uid", ""], ["--uid", "empty"]),
            (&["chat", "--uid", "alice", "--to", &long], ["--to", "at most 64"]),
            (
                &["chat", "--uid", "alice", "--wait", "banana"],
                ["--wait", "such as 500ms, 60s"],
            ),
            (
                &["token", "--uid", "alice", "--ttl", "1x"],
                ["--ttl", "such as 500ms, 60s"],
            ),
        ] {
            let said = Cli::try_parse_from(["whimbrel"].iter().chain(args))
                .unwrap_err()
                .to_string();
            assert!(named.iter().all(|named| said.contains(named)), "{said}");
        }
        Cli::try_parse_from([
            "whimbrel", "chat", "--uid", "alice", "--to", "bob", "--wait", "5s",
        ])
        .unwrap();
    }
}
