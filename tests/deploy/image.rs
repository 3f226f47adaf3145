//! The image: what its file says, what its build is given, and the root that comes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::{made, repository, run, text_of};

const FILE: &str = "deploy/container/Containerfile";

/// An instruction and what stands behind it.
type Instruction = (String, String);

/// The stages of the file.
fn stages() -> Vec<Vec<Instruction>> {
    let text = text_of(FILE);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let mut stages: Vec<Vec<Instruction>> = Vec::new();
    for line in joined.lines().filter(|line| !line.trim().is_empty()) {
        let (word, rest) = line.trim().split_once(' ').expect("an instruction");
        if word == "FROM" {
            stages.push(Vec::new());
        }
        let stage = stages.last_mut().expect("FROM comes first");
        let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
        stage.push((word.to_owned(), rest));
    }
    stages
}

/// The one instruction of this name.
fn only(stage: &[Instruction], word: &str) -> String {
    let mut found = stage.iter().filter(|(name, _)| name == word);
    let rest = found.next().map(|(_, rest)| rest.clone());
    assert!(found.next().is_none(), "{word} is there twice");
    rest.unwrap_or_else(|| panic!("no {word}"))
}

/// The words of a command without a shell: there is none in the image.
fn words(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// `NAME=VALUE` of an `ENV`.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(' ').map(|pair| pair.split_once('='));
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    pairs.map(|pair| owned(pair.expect("NAME=VALUE"))).collect()
}

/// The image as an engine has it.
pub(crate) struct Image {
    root: TempDir,
    pub(crate) user: String,
    pub(crate) folder: String,
    pub(crate) volume: String,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) command: Vec<String>,
    pub(crate) health: Vec<String>,
}

impl Image {
    /// Copies what the last stage copies, from where the first has put it.
    pub(crate) fn build() -> Self {
        let stages = stages();
        let last = stages.last().expect("a stage");
        let root = tempfile::tempdir().expect("a temporary folder");
        run("chmod", &["755", &root.path().display().to_string()]);
        for (_, rest) in last.iter().filter(|(word, _)| word == "COPY") {
            copy(rest, root.path());
        }
        let health = only(last, "HEALTHCHECK");
        let [volume] = words(&only(last, "VOLUME")).try_into().expect("one volume");
        Self {
            root,
            user: only(last, "USER"),
            folder: only(last, "WORKDIR"),
            volume,
            environment: pairs(&only(last, "ENV")),
            command: [words(&only(last, "ENTRYPOINT")), words(&only(last, "CMD"))].concat(),
            health: words(health.split_once("CMD ").expect("a command").1),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }
}

/// `--from=build [--chown=USER:GROUP] /image/SOURCE /TARGET`, into this root.
fn copy(instruction: &str, root: &Path) {
    let rest = instruction.strip_prefix("--from=build ").expect("a stage");
    let (owner, rest) = match rest.strip_prefix("--chown=") {
        Some(rest) => rest.split_once(' ').expect("an owner"),
        None => ("0:0", rest),
    };
    let (source, target) = rest.split_once(' ').expect("two paths");
    let source = source.strip_prefix("/image").expect("of the script's");
    let source = format!("{}{source}/.", made("TIDINGS_IMAGE").display());
    let target = format!("{}{target}", root.display());
    run("mkdir", &["-p", &target]);
    run("cp", &["-a", &source, &target]);
    run("chown", &["-R", owner, &target]);
}

/// Files and folders below this one.
fn all_below(folder: &Path) -> BTreeSet<String> {
    let listed = Command::new("find")
        .arg(folder)
        .args(["-printf", "%P\n"])
        .output();
    let listed = listed.expect("find runs").stdout;
    String::from_utf8(listed)
        .expect("text")
        .lines()
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn the_image_has_all_that_was_built_for_it_and_no_more_rights_than_it_needs() {
    let stages = stages();
    let [build, last] = stages.as_slice() else {
        panic!("{} stages", stages.len())
    };
    assert_eq!(only(last, "FROM"), "scratch");
    assert!(
        last.iter().all(|(word, _)| word != "RUN"),
        "there is no shell"
    );
    assert_eq!(only(build, "RUN"), "scripts/build-static release /image");

    // The compiler that everything is tested with.
    let toolchain = text_of("rust-toolchain.toml");
    let version = toolchain.split('"').nth(1).expect("a version");
    assert_eq!(pairs(&only(build, "ENV"))["RUSTUP_TOOLCHAIN"], version);
    let compiler = format!("docker.io/library/rust:{version}-bookworm AS build");
    assert_eq!(only(build, "FROM"), compiler);
    let label = format!("image.version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(only(last, "LABEL").contains(&label));

    let image = Image::build();
    assert!(
        image
            .user
            .split(':')
            .all(|id| id.parse::<u32>().is_ok_and(|id| id > 0))
    );
    assert_eq!(all_below(image.root()), all_below(&made("TIDINGS_IMAGE")));
    assert_eq!(image.volume, image.folder);
    assert_eq!(only(last, "STOPSIGNAL"), "SIGTERM");
}

/// Whether `.dockerignore` lets this path into the build: the kinds of lines that it has are known here.
fn is_given(path: &str) -> bool {
    let (mut given, text) = (true, text_of(".dockerignore"));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line == "*" {
            given = false;
        } else if let Some(prefix) = line.strip_prefix('!') {
            given |= Path::new(path).starts_with(prefix);
        } else {
            let name = line.strip_prefix("**/").expect("a line of a known kind");
            given &= !path.split('/').any(|part| part == name);
        }
    }
    given
}

/// Copies what the build is given.
fn copy_given(folder: &str, to: &Path) {
    for entry in std::fs::read_dir(repository(folder)).expect("a folder of ours") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("text");
        let path = if folder == "." {
            name
        } else {
            format!("{folder}/{name}")
        };
        let is_parent = path == "scripts";
        if entry.file_type().expect("a type").is_dir() {
            if is_given(&path) || is_parent {
                copy_given(&path, to);
            }
        } else if is_given(&path) {
            let target = to.join(&path);
            std::fs::create_dir_all(target.parent().expect("a folder")).expect("a folder of ours");
            std::fs::copy(entry.path(), target).expect("a file of ours");
        }
    }
}

#[test]
fn the_build_is_given_what_it_needs_and_no_secret() {
    // What cargo notes beside the binary: all files that it was made of.
    let mut notes = made("TIDINGS_BIN").into_os_string();
    notes.push(".d");
    let notes = std::fs::read_to_string(notes).expect("cargo's notes");
    let root = repository(".").canonicalize().expect("a folder");
    let mut count = 0;
    for path in notes.split_whitespace().skip(1) {
        if let Ok(path) = Path::new(path).strip_prefix(&root) {
            assert!(is_given(path.to_str().expect("text")), "{}", path.display());
            count += 1;
        }
    }
    assert!(count > 100, "{count} files of ours");
    for path in [
        "deploy/compose/secrets/signing-key",
        "tidings-data/FORMAT",
        ".git/HEAD",
        "target/debug/tidings",
    ] {
        assert!(!is_given(path), "{path}");
    }
    // Members and targets are all there, or cargo would not begin.
    let given = tempfile::tempdir().expect("a temporary folder");
    copy_given(".", given.path());
    let ended = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .current_dir(given.path())
        .output()
        .expect("cargo runs");
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    assert!(given.path().join("scripts/build-static").is_file());
}
