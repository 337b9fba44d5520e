//! The command line of images.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use images::{Platform, Reference};

use super::Format;

// `drupe pull`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drupe pull debian:12
  drupe pull localhost:5000/app           a registry on this machine, by HTTP
  drupe pull --platform linux/arm64 alpine

Credentials are those of 'docker login' and 'podman login'. A pull that was
interrupted goes on where it was.")]
pub struct PullArgs {
    /// Say nothing but the image's name
    #[arg(short, long)]
    pub quiet: bool,
    /// Take the image for OS/ARCH[/VARIANT] in place of this machine's
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
    /// The image, as [REGISTRY/]NAME[:TAG|@DIGEST]
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<Reference>,
}

// `drupe load`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  docker save debian | drupe load
  podman save --format oci-archive debian | drupe load
  drupe load -i layout/                   a directory with an OCI layout")]
pub struct LoadArgs {
    /// Archive or OCI layout, a file or a directory [default: standard input]
    #[arg(short, long, value_name = "PATH")]
    pub input: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Take the image for OS/ARCH[/VARIANT] in place of this machine's
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
}

// `drupe import`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mmdebstrap bookworm | drupe import - debian:mine
  drupe import -c 'CMD [\"/bin/sh\"]' -c 'ENV A=1' root.tar.gz mine")]
pub struct ImportArgs {
    /// Set what the image says about how it runs, as a Dockerfile does: CMD,
    /// ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR; can
    /// be given again
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Comment for the image's history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// What the image runs on [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Tar of a root file system, or '-' for standard input
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,
    /// The image's name
    #[arg(value_name = "IMAGE")]
    pub name: Option<Reference>,
}

// `drupe images`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drupe images
  drupe images debian                     one repository's
  drupe images -q                         IDs alone, for other commands
  drupe images --format json")]
pub struct ImagesArgs {
    /// List all images; all are listed in any case
    #[arg(short, long)]
    pub all: bool,
    /// Print IDs alone
    #[arg(short, long)]
    pub quiet: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// Print IDs in full
    #[arg(long)]
    pub no_trunc: bool,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// List the images of this name alone
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

// `drupe rmi`.
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Remove an image with several names, and take the names of one that
    /// sandboxes use
    #[arg(short, long)]
    pub force: bool,
    /// Names or IDs
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

// `drupe tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Name or ID
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Further names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<Reference>,
}

// `drupe image`.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = false)]
pub struct ImageArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ImageCommand,
}

// What to do about images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make an image of a root file system's tar
    Import(ImportArgs),
    /// Print everything about images
    Inspect(ImageInspectArgs),
    /// Put the images of an archive into the store
    Load(LoadArgs),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Remove images that nothing uses
    Prune(ImagePruneArgs),
    /// Get images from their registries
    Pull(PullArgs),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(RmiArgs),
    /// Give an image further names
    Tag(TagArgs),
}

// `drupe image inspect`.
#[derive(Debug, Args)]
pub struct ImageInspectArgs {
    /// Names or IDs
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

// `drupe image prune`.
#[derive(Debug, Args)]
#[command(
    after_help = "What goes: images without a tag, layers that belong to no image, and what
interrupted pulls left behind. Images of sandboxes stay."
)]
pub struct ImagePruneArgs {
    /// Remove every image that no sandbox uses
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}
