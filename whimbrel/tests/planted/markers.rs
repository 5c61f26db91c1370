//! What tells a server with planted faults from one without: texts that only planted code contains.

use std::path::Path;

/// Of the binary, of the crate that plants, of each crate with faults, and of what their faults say.
pub(crate) const MARKERS: [&str; 6] = [
    "WHIMBREL_PLANT",
    "only one planted fault at a time",
    "whimbrel-app-service was built with planted faults",
    "whimbrel-gateway was built with planted faults",
    "whimbrel-store was built with planted faults",
    // The store's, when a fault of its disk is planted.
    "planted failure",
];

/// Those of them that are in a binary.
///
/// # Panics
/// When it cannot be read.
pub(crate) fn found_in(binary: &Path) -> Vec<&'static str> {
    let bytes = std::fs::read(binary).expect("the binary can be read");
    let is_in = |marker: &&str| bytes.windows(marker.len()).any(|at| at == marker.as_bytes());
    MARKERS.into_iter().filter(is_in).collect()
}
