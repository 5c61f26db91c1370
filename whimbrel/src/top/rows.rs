//! What `top` shows: one line for each router, one for each node, whatever the number of routers that see it. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use whimbrel_router::{LinkState, NodeView, RouterSelf, Topology};

use super::Answer;

/// The columns of routers.
pub(super) const ROUTER_COLUMNS: [&str; 9] = [
    "ROUTER", "ZONE", "VERSION", "UP", "STATE", "PENDING", "SWITCHED", "RETRIED", "REFUSED",
];
/// The columns of nodes.
pub(super) const NODE_COLUMNS: [&str; 11] = [
    "ROLE", "NODE", "ZONE", "VERSION", "CAP", "LINKS", "HEALTH", "WEIGHT", "LOAD", "OUT", "SINCE",
];

/// One line for each router, and for each address that gave none.
pub(super) fn of_routers(answers: &[Answer]) -> Vec<[String; ROUTER_COLUMNS.len()]> {
    let mut rows = Vec::new();
    for answer in answers {
        match &answer.seen {
            Ok(seen) => rows.extend(seen.iter().map(|topology| of_router(&topology.router))),
            Err(error) => {
                let mut row = [const { String::new() }; ROUTER_COLUMNS.len()];
                row[0].clone_from(&answer.url);
                row[4] = visible(error);
                rows.push(row);
            }
        }
    }
    rows
}

fn of_router(router: &RouterSelf) -> [String; ROUTER_COLUMNS.len()] {
    let state = match (router.draining, router.keeps_registry) {
        (true, _) => "draining",
        (false, true) => "registry",
        (false, false) => "",
    };
    [
        visible(&router.node),
        dash(&router.zone),
        visible(&router.version),
        time(router.up_ms),
        state.to_owned(),
        router.pending.to_string(),
        router.switched.to_string(),
        router.retried.to_string(),
        (router.refused_overloaded + router.refused_unavailable).to_string(),
    ]
}

/// One line for each life of a node, by role and name.
pub(super) fn of_nodes(answers: &[Answer]) -> Vec<[String; NODE_COLUMNS.len()]> {
    let routers: Vec<&Topology> = answers
        .iter()
        .filter_map(|answer| answer.seen.as_ref().ok())
        .flatten()
        .collect();
    let mut nodes: BTreeMap<(&str, &str, &str), Vec<&NodeView>> = BTreeMap::new();
    for node in routers.iter().flat_map(|topology| &topology.nodes) {
        let life = (&*node.role, &*node.node, &*node.incarnation);
        nodes.entry(life).or_default().push(node);
    }
    nodes
        .values()
        .map(|views| of_node(views, routers.len()))
        .collect()
}

fn of_node(views: &[&NodeView], routers: usize) -> [String; NODE_COLUMNS.len()] {
    let first = views[0];
    let linked = views.iter().filter(|view| view.link == LinkState::Up);
    let linked: Vec<_> = linked.copied().collect();
    // Of a node that some routers are linked with, only those say how it is.
    let told = if linked.is_empty() { views } else { &linked };
    let of = |number: fn(&NodeView) -> u64| told.iter().map(move |view| number(view));
    let most = |number: fn(&NodeView) -> u64| of(number).max().unwrap_or(0);
    [
        visible(&first.role),
        visible(&first.node),
        dash(&first.zone),
        visible(&first.version),
        format!("{}%", first.capacity_percent),
        format!("{}/{routers}", linked.len()),
        health(told),
        range(of(|view| view.weight.into())),
        format!("{}\u{2030}", most(|view| view.load_permille.into())),
        of(|view| view.outstanding as u64).sum::<u64>().to_string(),
        time(of(|view| view.link_for_ms).min().unwrap_or(0)),
    ]
}

/// How routers find a node: a word when they agree, else each word with how many say it; and why, or until when.
fn health(views: &[&NodeView]) -> String {
    let mut words: BTreeMap<&str, usize> = BTreeMap::new();
    for view in views {
        *words.entry(view.health.word()).or_default() += 1;
    }
    let mut text = if words.len() == 1 {
        words.keys().map(|word| (*word).to_owned()).collect()
    } else {
        let said: Vec<_> = words
            .iter()
            .map(|(word, count)| format!("{word} {count}"))
            .collect();
        said.join(", ")
    };
    if let Some(ms) = views.iter().filter_map(|view| view.ejected_for_ms).max() {
        text.push_str(&format!(" for {}", time(ms)));
    }
    if let Some(view) = views.iter().find(|view| !view.reason.is_empty()) {
        text.push_str(&format!(": {}", visible(&view.reason)));
    }
    text
}

fn range(numbers: impl Iterator<Item = u64>) -> String {
    let (least, most) = numbers.fold((u64::MAX, 0), |(least, most), number| {
        (least.min(number), most.max(number))
    });
    if least >= most {
        most.to_string()
    } else {
        format!("{least}-{most}")
    }
}

/// A length of time in its two largest units.
fn time(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        visible(text)
    }
}

/// Nothing that a peer says can steer the terminal.
fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// The tables as text, columns aligned.
pub(super) fn plain(answers: &[Answer]) -> String {
    let mut text = String::new();
    write_table(&mut text, &ROUTER_COLUMNS, &of_routers(answers));
    text.push('\n');
    write_table(&mut text, &NODE_COLUMNS, &of_nodes(answers));
    text.trim_end().to_owned()
}

fn write_table<const N: usize>(out: &mut String, columns: &[&str; N], rows: &[[String; N]]) {
    let widths = widths(columns, rows);
    let mut write_row = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.into_iter().zip(widths) {
            write!(line, "{cell:width$}  ").expect("a String takes everything");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    };
    write_row(*columns);
    for row in rows {
        write_row(std::array::from_fn(|column| &*row[column]));
    }
}

/// How wide each column is.
pub(super) fn widths<const N: usize>(columns: &[&str; N], rows: &[[String; N]]) -> [usize; N] {
    std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([columns[column].len()]).max().unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use whimbrel_router::NodeHealth;

    use super::*;

    fn router(name: &str, nodes: Vec<NodeView>) -> Topology {
        Topology {
            router: RouterSelf {
                node: name.to_owned(),
                incarnation: "00000000000000aa".to_owned(),
                cluster: "whimbrel".to_owned(),
                zone: "east".to_owned(),
                version: "1.2.3".to_owned(),
                draining: false,
                keeps_registry: name == "router-1",
                clock_ahead_ms: 0,
                pending: 3,
                load_permille: 0,
                up_ms: 3_723_000,
                switched: 1_000,
                retried: 2,
                refused_overloaded: 4,
                refused_unavailable: 5,
            },
            nodes,
        }
    }

    fn node(health: NodeHealth) -> NodeView {
        NodeView {
            role: "app-service".to_owned(),
            node: "app-service-1".to_owned(),
            incarnation: "00000000000000bb".to_owned(),
            zone: String::new(),
            version: "1.2.3".to_owned(),
            app_keys: Vec::new(),
            capacity_percent: 100,
            link: LinkState::Up,
            link_for_ms: 61_000,
            health,
            reason: String::new(),
            weight: 1_000,
            load_permille: 12,
            outstanding: 5,
            ejected_for_ms: None,
            ejections: 0,
            clock_ahead_ms: 0,
        }
    }

    fn answers(seen: Vec<Topology>) -> Vec<Answer> {
        vec![
            Answer {
                url: "http://a".to_owned(),
                seen: Ok(seen),
            },
            Answer {
                url: "http://b".to_owned(),
                seen: Err("no answer".to_owned()),
            },
        ]
    }

    #[test]
    fn a_table_is_aligned_and_says_who_did_not_answer() {
        let seen = vec![router("router-1", vec![node(NodeHealth::Ready)])];
        let table = plain(&answers(seen));
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines,
            [
                "ROUTER    ZONE  VERSION  UP     STATE      PENDING  SWITCHED  RETRIED  REFUSED",
                "router-1  east  1.2.3    1h02m  registry   3        1000      2        9",
                "http://b                        no answer",
                "",
                "ROLE         NODE           ZONE  VERSION  CAP   LINKS  HEALTH  WEIGHT  LOAD  OUT  SINCE",
                "app-service  app-service-1  -     1.2.3    100%  1/1    ready   1000    12\u{2030}   5    1m01s",
            ]
        );
    }

    #[test]
    fn routers_that_disagree_about_a_node_are_each_heard() {
        let ejected = NodeView {
            weight: 0,
            ejected_for_ms: Some(4_000),
            ..node(NodeHealth::Ejected)
        };
        let unready = NodeView {
            reason: "the store\u{1b}[2J is gone".to_owned(),
            ..node(NodeHealth::NotReady)
        };
        let gone = NodeView {
            link: LinkState::Down,
            ..node(NodeHealth::Gone)
        };
        let cells = |views: Vec<NodeView>| {
            let seen = views.into_iter().map(|view| router("router-1", vec![view]));
            let rows = of_nodes(&answers(seen.collect()));
            assert_eq!(rows.len(), 1, "one node");
            let [_, _, _, _, _, links, health, weight, _, out, _] = rows[0].clone();
            (links, health, weight, out)
        };
        let text = |texts: [&str; 4]| {
            let [links, health, weight, out] = texts.map(str::to_owned);
            (links, health, weight, out)
        };
        let both = cells(vec![node(NodeHealth::Ready), ejected]);
        assert_eq!(both, text(["2/2", "ejected 1, ready 1 for 4s", "0-1000", "10"]));
        let why = cells(vec![unready]);
        assert_eq!(
            why,
            text(["1/1", "not_ready: the store?[2J is gone", "1000", "5"])
        );
        let half = cells(vec![node(NodeHealth::Ready), gone.clone()]);
        assert_eq!(half, text(["1/2", "ready", "1000", "5"]));
        assert_eq!(cells(vec![gone]).0, "0/1");
    }

    #[test]
    fn two_lives_of_a_name_are_two_lines() {
        let earlier = NodeView {
            incarnation: "00000000000000aa".to_owned(),
            link: LinkState::Down,
            ..node(NodeHealth::Gone)
        };
        let seen = router("router-1", vec![node(NodeHealth::Ready), earlier]);
        assert_eq!(of_nodes(&answers(vec![seen])).len(), 2);
    }
}
