//! Commands and flags that docker has and drupe has not: what to do in their place.
//! Whoever types one of these is better served by that than by one that is spelled
//! in a similar way.

const MAKING: &str =
    "make images with buildah, podman or docker; 'drupe load' and 'drupe pull' take them";
const HERE: &str = "there is no engine and no cluster, only this host";

/// What to do in place of a command of docker's that is not there.
pub fn advice(command: &str) -> Option<&'static str> {
    Some(match command {
        "build" | "builder" | "buildx" | "commit" | "history" | "manifest" | "push" | "save"
        | "search" => MAKING,
        "compose" | "config" | "context" | "node" | "plugin" | "secret" | "service" | "stack"
        | "swarm" => HERE,
        "container" => "the commands stand by themselves, as 'drupe ps' and 'drupe rm'",
        "diff" | "export" => "'drupe cp SANDBOX:/ -' writes a tar of what is in one that runs",
        "info" => "'drupe doctor' tells about the host, 'drupe system df' about what is kept",
        "login" | "logout" => "'drupe pull' takes the logins of docker and podman",
        "network" => "'drupe run --network' says it all",
        "checkpoint" | "pause" | "unpause" => "a sandbox can be stopped and started",
        "prune" => "there are 'drupe system prune', 'drupe image prune' and 'drupe volume prune'",
        "version" => "'drupe --version' tells",
        _ => return None,
    })
}

/// What to do in place of a flag of docker's `run` that is not there.
pub fn flag_advice(flag: &str) -> Option<&'static str> {
    Some(match flag {
        "--device" | "--device-cgroup-rule" | "--gpus" => "no device of the host's is passed on",
        "--cgroupns" | "--ipc" | "--isolation" | "--pid" | "--runtime" | "--userns" | "--uts" => {
            "nothing is shared with the host, the kernel is the sandbox's own"
        }
        "--cgroup-parent"
        | "--kernel-memory"
        | "--memory-reservation"
        | "--memory-swap"
        | "--memory-swappiness"
        | "--oom-kill-disable"
        | "--oom-score-adj"
        | "--pids-limit" => {
            "--memory bounds the whole machine, and its kernel is the sandbox's own"
        }
        "--cpuset-cpus" | "--cpuset-mems" => "--cpus and --cpu-shares bound its processors",
        "--blkio-weight-device" => "--blkio-weight is for all disks, --device-write-bps for one",
        "--link" | "--network-alias" => "sandboxes reach each other by published ports",
        "--log-driver" => "there is one log, which --log-opt bounds and 'drupe logs' prints",
        "--restart" => "there is no daemon: have systemd, or a loop, start it again",
        "--health-cmd" | "--health-interval" | "--health-retries" | "--health-timeout"
        | "--no-healthcheck" => "there is no daemon to look after it: use 'drupe exec'",
        "--storage-opt" => "--disk-size is how much it may write to its root",
        "--volumes-from" | "--volume-driver" => "give each with -v",
        _ => return None,
    })
}
