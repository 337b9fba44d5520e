//! Layers, disks, and files in and out.

use std::fs;

use protocol::{
    Archive, DiskMount, Frame, FrameKind, Mount, MountSource, Reply, Request, TmpfsTop, Writable,
};

use super::sandbox::{self, Plan, ext4, process};
use crate::guest::host;

const MIB: u64 = 1 << 20;

fn at(path: &str) -> Archive {
    Archive {
        path: path.into(),
        follow: false,
        chown_root: false,
    }
}

#[test]
fn files_go_in_and_out() {
    let sandbox = Plan::new().start();
    let _main = sandbox.idle();
    sandbox.sh(
        "mkdir /src && cd /src && echo text > file && ln -s /etc/passwd link && \
                chown 33:34 file && chmod 4711 file && ln file hard && mkfifo fifo && \
                ln -s / /up",
    );
    let get = |path: &str, follow| {
        let request = Request::GetArchive(Archive { follow, ..at(path) });
        let (mut stream, reply) = sandbox.send(&request);
        let mut bytes = Vec::new();
        while let Some(frame) = Frame::read_from(&mut stream).unwrap() {
            assert_eq!(frame.kind, FrameKind::Stdout, "{frame:?}");
            bytes.extend(frame.payload);
        }
        (reply, bytes)
    };
    let put = |path: &str, bytes: &[u8], chown_root| {
        let mut stream = sandbox.connect();
        let request = Request::PutArchive(Archive {
            chown_root,
            ..at(path)
        });
        Frame::json(FrameKind::Request, &request)
            .unwrap()
            .write_to(&mut stream)
            .unwrap();
        for chunk in bytes.chunks(1000) {
            Frame::new(FrameKind::Stdin, chunk)
                .write_to(&mut stream)
                .unwrap();
        }
        Frame::new(FrameKind::Stdin, [])
            .write_to(&mut stream)
            .unwrap();
        let frame = Frame::read_from(&mut stream).unwrap().unwrap();
        frame.parse::<Reply>(FrameKind::Reply).unwrap()
    };
    let (reply, archive) = get("/src", false);
    assert!(matches!(reply, Reply::Entry(entry) if entry.mode & 0o170_000 == 0o040_000));
    sandbox.sh("mkdir /to /root-owned");
    assert_eq!(put("/to", &archive, false), Reply::Done);
    assert_eq!(put("/up/root-owned", &archive, true), Reply::Done);
    let out = sandbox.sh(
        "cd /to/src && stat -c '%a %u %g %h' file && readlink link && cat hard && \
         stat -c %F fifo && stat -c '%u %g' /root-owned/src/file",
    );
    assert_eq!(out.text(), "4711 33 34 2\n/etc/passwd\ntext\nfifo\n0 0\n");
    // A mounted file is written to in its place.
    sandbox.sh("mkdir /h && echo '1.2.3.4 new' > /h/hosts");
    let (_, hosts) = get("/h/hosts", false);
    assert_eq!(put("/etc", &hosts, false), Reply::Done);
    assert_eq!(sandbox.sh("cat /etc/hosts").text(), "1.2.3.4 new\n");
    let Reply::Failed(failure) = put("/none", &archive, false) else {
        panic!("unpacked in nothing");
    };
    assert_eq!(failure.message, "/none: no such file or directory");
    assert!(matches!(put("/to", b"garbage", false), Reply::Failed(_)));
    let Reply::Entry(entry) = sandbox.ask(&Request::Stat(at("/src/link"))) else {
        panic!("there is a link");
    };
    assert_eq!(entry.link.as_deref(), Some("/etc/passwd"));
    assert!(matches!(get("/none", false).0, Reply::Failed(_)));
    sandbox.power_off();
}

#[test]
fn disks_keep_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (scratch, volume) = (dir.path().join("scratch"), dir.path().join("volume"));
    ext4(&scratch, 64 * MIB);
    ext4(&volume, 32 * MIB);
    let image = sandbox::busybox_layer();
    fs::create_dir(image.path().join("data/sub")).unwrap();
    fs::write(image.path().join("data/sub/file"), "from the image").unwrap();
    std::os::unix::fs::chown(image.path().join("data"), Some(33), Some(34)).unwrap();
    let start = |read_only| {
        Plan::with_layers(&[image.path()])
            .disk(&scratch, "scratch")
            .disk(&volume, "vol0")
            .told(|setup| {
                setup.root.writable = Writable::Disk {
                    serial: "scratch".into(),
                };
                setup.root.read_only = read_only;
                let mount = |source, target: &str, read_only| Mount {
                    source,
                    target: target.into(),
                    read_only,
                };
                let volume = MountSource::Disk(DiskMount {
                    serial: "vol0".into(),
                    populate: true,
                });
                let tmpfs = MountSource::Tmpfs {
                    size: Some(MIB),
                    top: TmpfsTop {
                        mode: Some(0o700),
                        uid: Some(7),
                        gid: Some(8),
                        exec: true,
                        ..TmpfsTop::default()
                    },
                };
                setup.mounts = vec![
                    mount(volume, "/data", read_only),
                    mount(tmpfs, "/new/place", false),
                ];
            })
            .start()
    };
    let sandbox = start(false);
    let main = sandbox.idle();
    let out = sandbox.sh(
        "stat -c '%u %g' /data; cat /data/sub/file; echo; ls -a /data | grep -c drupe; \
         rm /data/sub/file; echo 1 > /data/mine; echo 2 > /root-file; \
         stat -c '%a %u %g' /new/place; echo 'echo ran' > /new/place/s; \
         sed -i '1i #!/bin/sh' /new/place/s; chmod 755 /new/place/s; /new/place/s; rm /new/place/s; df -k /new/place | tail -n 1 | awk '{print $2}'",
    );
    assert_eq!(out.text(), "33 34\nfrom the image\n0\n700 7 8\nran\n1024\n");
    sandbox.power_off();
    drop(main);
    // Both were unmounted in good order.
    for disk in [&scratch, &volume] {
        host("e2fsck", &["-fn", &disk.display().to_string()]);
    }
    // Again, read-only: the volume is not populated a second time.
    let sandbox = start(true);
    let _main = sandbox.idle();
    let out = sandbox.sh("cat /data/mine /root-file; ls /data/sub; \
         for f in /data/x /x /etc/hosts; do (echo > $f) 2>&1 | grep -o 'Read-only'; done; \
         echo > /new/place/x && echo > /dev/shm/x && echo fine; cat /etc/hostname");
    assert_eq!(
        out.text(),
        "1\n2\nRead-only\nRead-only\nRead-only\nfine\nbox\n"
    );
    sandbox.power_off();
}

#[test]
fn an_image_has_many_layers_or_none() {
    let lowest = sandbox::busybox_layer();
    let others: Vec<_> = (1..127)
        .map(|n| {
            let layer = tempfile::tempdir().unwrap();
            fs::create_dir(layer.path().join("var")).unwrap();
            fs::write(layer.path().join(format!("var/{n}")), "").unwrap();
            fs::write(layer.path().join("var/last"), n.to_string()).unwrap();
            layer
        })
        .collect();
    let mut layers = vec![lowest.path()];
    layers.extend(others.iter().map(|layer| layer.path()));
    let sandbox = Plan::with_layers(&layers).start();
    let mut main = process(&["sh", "-c", "ls /var | wc -l; cat /var/last"]);
    main.main = true;
    assert_eq!(sandbox.run(main).text(), "127\n126");
    sandbox.power_off();

    let sandbox = Plan::new().told(|setup| setup.root.layers = 0).start();
    let mut main = process(&["sh"]);
    main.main = true;
    let failure = sandbox.start(main).map(|s| s.id).unwrap_err();
    assert_eq!(failure.status, 127);
    sandbox.power_off();
}
