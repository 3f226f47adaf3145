//! The configuration is read anew while the server runs (SIGHUP): whole, or not at all.
//!
//! First everything that can fail: all of it is parsed and checked as at a start, and what it names is read. Then each
//! room takes over what is its own, which can't fail. Keys that hold for the life of the process (their declarations
//! lack `live`) keep their values, and are named.

use std::sync::Arc;

use crate::app::App;
use crate::config::{self, Config, ConfigErrors, Loaded, Settings, Sources};
use crate::edge::Tls;
use crate::logging;
use crate::server::Server;
use crate::supervisor::Supervisor;

/// What is needed to read the configuration again.
pub struct Reloading {
    app: Arc<App>,
    tls: Option<Arc<Tls>>,
    sources: Sources,
    /// As the process started.
    started: Settings,
    /// As it was read last.
    applied: Settings,
}

/// What has come of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The keys that have other values now.
    pub changed: Vec<String>,
    /// Those that are to have others and will not before a restart.
    pub kept: Vec<String>,
}

impl Reloading {
    /// Of a server that was started with these sources and what they said.
    #[must_use]
    pub fn new(server: &Server, sources: Sources, settings: Settings) -> Self {
        Self {
            app: Arc::clone(server.app()),
            tls: server.tls().cloned(),
            sources,
            started: settings.clone(),
            applied: settings,
        }
    }

    /// Reloads because somebody asked for it, and says what has come of it.
    pub fn obey(&mut self, supervisor: &Supervisor) {
        supervisor.reloading();
        // Files are read, which can take a moment.
        #[expect(
            clippy::disallowed_methods,
            reason = "the main task waits here, which is on no thread of the workers"
        )]
        let reloaded = tokio::task::block_in_place(|| self.reload());
        let status = match reloaded {
            Ok(Reloaded { changed, kept }) => {
                if !kept.is_empty() {
                    let kept = kept.join(" ");
                    tracing::warn!(kept, "these settings stay as they are until a restart");
                }
                tracing::info!(changed = changed.join(" "), "configuration_reloaded");
                self.app.metrics.reloads.applied.add(1);
                "serving with the configuration as it is now"
            }
            Err(refused) => {
                self.app.metrics.reloads.refused.add(1);
                for error in refused.errors() {
                    tracing::error!(%error, "configuration_refused: the one before it stays");
                }
                "serving with the configuration of before: the new one is refused"
            }
        };
        supervisor.ready(status);
    }

    /// Reads the configuration and has everybody obey it.
    ///
    /// # Errors
    ///
    /// All that is wrong with it; then everything is as before.
    pub fn reload(&mut self) -> Result<Reloaded, ConfigErrors> {
        let Loaded {
            mut config,
            settings,
        } = config::load(&self.sources)?;
        let running = self.app.config();
        config.keep_fixed(&running);
        let mut kept = keep_retention(&mut config, &running);
        config.check()?;
        let locate = |error| ConfigErrors::from(settings.locate(error));
        config.require_jwt_key().map_err(locate)?;
        let renewal = self.tls.as_ref().map(|tls| tls.read_again());
        let renewal = renewal.transpose().map_err(locate)?;
        // The last that can fail, since it takes over what it has read.
        let access_tokens = &self.app.access_tokens;
        access_tokens.replace(&config.auth).map_err(locate)?;

        if let (Some(tls), Some(renewal)) = (&self.tls, renewal) {
            tls.adopt(renewal);
        }
        for warning in access_tokens.warnings() {
            tracing::warn!("{warning}");
        }
        self.app.publisher_keys.replace(&config.auth.publishers);
        self.app.limits.set(&config);
        logging::set_level(&config.logging.level);
        self.app.running_config.store(Arc::new(config));

        let names = |keys: Vec<&config::Key>, live| {
            let keys = keys.into_iter().filter(move |key| key.live == live);
            keys.map(|key| key.name.to_owned()).collect::<Vec<_>>()
        };
        let changed = names(self.applied.changed(&settings), true);
        kept.extend(names(self.started.changed(&settings), false));
        self.applied = settings;
        Ok(Reloaded { changed, kept })
    }
}

/// Of tenants' settings, retention and size belong to the log, which has them from its start. Gives the keys whose
/// values are not taken over.
fn keep_retention(config: &mut Config, running: &Config) -> Vec<String> {
    for tenant in running.tenants.keys() {
        config.tenants.entry(*tenant).or_default();
    }
    let mut kept = Vec::new();
    for (tenant, own) in &mut config.tenants {
        let before = running.tenants.get(tenant);
        let (retention, max_bytes) = (
            before.and_then(|before| before.retention),
            before.and_then(|before| before.max_bytes),
        );
        if own.retention != retention {
            kept.push(format!("tenants.{tenant}.retention"));
        }
        if own.max_bytes != max_bytes {
            kept.push(format!("tenants.{tenant}.max_bytes"));
        }
        own.retention = retention;
        own.max_bytes = max_bytes;
    }
    config
        .tenants
        .retain(|_, own| *own != config::TenantConfig::default());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(tenants: &str) -> Config {
        let flags = [("tenants".to_owned(), tenants.to_owned())];
        let settings = Settings::gather(&[], None, &[], &flags).unwrap();
        config::resolve(settings).unwrap().config
    }

    #[test]
    fn what_belongs_to_the_log_stays_as_it_started_whatever_becomes_of_the_table() {
        let [a, b, c] = ["a", "b", "c"].map(|digit| {
            let first = digit.repeat(8);
            format!("{first}-0000-4000-8000-000000000000")
        });
        let running = config(&format!(
            "{{\"{a}\" = {{retention = \"1d\", streams = 5}}, \"{b}\" = {{max_bytes = \"1MiB\"}}}}"
        ));
        let mut next = config(&format!(
            "{{\"{a}\" = {{retention = \"2d\", streams = 9}}, \"{c}\" = {{retention = \"3d\"}}}}"
        ));
        let kept = keep_retention(&mut next, &running);
        let expected = [
            format!("tenants.{a}.retention"),
            format!("tenants.{b}.max_bytes"),
            format!("tenants.{c}.retention"),
        ];
        assert_eq!(kept, expected);
        let of =
            |config: &Config, tenant: &str| config.tenants.get(&tenant.parse().unwrap()).cloned();
        let (before, after) = (of(&running, &a).unwrap(), of(&next, &a).unwrap());
        assert_eq!(
            (after.retention, after.streams),
            (before.retention, Some(9))
        );
        assert_eq!(of(&next, &b), of(&running, &b));
        assert_eq!(of(&next, &c), None);
    }
}
