//! Whose configuration a file is, by the sections that one role alone has.
//!
//! Unknown keys are warnings, so that each role would start on any other's file, with defaults and, a service node, with
//! a store that nobody meant.

use std::path::Path;

use anyhow::bail;

/// A role, and what shows that a file is its.
struct Owner {
    /// The subcommand that starts it.
    command: &'static str,
    /// What it is called in a sentence.
    called: &'static str,
    /// The sections that no other role has. The first is in every configuration of it that says anything of the role itself.
    sections: &'static [&'static str],
}

const OWNERS: [Owner; 4] = [
    Owner {
        command: "gateway",
        called: "a gateway",
        sections: &["gateway", "identity"],
    },
    Owner {
        command: "router",
        called: "a router",
        sections: &["router"],
    },
    Owner {
        command: "app-service",
        called: "a service node",
        sections: &["app-service", "store"],
    },
    Owner {
        command: "lbs",
        called: "an LBS",
        sections: &["lbs"],
    },
];

impl Owner {
    fn has_some_of(&self, sections: &[String]) -> bool {
        self.sections
            .iter()
            .any(|own| sections.iter().any(|section| section == own))
    }
}

/// That the `file` with these `sections` may be one for `command`: it has a section of that role, or none of any role. One
/// file for all roles has some of each.
///
/// # Errors
/// When it is another role's.
pub(crate) fn check(command: &str, sections: &[String], file: &Path) -> anyhow::Result<()> {
    let owners: Vec<&Owner> = OWNERS
        .iter()
        .filter(|owner| owner.has_some_of(sections))
        .collect();
    if owners.is_empty() || owners.iter().any(|owner| owner.command == command) {
        return Ok(());
    }
    let file = file.display();
    let called: Vec<&str> = owners.iter().map(|owner| owner.called).collect();
    let commands: Vec<String> = owners
        .iter()
        .map(|owner| format!("`whimbrel {} --config {file}`", owner.command))
        .collect();
    bail!(
        "{file} is the configuration of {}; start it with {}. (If it is meant for `whimbrel {command}` too, give it a \
         section `[{command}]`, which may be empty.)",
        called.join(" and "),
        commands.join(" or "),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const EXAMPLES: [(&str, &str, &str); 8] = [
        (
            "gateway",
            "gateway.toml",
            include_str!("../../deploy/config/gateway.toml"),
        ),
        (
            "router",
            "router.toml",
            include_str!("../../deploy/config/router.toml"),
        ),
        (
            "app-service",
            "app-service.toml",
            include_str!("../../deploy/config/app-service.toml"),
        ),
        ("lbs", "lbs.toml", include_str!("../../deploy/config/lbs.toml")),
        (
            "gateway",
            "gateway.toml",
            include_str!("../../deploy/config/cluster/gateway.toml"),
        ),
        (
            "router",
            "router.toml",
            include_str!("../../deploy/config/cluster/router.toml"),
        ),
        (
            "app-service",
            "app-service.toml",
            include_str!("../../deploy/config/cluster/app-service.toml"),
        ),
        (
            "lbs",
            "lbs.toml",
            include_str!("../../deploy/config/cluster/lbs.toml"),
        ),
    ];

    fn sections(text: &str) -> Vec<String> {
        text.parse::<toml::Table>().unwrap().keys().cloned().collect()
    }

    #[test]
    fn each_example_is_its_roles_and_no_others() {
        for (own, file, text) in EXAMPLES {
            for Owner { command, .. } in &OWNERS {
                let checked = check(command, &sections(text), Path::new(file));
                if *command == own {
                    checked.unwrap();
                    continue;
                }
                let said = checked.unwrap_err().to_string();
                let cure = format!("start it with `whimbrel {own} --config {file}`");
                assert!(
                    said.starts_with(&format!("{file} is the configuration of ")),
                    "{said}"
                );
                assert!(said.contains(&cure), "{said}");
            }
        }
    }

    #[test]
    fn a_file_of_all_roles_is_for_each_and_one_of_none_too() {
        for text in [
            "[gateway]\n[router]\n[app-service]\n[lbs]\n",
            "[node]\nname = \"n\"\n",
        ] {
            for Owner { command, .. } in &OWNERS {
                check(command, &sections(text), Path::new("all.toml")).unwrap();
            }
        }
    }
}
