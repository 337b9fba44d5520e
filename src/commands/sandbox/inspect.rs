//! `drupe inspect`.

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::table;
use super::volume;
use crate::cli::sandbox::InspectArgs;
use crate::commands::Failure;
use crate::commands::images::inspect_value;
use crate::exit::Exit;
use crate::sandbox::cgroups::{self, Record};
use crate::sandbox::error::SandboxError;
use crate::sandbox::network::{addresses, inside};
use crate::sandbox::spec::{Mount, Network, NetworkMode, Source, Spec};
use crate::sandbox::state::{State, Status};
use crate::sandbox::store::{Sandbox, Store};
use crate::sandbox::volumes::Volumes;
use crate::sandbox::{images, signals, usernet};

#[derive(Debug, Error)]
#[error("no such sandbox, image or volume: {0}")]
struct Nothing(String);

/// Tells all about sandboxes, images and volumes, in the order in which they are
/// named.
///
/// # Errors
/// One that is not there.
pub fn run(args: &InspectArgs) -> Result<Exit, Failure> {
    let store = Store::open()?;
    let mut found = Vec::new();
    let mut missing = None;
    for name in &args.names {
        match one(&store, name, args.kind.as_deref())? {
            Some(value) => found.push(value),
            None => missing = Some(Failure::runtime(Nothing(name.clone()))),
        }
    }
    // What there is, is told.
    table::json(&found)?;
    missing.map_or(Ok(Exit::Success), Err)
}

fn one(store: &Store, name: &str, kind: Option<&str>) -> Result<Option<Value>, Failure> {
    let wanted = |what: &str| kind.is_none_or(|kind| kind == what);
    if wanted("sandbox") || wanted("container") {
        match store.find(name) {
            Ok(sandbox) => return Ok(Some(value(&sandbox, &sandbox.spec()?, &sandbox.state()?))),
            Err(SandboxError::Unknown(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    if wanted("image") {
        let images = images::store(store.home())?;
        match images.resolve(name) {
            Ok(image) => return Ok(Some(inspect_value(&image))),
            Err(::images::Error::Unknown(_) | ::images::Error::Reference(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    if wanted("volume")
        && let Ok(found) = Volumes::new(store.home()).find(name)
    {
        return Ok(Some(volume::value(&found)?));
    }
    Ok(None)
}

/// A sandbox as Docker shows a container, as far as it has the same parts.
fn value(sandbox: &Sandbox, spec: &Spec, state: &State) -> Value {
    let process = &spec.process;
    json!({
        "Id": sandbox.id.as_str(),
        "Name": spec.name,
        "Created": spec.created,
        "Path": process.args.first(),
        "Args": process.args.get(1..),
        "State": {
            "Status": state.status.name(),
            "Running": state.status == Status::Running,
            "OOMKilled": state.oom_killed,
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": state.started,
            "FinishedAt": state.finished,
        },
        "Image": spec.image.id,
        "ImageName": spec.image.name,
        "Directory": sandbox.dir(),
        "LogPath": sandbox.path(crate::sandbox::log::FILE),
        "Config": {
            "Hostname": spec.hostname,
            "User": process.user,
            "Tty": process.terminal,
            "OpenStdin": process.stdin,
            "StdinOnce": process.stdin_once,
            "Env": process.env,
            "Cmd": process.args,
            "WorkingDir": process.cwd,
            "Labels": spec.labels,
            "StopSignal": signals::name(spec.stop_signal),
            "StopTimeout": spec.stop_timeout,
            "ExposedPorts": exposed(&spec.network),
        },
        "Machine": spec.machine,
        "Limits": spec.limits,
        "Cgroup": cgroup(sandbox, spec, state),
        "LogConfig": spec.log,
        "Confinement": {
            "Mode": spec.confine,
            "Layers": state.confinement,
        },
        "HostConfig": {
            "AutoRemove": spec.auto_remove,
            "Privileged": spec.privileged,
            "ReadonlyRootfs": spec.read_only,
            "Capabilities": process.capabilities,
            "GroupAdd": process.groups,
            "Init": process.init,
            "NoNewPrivileges": process.no_new_privileges,
            "Sysctls": spec.sysctls,
            "Ulimits": process.rlimits,
        },
        "Mounts": spec.mounts.iter().map(mount).collect::<Vec<_>>(),
        "NetworkSettings": network(sandbox, spec, state),
    })
}

fn cgroup(sandbox: &Sandbox, spec: &Spec, state: &State) -> Value {
    let record = cgroups::record(sandbox.store().home(), &sandbox.id);
    let (directories, missing) = match record {
        _ if !state.status.is_live() => (None, None),
        Some(Record::Group(group)) => (Some(group.directories().to_owned()), None),
        Some(Record::None(why)) => (None, Some(why)),
        None => (None, None),
    };
    json!({
        "Enabled": !spec.cgroup.disabled,
        "Directories": directories,
        "Missing": missing,
        "Memory": cgroups::memory(spec),
        "CpuQuota": spec.cgroup.cpu_quota,
        "CpuPeriod": spec.cgroup.cpu_period,
        "CpuShares": spec.cgroup.cpu_shares,
        "BlkioWeight": spec.cgroup.blkio_weight,
        "Devices": spec.cgroup.devices.iter().filter(|wish| !wish.rates.is_none()).collect::<Vec<_>>(),
    })
}

fn mount(mount: &Mount) -> Value {
    let (kind, name, source) = match &mount.source {
        Source::Bind { path } => ("bind", None, Some(path.display().to_string())),
        Source::Volume { name, .. } => ("volume", Some(name.clone()), None),
        Source::Tmpfs { .. } => ("tmpfs", None, None),
    };
    json!({
        "Type": kind,
        "Name": name,
        "Source": source,
        "Destination": mount.target,
        "RW": !mount.read_only,
    })
}

fn network(sandbox: &Sandbox, spec: &Spec, state: &State) -> Value {
    let network = &spec.network;
    let mode = match &network.mode {
        NetworkMode::User => "user".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Tap(name) => format!("tap={name}"),
        NetworkMode::Bridge(name) => format!("bridge={name}"),
    };
    let at = Addresses::of(network, state.status.is_live());
    json!({
        "Mode": mode,
        "Ports": ports(network, state),
        "Dns": network.dns,
        "DnsSearch": network.search,
        "DnsOptions": network.options,
        "ExtraHosts": network.hosts,
        "Policy": network.policy,
        "IPAddress": at.ip,
        "IPPrefixLen": at.prefix_len,
        "Gateway": at.gateway,
        "GlobalIPv6Address": at.ip6,
        "GlobalIPv6PrefixLen": at.prefix_len6,
        "IPv6Gateway": at.gateway6,
        "MacAddress": crate::sandbox::network::mac(network, &sandbox.id).ok().map(|mac| mac.to_string()),
    })
}

/// The ports that the sandbox serves: those that it says, and those that are
/// published.
fn exposed(network: &Network) -> Map<String, Value> {
    let published = network.publish.iter().map(|publish| publish.to);
    let ports = network.expose.iter().copied().chain(published);
    ports.map(|port| (inside(port), json!({}))).collect()
}

/// The sandbox's ports while it runs, with what leads to each, as docker shows
/// them: nothing for one that is not published.
fn ports(network: &Network, state: &State) -> Map<String, Value> {
    let mut ports = Map::new();
    if !state.status.is_live() {
        return ports;
    }
    for port in &network.expose {
        ports.insert(inside(*port), Value::Null);
    }
    for publish in &state.ports {
        let host = addresses(publish)
            .into_iter()
            .map(|ip| json!({ "HostIp": ip.to_string(), "HostPort": publish.first.to_string() }));
        match ports.entry(inside(publish.to)).or_insert(Value::Null) {
            Value::Array(list) => list.extend(host),
            other => *other = host.collect(),
        }
    }
    ports
}

/// The sandbox's addresses, as far as they are known here; empty where not, and
/// while it does not run.
#[derive(Default)]
struct Addresses {
    ip: String,
    prefix_len: u8,
    gateway: String,
    ip6: String,
    prefix_len6: u8,
    gateway6: String,
}

impl Addresses {
    fn of(network: &Network, live: bool) -> Self {
        let mut at = Addresses::default();
        if !live {
            return at;
        }
        if network.mode == NetworkMode::User {
            let Ok((user, ipv6)) = usernet::addresses(network) else {
                return at;
            };
            at.ip = user.guest.to_string();
            at.prefix_len = user.prefix_len;
            at.gateway = user.gateway.to_string();
            if ipv6 {
                at.ip6 = user.guest6.to_string();
                at.prefix_len6 = user.prefix_len6;
                at.gateway6 = user.gateway6.to_string();
            }
            return at;
        }
        // One that DHCP gives, the guest alone knows.
        if let Some((ip, length)) = network.ip.as_deref().and_then(|ip| ip.split_once('/')) {
            let length = length.parse().unwrap_or_default();
            match ip.contains(':') {
                true => (at.ip6, at.prefix_len6) = (ip.to_owned(), length),
                false => (at.ip, at.prefix_len) = (ip.to_owned(), length),
            }
        }
        match network.gateway {
            Some(gateway) if gateway.is_ipv6() => at.gateway6 = gateway.to_string(),
            Some(gateway) => at.gateway = gateway.to_string(),
            None => {}
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::id::Id;
    use crate::sandbox::spec::{Port, Protocol, Publish, tests::spec};

    #[test]
    fn a_running_sandbox_is_shown_as_docker_shows_a_container() {
        let dir = tempfile::tempdir().unwrap();
        let to = |port| Port {
            port,
            protocol: Protocol::Tcp,
        };
        let mut spec = spec("");
        spec.network.expose = vec![to(443)];
        spec.network.publish = vec![Publish {
            ip: None,
            first: 8080,
            last: 8080,
            to: to(80),
        }];
        let store = Store::at(dir.path().to_owned());
        let sandbox = store
            .create(Id::random().unwrap(), &mut spec, Some("web"))
            .unwrap();
        let spec = sandbox.spec().unwrap();
        let mut state = State::created();
        let stopped = value(&sandbox, &spec, &state);
        assert_eq!(stopped["NetworkSettings"]["Ports"], json!({}));
        assert_eq!(stopped["NetworkSettings"]["IPAddress"], "");
        let exposed = json!({ "443/tcp": {}, "80/tcp": {} });
        assert_eq!(stopped["Config"]["ExposedPorts"], exposed);
        assert_eq!(stopped["Config"]["StopSignal"], "SIGTERM");

        state.status = Status::Running;
        state.ports = vec![Publish {
            ip: None,
            first: 8080,
            last: 8080,
            to: to(80),
        }];
        let network = value(&sandbox, &spec, &state)["NetworkSettings"].clone();
        let bound = |ip: &str| json!({ "HostIp": ip, "HostPort": "8080" });
        assert_eq!(
            network["Ports"],
            json!({ "80/tcp": [bound("0.0.0.0"), bound("::")], "443/tcp": null })
        );
        for (key, expected) in [
            ("IPAddress", json!("10.0.2.15")),
            ("IPPrefixLen", json!(24)),
            ("Gateway", json!("10.0.2.2")),
            ("GlobalIPv6Address", json!("fd00::15")),
            ("IPv6Gateway", json!("fd00::2")),
        ] {
            assert_eq!(network[key], expected, "{key}");
        }
    }

    #[test]
    fn a_network_of_the_hosts_has_the_address_that_was_given() {
        let mut network = Network {
            mode: NetworkMode::Tap("tap0".into()),
            ip: Some("192.168.7.2/24".into()),
            gateway: Some("192.168.7.1".parse().unwrap()),
            ..Network::default()
        };
        let at = Addresses::of(&network, true);
        assert_eq!((&*at.ip, at.prefix_len), ("192.168.7.2", 24));
        assert_eq!(at.gateway, "192.168.7.1");
        network.ip = None;
        assert_eq!(Addresses::of(&network, true).ip, "");
    }
}
