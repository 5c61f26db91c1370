//! `docs/protocol.md` against the code: every number it must list, and every key or digest it quotes.

use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::code::{Code, Retry};
use whimbrel_protocol::descriptor::SignedPart;
use whimbrel_protocol::frame::FrameKind;
use whimbrel_protocol::method::{Method, PushMethod};

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");
const VECTORS: &str = include_str!("../../../docs/vectors.json");

fn assert_row(start: &str) {
    assert!(
        DOCUMENT.lines().any(|line| line.starts_with(start)),
        "no row `{start}` in docs/protocol.md"
    );
}

#[test]
fn every_number_has_its_row() {
    for kind in FrameKind::ALL {
        assert_row(&format!("| {} | {} |", kind.number(), kind.name()));
    }
    for method in Method::ALL {
        assert_row(&format!("| {} | {method:?} |", method.number()));
    }
    for push in PushMethod::ALL {
        assert_row(&format!("| {} | {push:?} |", push.number()));
    }
    for reason in CloseReason::ALL {
        assert_row(&format!("| {} | {reason:?}", reason.number()));
    }
    for part in [SignedPart::Certificate, SignedPart::Statement] {
        let domain = str::from_utf8(part.domain()).unwrap().trim_end_matches('\0');
        assert_row(&format!("| {part} | `{domain}\\0` |"));
    }
}

#[test]
fn every_code_has_its_row_and_its_advice() {
    for code in Code::ALL {
        let start = format!("| {} | {code:?}", code.number());
        let advice = match code.retry() {
            Retry::Never => "nothing",
            Retry::Later => "later",
            Retry::NewToken => "new token",
        };
        let row = DOCUMENT.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("no row `{start}` in docs/protocol.md"));
        let said = row.rsplit('|').nth(1).unwrap();
        assert!(said.trim().starts_with(advice), "{row}: expected {advice}");
    }
}

#[test]
fn every_long_value_it_quotes_is_in_the_vectors() {
    let is_long_hex = |word: &&str| {
        word.len() >= 32
            && word
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let words = DOCUMENT.split(|c: char| !c.is_ascii_alphanumeric());
    let quoted: Vec<_> = words.filter(is_long_hex).collect();
    assert!(quoted.len() >= 12, "the worked example is gone");
    for value in quoted {
        assert!(VECTORS.contains(value), "{value} is not in docs/vectors.json");
    }
}
