//! `drupe run` and `drupe create`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum};
use confine::Mode;
use vmm::config::ByteSize;

use super::mounts::{LongFlag, TmpfsFlag, VolumeFlag};
use super::network::{HostFlag, NetworkFlag};
use super::ports::{ExposeFlag, PublishFlag};
use super::process::{Capability, Pair, UlimitFlag};
use crate::cgroup;
use crate::sandbox::detach::DetachKeys;
use crate::sandbox::signals;

// `drupe run`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
#[command(after_help = "Examples:
  drupe run --rm -it debian bash          a shell in a machine of its own
  drupe run -d -p 8080:80 --name web nginx
  drupe run --rm -v ./src:/src -w /src rust cargo test
  drupe run --network none --memory 1G --cpus 2 IMAGE COMMAND

Keys, with -it: Ctrl-P Ctrl-Q leaves the sandbox running.

Exit status: that of the command, 128 and more when a signal ended it; 125 when
drupe failed, 126 when the command cannot be executed, 127 when there is none.")]
pub struct RunArgs {
    /// Let it run, and print its identifier
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// Pass signals on to the command
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sig_proxy: bool,
    #[command(flatten)]
    pub create: SandboxArgs,
}

// `drupe create`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
#[command(after_help = "Example:
  drupe start -ai $(drupe create -it debian bash)

It takes the options of 'drupe run'.")]
pub struct CreateArgs {
    #[command(flatten)]
    pub create: SandboxArgs,
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// When it is not there.
    #[default]
    Missing,
    /// Always, for what it is today.
    Always,
    /// Never.
    Never,
}

/// Whether a monitor has a control group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cgroups {
    /// Where the host allows it.
    Enabled,
    /// No.
    Disabled,
}

// What a sandbox is to be.
#[derive(Debug, Args)]
pub struct SandboxArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Its name [default: one that is made up]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Remove it when it has ended
    #[arg(long)]
    pub rm: bool,
    /// What its monitor keeps from itself: strict, all layers or it does not run;
    /// on, those that the host allows; off, for debugging
    #[arg(long, value_name = "HOW", default_value_t = Mode::On, value_parser = super::confinement())]
    pub confine: Mode,
    /// Attach a text to it
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = super::process::label)]
    pub label: Vec<Pair>,
    /// Write its identifier to a file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// When to fetch the image
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub pull: Pull,
    /// Choose among the platforms of an image
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print no progress while the image is fetched
    #[arg(short, long)]
    pub quiet: bool,

    /// Set a variable; without =VALUE to what it is here
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = super::process::variable,
          help_heading = "Process")]
    pub env: Vec<String>,
    /// Set the variables of a file, a NAME=VALUE in each line
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub env_file: Vec<PathBuf>,
    /// Directory to start in
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    pub workdir: Option<String>,
    /// User, and group
    #[arg(short, long, value_name = "NAME|UID[:GROUP]", help_heading = "Process")]
    pub user: Option<String>,
    /// Further groups
    #[arg(long, value_name = "GROUP", help_heading = "Process")]
    pub group_add: Vec<String>,
    /// Program in place of the image's; an empty one leaves only COMMAND
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    pub entrypoint: Option<String>,
    /// Run a small init that reaps orphans and passes signals on
    #[arg(long, help_heading = "Process")]
    pub init: bool,
    /// Signal that asks it to end [default: the image's, or TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = signals::parse, help_heading = "Process")]
    pub stop_signal: Option<i32>,
    /// Seconds that it then has, before it is killed
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = super::process::seconds,
        help_heading = "Process"
    )]
    pub stop_timeout: u32,
    /// Give root a capability, or ALL
    #[arg(long, value_name = "CAP", help_heading = "Process")]
    pub cap_add: Vec<Capability>,
    /// Take a capability away, or ALL
    #[arg(long, value_name = "CAP", help_heading = "Process")]
    pub cap_drop: Vec<Capability>,
    /// All capabilities and devices; /proc and /sys can be written to
    #[arg(long, help_heading = "Process")]
    pub privileged: bool,
    /// no-new-privileges: no program gains any
    #[arg(long, value_name = "OPTION", value_parser = ["no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"], help_heading = "Process")]
    pub security_opt: Vec<String>,
    /// Limit what a process may use
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Process")]
    pub ulimit: Vec<UlimitFlag>,

    /// Virtual CPUs; 1.5 are two, with the time of one and a half
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Machine")]
    pub cpus: Cpus,
    /// Memory, as 512M or 2G
    #[arg(
        short,
        long,
        value_name = "SIZE",
        default_value = "512M",
        help_heading = "Machine"
    )]
    pub memory: ByteSize,
    /// Keep changes to the root on a disk of this size, not in memory: they are
    /// still there when it is started again
    #[arg(long, value_name = "SIZE", value_parser = super::disk_size, help_heading = "Machine")]
    pub disk_size: Option<ByteSize>,
    /// Size of /dev/shm
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "64M",
        help_heading = "Machine"
    )]
    pub shm_size: ByteSize,
    /// Kernel: a file, or a name in 'drupe kernel list' [default: the best there]
    #[arg(long, value_name = "KERNEL", help_heading = "Machine")]
    pub kernel: Option<PathBuf>,
    /// Set a parameter of its kernel
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Machine")]
    pub sysctl: Vec<Pair>,

    /// How much of its output is kept: max-size=SIZE of a file, max-file=N of them
    /// [default: max-size=10M, max-file=3]
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Limits")]
    pub log_opt: Vec<Pair>,
    /// Whether its monitor has a control group of its own, where the host allows it
    #[arg(
        long,
        value_name = "WHETHER",
        default_value = "enabled",
        help_heading = "Limits"
    )]
    pub cgroups: Cgroups,
    #[command(flatten)]
    pub limits: super::limits::LimitArgs,

    /// Mount a volume, or a file or a directory of the host. Options: ro, nocopy
    #[arg(
        short,
        long,
        value_name = "[SOURCE:]TARGET[:OPTIONS]",
        help_heading = "Files"
    )]
    pub volume: Vec<VolumeFlag>,
    /// The same in long: type=bind|volume|tmpfs, source, target, readonly
    #[arg(
        long,
        value_name = "type=TYPE,source=SOURCE,target=TARGET",
        help_heading = "Files"
    )]
    pub mount: Vec<LongFlag>,
    /// Mount memory. Options: size, mode, uid, gid, exec, suid, dev, ro
    #[arg(long, value_name = "TARGET[:OPTIONS]", help_heading = "Files")]
    pub tmpfs: Vec<TmpfsFlag>,
    /// Make the root read-only
    #[arg(long, help_heading = "Files")]
    pub read_only: bool,

    /// Network: user, none, tap=NAME, bridge=NAME
    #[arg(
        long,
        visible_alias = "net",
        value_name = "NETWORK",
        default_value = "user",
        help_heading = "Network"
    )]
    pub network: NetworkFlag,
    /// Publish a port of the sandbox on the host
    #[arg(
        short,
        long,
        value_name = "[[IP:]PORT:]PORT[/PROTOCOL]",
        help_heading = "Network"
    )]
    pub publish: Vec<PublishFlag>,
    /// Publish every port that the image says it serves
    #[arg(short = 'P', long, help_heading = "Network")]
    pub publish_all: bool,
    /// Say that it serves a port
    #[arg(long, value_name = "PORT[/PROTOCOL]", help_heading = "Network")]
    pub expose: Vec<ExposeFlag>,
    /// What may be reached: rules, as allow:*.example.org:443,deny
    #[arg(long, value_name = "RULES", help_heading = "Network")]
    pub network_policy: Vec<String>,
    /// Its host name [default: its identifier]
    #[arg(short = 'h', long, value_name = "NAME", value_parser = hostname, help_heading = "Network")]
    pub hostname: Option<String>,
    /// A name server
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub dns: Vec<std::net::IpAddr>,
    /// A domain to look for names in
    #[arg(long, value_name = "DOMAIN", value_parser = word, help_heading = "Network")]
    pub dns_search: Vec<String>,
    /// An option of resolv.conf
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", value_parser = word, help_heading = "Network")]
    pub dns_option: Vec<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = "Network")]
    pub add_host: Vec<HostFlag>,
    /// Its address on a bridge or a TAP [default: by DHCP]
    #[arg(long, value_name = "ADDRESS/LENGTH", value_parser = super::network::prefixed, help_heading = "Network")]
    pub ip: Option<String>,
    /// Its hardware address
    #[arg(long, value_name = "MAC", value_parser = super::network::mac, help_heading = "Network")]
    pub mac_address: Option<String>,

    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
    /// Image, by its name or its identifier, and then the command with its
    /// arguments, in place of the image's
    #[arg(value_names = ["IMAGE", "COMMAND"], num_args = 1.., required = true,
          trailing_var_arg = true)]
    pub image: Vec<String>,
}

/// Processors, as docker counts them: a part of one is a limit on time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus {
    /// The machine's: the number, rounded up.
    pub whole: u8,
    /// Microseconds of processor time in a [`cgroup::DEFAULT_PERIOD`], when the
    /// number is not whole.
    pub quota: Option<u64>,
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MOST: u8 = vmm::config::MAX_CPUS;
        const PERIOD: f64 = cgroup::DEFAULT_PERIOD as f64;
        // The kernel's least quota is a hundredth of the period.
        match text.parse::<f64>() {
            Ok(number) if (0.01..=f64::from(MOST)).contains(&number) => Ok(Cpus {
                whole: number.ceil() as u8,
                quota: (number.fract() != 0.0).then(|| (number * PERIOD).round() as u64),
            }),
            _ => Err(format!("give 0.01 to {MOST}")),
        }
    }
}

/// A host name as Linux takes it.
fn hostname(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    match fits && text.bytes().all(plain) && !text.starts_with(['-', '.']) {
        true => Ok(text.to_owned()),
        false => Err("a host name has letters, digits, '-', '_' and '.', 64 at most".to_owned()),
    }
}

/// A word in a configuration file of a line each.
fn word(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        true => Err(format!("'{text}' is not a word")),
        false => Ok(text.to_owned()),
    }
}
