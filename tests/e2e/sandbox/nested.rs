//! A container runtime inside a sandbox.

use super::Home;

/// A bundle for crun and an image for podman, both of busybox; then what each
/// does without limits, with little memory and with few processes.
const SCRIPT: &str = r#"
    set -e
    mkdir -p /bundle/rootfs/bin
    cp /bin/busybox /bundle/rootfs/bin
    for applet in sh dd sleep cat echo; do ln -s busybox /bundle/rootfs/bin/$applet; done
    cd /bundle
    crun spec
    sed -i 's/"terminal": true/"terminal": false/
        s/"resources": {/"resources": {"memory": {"limit": 33554432, "swap": 33554432}, "pids": {"limit": 5},/' config.json
    cp config.json spec
    bundle() { # SHELL-COMMAND
        sed 's|^\([[:space:]]*\)"sh"$|\1"sh", "-c", "'"$1"'"|' spec > config.json
    }
    status() { # NAME COMMAND...: its output, and then its status
        name=$1; shift
        "$@" 2>/tmp/errors && status=0 || status=$?
        echo "$name-status: $status"
    }
    hog='dd if=/dev/zero of=/dev/null bs=100M count=1; echo not reached'
    fork='for i in 1 2 3 4 5 6 7 8; do sleep 3 \& done; wait'

    bundle 'echo crun: $(cat /proc/1/comm) in $(cat /proc/self/cgroup)'
    status crun crun run plain
    bundle "exec ${hog%;*}"
    status crun-memory crun run memory
    bundle "$fork"
    status crun-pids crun run pids
    grep -q "can't fork" /tmp/errors && echo crun-pids: refused

    tar -C rootfs -cf - . | podman import --quiet - box >/dev/null
    box() { podman run --network none "$@"; }
    status podman box --rm box sh -c 'echo podman: inside; exit 3'
    status podman-memory box --rm --memory 32m box dd if=/dev/zero of=/dev/null bs=100M count=1
    status podman-pids box --rm --pids-limit 5 box sh -c "$(echo "$fork" | tr -d '\\')"
    grep -q "can't fork" /tmp/errors && echo podman-pids: refused
    # The kernel says whose limit it was.
    echo "killed: $(dmesg | grep -c 'Memory cgroup out of memory: Killed process .*(dd)')"
    echo "driver: $(podman info --format '{{.Store.GraphDriverName}} {{.Host.OCIRuntime.Name}} {{.Host.CgroupsVersion}}')"
"#;

#[test]
fn crun_and_podman_run_containers_with_limits() {
    // Their store is a disk: an overlay cannot lie on the root's.
    let home = Home::with("containers", &["VOLUME /var/lib/containers"]);
    let run = "run --rm --privileged --network none --memory 1G --cpus 2 containers bash -c";
    let mut args: Vec<&str> = run.split(' ').collect();
    args.push(SCRIPT);
    let output = home.drupe(&args);
    let text = String::from_utf8_lossy(&output.stdout);
    let all = home.explain(&output);
    assert_eq!(output.status.code(), Some(0), "{all}");
    for line in [
        "crun: sh in 0::/",
        "crun-status: 0",
        "crun-memory-status: 137",
        "crun-pids: refused",
        "podman: inside",
        "podman-status: 3",
        "podman-memory-status: 137",
        "killed: 2",
        "podman-pids: refused",
        "driver: overlay crun v2",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in {all}");
    }
}
