//! `drupe volume`, `drupe system`, and what is made of the command line itself.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use vmm::config::ByteSize;

use super::Format;
use super::process::Pair;

// `drupe volume`.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = false)]
#[command(after_help = "Example:
  drupe volume create --size 100G data
  drupe run -v data:/var/lib/postgresql IMAGE")]
pub struct VolumeArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: VolumeCommand,
}

// What to do about volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume and print its name
    Create(VolumeCreateArgs),
    /// List the volumes
    #[command(visible_alias = "list")]
    Ls(VolumeLsArgs),
    /// Remove volumes that no sandbox has
    #[command(visible_alias = "remove")]
    Rm(VolumeRmArgs),
    /// Tell all about volumes, in JSON
    Inspect(VolumeInspectArgs),
    /// Remove the volumes that no sandbox has
    Prune(VolumePruneArgs),
}

// `drupe volume create`.
#[derive(Debug, Args)]
pub struct VolumeCreateArgs {
    /// How large it may grow; it takes no more than what is written to it
    #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = super::disk_size)]
    pub size: ByteSize,
    /// Attach a text to it
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = super::process::label)]
    pub label: Vec<Pair>,
    /// Its name [default: one that is made up]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

// `drupe volume ls`.
#[derive(Debug, Args)]
pub struct VolumeLsArgs {
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

// `drupe volume rm`.
#[derive(Debug, Args)]
pub struct VolumeRmArgs {
    /// Do not mind one that is not there
    #[arg(short, long)]
    pub force: bool,
    /// Names
    #[arg(value_name = "VOLUME", required = true)]
    pub volumes: Vec<String>,
}

// `drupe volume inspect`.
#[derive(Debug, Args)]
pub struct VolumeInspectArgs {
    /// Names
    #[arg(value_name = "VOLUME", required = true)]
    pub volumes: Vec<String>,
}

// `drupe volume prune`.
#[derive(Debug, Args)]
pub struct VolumePruneArgs {
    /// Those with a name as well
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

// `drupe system`.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = false)]
pub struct SystemArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SystemCommand,
}

// What to do about everything.
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Tell what takes how much of the disk
    Df(DfArgs),
    /// Remove what is not used: sandboxes that do not run, images without a name
    Prune(PruneArgs),
}

// `drupe system df`.
#[derive(Debug, Args)]
pub struct DfArgs {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

// `drupe system prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Every image that no sandbox has
    #[arg(short, long)]
    pub all: bool,
    /// Volumes without a name that no sandbox has
    #[arg(long)]
    pub volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

// `drupe completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drupe completions bash > ~/.local/share/bash-completion/completions/drupe
  drupe completions zsh > ~/.zfunc/_drupe
  drupe completions fish > ~/.config/fish/completions/drupe.fish")]
pub struct CompletionsArgs {
    /// Which one
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// A shell that can complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "their names say what they are")]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The command that completions ask for names.
pub const NAMES: &str = "names";

// `drupe names`.
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// Of what
    #[arg(value_name = "KIND")]
    pub kind: NameKind,
}

/// What has names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "their names say what they are")]
pub enum NameKind {
    Sandboxes,
    Images,
    Volumes,
}

impl NameKind {
    /// Every kind.
    pub const ALL: [NameKind; 3] = [NameKind::Sandboxes, NameKind::Images, NameKind::Volumes];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            NameKind::Sandboxes => "sandboxes",
            NameKind::Images => "images",
            NameKind::Volumes => "volumes",
        }
    }
}

// `drupe man`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  drupe man ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Where the pages go; it is made if need be
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}
