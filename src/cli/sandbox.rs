//! The commands about sandboxes that are there.

use std::path::PathBuf;

use clap::Args;

use super::Format;
use super::process::{Pair, seconds, variable};
use crate::sandbox::detach::DetachKeys;
use crate::sandbox::signals;

// `drupe start`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drupe start web
  drupe start -ai shell

Exit status, with -a: as of 'drupe run'.")]
pub struct StartArgs {
    /// Take its output, and wait for its end
    #[arg(short, long)]
    pub attach: bool,
    /// Give it this standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// Names or identifiers
    #[arg(value_name = "SANDBOX", required = true)]
    pub sandboxes: Vec<String>,
}

// `drupe stop`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  drupe stop -t 30 web")]
pub struct StopArgs {
    /// Seconds until it is killed [default: its own, 10 unless it was said]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", value_parser = seconds)]
    pub time: Option<u32>,
    /// Signal that asks it to end [default: its own]
    #[arg(short, long, value_name = "SIGNAL", value_parser = signals::parse)]
    pub signal: Option<i32>,
    /// Names or identifiers
    #[arg(value_name = "SANDBOX", required = true)]
    pub sandboxes: Vec<String>,
}

// `drupe restart`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  drupe restart -t 30 web")]
pub struct RestartArgs {
    #[command(flatten)]
    pub stop: StopArgs,
}

// `drupe kill`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  drupe kill -s HUP web")]
pub struct KillArgs {
    /// Which signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signals::parse)]
    pub signal: i32,
    /// Names or identifiers
    #[arg(value_name = "SANDBOX", required = true)]
    pub sandboxes: Vec<String>,
}

// `drupe rm`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  drupe rm -fv $(drupe ps -aq)")]
pub struct RmArgs {
    /// Remove it even if it runs
    #[arg(short, long)]
    pub force: bool,
    /// Remove the volumes without a name that were made for it
    #[arg(short, long)]
    pub volumes: bool,
    /// Names or identifiers
    #[arg(value_name = "SANDBOX", required = true)]
    pub sandboxes: Vec<String>,
}

// `drupe ps`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drupe ps                                what runs
  drupe ps -a --filter status=exited
  drupe ps -a --format json")]
pub struct PsArgs {
    /// Those that do not run as well
    #[arg(short, long)]
    pub all: bool,
    /// Identifiers only
    #[arg(short, long)]
    pub quiet: bool,
    /// Identifiers and commands in full
    #[arg(long)]
    pub no_trunc: bool,
    /// The last one that was made
    #[arg(short, long)]
    pub latest: bool,
    /// Only those: name=TEXT, id=TEXT, status=STATUS, label=NAME[=VALUE],
    /// ancestor=IMAGE, exited=CODE
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<Filter>,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

/// What a sandbox has to be to be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Its name contains this.
    Name(String),
    /// Its identifier begins so.
    Id(String),
    /// Where it is in its life.
    Status(String),
    /// It has this label, with this value.
    Label(String, Option<String>),
    /// It was made of this image.
    Ancestor(String),
    /// It ended with this.
    Exited(u8),
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("'{text}': filter by name=, id=, status=, label=, ancestor= or exited=");
        let (key, value) = text.split_once('=').ok_or_else(bad)?;
        let value = value.to_owned();
        Ok(match key {
            "name" => Filter::Name(value),
            "id" => Filter::Id(value),
            "status" => match value.as_str() {
                "created" | "starting" | "running" | "exited" => Filter::Status(value),
                _ => {
                    return Err(format!(
                        "'{value}': a status is created, starting, running or exited"
                    ));
                }
            },
            "label" => match value.split_once('=') {
                Some((name, value)) => Filter::Label(name.to_owned(), Some(value.to_owned())),
                None => Filter::Label(value, None),
            },
            "ancestor" => Filter::Ancestor(value),
            "exited" => Filter::Exited(value.parse().map_err(|_| bad())?),
            _ => return Err(bad()),
        })
    }
}

// `drupe logs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drupe logs -f --tail 20 web
  drupe logs -t --since 10m web
  drupe logs --console web                what its kernel said")]
pub struct LogsArgs {
    /// Go on with what it writes from now on
    #[arg(short, long)]
    pub follow: bool,
    /// The last lines only
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = tail)]
    pub tail: Tail,
    /// What is no older: 10m, or a time as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// What is no newer
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// The time before each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// The messages of its kernel
    #[arg(long, conflicts_with_all = ["follow", "tail", "since", "until", "timestamps"])]
    pub console: bool,
    /// Name or identifier
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
}

/// How many lines of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail(pub Option<usize>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        // Docker takes any negative number for all.
        text => match text.parse::<i64>() {
            Ok(n) => Ok(Tail(usize::try_from(n).ok())),
            Err(_) => Err("give a number of lines, or all".to_owned()),
        },
    }
}

// `drupe exec`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drupe exec -it web bash
  drupe exec -u postgres db psql -c 'select 1'

Exit status: that of the command; 125 when drupe failed, 126 when the command
cannot be executed, 127 when there is none.")]
pub struct ExecArgs {
    /// Let it run
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// Set a variable; without =VALUE to what it is here
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub env: Vec<String>,
    /// Set the variables of a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it all capabilities
    #[arg(long)]
    pub privileged: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// User, and group
    #[arg(short, long, value_name = "NAME|UID[:GROUP]")]
    pub user: Option<String>,
    /// Directory to start in
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Name or identifier, and then the command with its arguments
    #[arg(value_names = ["SANDBOX", "COMMAND"], num_args = 2.., required = true,
          trailing_var_arg = true)]
    pub command: Vec<String>,
}

// `drupe attach`.
#[derive(Debug, Args)]
#[command(
    after_help = "Keys, if it has a terminal: Ctrl-P Ctrl-Q leaves it running.

Exit status: as of 'drupe run'."
)]
pub struct AttachArgs {
    /// Keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: DetachKeys,
    /// Do not give it standard input
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass signals on to the command
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sig_proxy: bool,
    /// Name or identifier
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
}

// `drupe cp`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drupe cp web:/etc/nginx/nginx.conf .
  drupe cp site/. web:/usr/share/nginx/html
  drupe cp web:/var/log - | tar t         a tar archive on standard output

Where the destination is a directory, the source goes into it; SOURCE/. stands
for what is in a directory. The sandbox has to run.")]
pub struct CpArgs {
    /// Keep owners and groups
    #[arg(short, long)]
    pub archive: bool,
    /// Follow a link that SOURCE is
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Where from: SANDBOX:PATH, a path of the host, or - for a tar archive
    #[arg(value_name = "SOURCE")]
    pub from: String,
    /// Where to, likewise
    #[arg(value_name = "DESTINATION")]
    pub to: String,
}

// `drupe inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  drupe inspect web | jq '.[0].State'")]
pub struct InspectArgs {
    /// What to look for: sandbox, image or volume
    #[arg(long = "type", value_name = "TYPE", value_parser = ["sandbox", "container", "image", "volume"])]
    pub kind: Option<String>,
    /// How to print; there is only JSON
    #[arg(short, long, value_name = "FORMAT", default_value = "json", value_parser = ["json"])]
    pub format: String,
    /// Names or identifiers of sandboxes, images or volumes
    #[arg(value_name = "SANDBOX|IMAGE|VOLUME", required = true)]
    pub names: Vec<String>,
}

// `drupe stats`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  drupe stats --no-stream --format json")]
pub struct StatsArgs {
    /// Once, and not again and again
    #[arg(long)]
    pub no_stream: bool,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// Names or identifiers [default: all that run]
    #[arg(value_name = "SANDBOX")]
    pub sandboxes: Vec<String>,
}

// `drupe wait`, and others that only name sandboxes.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Names or identifiers
    #[arg(value_name = "SANDBOX", required = true)]
    pub sandboxes: Vec<String>,
}

// `drupe top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// Name or identifier
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
}

// `drupe port`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  curl http://$(drupe port web 80 | head -n 1)")]
pub struct PortArgs {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// Name or identifier
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Only where this port of the sandbox is
    #[arg(value_name = "PORT[/PROTOCOL]")]
    pub port: Option<super::ports::ExposeFlag>,
}

// `drupe rename`.
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// Name or identifier
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// Its new name
    #[arg(value_name = "NAME")]
    pub name: String,
}

// `drupe update`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drupe update --disk-bps 20M --disk-iops none web
  drupe update --network-tx-bps 1M+10M web

What is not said stays as it is. It holds at once, and at the next start. A
machine's CPUs, memory and disks are what it was made with.")]
pub struct UpdateArgs {
    #[command(flatten)]
    pub limits: super::limits::LimitArgs,
    /// Names or identifiers
    #[arg(value_name = "SANDBOX", required = true)]
    pub sandboxes: Vec<String>,
}

// `drupe events`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  drupe events --since 1h
  drupe events --since 0 --until 0s --format json

Without --until it goes on until it is ended.")]
pub struct EventsArgs {
    /// From this time on [default: now]
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only those: sandbox=NAME, event=ACTION, type=TYPE
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<Pair>,
    /// How to print; JSON is an object in each line
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}
