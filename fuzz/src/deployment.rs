//! The deployment that inputs are parsed for: a configuration as a server would load it.

use std::ffi::OsString;
use std::sync::OnceLock;

use tidings::config::{Config, Sources, load};
use tidings::ingest::subject::Subjects;
use tidings_protocol::{EventType, TenantId};

/// The shared secret that access tokens are signed with here.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The tenant that things are parsed for.
pub const TENANT: &str = "11111111-1111-4111-8111-111111111111";

/// What a server has read at its start.
pub struct Deployment {
    /// The configuration: the defaults, with a secret for access tokens.
    pub config: Config,
    /// The event types that there are.
    pub types: Vec<EventType>,
    /// What events are the latest state of.
    pub subjects: Subjects,
    /// [`TENANT`].
    pub tenant: TenantId,
}

/// The one deployment.
///
/// # Panics
///
/// When the defaults are no configuration.
pub fn deployment() -> &'static Deployment {
    static DEPLOYMENT: OnceLock<Deployment> = OnceLock::new();
    DEPLOYMENT.get_or_init(|| {
        let secret = ("TIDINGS_AUTH__JWT__SECRET".into(), OsString::from(SECRET));
        let sources = Sources {
            variables: vec![secret],
            ..Sources::default()
        };
        let config = load(&sources)
            .expect("the defaults and a secret are a configuration")
            .config;
        Deployment {
            types: config.known_types(),
            subjects: Subjects::new(&config.subjects),
            tenant: TENANT.parse().expect("a UUID"),
            config,
        }
    })
}
