//! `tidings log backup`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;

use tidings_log::{EventRef, Health, Listener, Log, OpenError};
use tidings_protocol::Problem;

use super::super::table::size;
use super::super::{Failure, Outcome, SettingsArgs, print};
use crate::admin::backup::{BackupAnswer, BackupRequest, back_up};
use crate::admin::last_backup::LastBackup;
use crate::config::Config;
use crate::mirror;
use crate::operate::tenants::take_up;
use crate::registry::Registry;
use crate::server::log_options;

pub(super) fn run(target: Option<PathBuf>, settings: &SettingsArgs) -> Outcome {
    let config = settings.load()?.config;
    let target = target
        .or_else(|| config.log.backup_path.clone())
        .ok_or_else(|| Failure::new("name the folder of the backup, or set log.backup_path"))?;
    let target = std::path::absolute(target)?;
    mirror::refuse_mirror(&config.log.path)?;
    if !config.log.path.join("FORMAT").is_file() {
        let folder = config.log.path.display();
        return Err(Failure::new(format!("there is no log in {folder}")));
    }
    let owner = format!("pid {}, tidings log backup", std::process::id());
    let made = match Log::open(log_options(&config, owner), Box::new(Nobody)) {
        Ok(log) => here(&log, &config, target)?,
        Err(OpenError::Locked { .. }) => by_the_server(config.admin_listen, target)?,
        Err(error) => return Err(error.into()),
    };
    report(&made)
}

/// Nobody is told what happens to the log.
struct Nobody;

impl Listener for Nobody {
    fn committed(&mut self, _: &[EventRef<'_>]) {}
    fn health_changed(&mut self, _: &Health) {}
}

/// Of a log that no server has open.
fn here(log: &Log, config: &Config, target: PathBuf) -> Result<BackupAnswer, Failure> {
    let registry = Registry::open(&config.log.path, config.auth.revocations_kept)?;
    take_up(log, &registry).map_err(Failure::new)?;
    let report = back_up(log, &registry, &target, &|| false);
    log.clone().close();
    let answer = BackupAnswer::new(target, &report?);
    LastBackup::default().finished(&config.log.path);
    Ok(answer)
}

/// The server that has the log open makes it, and answers when it is made.
fn by_the_server(admin: SocketAddr, target: PathBuf) -> Result<BackupAnswer, Failure> {
    let (status, body) = post(admin, &BackupRequest { target }).map_err(|error| {
        Failure::new(format!(
            "a server has the log open, and can't be asked at admin_listen = {admin}: {error}"
        ))
    })?;
    if status == 200 {
        return Ok(serde_json::from_slice(&body)?);
    }
    let detail = serde_json::from_slice::<Problem>(&body).map_or_else(
        |_| String::from_utf8_lossy(&body).into_owned(),
        |problem| problem.detail,
    );
    Err(Failure::new(format!(
        "the server that has the log open answers {status}: {detail}"
    )))
}

/// One request, over a connection that ends with the answer. There is no time limit: a large log takes long.
fn post(admin: SocketAddr, request: &BackupRequest) -> std::io::Result<(u16, Vec<u8>)> {
    let body = serde_json::to_vec(request)?;
    let mut connection = TcpStream::connect(reachable(admin))?;
    write!(
        connection,
        "POST /backup HTTP/1.0\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )?;
    connection.write_all(&body)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let strange = || std::io::Error::other("it answers something else than HTTP");
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").ok_or_else(strange)?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| strange())?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.ok_or_else(strange)?, answer.split_off(end + 4)))
}

/// Where a listener on all addresses is reached.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn report(made: &BackupAnswer) -> Outcome {
    print(&format!(
        "{}: the log up to {}, {} in {} segments; {} were written, {} segments among them.",
        made.target.display(),
        made.through,
        size(made.bytes),
        made.segments,
        size(made.bytes_copied),
        made.segments_copied
    ))?;
    if !made.has_state {
        eprintln!(
            "tidings: the state could not be had; a restored log builds it from the events that are retained"
        );
    }
    for (first, last) in &made.lost {
        eprintln!(
            "tidings: the log has lost the positions {first} to {last}, and so has the backup"
        );
    }
    for tenant in &made.purged_since {
        eprintln!(
            "tidings: {tenant} was purged while the backup was finished, and the backup holds events of it; make another"
        );
    }
    let whole = made.lost.is_empty() && made.purged_since.is_empty();
    Ok(ExitCode::from(u8::from(!whole)))
}
