//! Images: what other programs see in the layers, a real registry, a full disk.
//! Root and a kernel with loop devices and EROFS are needed.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::guest::{DRUPE, PATIENCE, tuned};

/// Runs a shell script as root with mounts of its own, which end with it.
fn script(text: &str) -> Output {
    let output = Command::new("unshare")
        .args(["--mount", "bash", "-euc", text])
        .env("DRUPE", DRUPE)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_merged_tree_is_what_podman_sees() {
    let work = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/merged-tree.py");
    let words = [program.as_path(), Path::new(DRUPE), work.path()];
    let words = words.map(|word| format!("'{}'", word.display())).join(" ");
    let out = stdout(&script(&format!("python3 {words}")));
    let entries = out.lines().find_map(|line| line.strip_prefix("entries: "));
    assert!(entries.unwrap().parse::<u32>().unwrap() > 200, "{out}");
    assert!(out.ends_with("differences: 0\n"), "{out}");
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let work = tempfile::tempdir().unwrap();
    let script = script(&format!(
        "cd '{}'
        mkdir root small
        head -c 1M /dev/urandom > root/file
        tar -C root -cf small.tar .
        head -c 30M /dev/urandom > root/file
        tar -C root -cf large.tar .
        mount -t tmpfs -o size=16M tmpfs small
        export DRUPE_HOME=$PWD/small
        $DRUPE import -q small.tar small >/dev/null
        before=$($DRUPE images --format json)
        $DRUPE import -q large.tar large && exit 1
        echo status: $?
        [ \"$before\" = \"$($DRUPE images --format json)\" ] && echo images: same
        echo left: $(ls small/images/tmp | wc -l)
        # Not a byte is left: what makes room has to work.
        for remove in 'rmi small' 'image prune -af'; do
            head -c 16M /dev/zero > small/rest 2>/dev/null && exit 1
            $DRUPE $remove >/dev/null
            echo layers: $(ls small/images/layers | wc -l)
            rm small/rest
            $DRUPE images -q
            $DRUPE import -q small.tar small >/dev/null
        done",
        work.path().display()
    ));
    let out = stdout(&script);
    assert_eq!(
        out,
        "status: 1\nimages: same\nleft: 0\nlayers: 0\nlayers: 0\n"
    );
    let error = String::from_utf8_lossy(&script.stderr).into_owned();
    assert!(
        error.contains("No space left") && error.contains("make room"),
        "{error}"
    );
    assert_eq!(error.matches('\n').count(), 1, "{error}");
}

#[test]
fn a_bomb_leaves_room_on_the_disk() {
    let work = tempfile::tempdir().unwrap();
    let script = script(&format!(
        "cd '{}'
        mkdir small
        mount -t tmpfs -o size=22M tmpfs small
        export DRUPE_HOME=$PWD/small
        truncate -s 30M zeros
        tar -cf - zeros | gzip -1 >bomb.tar.gz
        echo small: $(($(stat -c %s bomb.tar.gz) < 1 << 20))
        low() {{ while sleep 0.1; do df --output=avail -k small | tail -n 1; done; }}
        low >free 2>/dev/null & low=$!
        trap 'kill $low' EXIT
        $DRUPE import -q bomb.tar.gz bomb && exit 1
        echo status: $?
        kill $low && trap - EXIT
        echo left: $(ls small/images/tmp small/images/layers | grep -c .)
        echo kept: $(($(sort -n free | head -n 1) > 400))
        umount small",
        work.path().display()
    ));
    assert_eq!(stdout(&script), "small: 1\nstatus: 1\nleft: 2\nkept: 1\n");
    let error = String::from_utf8_lossy(&script.stderr).into_owned();
    let line = "would leave less than 2 MiB of the disk: make room";
    assert_eq!(error.matches(line).count(), 1, "{error}");
}

/// Debian's registry until it is dropped.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(directory: &Path) -> Self {
        // A port that was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let config = directory.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{address}'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n",
            directory.join("registry").display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Registry { child, address };
        let start = Instant::now();
        while TcpStream::connect(&registry.address).is_err() {
            assert!(start.elapsed() < PATIENCE, "the registry does not come up");
            thread::sleep(Duration::from_millis(100));
        }
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_standard_tool_pushes_and_drupe_pulls_and_runs() {
    let work = tempfile::tempdir().unwrap();
    let registry = Registry::start(work.path());
    let script = script(&format!(
        "cd '{}'; address={}
        mkdir -p root/etc root/bin
        cp /bin/busybox root/bin
        echo pushed > root/etc/motd
        export DRUPE_HOME=$PWD/home
        tar -C root -czf root.tar.gz .
        # A layout as skopeo and buildah write it.
        diff=$(gzip -dc root.tar.gz | sha256sum | cut -d' ' -f1)
        echo '{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:'$diff'\"]}}}}' > config.json
        echo '[{{\"Config\":\"config.json\",\"RepoTags\":[\"some/app:1\"],\"Layers\":[\"root.tar\"]}}]' > manifest.json
        gzip -dc root.tar.gz > root.tar
        tar -cf image.tar manifest.json config.json root.tar
        skopeo copy -q --insecure-policy --dest-tls-verify=false docker-archive:image.tar docker://$address/some/app:1
        $DRUPE pull -q $address/some/app:1
        $DRUPE pull $address/some/app:1 | grep Status
        export DRUPE_KERNELS='{}'
        $DRUPE run --rm --network none $address/some/app:1 /bin/busybox cat /etc/motd
        $DRUPE pull $address/some/none && exit 1
        echo status: $?",
        work.path().display(),
        registry.address,
        tuned().parent().unwrap().display()
    ));
    let address = &registry.address;
    assert_eq!(
        stdout(&script),
        format!(
            "{address}/some/app:1\nStatus: Image is up to date for {address}/some/app:1\n\
             pushed\nstatus: 1\n"
        )
    );
}
