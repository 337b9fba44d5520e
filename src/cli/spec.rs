//! From the options of `run` and an image to a sandbox's description. Nothing is
//! opened here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use devices::virtio::DeviceLimits;
use images::{ContainerConfig, Image};
use protocol::Rlimit;
use vmm::config::{ByteSize, VmConfig};

use super::CliError;
use super::mounts::{MountFlag, SourceFlag, absolute};
use super::network::HostFlag;
use super::ports::ExposeFlag;
use super::process::{Pair, all_capabilities, capabilities, environment, map};
use super::run::{Cgroups, SandboxArgs};
use crate::sandbox::id::Id;
use crate::sandbox::log;
use crate::sandbox::network::HOST_GATEWAY;
use crate::sandbox::signals;
use crate::sandbox::spec::{
    self, CgroupWishes, Machine, Mount, Network, NetworkMode, Port, Process, Publish, Source, Spec,
};
use crate::sandbox::time::Time;
use crate::sandbox::usernet;

/// Where programs are looked for when neither image nor user says.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How many files a process may have open unless it is said: few as it starts,
/// for programs that try every one of them, and many if it asks.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// What comes from outside of the command line.
pub struct Surroundings<'a> {
    /// The sandbox's identifier.
    pub id: &'a Id,
    /// The variables of the files of `--env-file`.
    pub env_files: Vec<String>,
    /// A variable of this process.
    pub host_env: &'a dyn Fn(&str) -> Option<String>,
    /// A name for a volume without one.
    pub volume_name: &'a mut dyn FnMut() -> String,
}

/// The sandbox that the options describe.
///
/// # Errors
/// What makes no sense, alone or together.
pub fn spec(
    args: &SandboxArgs,
    image: &Image,
    around: &mut Surroundings<'_>,
) -> Result<Spec, CliError> {
    let config = &image.config.config;
    let (name, command) = args.image.split_first().ok_or_else(no_image)?;
    let hostname = args.hostname.clone();
    let hostname = hostname.unwrap_or_else(|| around.id.short().to_owned());
    let mut spec = Spec {
        version: spec::VERSION,
        name: String::new(),
        created: Time::now(),
        image: spec::Image {
            name: name.clone(),
            id: image.id.to_string(),
            layers: image.layers.clone(),
        },
        process: process(args, config, command, &hostname, around)?,
        machine: machine(args)?,
        hostname,
        mounts: mounts(args, config, around.volume_name)?,
        read_only: args.read_only,
        privileged: args.privileged,
        sysctls: map(&args.sysctl),
        network: network(args, config)?,
        stop_signal: match (args.stop_signal, &config.stop_signal) {
            (Some(signal), _) => signal,
            (None, Some(text)) => {
                signals::parse(text).map_err(|e| bad("the image's stop signal", e))?
            }
            (None, None) => libc::SIGTERM,
        },
        stop_timeout: args.stop_timeout,
        labels: {
            let mut labels = config.labels.clone();
            labels.extend(map(&args.label));
            labels
        },
        auto_remove: args.rm,
        confine: args.confine,
        limits: DeviceLimits::default(),
        cgroup: CgroupWishes {
            disabled: args.cgroups == Cgroups::Disabled,
            ..CgroupWishes::default()
        },
        log: log_limits(&args.log_opt)?,
    };
    if let Some(quota) = args.cpus.quota {
        if args.limits.cpu_quota.is_some() || args.limits.cpu_period.is_some() {
            let why =
                "a number that is not whole is a quota: leave out --cpu-quota and --cpu-period";
            return Err(bad("--cpus", why));
        }
        spec.cgroup.cpu_quota = Some(quota);
    }
    args.limits.apply(&mut spec);
    if spec.cgroup.disabled && spec.cgroup.needs_group() {
        let why = "--cpu-quota, parts of --cpus, --cpu-shares, --blkio-weight and --device-... \
                   need a cgroup";
        return Err(bad("--cgroups=disabled", why));
    }
    Ok(spec)
}

/// As Docker's `json-file` has them.
fn log_limits(options: &[Pair]) -> Result<log::Limits, CliError> {
    let mut limits = log::Limits::default();
    for Pair(name, value) in options {
        match name.as_str() {
            "max-size" => limits.max_size = value.parse().map_err(|e| bad("--log-opt", e))?,
            "max-file" => {
                let number = value.parse();
                let why = format!("max-file: '{value}' is not a number");
                limits.max_files = number.map_err(|_| bad("--log-opt", why))?;
            }
            _ => {
                let why = format!("'{name}': give max-size=SIZE or max-file=N");
                return Err(bad("--log-opt", why));
            }
        }
    }
    limits.validate().map_err(|e| bad("--log-opt", e))?;
    Ok(limits)
}

fn no_image() -> CliError {
    CliError::Usage("no image: give its name".to_owned())
}

fn bad(what: &str, why: impl std::fmt::Display) -> CliError {
    CliError::Usage(format!("{what}: {why}"))
}

fn process(
    args: &SandboxArgs,
    config: &ContainerConfig,
    command: &[String],
    hostname: &str,
    around: &Surroundings<'_>,
) -> Result<Process, CliError> {
    let nothing = Vec::new();
    // A program of the user's own has arguments of the user's own.
    let (program, defaults) = match &args.entrypoint {
        Some(program) => {
            let program = Some(program).filter(|p| !p.is_empty());
            (program.cloned().into_iter().collect(), &nothing)
        }
        None => (
            config.entrypoint.clone().unwrap_or_default(),
            config.cmd.as_ref().unwrap_or(&nothing),
        ),
    };
    let mut words = program;
    match command.is_empty() {
        true => words.extend_from_slice(defaults),
        false => words.extend_from_slice(command),
    }
    if words.is_empty() {
        let name = args.image.first().cloned().unwrap_or_default();
        return Err(bad(&name, "the image says no command: give one behind it"));
    }
    let mut base = config.env.clone();
    if !base.iter().any(|entry| entry.starts_with("PATH=")) {
        base.insert(0, PATH.to_owned());
    }
    base.push(format!("HOSTNAME={hostname}"));
    let changes = around.env_files.iter().chain(&args.env).cloned();
    let env = environment(&base, changes, around.host_env);
    let cwd = match (&args.workdir, config.working_dir.as_str()) {
        (Some(dir), _) if dir.starts_with('/') => PathBuf::from(dir),
        (Some(dir), _) => {
            return Err(bad("--workdir", format!("'{dir}' is not an absolute path")));
        }
        (None, dir) => Path::new("/").join(dir),
    };
    let mut rlimits: Vec<Rlimit> = args.ulimit.iter().map(|flag| flag.0.clone()).collect();
    if !rlimits.iter().any(|limit| limit.kind == "RLIMIT_NOFILE") {
        rlimits.push(Rlimit {
            kind: "RLIMIT_NOFILE".to_owned(),
            soft: OPEN_FILES.0,
            hard: OPEN_FILES.1,
        });
    }
    Ok(Process {
        args: words,
        env,
        cwd,
        user: args.user.clone().unwrap_or_else(|| config.user.clone()),
        groups: args.group_add.clone(),
        terminal: args.tty,
        stdin: args.interactive,
        // `run -d` changes it: nobody's leaving is the end then.
        stdin_once: args.interactive,
        capabilities: match args.privileged {
            true => all_capabilities(),
            false => capabilities(&args.cap_add, &args.cap_drop),
        },
        no_new_privileges: !args.security_opt.is_empty(),
        rlimits,
        init: args.init,
    })
}

fn machine(args: &SandboxArgs) -> Result<Machine, CliError> {
    let mut config = VmConfig::new("kernel");
    config.cpus = args.cpus.whole;
    // A machine has whole pages, and the number may be one of a container's.
    config.memory = whole_mib(args.memory);
    config.validate()?;
    Ok(Machine {
        cpus: args.cpus.whole,
        memory: config.memory,
        disk_size: args.disk_size,
        shm_size: args.shm_size,
        kernel: args.kernel.clone(),
    })
}

/// Rounded up; what is less than one stays, and is refused as too little.
fn whole_mib(size: ByteSize) -> ByteSize {
    const MIB: u64 = 1 << 20;
    match size.bytes() {
        bytes @ MIB.. => ByteSize(bytes.checked_next_multiple_of(MIB).unwrap_or(bytes)),
        _ => size,
    }
}

/// Every mount, those above before those below.
fn mounts(
    args: &SandboxArgs,
    config: &ContainerConfig,
    name: &mut dyn FnMut() -> String,
) -> Result<Vec<Mount>, CliError> {
    let volumes = args.volume.iter().map(|flag| &flag.0);
    let long = args.mount.iter().map(|flag| &flag.0);
    let flags = volumes
        .chain(long)
        .chain(args.tmpfs.iter().map(|flag| &flag.0));
    let mut targets = BTreeSet::new();
    let mut mounts = Vec::new();
    for flag in flags {
        if !targets.insert(flag.target.clone()) {
            let why = format!("{} is mounted over twice", flag.target.display());
            return Err(bad("--volume", why));
        }
        mounts.push(mount(flag, name));
    }
    for target in &config.volumes {
        // What an image says badly, it does not say.
        let Ok(target) = absolute(target) else {
            continue;
        };
        if targets.insert(target.clone()) {
            mounts.push(Mount {
                source: Source::Volume {
                    name: name(),
                    anonymous: true,
                    populate: true,
                },
                target,
                read_only: false,
            });
        }
    }
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

fn mount(flag: &MountFlag, new_name: &mut dyn FnMut() -> String) -> Mount {
    let source = match &flag.source {
        SourceFlag::Bind(path) => Source::Bind { path: path.clone() },
        SourceFlag::Volume { name, no_copy } => Source::Volume {
            name: name.clone().unwrap_or_else(&mut *new_name),
            anonymous: name.is_none(),
            populate: !no_copy,
        },
        SourceFlag::Tmpfs { size, top } => Source::Tmpfs {
            size: *size,
            top: *top,
        },
    };
    Mount {
        source,
        target: flag.target.clone(),
        read_only: flag.read_only,
    }
}

fn network(args: &SandboxArgs, config: &ContainerConfig) -> Result<Network, CliError> {
    let flag = &args.network;
    let mode = flag.mode.clone();
    let by_image = config.exposed_ports.iter().filter_map(|port| {
        // What an image says badly, it does not say.
        port.parse::<ExposeFlag>().ok()
    });
    let by_user = args.expose.iter().cloned();
    let expose: BTreeSet<Port> = by_image.chain(by_user).flat_map(|flag| flag.0).collect();
    let mut publish: Vec<Publish> = args.publish.iter().flat_map(|f| f.0.clone()).collect();
    if args.publish_all {
        let known: BTreeSet<Port> = publish.iter().map(|p| p.to).collect();
        publish.extend(expose.difference(&known).map(|port| Publish {
            ip: None,
            first: 0,
            last: 0,
            to: *port,
        }));
    }
    let user = mode == NetworkMode::User;
    let outside = matches!(mode, NetworkMode::Tap(_) | NetworkMode::Bridge(_));
    let ip = args.ip.clone().or_else(|| flag.ip.clone());
    for (given, fits, what, wanted) in [
        (!publish.is_empty(), user, "--publish", "--network user"),
        (
            !args.network_policy.is_empty(),
            user,
            "--network-policy",
            "--network user",
        ),
        (
            ip.is_some(),
            outside,
            "--ip",
            "--network tap=NAME or bridge=NAME",
        ),
        (
            flag.gateway.is_some(),
            outside,
            "gateway",
            "--network tap=NAME or bridge=NAME",
        ),
    ] {
        if given && !fits {
            return Err(bad(what, format!("it needs {wanted}")));
        }
    }
    let mut network = Network {
        mode,
        user: flag.user.clone(),
        publish,
        expose: expose.into_iter().collect(),
        dns: args.dns.clone(),
        search: args.dns_search.clone(),
        options: args.dns_option.clone(),
        hosts: Vec::new(),
        policy: args.network_policy.clone(),
        ip,
        gateway: flag.gateway,
        mac: args.mac_address.clone().or_else(|| flag.mac.clone()),
    };
    if user {
        usernet::check(&network).map_err(|e| bad("--network", e))?;
    }
    let hosts = args.add_host.iter().map(|HostFlag(name, address)| {
        let address = match address.as_str() {
            HOST_GATEWAY if user => usernet::gateway(&network)
                .map_err(|e| bad("--add-host", e))?
                .to_string(),
            HOST_GATEWAY => {
                let why = format!("{HOST_GATEWAY} needs --network user");
                return Err(bad("--add-host", why));
            }
            address => address.to_owned(),
        };
        // An address and a name, as in /etc/hosts.
        Ok((address, name.clone()))
    });
    network.hosts = hosts.collect::<Result<_, _>>()?;
    Ok(network)
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
