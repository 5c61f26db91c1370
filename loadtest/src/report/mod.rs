//! What a run found: figures, as JSON, as a page, and as a few lines.

mod figures;
mod page;
mod plot;
mod text;

pub use self::figures::{Facts, Quantiles, Report, RoleFigures, SecondFigures};
pub use self::page::page;
pub use self::text::summary;
