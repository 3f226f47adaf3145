//! What people read of the declarations: the reference in `docs/configuration.md` and a commented file.

use std::fmt::Write as _;

use super::CONFIG_VARIABLE;
use super::gather::{KEYS, text_value};
use super::key::{Class, Key};

/// How each kind that needs a word of explanation is written.
const NOTATION: &str = "\
A *duration* is a whole number and its unit: `500ms`, `15s`, `5m`, `24h`, `7d`. A *size* is a number of bytes, plain \
or with a unit: `64KiB`, `64MiB`, `10GiB` (`kB`, `MB` and `GB` are the decimal ones). Empty text means not set. Paths \
are relative to the folder in which the server starts.";

/// `docs/configuration.md`, generated from the declarations of the keys.
#[must_use]
pub fn configuration_reference() -> String {
    let mut text = format!(
        "# Configuration\n\n\
         <!-- Generated from the declarations in crates/tidings/src/config/model.rs; change it there. -->\n\n\
         Settings come, in rising order, from the defaults below, from a TOML file (`--config`, or the variable \
         `{CONFIG_VARIABLE}`), from environment variables and from flags. A variable's name is the key in capitals \
         behind `TIDINGS_`, with `__` for each dot; it holds a TOML value (`TIDINGS_MOUNT='[\"/\", \"/api\"]'`) or plain \
         text (`TIDINGS_LISTEN=127.0.0.1:9090`), and where a key takes text it is taken as it stands. A list of texts \
         can also be written with commas.\n\n\
         A key that does not exist and a value that won't do are errors before a port opens. `tidings config check` \
         tells them all; `tidings config show` tells what is in effect and where each value came from.\n\n\
         A server that gets SIGHUP reads all of it again. Keys below that say so are applied then, the others at the next \
         start; with anything wrong nothing is applied.\n\n\
         {NOTATION}\n\n\
         `serve` needs a key to verify access tokens with, one of `auth.jwt.secret`, `auth.jwt.secret_file` and \
         `auth.jwt.public_key_file`; there is no default.\n"
    );
    let mut section = None;
    for key in KEYS.iter() {
        let (of, _) = split(key.name);
        if section != Some(of) {
            section = Some(of);
            let heading = if of.is_empty() { "Server" } else { of };
            let about = key.section_documentation();
            let _ = write!(text, "\n## {heading}\n\n{about}\n");
        }
        let default = if key.default.is_empty() {
            "none".to_owned()
        } else {
            format!("`{}`", default_text(key))
        };
        let _ = write!(
            text,
            "\n### `{}`\n\n{}\n\n{}, default {default}, variable `{}`{}\n",
            key.name,
            key.documentation(),
            capitalised(key.kind),
            key.variable(),
            if key.live {
                "; a reload applies it"
            } else {
                ""
            },
        );
    }
    text
}

/// A configuration file with every key commented out at its default.
#[must_use]
pub fn default_toml() -> String {
    let mut text =
        String::from("# Every key with its default. Remove the # before a key to set it.\n");
    let mut section = "";
    for key in KEYS.iter() {
        let (of, name) = split(key.name);
        if section != of {
            section = of;
            let _ = write!(text, "\n[{section}]\n");
        }
        text += "\n";
        for line in key.doc {
            let _ = writeln!(text, "# {}", line.trim());
        }
        let _ = writeln!(text, "# {name} = {}", default_text(key));
    }
    text
}

/// A default as a TOML value.
fn default_text(key: &Key) -> String {
    match key.class {
        Class::List => key.default.to_owned(),
        class => text_value(class, key.default).to_string(),
    }
}

/// The section and the last part of a key.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
