//! The load generator's binary. See the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use whimbrel_loadtest::cli::Cli;
use whimbrel_loadtest::program;

// Many small, long-lived allocations: what jemalloc is for.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[expect(clippy::print_stderr, reason = "the answer to whoever started the program")]
fn main() -> ExitCode {
    match program::main(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("whimbrel-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
