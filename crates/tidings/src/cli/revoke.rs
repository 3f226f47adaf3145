//! `tidings revoke`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use tidings_protocol::operate::AccessRevoked;

use super::connect::ConnectArgs;
use super::table::seconds;
use super::{Failure, Outcome, block_on, print};

#[derive(Debug, Args)]
#[command(after_help = "\
For operators. When a command has ended, the access tokens are refused on every path, their streams are closed, and \
this outlives a restart. A tenant's operator revokes its own tenant's.

Examples:
  tidings revoke user ada
  tidings revoke token 4f0c9a7be210
  tidings revoke tenant --tenant 11111111-1111-4111-8111-111111111111")]
pub(super) struct RevokeCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The access tokens of a user that were issued up to now; without a tenant, of everybody of this id
    User {
        /// The user, as access tokens name it
        user: String,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// The access token with this id (`jti`), whenever it was issued
    Token {
        /// The id, as the access token has it
        token_id: String,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// The access tokens of all users of a tenant that were issued up to now
    Tenant {
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Disconnect a stream; whoever has a valid access token may come back at once
    Connection {
        /// The connection id, such as sse-1f0c9a7be210
        id: String,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

pub(super) fn run(command: RevokeCommand) -> Outcome {
    match command.action {
        Action::User { user, connect } => self::user(&user, &connect),
        Action::Token { token_id, connect } => {
            let client = connect.client()?;
            let tenant = connect.tenant();
            let revoked = block_on(async { Ok(client.revoke_token(&token_id, tenant).await?) })?;
            tell(&revoked, "The access token is refused")
        }
        Action::Tenant { connect } => tenant(&connect),
        Action::Connection { id, connect } => {
            let client = connect.client()?;
            block_on(async { client.disconnect(&id).await.map_err(Failure::new) })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(super) fn user(user: &str, connect: &ConnectArgs) -> Outcome {
    let client = connect.client()?;
    let revoked = block_on(async { Ok(client.revoke_user(user, connect.tenant()).await?) })?;
    tell_issued(&revoked)
}

pub(super) fn tenant(connect: &ConnectArgs) -> Outcome {
    let client = connect.client()?;
    let tenant = connect.required_tenant()?;
    let revoked = block_on(async { Ok(client.revoke_tenant(tenant).await?) })?;
    tell_issued(&revoked)
}

fn tell_issued(revoked: &AccessRevoked) -> Outcome {
    let until = seconds(&revoked.revoked_at);
    tell(
        revoked,
        &format!("Access tokens issued up to {until} are refused"),
    )
}

fn tell(revoked: &AccessRevoked, what: &str) -> Outcome {
    let mut text = format!("{what}; {} streams were closed.", revoked.streams_closed);
    for node in revoked.nodes.iter().filter(|node| !node.answered) {
        // Into a text nothing fails to be written.
        let _ = write!(
            text,
            "\nThe node {} ({}) has not said that it obeys.",
            node.node, node.id
        );
    }
    print(&text)
}
