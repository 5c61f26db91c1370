//! One metrics page from those of several processes: every sample gets the label `process`, and the samples of one
//! metric stand together under one TYPE line, as the text format of Prometheus (version 0.0.4) wants it.

use std::{collections::BTreeMap, fmt::Write as _};

/// What is said of one metric, by all processes.
#[derive(Default)]
struct Family {
    comments: Vec<String>,
    samples: Vec<String>,
}

/// The page of all `(process, page)`.
pub(crate) fn merge<'a>(pages: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for (process, page) in pages {
        // Samples of histograms and summaries have names of their own (_bucket, _sum, _count) behind one TYPE line.
        let mut current = String::new();
        for line in page.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(comment) = line.strip_prefix('#') {
                let mut words = comment.split_whitespace();
                if let (Some("TYPE" | "HELP"), Some(name)) = (words.next(), words.next()) {
                    name.clone_into(&mut current);
                    let family = families.entry(current.clone()).or_default();
                    if !family.comments.iter().any(|known| known == line) {
                        family.comments.push(line.to_owned());
                    }
                }
                continue;
            }
            let name_len = line.find(['{', ' ']).unwrap_or(line.len());
            let (name, rest) = line.split_at(name_len);
            let family = if !current.is_empty() && name.starts_with(&current) {
                &current
            } else {
                name
            };
            let sample = match rest.strip_prefix('{') {
                Some(labels) => format!("{name}{{process=\"{process}\",{labels}"),
                None => format!("{name}{{process=\"{process}\"}}{rest}"),
            };
            families
                .entry(family.to_owned())
                .or_default()
                .samples
                .push(sample);
        }
    }
    let mut page = String::new();
    for family in families.values() {
        for line in family.comments.iter().chain(&family.samples) {
            writeln!(page, "{line}").expect("a String takes everything");
        }
        page.push('\n');
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_metric_stand_together_with_their_process() {
        let a = "# TYPE whimbrel_sessions gauge\nwhimbrel_sessions 3\n";
        let b = "# TYPE whimbrel_sessions gauge\nwhimbrel_sessions{zone=\"a\"} 4\n\n# TYPE x counter\nx 1\n";
        let merged = merge([("gateway", a), ("router", b)]);
        assert_eq!(
            merged,
            "# TYPE whimbrel_sessions gauge\n\
             whimbrel_sessions{process=\"gateway\"} 3\n\
             whimbrel_sessions{process=\"router\",zone=\"a\"} 4\n\n\
             # TYPE x counter\nx{process=\"router\"} 1\n\n"
        );
    }

    #[test]
    fn the_parts_of_a_summary_stay_behind_its_type() {
        let page = "# TYPE wait summary\nwait{quantile=\"0.5\"} 1\nwait_sum 2\nwait_count 2\n";
        let merged = merge([("lbs", page)]);
        assert_eq!(merged.matches("# TYPE").count(), 1);
        assert!(merged.contains("wait_count{process=\"lbs\"} 2"), "{merged}");
    }
}
