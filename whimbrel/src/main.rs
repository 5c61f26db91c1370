//! The server binary of Whimbrel: every role, `standalone`, and the command-line tools.

#![forbid(unsafe_code)]

mod cli;
mod data_dir;
mod keygen;
mod ports;
mod ready_file;
mod secret_file;
mod supervisor;

fn main() {}
