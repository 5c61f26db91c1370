//! The page of a run.

use super::figures::Report;

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn page(_: &Report) -> anyhow::Result<String> {
    Ok(String::new())
}
