//! The command line: text in, plain values out. Nothing is opened here save the
//! file of `--config`.

pub mod bench;
mod docker;
mod images;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, Args, Parser, Subcommand, ValueEnum};
use confine::Mode;
use devices::spec::Object;
use devices::virtio::blk::DiskSpec;
use devices::virtio::fs::FsSpec;
use devices::virtio::vsock::VsockSpec;
use thiserror::Error;
use vmm::config::{BootProtocol, ByteSize, ConfigError, Console, MAX_CPUS, NetConfig, VmConfig};

pub use self::parse::{Parsed, parse};
use crate::exit;
pub use images::{
    ImageArgs, ImageCommand, ImageInspectArgs, ImagePruneArgs, ImagesArgs, ImportArgs, LoadArgs,
    PullArgs, RmiArgs, TagArgs,
};

pub mod limits;
mod mounts;
mod network;
mod parse;
mod ports;
pub mod process;
pub mod run;
pub mod sandbox;
pub mod spec;
pub mod volume;

/// The longest that a guest may be given to power itself off, in seconds: a day.
const MAX_STOP_TIMEOUT: u32 = 24 * 60 * 60;
/// The largest file that `--config` reads; one VM takes a few hundred bytes.
const MAX_CONFIG_SIZE: u64 = 1 << 20;

/// A micro-VM monitor: each workload gets a Linux kernel of its own.
#[derive(Debug, Parser)]
#[command(
    name = "drupe",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = false,
    after_help = "Examples:
  drupe doctor                            can this machine run VMs?
  drupe kernel build                      get a kernel to run them with
  drupe run --rm -it debian bash          a shell in a machine of its own
  drupe boot --kernel NAME --disk root.img --append 'root=/dev/vda'

'drupe help COMMAND' tells more about a command."
)]
pub struct Cli {
    /// Say what is done, and give every cause of an error
    #[arg(short, long, global = true, display_order = 900)]
    pub verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do. The options of a command are put together when it is the one that
/// was given: all of them cost a start hundreds of kilobytes. So what a command
/// has in place of an option of all commands stands here; and the description of
/// its options has none of its own, which would take the place of the one here.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Run a command of an image in a machine of its own
    #[command(arg = verbose_without_letter())]
    Run(Box<run::RunArgs>),
    /// Make a sandbox without starting it, and print its identifier
    #[command(arg = verbose_without_letter())]
    Create(Box<run::CreateArgs>),
    /// Start sandboxes that do not run
    Start(sandbox::StartArgs),
    /// Ask sandboxes to end, and make them
    Stop(sandbox::StopArgs),
    /// Stop sandboxes, and start them again
    Restart(sandbox::RestartArgs),
    /// Send sandboxes a signal
    Kill(sandbox::KillArgs),
    /// Remove sandboxes
    #[command(arg = verbose_without_letter())]
    Rm(sandbox::RmArgs),
    /// List sandboxes
    Ps(sandbox::PsArgs),
    /// Print what a sandbox wrote
    Logs(sandbox::LogsArgs),
    /// Run a further command in a sandbox
    Exec(Box<sandbox::ExecArgs>),
    /// Join a sandbox's input and output with these
    Attach(sandbox::AttachArgs),
    /// Copy files into a sandbox or out of it
    Cp(sandbox::CpArgs),
    /// Tell all about sandboxes, images or volumes, in JSON
    Inspect(sandbox::InspectArgs),
    /// Tell what sandboxes use
    Stats(sandbox::StatsArgs),
    /// Wait for sandboxes to end, and print their exit statuses
    Wait(sandbox::WaitArgs),
    /// List the processes of a sandbox
    Top(sandbox::TopArgs),
    /// List the ports of the host that lead to a sandbox
    Port(sandbox::PortArgs),
    /// Give a sandbox another name
    Rename(sandbox::RenameArgs),
    /// Change what sandboxes may use, also while they run
    Update(Box<sandbox::UpdateArgs>),
    /// Print what happens to sandboxes
    Events(sandbox::EventsArgs),
    /// Make, list and remove volumes
    Volume(volume::VolumeArgs),
    /// Tell what takes how much, and tidy up
    System(volume::SystemArgs),
    /// Print the completions of a shell
    Completions(volume::CompletionsArgs),
    /// Write manual pages
    Man(volume::ManArgs),
    /// Print the names of what there is, for completions
    #[command(name = volume::NAMES, hide = true)]
    Names(volume::NamesArgs),
    /// Boot a virtual machine, with its console on this terminal
    Boot(Box<BootArgs>),
    /// Compare containers and machines by measurement
    Bench(bench::BenchArgs),
    /// Find out whether this machine can run VMs, and what to do if not
    Doctor(DoctorArgs),
    /// Work with images
    Image(Box<ImageArgs>),
    /// List images
    Images(ImagesArgs),
    /// Make an image of a root file system's tar
    Import(Box<ImportArgs>),
    /// Get kernels to boot
    Kernel(KernelArgs),
    /// Put the images of an archive into the store
    Load(LoadArgs),
    /// Get images from their registries
    Pull(PullArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Give an image further names
    Tag(TagArgs),
}

// `drupe boot`.
#[derive(Debug, Args)]
#[command(after_help = boot_after_help())]
pub struct BootArgs {
    /// Kernel: a bzImage or an ELF vmlinux. When there is no such file, the
    /// kernel of this name in 'drupe kernel list', with its initrd; stock or tuned
    /// for the newest of these
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Disk, /dev/vda first: a raw image or a block device; can be given again.
    /// Options: readonly, queues=N, id=TEXT; bw=LIMIT, iops=LIMIT with limits as
    /// 50M, 5M/100ms or 50M+1G (burst)
    #[arg(long, value_name = "PATH[,readonly]")]
    pub disk: Vec<DiskSpec>,
    /// Network interface: on a TAP that exists, or by ordinary sockets of this
    /// process; can be given again. Options: mac=MAC, mtu=N, rx-bw=LIMIT, rx-pps=,
    /// tx-bw=, tx-pps=; of 'user' also publish=HOST:GUEST, policy=RULES,
    /// host-loopback and more
    #[arg(long, value_name = "user|tap=NAME[,mac=MAC]")]
    pub net: Vec<NetConfig>,
    /// Directory or file of the host for the guest, which mounts it by
    /// 'mount -t virtiofs NAME DIR'; can be given again.
    /// Options: readonly, cache=SECONDS, bw=LIMIT, iops=LIMIT
    #[arg(long, value_name = "PATH,tag=NAME[,readonly]")]
    pub share: Vec<FsSpec>,
    /// Sockets between guest and host: a Unix socket on the host, and the
    /// guest's address, 3 or more
    #[arg(long, value_name = "PATH,cid=N")]
    pub vsock: Option<VsockSpec>,
    /// Virtual CPUs [default: 1]
    #[arg(long, value_name = "N", value_parser = cpus)]
    pub cpus: Option<u8>,
    /// Guest memory, as 512M or 2G [default: 512M]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Kernel command line; replaces that of the config file
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Guest console on this terminal, or nowhere [default: on]
    #[arg(long, value_name = "WHERE", value_parser = console())]
    pub console: Option<Console>,
    /// How an ELF kernel is entered [default: auto]
    #[arg(long, value_name = "PROTOCOL", value_parser = boot_protocol())]
    pub boot_protocol: Option<BootProtocol>,
    /// Back guest memory with 2 MiB pages from the host's pool
    #[arg(long)]
    pub hugepages: bool,
    /// Put guest memory into a memfd, which other processes can map; a guest
    /// runs slower on it
    #[arg(long)]
    pub shared_memory: bool,
    /// Let the guest run virtual machines of its own, where the host's KVM can
    #[arg(long)]
    pub nested: bool,
    /// How long the guest may take to power itself off when drupe is told to
    /// stop, before it is stopped by force
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = stop_timeout)]
    pub stop_timeout: u32,
    /// What this process keeps from itself before the guest runs: strict, all
    /// layers or nothing runs; on, those that the host allows; off, for debugging
    #[arg(long, value_name = "HOW", default_value_t = Mode::On, value_parser = confinement())]
    pub confine: Mode,
    /// Configuration in JSON, which the other options override; lists add up
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

// `drupe doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drupe doctor                            everything, each with its fix
  drupe doctor --format json              the same, for a program
  drupe doctor --check kvm && ./tests     one line, and the exit status

Exit status: 0 when this machine can run VMs, 1 when it cannot.")]
pub struct DoctorArgs {
    /// Look at one thing only, and print one line
    #[arg(long, value_name = "WHAT")]
    pub check: Option<Topic>,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

/// What `doctor --check` can look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Topic {
    /// Whether KVM runs an unmodified guest.
    Kvm,
}

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[value(alias = "table")]
    Text,
    /// For programs.
    Json,
}

// `drupe kernel`.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = false)]
#[command(after_help = "Examples:
  drupe kernel fetch                      Debian's kernel, ready to boot
  drupe kernel build                      a small kernel that boots fast
  drupe kernel list

Kernels are kept in $DRUPE_KERNELS, or else in ~/.cache/drupe/kernels.")]
pub struct KernelArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KernelCommand,
}

// What to do about kernels.
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Download a distribution's kernel and print its directory
    #[command(after_help = "Example:
  drupe boot --kernel $(drupe kernel fetch)/kernel --append console=ttyS0")]
    Fetch(StoreArgs),
    /// Build a kernel made for VMs (some minutes) and print its directory
    #[command(after_help = "Example:
  drupe kernel build --fragment more.config --version 6.12")]
    Build(BuildArgs),
    /// List the kernels that can be booted
    #[command(after_help = "Example:
  drupe kernel list --format json")]
    List(ListArgs),
}

/// Where kernels are kept.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// Where to keep kernels
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

// `drupe kernel build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Kernel options in place of drupe's own
    #[arg(long, value_name = "FILE")]
    pub fragment: Option<PathBuf>,
    /// Version of the kernel
    #[arg(long, value_name = "V")]
    pub version: Option<String>,
}

// `drupe kernel list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

/// `--verbose` of a command whose `-v` is another thing, as docker's are: volumes.
fn verbose_without_letter() -> Arg {
    Arg::new("verbose")
        .long("verbose")
        .action(ArgAction::SetTrue)
        .help("Say what is done, and give every cause of an error")
        .display_order(900)
}

fn boot_after_help() -> String {
    format!(
        "Examples:
  drupe boot --kernel vmlinux --initrd initrd.img --append console=ttyS0
  drupe boot --kernel bzImage --disk root.img --append 'console=ttyS0 root=/dev/vda'
  drupe boot --kernel bzImage --cpus 2 --memory 1G --net tap=tap0
  drupe boot --config vm.json --memory 2G

A file for --config:
  {{\"kernel\": \"bzImage\", \"append\": \"console=ttyS0\", \"cpus\": 2, \"memory\": \"1G\",
   \"disks\": [{{\"path\": \"root.img\", \"readonly\": true}}], \"nets\": [{{\"tap\": \"tap0\"}}]}}

Keys: Ctrl-A x stops the VM, Ctrl-A h lists the keys.

{}",
        exit::HELP
    )
}

fn cpus(text: &str) -> Result<u8, String> {
    let number = text.parse().ok().filter(|n| (1..=MAX_CPUS).contains(n));
    number.ok_or_else(|| format!("give a number from 1 to {MAX_CPUS}"))
}

fn stop_timeout(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|n| *n <= MAX_STOP_TIMEOUT);
    number.ok_or_else(|| format!("give a number of seconds, 0 to {MAX_STOP_TIMEOUT}"))
}

/// The size of a disk with a file system.
fn disk_size(text: &str) -> Result<ByteSize, String> {
    let size = text.parse()?;
    crate::sandbox::ext4::check(size).map_err(|e| e.to_string())?;
    Ok(size)
}

fn console() -> impl TypedValueParser<Value = Console> {
    PossibleValuesParser::new(["on", "off"]).map(|text| match text.as_str() {
        "off" => Console::Off,
        _ => Console::On,
    })
}

fn confinement() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(["strict", "on", "off"]).map(|text| match text.as_str() {
        "strict" => Mode::Strict,
        "off" => Mode::Off,
        _ => Mode::On,
    })
}

fn boot_protocol() -> impl TypedValueParser<Value = BootProtocol> {
    PossibleValuesParser::new(["auto", "linux", "pvh"]).map(|text| match text.as_str() {
        "linux" => BootProtocol::Linux,
        "pvh" => BootProtocol::Pvh,
        _ => BootProtocol::Auto,
    })
}

/// What is wrong with the command line or the configuration.
#[derive(Debug, Error)]
pub enum CliError {
    /// The arguments.
    #[error("{0}")]
    Usage(String),
    /// Neither the command line nor the config file names a kernel.
    #[error("no kernel: give --kernel FILE, or a \"kernel\" in {0}")]
    NoKernel(PathBuf),
    /// The config file could not be read.
    #[error("--config {path}: {source}: give a readable JSON file")]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The config file is too long to be one.
    #[error("--config {0}: longer than {MAX_CONFIG_SIZE} bytes: give the JSON of one VM")]
    ConfigSize(PathBuf),
    /// The config file's text.
    #[error("--config {path}: {source}: correct it there; 'drupe boot --help' has an example")]
    ConfigText {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A value that no VM can have.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The VM that the options of `boot` describe, over that of `--config`.
/// Reads that file and nothing else; a kernel is named, not looked for.
///
/// # Errors
/// What is wrong with the file or with a value.
pub fn config(args: &BootArgs) -> Result<VmConfig, CliError> {
    let mut config = match (&args.config, &args.kernel) {
        (Some(path), kernel) => read_config(path, kernel.is_some())?,
        (None, Some(kernel)) => VmConfig::new(kernel),
        (None, None) => return Err(CliError::NoKernel("the file of --config".into())),
    };
    override_with(&mut config.kernel, &args.kernel);
    override_with(&mut config.cpus, &args.cpus);
    override_with(&mut config.memory, &args.memory);
    override_with(&mut config.append, &args.append);
    override_with(&mut config.console, &args.console);
    override_with(&mut config.boot_protocol, &args.boot_protocol);
    if args.initrd.is_some() {
        config.initrd.clone_from(&args.initrd);
    }
    config.disks.extend_from_slice(&args.disk);
    config.nets.extend_from_slice(&args.net);
    config.shares.extend_from_slice(&args.share);
    if args.vsock.is_some() {
        config.vsock.clone_from(&args.vsock);
    }
    config.hugepages |= args.hugepages;
    config.shared_memory |= args.shared_memory;
    config.nested |= args.nested;
    config.validate()?;
    Ok(config)
}

fn override_with<T: Clone>(value: &mut T, flag: &Option<T>) {
    if let Some(flag) = flag {
        value.clone_from(flag);
    }
}

fn read_config(path: &Path, kernel_is_given: bool) -> Result<VmConfig, CliError> {
    let unreadable = |source| CliError::ReadConfig {
        path: path.to_owned(),
        source,
    };
    let bad = |source| CliError::ConfigText {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CONFIG_SIZE + 1).read_to_string(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_CONFIG_SIZE {
        return Err(CliError::ConfigSize(path.to_owned()));
    }
    let config: Object<VmConfig> = serde_json::from_str(&text).map_err(bad)?;
    if config.0.kernel.as_os_str().is_empty() && !kernel_is_given {
        return Err(CliError::NoKernel(path.to_owned()));
    }
    Ok(config.0)
}

#[cfg(test)]
mod tests;
