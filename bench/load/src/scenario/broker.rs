//! What streams cost the broker behind the server: nothing, whatever their number.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;

use super::Session;
use crate::probe::Probe;
use crate::target::Wish;

/// Events at a steady rate to more and more streams, and what each costs the broker that they come through.
#[derive(Clone, Debug, Args)]
pub struct Broker {
    /// Numbers of streams, ascending.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
    steps: Vec<usize>,
    /// Over how many tenants they are spread.
    #[arg(long, default_value_t = 100)]
    tenants: usize,
    /// Events a second.
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Seconds that are measured at each step.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// What the broker counts.
struct Counts {
    connections: f64,
    consumers: f64,
    messages_out: f64,
    bytes_out: f64,
}

impl Counts {
    fn read(monitor: SocketAddrV4) -> Result<Self> {
        let (server, jetstream) = (ask(monitor, "/varz")?, ask(monitor, "/jsz")?);
        let number = |page: &Value, name: &str| page[name].as_f64().context("no number");
        Ok(Self {
            connections: number(&server, "connections")?,
            consumers: number(&jetstream, "consumers")?,
            messages_out: number(&server, "out_msgs")?,
            bytes_out: number(&server, "out_bytes")?,
        })
    }
}

/// One page of the broker's monitoring, over HTTP/1.0, whose answer ends with the connection.
fn ask(monitor: SocketAddrV4, page: &str) -> Result<Value> {
    let mut connection = TcpStream::connect(monitor)?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(format!("GET {page} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    serde_json::from_str(body).context(page.to_owned())
}

impl Broker {
    pub(crate) fn run(&self, session: &mut Session) -> Result<()> {
        let target = &session.driver.speaker.target;
        let broker = Probe::new(target.broker.context("--broker is needed")?);
        let monitor = target
            .broker_monitor
            .context("--broker-monitor is needed")?;
        let lanes = 0..self.tenants;
        session.tenants(self.tenants);
        let mut opened = 0;
        let mut sent = Vec::new();
        let mut consumers = Vec::new();
        for &step in &self.steps {
            let wish = |stream: usize| Wish {
                lane: stream % self.tenants,
                ..Wish::default()
            };
            session.open((opened..step).map(wish).collect(), 0, 256)?;
            opened = step;
            session.publish_steadily(lanes.clone(), 8, self.rate, 0.5)?;
            session.settle()?;
            let (before, used) = (Counts::read(monitor)?, broker.usage()?);
            let received = session.driver.tally.events;
            let stretch = session.publish_steadily(lanes.clone(), 8, self.rate, self.seconds)?;
            session.settle()?;
            let used = broker.since(&used)?;
            let after = Counts::read(monitor)?;
            let events = (stretch.events as f64).max(1.0);
            let cost = used.cpu * 1e6 / events;
            let received = (session.driver.tally.events - received) as f64;
            let mut tell =
                |name: &str, value: f64| session.report.set(format!("{name}_{step}"), value);
            tell("broker_cpu_us_per_event", cost);
            tell("broker_connections", after.connections);
            tell("broker_consumers", after.consumers);
            let messages = after.messages_out - before.messages_out;
            tell("broker_messages_out_per_event", messages / events);
            let bytes = after.bytes_out - before.bytes_out;
            tell("broker_bytes_out_per_event", bytes / events);
            tell("deliveries_per_event", received / events);
            sent.push(bytes / events);
            consumers.push(after.consumers + after.connections);
        }
        if let ([first, .., last], [few, .., many]) = (&sent[..], &consumers[..]) {
            session.report.set("broker_bytes_out_growth", last / first);
            session.report.set("broker_clients_growth", many - few);
        }
        Ok(())
    }
}
