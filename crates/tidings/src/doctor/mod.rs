//! What of this machine, of what the server stands on, and of the way to it would trouble it, and what to do about
//! each. Looks and tries; changes nothing that lasts, and publishes nothing.
//!
//! - [`report`]: what is found, and how bad it is.
//! - [`running`]: the server of this configuration, where one runs.
//! - [`machine`]: descriptors and the kernel; [`clock`]; [`disk`]; [`exposure`]: who can reach what.
//! - [`secrets`]: keys, certificates ([`certificate`]) and the files they are in.
//! - [`stores`]: Redis and NATS.
//! - [`way`]: the way that clients take, through every proxy in between, over [`wire`].
//!
//! Each check measures first and judges then, so that the judgement is tested without the trouble.

pub mod certificate;
pub mod clock;
pub mod disk;
pub mod exposure;
pub mod machine;
pub mod report;
pub mod running;
pub mod secrets;
pub mod stores;
pub mod way;
pub mod wire;

pub use report::{Finding, Weight};
pub use way::Way;

use self::clock::Watch;
use self::running::Running;
use crate::config::Config;

/// Looks at what this configuration stands on. `tell` is given each finding as it is made, since some take seconds.
pub async fn examine(config: &Config, tell: &mut impl FnMut(Finding)) {
    let watch = Watch::start();
    let server = Running::of(config);
    let mut all = |findings: Vec<Finding>| findings.into_iter().for_each(&mut *tell);
    all(running::check(config, server.as_ref()).await);
    all(machine::check(config, server.as_ref()));
    all(exposure::check(config));
    all(secrets::check(config));
    all(disk::check(config, server.as_ref()));
    all(stores::check(config).await);
    all(clock::check(watch));
}
