//! The peers: found or installed, and started with their configuration from `peers/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::origin::Origin;
use crate::server::{Kind, LOAD_CORE, SERVER_CORE, Server, Setup, command, free_address, on_core};

/// Where the peers are that are installed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers {
    /// nginx, Nchan's module and the configuration to fill in.
    nchan: Option<(PathBuf, PathBuf, PathBuf)>,
    /// Pushpin's runner and the configuration to fill in.
    pushpin: Option<(PathBuf, PathBuf)>,
    /// `nats-server`, which is no peer and is installed like one.
    nats: Option<PathBuf>,
}

impl Peers {
    /// Those of `kinds` that are installed. With `install`, and as root on a Debian, the missing
    /// are installed first. What is missing then is said in `skipped`.
    pub(crate) fn find(
        kinds: &[Kind],
        bench: &Path,
        install: bool,
        skipped: &mut Vec<String>,
    ) -> Self {
        let wanted = |kind| kinds.contains(&kind);
        let mut peers = Self::look(bench);
        let mut packages = Vec::new();
        if wanted(Kind::Nchan) && peers.nchan.is_none() {
            packages.extend(["nginx", "libnginx-mod-nchan"]);
        }
        if wanted(Kind::Pushpin) && peers.pushpin.is_none() {
            packages.push("pushpin");
        }
        if wanted(Kind::Raw) && peers.nats.is_none() {
            packages.push("nats-server");
        }
        if packages.is_empty() {
            return peers;
        }
        let able = rustix::process::geteuid().is_root() && Path::new("/usr/bin/apt-get").exists();
        if install && able {
            println!("installing {}", packages.join(", "));
            let status = Command::new(bench.join("peers/install"))
                .args(&packages)
                .stdout(Stdio::null())
                .status();
            if !status.is_ok_and(|status| status.success()) {
                println!("that failed");
            }
            peers = Self::look(bench);
        }
        let missing = [
            (
                Kind::Nchan,
                peers.nchan.is_none(),
                "nginx, libnginx-mod-nchan",
            ),
            (Kind::Pushpin, peers.pushpin.is_none(), "pushpin"),
            (Kind::Raw, peers.nats.is_none(), "nats-server"),
        ];
        for (kind, missing, packages) in missing {
            if missing && wanted(kind) {
                let line = format!(
                    "{}: SKIPPED, not installed (Debian: {packages})",
                    kind.name()
                );
                println!("{line}");
                skipped.push(line);
            }
        }
        peers
    }

    fn look(bench: &Path) -> Self {
        let variable =
            |name, usual: &str| std::env::var_os(name).map_or_else(|| usual.into(), PathBuf::from);
        let nginx = variable("BENCH_NGINX", "/usr/sbin/nginx");
        let module = variable(
            "BENCH_NCHAN_MODULE",
            "/usr/lib/nginx/modules/ngx_nchan_module.so",
        );
        let pushpin = variable("BENCH_PUSHPIN", "/usr/bin/pushpin");
        let nats = [
            "/usr/sbin/nats-server",
            "/usr/bin/nats-server",
            "/usr/local/bin/nats-server",
        ];
        let nats = nats
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists());
        Self {
            nats: std::env::var_os("BENCH_NATS_SERVER").map_or(nats, |path| Some(path.into())),
            nchan: (nginx.exists() && module.exists())
                .then(|| (nginx, module, bench.join("peers/nchan.conf.in"))),
            pushpin: pushpin
                .exists()
                .then(|| (pushpin, bench.join("peers/pushpin.conf.in"))),
        }
    }

    /// Whether this server can be started as far as peers are concerned.
    pub(crate) fn have(&self, kind: Kind) -> bool {
        match kind {
            Kind::Nchan => self.nchan.is_some(),
            Kind::Pushpin => self.pushpin.is_some(),
            Kind::Raw => self.nats.is_some(),
            Kind::Floor | Kind::Tidings | Kind::TidingsTls | Kind::Append => true,
        }
    }

    /// Where `nats-server` is.
    pub(crate) fn nats(&self) -> Result<&Path> {
        self.nats.as_deref().context("nats-server is not installed")
    }

    pub(crate) fn start_nchan(&self, setup: &Setup, directory: &Path) -> Result<Server> {
        let (nginx, module, template) = self.nchan.as_ref().context("Nchan is not installed")?;
        let address = free_address()?;
        let heartbeat = setup.heartbeat.unwrap_or(Duration::from_secs(15)).as_secs();
        let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
        let configuration = std::fs::read_to_string(template)?
            .replace("@DIRECTORY@", &directory.display().to_string())
            .replace("@MODULE@", &module.display().to_string())
            .replace("@ADDRESS@", &address.to_string())
            .replace("@HEARTBEAT@", &heartbeat.to_string())
            .replace("@USER@", &user);
        let path = directory.join("nginx.conf");
        std::fs::write(&path, configuration)?;
        let mut command = command(nginx);
        command.arg("-p").arg(directory).arg("-c").arg(&path);
        // Before nginx has read its configuration it complains of the log it was built with.
        command.arg("-e").arg(directory.join("error.log"));
        command
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("nginx.out"))?);
        let start = Instant::now();
        let child = on_core(SERVER_CORE, || command.spawn())?.context("starting nginx")?;
        let server = Server::new(child, address);
        let says = || {
            let read = |name| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
            read("nginx.out") + &read("error.log")
        };
        server.await_ready(address, start, says)
    }

    pub(crate) fn start_pushpin(&self, setup: &Setup, directory: &Path) -> Result<Server> {
        let (program, template) = self.pushpin.as_ref().context("Pushpin is not installed")?;
        let (address, publish) = (free_address()?, free_address()?);
        let heartbeat = setup.heartbeat.unwrap_or(Duration::from_secs(15)).as_secs();
        let origin = on_core(LOAD_CORE, || Origin::start(heartbeat))??;
        let configuration = std::fs::read_to_string(template)?
            .replace("@DIRECTORY@", &directory.display().to_string())
            .replace("@ADDRESS@", &address.to_string())
            .replace("@PUBLISH_PORT@", &publish.port().to_string());
        let path = directory.join("pushpin.conf");
        std::fs::write(&path, configuration)?;
        std::fs::write(directory.join("routes"), format!("* {}\n", origin.address))?;
        let mut command = command(program);
        command.arg("--config").arg(&path);
        let output = std::fs::File::create(directory.join("pushpin.out"))?;
        command.stdout(output.try_clone()?).stderr(output);
        let start = Instant::now();
        let child = on_core(SERVER_CORE, || command.spawn())?.context("starting Pushpin")?;
        let mut server = Server::new(child, address);
        server.publish_address = Some(publish);
        server.origin = Some(origin);
        let says = || std::fs::read_to_string(directory.join("pushpin.out")).unwrap_or_default();
        server.await_ready(address, start, says)
    }
}
