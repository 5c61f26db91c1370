//! A page of metrics: asked for, and taken apart.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// How long a process that is busy may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What stands at `/metrics` there. In the old HTTP an answer has no parts and ends with its connection.
pub(super) fn metrics(at: SocketAddr) -> anyhow::Result<String> {
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&at, ANSWER_WITHIN)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {at}\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().with_context(|| format!("asking {at} for its metrics"))?;
    body(&String::from_utf8_lossy(&answer)).with_context(|| format!("the metrics of {at}"))
}

fn body(answer: &str) -> anyhow::Result<String> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "{status}");
    Ok(body.to_owned())
}

/// One line of a page.
#[derive(Debug, PartialEq)]
pub(super) struct Sample {
    labels: BTreeMap<String, String>,
    pub(super) value: f64,
}

impl Sample {
    /// The value of a label; empty, as Prometheus has it, where there is none.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// All lines of a metric of this very name. What is no such line, or no whole one, is passed over.
pub(super) fn samples(page: &str, name: &str) -> Vec<Sample> {
    let of_it = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(labelled) => labels(labelled)?,
            None if rest.starts_with(' ') => (BTreeMap::new(), rest),
            None => return None,
        };
        // A time may stand behind the value.
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Sample { labels, value })
    });
    of_it.collect()
}

/// Labels up to their closing brace, and what is behind it.
fn labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(behind) = text.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, quoted) = text.split_once("=\"")?;
        let (value, behind) = unquoted(quoted)?;
        labels.insert(name.trim().to_owned(), value);
        text = behind;
    }
}

/// A value up to its closing quote, and what is behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    loop {
        match letters.next()? {
            (at, '"') => return Some((value, text.get(at + 1..)?)),
            (_, '\\') => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, letter) => value.push(letter),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const PAGE: &str = "\
# HELP calls Calls.
# TYPE calls counter
calls{type=\"kv_get\",priority=\"normal\"} 7
calls{type=\"kv_get\",priority=\"high\",} 2.5e1 1700000000000
calls{type=\"a \\\"quoted\\\", \\\\one}\"} 1
calls_total{type=\"kv_get\"} 99
calls{type=\"cut
calls{type=\"kv_get\"} many
calls 5
";

    #[test]
    fn lines_of_a_metric_are_told_from_others_and_broken_ones() {
        let samples = samples(PAGE, "calls");
        let told: Vec<_> = samples
            .iter()
            .map(|sample| (sample.label("type"), sample.label("priority"), sample.value))
            .collect();
        assert_eq!(
            told,
            [
                ("kv_get", "normal", 7.0),
                ("kv_get", "high", 25.0),
                ("a \"quoted\", \\one}", "", 1.0),
                ("", "", 5.0),
            ]
        );
    }

    #[test]
    fn an_answer_that_is_no_page_says_what_it_is() {
        assert_eq!(body("HTTP/1.0 200 OK\r\nA: b\r\n\r\nx 1\n").unwrap(), "x 1\n");
        let missing = body("HTTP/1.1 404 Not Found\r\n\r\nno").unwrap_err().to_string();
        assert!(missing.contains("404"), "{missing}");
        assert!(body("SSH-2.0").is_err());
    }
}
