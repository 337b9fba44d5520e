//! `drupe inspect`.

use serde_json::{Value, json};
use thiserror::Error;

use super::table;
use super::volume;
use crate::cli::sandbox::InspectArgs;
use crate::commands::Failure;
use crate::commands::images::inspect_value;
use crate::exit::Exit;
use crate::sandbox::error::SandboxError;
use crate::sandbox::images;
use crate::sandbox::spec::{Mount, NetworkMode, Publish, Source, Spec};
use crate::sandbox::state::{State, Status};
use crate::sandbox::store::{Sandbox, Store};
use crate::sandbox::volumes::Volumes;

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
            "StopSignal": spec.stop_signal,
            "StopTimeout": spec.stop_timeout,
            "ExposedPorts": spec.network.expose,
        },
        "Machine": spec.machine,
        "Limits": spec.limits,
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
    let port = |publish: &Publish| {
        json!({
            "Port": publish.to.port,
            "Protocol": publish.to.protocol.name(),
            "HostIp": publish.ip,
            "HostPort": publish.first,
        })
    };
    json!({
        "Mode": mode,
        "Ports": state.ports.iter().map(port).collect::<Vec<_>>(),
        "Dns": network.dns,
        "DnsSearch": network.search,
        "DnsOptions": network.options,
        "ExtraHosts": network.hosts,
        "Policy": network.policy,
        "IPAddress": network.ip,
        "Gateway": network.gateway,
        "MacAddress": crate::sandbox::network::mac(network, &sandbox.id).ok().map(|mac| mac.to_string()),
    })
}
