//! Certificates of an authority of our own, made by `openssl`.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::server::run_to_end;

/// An authority (`ca.pem`), a certificate of it for 127.0.0.1 (`server.pem`, `server.key`) and one for a client
/// (`client.pem`, `client.key`), in a folder that goes with this.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes them.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let certificates = Self { folder };
        certificates.authority();
        certificates.signed("server", "IP:127.0.0.1", "serverAuth");
        certificates.signed("client", "DNS:client", "clientAuth");
        certificates
    }

    /// Replaces a certificate by one for the same key that ended yesterday.
    pub fn end(&self, name: &str) {
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days -1 -extfile extensions -out {name}.pem"
        ));
    }

    /// The path of one of the files.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn authority(&self) {
        self.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign \
             -keyout ca.key -out ca.pem",
        );
    }

    fn signed(&self, name: &str, alternative: &str, usage: &str) {
        let extensions = format!("subjectAltName={alternative}\nextendedKeyUsage={usage}\n");
        std::fs::write(self.folder.path().join("extensions"), extensions).expect("a file of ours");
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.pem"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command
            .args(arguments.split_whitespace())
            .current_dir(Path::new(self.folder.path()));
        let ended = run_to_end(command);
        assert!(
            ended.status.success(),
            "openssl {arguments}: {}",
            ended.said
        );
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}
