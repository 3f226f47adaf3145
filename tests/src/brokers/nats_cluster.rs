//! Several `nats-server`s that are routed to each other.

use std::net::SocketAddr;

use serde_json::Value;

use super::{ATTEMPTS, NatsOptions, NatsServer, is_port_taken, wait_for};
use crate::server::any_address;

/// Servers with one replicated JetStream. [`Self::servers`] can be killed and started again one by one.
#[derive(Debug)]
pub struct NatsCluster {
    /// The servers, in no order that means anything.
    pub servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts so many and waits until they have elected a leader that knows them all.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, &NatsOptions::new())
    }

    /// Starts so many with these options each, which hold for clients; the routes are plain.
    pub fn start_with(count: usize, options: &NatsOptions) -> Self {
        for _ in 0..ATTEMPTS {
            match Self::try_start(count, options) {
                Ok(cluster) => {
                    cluster.wait_until_whole();
                    return cluster;
                }
                Err(said) if is_port_taken(&said) => {}
                Err(said) => panic!("a nats-server did not start:\n{said}"),
            }
        }
        panic!("no free ports in {ATTEMPTS} attempts");
    }

    fn try_start(count: usize, options: &NatsOptions) -> Result<Self, String> {
        let routes: Vec<SocketAddr> = (0..count).map(|_| any_address()).collect();
        let name = format!("tidings-{:08x}", fastrand::u32(..));
        let others: Vec<String> = routes
            .iter()
            .map(|route| format!("\"nats://{route}\""))
            .collect();
        let mut servers: Vec<NatsServer> = routes
            .iter()
            .map(|own| {
                let block = format!(
                    "cluster {{\nname: {name}\nlisten: \"{own}\"\nroutes: [{}]\nno_advertise: {}\n}}\n",
                    others.join(", "),
                    options.is_unadvertised
                );
                NatsServer::new(options.clone(), any_address(), block)
            })
            .collect();
        for server in &mut servers {
            server.launch();
        }
        for server in &mut servers {
            server.wait()?;
        }
        Ok(Self { servers })
    }

    /// What a client is configured with: all servers, separated by commas.
    pub fn url(&self) -> String {
        let urls: Vec<String> = self.servers.iter().map(NatsServer::url).collect();
        urls.join(",")
    }

    /// Kills every server that runs (`kill -9`).
    pub fn kill_all(&mut self) {
        for server in self.servers.iter_mut().filter(|server| server.is_running()) {
            server.kill();
        }
    }

    /// Starts every server that does not run, and waits until the cluster is whole.
    pub fn start_all_again(&mut self) {
        let mut started: Vec<_> = self
            .servers
            .iter_mut()
            .filter(|server| !server.is_running())
            .collect();
        for server in &mut started {
            server.launch();
        }
        for server in started {
            server
                .wait()
                .unwrap_or_else(|said| panic!("a nats-server did not start again:\n{said}"));
        }
        self.wait_until_whole();
    }

    /// Which server leads JetStream, where those that answer agree on one of them.
    pub fn meta_leader(&self) -> Option<usize> {
        let mut leaders = self
            .servers
            .iter()
            .filter_map(|server| server.monitoring("/jsz"))
            .map(|page| page["meta_cluster"]["leader"].clone());
        let leader = leaders.next()?;
        let index = self.index_of(&leader)?;
        leaders.all(|other| other == leader).then_some(index)
    }

    /// Waits until those that run have a leader that runs.
    pub fn wait_for_leader(&self) -> usize {
        let mut found = None;
        wait_for("a leader of JetStream", || {
            let leader = self.meta_leader();
            found = leader.filter(|leader| self.servers[*leader].is_running());
            found.is_some()
        });
        found.expect("just seen")
    }

    /// Waits until there is a leader, and each server is up to date with it.
    pub fn wait_until_whole(&self) {
        let count = self.servers.len() as u64;
        wait_for("a whole cluster of JetStream", || {
            self.meta_leader().is_some_and(|leader| {
                self.servers[leader]
                    .monitoring("/jsz")
                    .is_some_and(|page| page["meta_cluster"]["cluster_size"] == count)
            }) && self.servers.iter().all(|server| {
                server
                    .monitoring("/healthz?js-enabled=true")
                    .is_some_and(|answer| answer["status"] == "ok")
            })
        });
    }

    /// Which server leads this stream (a KV bucket's is `KV_{bucket}`); `None` while none does.
    pub fn leader_of(&self, stream: &str) -> Option<usize> {
        let leader = self.servers.iter().find_map(|server| {
            let page = server.monitoring("/jsz?streams=true")?;
            let accounts = page["account_details"].as_array()?;
            let mut details = accounts
                .iter()
                .filter_map(|account| account["stream_detail"].as_array())
                .flatten();
            let detail = details.find(|detail| detail["name"] == stream)?;
            let leader = detail["cluster"]["leader"].clone();
            (leader.as_str().is_some_and(|name| !name.is_empty())).then_some(leader)
        })?;
        self.index_of(&leader)
    }

    fn index_of(&self, name: &Value) -> Option<usize> {
        self.servers
            .iter()
            .position(|server| *name == server.name.as_str())
    }
}
