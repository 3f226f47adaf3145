//! Real browsers: a page that the test serves, which follows a stream with the browser's own
//! `EventSource` and reports each event back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;

use serde_json::json;
use tidings_tests::server::any_address;

use crate::follower::Shown;

/// The page, served at an origin of its own.
pub(crate) struct Page {
    listener: TcpListener,
}

impl Page {
    /// Takes a port.
    pub(crate) fn bind() -> Self {
        Self {
            listener: TcpListener::bind(any_address()).expect("binds"),
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.listener.local_addr().expect("bound"))
    }

    /// Serves the page to whoever asks, and passes on what it reports.
    pub(crate) fn serve(&self, stream: &str, mint: &str, access: &str, show: Sender<Shown>) {
        let settings = json!({"stream": stream, "mint": mint, "access": access}).to_string();
        let page = include_str!("page.html").replace("/*SETTINGS*/", &settings);
        let listener = self.listener.try_clone().expect("a second handle");
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (page, show) = (page.clone(), show.clone());
                std::thread::spawn(move || answer(&socket, &page, &show));
            }
        });
    }
}

/// Answers one connection: the page, or a report.
fn answer(mut socket: &TcpStream, page: &str, show: &Sender<Shown>) -> Option<()> {
    let mut reader = BufReader::new(socket);
    loop {
        let mut request_line = String::new();
        reader
            .read_line(&mut request_line)
            .ok()
            .filter(|&count| count > 0)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader
                .read_line(&mut line)
                .ok()
                .filter(|&count| count > 0)?;
            if line == "\r\n" {
                break;
            }
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let (status, kind, content) = if request_line.starts_with("POST /report ") {
            let _ = show.send(Shown::from_json(std::str::from_utf8(&body).ok()?));
            ("204 No Content", "text/plain", "")
        } else if request_line.starts_with("GET / ") {
            ("200 OK", "text/html; charset=utf-8", page)
        } else {
            ("404 Not Found", "text/plain", "")
        };
        let length = content.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        socket
            .write_all(format!("{head}{content}").as_bytes())
            .ok()?;
    }
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Chromium without a window. Its sandbox needs what containers and root do not grant.
pub(crate) fn chromium(url: &str, profile: &Path) -> Command {
    let mut command = quiet("chromium");
    command
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
        ])
        .arg("--remote-debugging-port=0")
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(url);
    command
}

/// Firefox without a window, with a profile that asks nothing and calls nobody.
pub(crate) fn firefox(url: &str, profile: &Path) -> Command {
    let settings = [
        ("browser.shell.checkDefaultBrowser", "false"),
        ("browser.aboutwelcome.enabled", "false"),
        ("browser.startup.homepage_override.mstone", "\"ignore\""),
        ("datareporting.policy.dataSubmissionEnabled", "false"),
        ("toolkit.telemetry.reportingpolicy.firstRun", "false"),
        ("app.update.enabled", "false"),
        ("network.captive-portal-service.enabled", "false"),
        ("network.connectivity-service.enabled", "false"),
    ];
    let lines: String = settings
        .iter()
        .flat_map(|(name, value)| ["user_pref(\"", name, "\", ", value, ");\n"])
        .collect();
    std::fs::write(profile.join("user.js"), lines).expect("writes the profile");
    let mut command = quiet("firefox-esr");
    command
        .args(["--headless", "--no-remote", "--profile"])
        .arg(profile)
        .arg(url)
        .env("HOME", profile)
        .env("MOZ_HEADLESS", "1");
    command
}
