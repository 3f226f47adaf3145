//! `tidings groups`.

use std::io::Read as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use tidings_protocol::DeviceId;

use super::connect::ConnectArgs;
use super::streams::print_lines;
use super::summary::visible;
use super::table::table;
use super::{Failure, Outcome, block_on, print};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
For operators. An access token can name one device group; it then shows the devices of that group. Where a change \
makes a group another one, the streams that it bounds are closed before the command ends, and open anew.

Examples:
  tidings groups
  tidings groups put north core-1 core-2
  grep north inventory.txt | cut -f1 | tidings groups put north -
  tidings token --device-group north"
)]
pub(super) struct GroupsCommand {
    #[command(subcommand)]
    action: Option<Action>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the devices of a group, one a line
    Show {
        /// The group's name
        name: String,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Make or replace a group
    Put {
        /// The group's name
        name: String,
        /// Its devices; `-` reads them from standard input, separated by white space. Without any the group
        /// shows nothing
        #[arg(value_name = "DEVICE")]
        devices: Vec<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Remove a group
    Remove {
        /// The group's name
        name: String,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

pub(super) fn run(command: GroupsCommand) -> Outcome {
    match command.action {
        None => list(command.json, &command.connect),
        Some(Action::Show { name, connect }) => {
            let (client, tenant) = (connect.client()?, connect.required_tenant()?);
            let group = block_on(async { Ok(client.device_group(tenant, &name).await?) })?;
            let devices: Vec<String> = group.devices.iter().map(ToString::to_string).collect();
            if devices.is_empty() {
                return Ok(ExitCode::SUCCESS);
            }
            print(&devices.join("\n"))
        }
        Some(Action::Put {
            name,
            devices,
            connect,
        }) => {
            let devices = read_devices(devices)?;
            let (client, tenant) = (connect.client()?, connect.required_tenant()?);
            block_on(async { Ok(client.put_device_group(tenant, &name, devices).await?) })?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Action::Remove { name, connect }) => {
            let (client, tenant) = (connect.client()?, connect.required_tenant()?);
            block_on(async { Ok(client.remove_device_group(tenant, &name).await?) })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(json: bool, connect: &ConnectArgs) -> Outcome {
    let (client, tenant) = (connect.client()?, connect.required_tenant()?);
    let groups = block_on(async { Ok(client.device_groups(tenant).await?) })?.groups;
    if json {
        return print_lines(&groups);
    }
    if groups.is_empty() {
        return print("There is no device group.");
    }
    let rows: Vec<Vec<String>> = groups
        .into_iter()
        .map(|group| vec![group.name, group.devices.to_string()])
        .collect();
    print(&table(&["GROUP", "DEVICES"], &rows))
}

fn read_devices(arguments: Vec<String>) -> Result<Vec<DeviceId>, Failure> {
    let mut names = Vec::new();
    for argument in arguments {
        if argument == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            names.extend(text.split_whitespace().map(str::to_owned));
        } else {
            names.push(argument);
        }
    }
    let parse = |name: String| {
        name.parse()
            .map_err(|error| Failure::new(format!("{}: {error}", visible(&name))))
    };
    names.into_iter().map(parse).collect()
}
