//! The table: one line for each node, from what its process is and what the routers see of it. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use whimbrel_cluster::{Member, Role, Shape, Standing, Views};

const COLUMNS: [&str; 9] = [
    "ROLE", "NODE", "ZONE", "PID", "STATE", "LINKS", "HEALTH", "LOAD", "OPEN",
];

/// The table's text.
pub(super) fn of(shape: Shape, standings: &BTreeMap<Member, Standing>, views: &Views) -> String {
    let rows: Vec<_> = shape
        .members()
        .into_iter()
        .map(|member| {
            let standing = standings.get(&member).copied().unwrap_or_default();
            row(member, standing, views, shape.routers)
        })
        .collect();
    aligned(&rows)
}

fn row(member: Member, standing: Standing, views: &Views, routers: u16) -> [String; COLUMNS.len()] {
    let [links, health, load, open] = if member.role == Role::Router {
        of_router(views.get(&member))
    } else {
        of_node(member, views, routers)
    };
    [
        member.role.to_string(),
        member.to_string(),
        member.zone().to_owned(),
        standing.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        state(standing),
        links,
        health,
        load,
        open,
    ]
}

fn state(standing: Standing) -> String {
    let word = match (standing.pid, standing.up) {
        (Some(_), true) => "up",
        (Some(_), false) => "starting",
        (None, _) => "ended",
    };
    match standing.starts {
        0 | 1 => word.to_owned(),
        starts => format!("{word}, start {starts}"),
    }
}

/// What a router says of itself.
fn of_router(view: Option<&Value>) -> [String; 4] {
    let Some(view) = view else {
        return ["-", "no answer", "-", "-"].map(str::to_owned);
    };
    let nodes = view["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let linked = nodes.iter().filter(|node| node["link"] == "up").count();
    let health = if view["router"]["draining"] == true {
        "draining"
    } else {
        "ready"
    };
    [
        linked.to_string(),
        health.to_owned(),
        permille(&view["router"]["load_permille"]),
        view["router"]["pending"].to_string(),
    ]
}

/// What the routers that are linked with a node say of it: a word when they agree, else each one's.
fn of_node(member: Member, views: &Views, routers: u16) -> [String; 4] {
    let name = member.to_string();
    let nodes = views.values().filter_map(|view| view["nodes"].as_array());
    let seen: Vec<_> = nodes
        .flatten()
        .filter(|node| node["node"].as_str() == Some(&name) && node["link"] == "up")
        .collect();
    let mut words: Vec<_> = seen
        .iter()
        .map(|node| node["health"].as_str().unwrap_or("-"))
        .collect();
    words.sort_unstable();
    words.dedup();
    let health = if words.is_empty() {
        "gone".to_owned()
    } else {
        words.join(", ")
    };
    let most = seen.iter().max_by_key(|node| node["load_permille"].as_u64());
    let open = seen.iter().filter_map(|node| node["outstanding"].as_u64());
    [
        format!("{}/{routers}", seen.len()),
        health,
        most.map_or_else(|| "-".to_owned(), |node| permille(&node["load_permille"])),
        open.sum::<u64>().to_string(),
    ]
}

fn permille(value: &Value) -> String {
    match value.as_u64() {
        Some(permille) => format!("{}.{} %", permille / 10, permille % 10),
        None => "-".to_owned(),
    }
}

fn aligned(rows: &[[String; COLUMNS.len()]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([COLUMNS[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
    let mut text = String::new();
    let mut line = |cells: [&str; COLUMNS.len()]| {
        let mut line = String::new();
        for (cell, width) in cells.into_iter().zip(widths) {
            write!(line, "{cell:width$}  ").expect("a String takes everything");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(COLUMNS);
    for row in rows {
        line(std::array::from_fn(|column| &*row[column]));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHAPE: Shape = Shape {
        lbs: 1,
        gateways: 1,
        routers: 2,
        service_nodes: 1,
    };

    #[test]
    fn a_line_joins_a_process_with_what_the_routers_see_of_it() {
        let node = |health: &str, link: &str| json!({ "node": "app-service-1", "link": link, "health": health, "load_permille": 123, "outstanding": 4 });
        let view = |node: Value| json!({ "router": { "load_permille": 7, "pending": 2, "draining": false }, "nodes": [node] });
        let router = |nth| Member {
            role: Role::Router,
            nth,
        };
        let views = BTreeMap::from([
            (router(0), view(node("ready", "up"))),
            (router(1), view(node("silent", "up"))),
        ]);
        let up = Standing {
            pid: Some(42),
            up: true,
            starts: 3,
            ..Standing::default()
        };
        let service = Member {
            role: Role::AppService,
            nth: 0,
        };
        let table = of(SHAPE, &BTreeMap::from([(service, up)]), &views);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 6, "{table}");
        let cells = |name: &str| -> Vec<String> {
            let line = lines.iter().find(|line| line.contains(name)).copied();
            let cells = line.unwrap_or_default().split("  ");
            let cells = cells.map(str::trim).filter(|cell| !cell.is_empty());
            cells.map(str::to_owned).collect()
        };
        let service = ["app-service", "app-service-1", "east", "42", "up, start 3", "2/2"];
        assert_eq!(cells("app-service-1")[..6], service);
        assert_eq!(cells("app-service-1")[6..], ["ready, silent", "12.3 %", "8"]);
        assert_eq!(cells("router-2")[4..], ["ended", "1", "ready", "0.7 %", "2"]);
        assert_eq!(cells("lbs-1")[4..], ["ended", "0/2", "gone", "-", "0"]);
    }
}
