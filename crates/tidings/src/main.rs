//! The process: an allocator, and the command line, which knows the rest.

use std::process::ExitCode;

/// Memory comes back after streams close, and small records stay small.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tidings::cli::main()
}
