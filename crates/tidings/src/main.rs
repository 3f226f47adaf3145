//! The process.

use std::process::ExitCode;

use tidings::config::{self, Sources};
use tidings::server::{Listeners, Server};

/// Memory comes back after streams close, and small records stay small.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let loaded = match config::load(&Sources::of_process(None, Vec::new())) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    tidings::logging::start(&loaded.config.logging);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listeners = match Listeners::bind(&loaded.config) {
            Ok(listeners) => listeners,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        match Server::start(loaded.config, listeners) {
            Ok(server) => {
                let _ = tidings::shutdown::requested().await;
                server.stop().await;
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    })
}
