//! `tidings agent`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tidings_protocol::DeviceId;

use super::connect::ConnectArgs;
use super::{Failure, Outcome, block_on, values};
use crate::agent::{self, Identity};
use crate::config::{LogFormat, LoggingConfig};

#[derive(Debug, Args)]
#[command(after_help = "\
Publishes device_status and metric_update events about this machine: processor, memory, disks, temperature, \
interfaces. While the server is away the agent keeps its latest reading and goes on; when it is stopped it says \
that the device is offline.

Examples:
  TIDINGS_TOKEN=tdk_… tidings agent --url http://10.0.0.1:8080 --tenant 11111111-1111-4111-8111-111111111111
  tidings agent --interval 30s --device rack-3 --site 'Cellar'")]
pub(super) struct AgentArgs {
    /// How often to report
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = values::interval)]
    interval: Duration,
    /// The device's id; the host's name without it
    #[arg(long, value_name = "ID")]
    device: Option<DeviceId>,
    /// The device's name, for people; the host's name without it
    #[arg(long)]
    name: Option<String>,
    /// Where the device stands, for people
    #[arg(long)]
    site: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) fn run(args: AgentArgs) -> Outcome {
    crate::logging::start(&LoggingConfig {
        level: "info".to_owned(),
        format: LogFormat::Auto,
    });
    let client = args.connect.client()?;
    let host = agent::host_device();
    let device = args
        .device
        .clone()
        .or_else(|| host.as_ref().map(|(device, _)| device.clone()))
        .ok_or_else(|| Failure::new("this machine has no host name; give --device"))?;
    let name = args.name.unwrap_or_else(|| match host {
        Some((_, name)) if args.device.is_none() => name,
        _ => device.to_string(),
    });
    let identity = Identity {
        tenant: args.connect.required_tenant()?,
        device,
        name,
        site: args.site,
    };
    block_on(async {
        tracing::info!(
            device = %identity.device,
            tenant = %identity.tenant,
            url = args.connect.url(),
            "reporting"
        );
        let stop = crate::shutdown::requested()?;
        agent::run(client, identity, args.interval, stop).await?;
        Ok(ExitCode::SUCCESS)
    })
}
