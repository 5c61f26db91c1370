//! The load generator's binary. See the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use whimbrel_loadtest::cli::Cli;
use whimbrel_loadtest::program;

// Many small, long-lived allocations: what jemalloc is for.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[expect(clippy::print_stderr, reason = "the answer to whoever started the program")]
fn main() -> ExitCode {
    let cli = Cli::read(std::env::args()).unwrap_or_else(|error| error.exit());
    match program::main(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("whimbrel-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
