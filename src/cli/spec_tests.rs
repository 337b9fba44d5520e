//! Each option of `run`, and what it makes of a sandbox.

use std::ffi::OsString;

use images::{Digest, ImageConfig};
use vmm::config::ByteSize;

use super::*;
use crate::cli::{Command, Parsed, parse};
use crate::sandbox::spec::Protocol;

fn image() -> Image {
    let text = r#"{
        "Env": ["PATH=/image/bin", "A=image"], "Entrypoint": ["/entry"], "Cmd": ["default"],
        "WorkingDir": "/work", "User": "app", "StopSignal": "SIGQUIT",
        "Volumes": {"/data": {}, "/over": {}, "bad": {}},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "x": {}},
        "Labels": {"a": "image", "b": "image"}
    }"#;
    Image {
        id: Digest::of(b"image"),
        names: Vec::new(),
        digests: Vec::new(),
        config: ImageConfig {
            config: serde_json::from_str(text).unwrap(),
            ..ImageConfig::default()
        },
        layers: vec!["/layers/0".into()],
        size: 0,
        stored: 0,
    }
}

fn args(line: &[&str]) -> Result<SandboxArgs, String> {
    let words = ["drupe", "run"].iter().chain(line);
    match parse(words.map(OsString::from)).map_err(|e| e.to_string())? {
        Parsed::Run(cli) => match cli.command {
            Command::Run(run) => Ok(run.create),
            other => Err(format!("{other:?}")),
        },
        Parsed::Print(text) => Err(text),
    }
}

fn made_of(line: &[&str], image: &Image) -> Result<Spec, String> {
    let id = "0123456789abcdef".repeat(4).parse().unwrap();
    let mut volumes = 0;
    let mut around = Surroundings {
        id: &id,
        env_files: vec!["A=file".into(), "F=file".into()],
        host_env: &|name| (name == "HOSTS").then(|| "h".to_owned()),
        volume_name: &mut || {
            volumes += 1;
            format!("anonymous{volumes}")
        },
    };
    spec(&args(line)?, image, &mut around).map_err(|e| e.to_string())
}

fn spec_of(line: &str) -> Result<Spec, String> {
    made_of(&line.split_whitespace().collect::<Vec<_>>(), &image())
}

#[test]
fn an_image_alone_is_a_sandbox() {
    let spec = spec_of("img").unwrap();
    assert_eq!(spec.process.args, ["/entry", "default"]);
    assert_eq!(spec.process.cwd, Path::new("/work"));
    assert_eq!(spec.process.user, "app");
    assert_eq!(spec.stop_signal, libc::SIGQUIT);
    assert_eq!(spec.hostname, "0123456789ab");
    let env = [
        "PATH=/image/bin",
        "A=file",
        "HOSTNAME=0123456789ab",
        "F=file",
    ];
    assert_eq!(spec.process.env, env);
    assert_eq!(spec.image.layers, [Path::new("/layers/0")]);
    assert_eq!(spec.image.name, "img");
    assert_eq!(spec.network.mode, NetworkMode::User);
    assert!(spec.network.publish.is_empty());
    assert_eq!(spec.network.expose.len(), 2);
    assert_eq!(
        (spec.machine.cpus, spec.machine.memory),
        (1, ByteSize(512 << 20))
    );
    assert_eq!(spec.process.capabilities.len(), 14);
    assert!(!spec.process.terminal && !spec.process.stdin && !spec.auto_remove);
    let volumes: Vec<_> = spec
        .mounts
        .iter()
        .map(|m| m.target.to_str().unwrap())
        .collect();
    assert_eq!(volumes, ["/data", "/over"]);
}

#[test]
fn what_comes_behind_the_image_is_the_commands() {
    let spec = spec_of("-i --rm img ls -la --rm -i -- x").unwrap();
    assert_eq!(
        spec.process.args,
        ["/entry", "ls", "-la", "--rm", "-i", "--", "x"]
    );
    let spec = spec_of("--entrypoint /own img -x").unwrap();
    assert_eq!(spec.process.args, ["/own", "-x"]);
    assert_eq!(
        spec_of("--entrypoint /own img").unwrap().process.args,
        ["/own"]
    );
    let alone = made_of(&["--entrypoint", "", "img", "ls"], &image()).unwrap();
    assert_eq!(alone.process.args, ["ls"]);
    assert!(
        made_of(&["--entrypoint", "", "img"], &image())
            .unwrap_err()
            .contains("command")
    );
    assert!(spec_of("").is_err());
    assert!(spec_of("--frob img").is_err());
}

#[test]
fn every_option_about_the_process() {
    let line = "-it -e A=flag -e HOSTS -e GONE -w /w -u 1:2 --group-add g --init --rm \
                --stop-signal USR1 --stop-timeout 3 --cap-drop ALL --cap-add CHOWN \
                --security-opt no-new-privileges --ulimit nofile=7:8 --ulimit core=0 -l a=flag -l c img";
    let spec = spec_of(line).unwrap();
    let process = &spec.process;
    assert!(process.terminal && process.stdin && process.stdin_once && process.init);
    assert!(
        process.env.contains(&"A=flag".to_owned()) && process.env.contains(&"HOSTS=h".to_owned())
    );
    assert!(!process.env.iter().any(|e| e.starts_with("GONE")));
    assert_eq!(
        (process.cwd.to_str(), process.user.as_str()),
        (Some("/w"), "1:2")
    );
    assert_eq!(process.groups, ["g"]);
    assert_eq!(process.capabilities, ["CAP_CHOWN"]);
    assert!(process.no_new_privileges && spec.auto_remove);
    assert_eq!(process.rlimits.len(), 2);
    assert_eq!((process.rlimits[0].soft, process.rlimits[0].hard), (7, 8));
    assert_eq!((spec.stop_signal, spec.stop_timeout), (libc::SIGUSR1, 3));
    let labels: Vec<_> = spec
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(labels, ["a=flag", "b=image", "c="]);
    assert_eq!(
        spec_of("--privileged img")
            .unwrap()
            .process
            .capabilities
            .len(),
        41
    );
    assert!(
        spec_of("-w relative img")
            .unwrap_err()
            .contains("--workdir")
    );
    assert!(spec_of("-e =x img").unwrap_err().contains("--env"));
}

#[test]
fn every_option_about_the_machine() {
    let spec = spec_of(
        "--cpus 2 -m 1G --disk-size 2G --shm-size 1M --kernel k --sysctl net.x=1 --read-only \
         --privileged -h box img",
    )
    .unwrap();
    let machine = &spec.machine;
    assert_eq!((machine.cpus, machine.memory), (2, ByteSize(1 << 30)));
    assert_eq!(machine.disk_size, Some(ByteSize(2 << 30)));
    assert_eq!(machine.shm_size, ByteSize(1 << 20));
    assert_eq!(machine.kernel.as_deref(), Some(Path::new("k")));
    assert_eq!(spec.sysctls["net.x"], "1");
    assert!(spec.read_only && spec.privileged);
    assert_eq!(spec.hostname, "box");
    assert!(spec.process.env.contains(&"HOSTNAME=box".to_owned()));
    for (cpus, whole, quota) in [
        ("2.0", 2, None),
        ("1.5", 2, Some(150_000)),
        (".25", 1, Some(25_000)),
        ("31.99", 32, Some(3_199_000)),
    ] {
        let spec = spec_of(&format!("--cpus {cpus} img")).unwrap();
        let seen = (spec.machine.cpus, spec.cgroup.cpu_quota);
        assert_eq!(seen, (whole, quota), "{cpus}");
    }
    for (memory, expected) in [("1.5g", 1536), ("0.1G", 103), ("500000000", 477)] {
        let spec = spec_of(&format!("-m {memory} img")).unwrap();
        assert_eq!(spec.machine.memory, ByteSize(expected << 20), "{memory}");
    }
    for (line, word) in [
        ("--cpus 0 img", "give 0.01 to 32"),
        ("--cpus 0.001 img", "give 0.01 to 32"),
        ("--cpus NaN img", "give 0.01 to 32"),
        ("--cpus 32.5 img", "give 0.01 to 32"),
        ("--cpus 1.5 --cpu-quota 50000 img", "leave out --cpu-quota"),
        ("--cpus 1.5 --cgroups disabled img", "need a cgroup"),
        ("--memory 5 img", "memory"),
        ("--disk-size 1M img", "--disk-size"),
        (
            "--disk-size 100T img",
            "a disk of 100T is too large: give 16M to 15T",
        ),
        ("--sysctl a img", "write it as NAME=VALUE"),
        ("--stop-timeout x img", "'x' is no number of seconds"),
        ("-h a/b img", "host name"),
    ] {
        assert!(spec_of(line).unwrap_err().contains(word), "{line}");
    }
}

#[test]
fn every_option_about_files() {
    let spec = spec_of(
        "-v /host:/a/b:ro -v named:/over -v /anon --mount type=tmpfs,target=/a --tmpfs /t:size=1M img",
    )
    .unwrap();
    let targets: Vec<_> = spec
        .mounts
        .iter()
        .map(|m| m.target.to_str().unwrap())
        .collect();
    // Those above before those below.
    assert_eq!(targets, ["/over", "/anon", "/a", "/t", "/data", "/a/b"]);
    let named = Source::Volume {
        name: "named".into(),
        anonymous: false,
        populate: true,
    };
    assert_eq!(spec.mounts[0].source, named);
    let anonymous = Source::Volume {
        name: "anonymous1".into(),
        anonymous: true,
        populate: true,
    };
    assert_eq!(spec.mounts[1].source, anonymous);
    assert_eq!(
        spec.mounts[3].source,
        Source::Tmpfs {
            size: Some(ByteSize(1 << 20)),
            top: protocol::TmpfsTop::default()
        }
    );
    assert_eq!(
        spec.mounts[5].source,
        Source::Bind {
            path: "/host".into()
        }
    );
    assert!(spec.mounts[5].read_only && !spec.mounts[0].read_only);
    assert!(
        spec_of("-v a1:/x -v b1:/x img")
            .unwrap_err()
            .contains("twice")
    );
}

#[test]
fn every_option_about_the_network() {
    let line = "-p 8080:80 -P --expose 9000 --dns 9.9.9.9 --dns-search a.b --dns-option ndots:1 \
                --add-host db:10.0.0.1 --add-host up:host-gateway --mac-address 02:00:00:00:00:01 img";
    let network = spec_of(line).unwrap().network;
    let to: Vec<_> = network
        .publish
        .iter()
        .map(|p| (p.first, p.to.port, p.to.protocol))
        .collect();
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    assert_eq!(to, [(8080, 80, tcp), (0, 53, udp), (0, 9000, tcp)]);
    assert_eq!(
        network.dns,
        ["9.9.9.9".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(
        (&network.search[..], &network.options[..]),
        (&["a.b".to_owned()][..], &["ndots:1".to_owned()][..])
    );
    let hosts: Vec<_> = network
        .hosts
        .iter()
        .map(|(a, n)| format!("{a} {n}"))
        .collect();
    assert_eq!(hosts, ["10.0.0.1 db", "10.0.2.2 up"]);
    assert_eq!(network.mac.as_deref(), Some("02:00:00:00:00:01"));
    let bridged = spec_of("--network bridge=br0,gateway=10.0.0.1 --ip 10.0.0.2/24 img")
        .unwrap()
        .network;
    assert_eq!(bridged.mode, NetworkMode::Bridge("br0".into()));
    assert_eq!(bridged.ip.as_deref(), Some("10.0.0.2/24"));
    for line in [
        "--network none -p 80 img",
        "--network none --network-policy deny=* img",
        "--ip 10.0.0.2/24 img",
        "--network none --add-host up:host-gateway img",
        "--network host img",
        "--network-policy permit img",
        "--network user,subnet=10.0.0.0/30 img",
    ] {
        assert!(spec_of(line).is_err(), "{line}");
    }
}

#[test]
fn an_image_that_says_nothing_needs_a_command() {
    let mut image = image();
    image.config = ImageConfig::default();
    assert!(made_of(&["img"], &image).unwrap_err().contains("command"));
    let spec = made_of(&["img", "sh"], &image).unwrap();
    assert!(spec.process.env[0].starts_with("PATH=/usr/local/sbin:"));
    assert_eq!(
        (spec.process.cwd.to_str(), spec.stop_signal),
        (Some("/"), libc::SIGTERM)
    );
    image.config.config.stop_signal = Some("NONSENSE".into());
    assert!(
        made_of(&["img", "sh"], &image)
            .unwrap_err()
            .contains("stop signal")
    );
    assert_eq!(
        made_of(&["--stop-signal", "INT", "img", "sh"], &image)
            .unwrap()
            .stop_signal,
        libc::SIGINT
    );
}
