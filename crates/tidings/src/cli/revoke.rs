//! `tidings revoke`.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use tidings_protocol::operate::{AccessRevoked, ConnectionRevoked};

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
  tidings revoke connection sse-1f0c9a7be210
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
    /// The access token that opened a stream, which is closed; fails where that token has no id (`jti`), and then says whom
    /// to revoke instead
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
            let revoked = block_on(async { Ok(client.revoke_connection(&id).await?) })?;
            tell_connection(&id, revoked)
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

fn tell_connection(id: &str, answer: ConnectionRevoked) -> Outcome {
    if let Some(revoked_at) = answer.revoked_at {
        let revoked = AccessRevoked {
            revoked_at,
            streams_closed: answer.streams_closed,
            nodes: answer.nodes,
        };
        return tell(
            &revoked,
            &format!("The access token behind {id} is refused"),
        );
    }
    let tenant = answer.tenant_id;
    let tenant = tenant.map_or_else(String::new, |tenant| format!(" --tenant {tenant}"));
    Err(Failure::new(format!(
        "{id} was closed, but nothing is revoked: its access token has no id (jti), and whoever has it may come back. Revoke the \
         user instead: tidings revoke user '{}'{tenant}",
        answer.user_id
    )))
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
