//! The API for tools: `GET /openapi.json`, OpenAPI 3.1. For people it is in docs/http-api.md.

use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;

const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`; it says nothing that the documentation does not, so it wants no token.
pub(super) async fn document() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn every_path_that_is_served_is_described_and_no_other() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let described: BTreeSet<&str> = document["paths"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let served: BTreeSet<&str> = super::super::table().iter().map(|(path, _)| *path).collect();
        assert_eq!(described, served);
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        for named in DOCUMENT.split("#/components/schemas/").skip(1) {
            let (name, _) = named.split_once('"').unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
