//! `tidings completions` and `tidings man`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Failure, Outcome, print};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidings completions bash > /etc/bash_completion.d/tidings
  tidings completions zsh > \"${fpath[1]}/_tidings\"
  tidings completions fish > ~/.config/fish/completions/tidings.fish")]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidings man | man -l -
  tidings man --folder /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// Write a page for every command into this folder instead
    #[arg(long)]
    folder: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tidings", &mut script);
    print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(args: ManArgs) -> Outcome {
    if let Some(folder) = args.folder {
        clap_mangen::generate_to(Cli::command(), &folder)
            .map_err(|error| Failure::new(format_args!("{}: {error}", folder.display())))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    print(&String::from_utf8_lossy(&page))
}
