//! The agent in real guests: what drupe asks of it, and what a workload sees.

mod network;
mod sandbox;
mod storage;

use std::fs;
use std::thread;

use protocol::{Frame, FrameKind, Reply, Request, Rlimit, WindowSize};

use sandbox::{Plan, Sandbox, Started, every_capability, process};

fn signal(sandbox: &Sandbox, process: u32, signal: i32) -> Reply {
    sandbox.ask(&Request::Signal { process, signal })
}

#[test]
fn a_workload_sees_what_a_container_sees() {
    let script = r#"
        echo pid: $$
        echo processes: $(ls -d /proc/[0-9]* | wc -l)
        echo hostname: $(hostname) $(cat /etc/hostname)
        echo hosts: $(grep -c 'box$' /etc/hosts) $(grep -c other /etc/hosts)
        echo resolv: $(cat /etc/resolv.conf)
        echo home: $HOME $PWD $(id -u) $(id -G) $(umask)
        echo lower: $(cat /etc/lower) $(cat /etc/upper) $(ls /gone 2>&1)
        echo root: $(grep ' / ' /proc/mounts | cut -d' ' -f1,3) $(echo w > /w && cat /w)
        echo dev: $(ls /dev | tr '\n' ' ')
        echo modes: $(stat -c %a /dev/null /dev/shm /dev/pts/ptmx /tmp)
        echo shm: $(df -m /dev/shm | tail -n 1 | awk '{print $2}') $(echo x > /dev/shm/x && cat /dev/shm/x)
        echo caps: $(grep -E '^Cap(Prm|Eff|Bnd|Inh|Amb)' /proc/self/status | cut -f2 | tr '\n' ' ')
        echo cgroup: $(cat /proc/self/cgroup) $(ls /sys/fs/cgroup/memory.max)
        for path in /sys/x /sys/fs/cgroup/x; do mkdir $path 2>&1 | grep -q 'Read-only' && echo ro: yes; done
        (echo 1 > /proc/sys/kernel/panic) 2>&1 | grep -q Read-only && echo sysctl: read-only
        echo masked: $(wc -c < /proc/interrupts) $(ls /sys/firmware | wc -l)
        echo parameter: $(cat /proc/sys/net/ipv4/ip_forward)
        echo agent: $(grep -v ^overlay /proc/mounts | grep -c '/run') $(ls -a / | grep -c -e '^init$' -e '^modules$')
        echo lo: $(ifconfig lo | grep -c 'inet addr:127.0.0.1')
        echo clock: $(date +%s)
        echo err >&2
        exit 3"#;
    let lower = sandbox::busybox_layer();
    fs::write(lower.path().join("etc/lower"), "1").unwrap();
    fs::write(lower.path().join("etc/upper"), "1").unwrap();
    fs::write(lower.path().join("gone"), "1").unwrap();
    // In memory: an overlay, as the lab's root, takes no whiteouts.
    let upper = tempfile::tempdir_in("/run").unwrap();
    fs::create_dir(upper.path().join("etc")).unwrap();
    fs::write(upper.path().join("etc/upper"), "2").unwrap();
    // A whiteout.
    sandbox::whiteout(&upper.path().join("gone"));
    let sandbox = Plan::with_layers(&[lower.path(), upper.path()])
        .told(|setup| {
            setup.network.dns = vec!["10.9.8.7".into()];
            setup.network.search = vec!["example".into()];
            setup.network.hosts = vec![("10.0.0.1".into(), "other".into())];
            setup
                .sysctls
                .insert("net.ipv4.ip_forward".into(), "1".into());
        })
        .start();
    let mut main = process(&["sh", "-c", script]);
    main.main = true;
    main.cwd = "/made/here".into();
    let out = sandbox.run(main);
    println!("{}", out.text());
    assert_eq!((out.status(), out.stderr.as_slice()), (3, &b"err\n"[..]));
    assert_eq!(out.value("pid:"), "1");
    // The shell, ls and what counts.
    assert!(out.value("processes:").parse::<u32>().unwrap() < 6);
    assert_eq!(out.value("hostname:"), "box box");
    assert_eq!(out.value("hosts:"), "1 1");
    assert_eq!(out.value("resolv:"), "nameserver 10.9.8.7 search example");
    assert_eq!(out.value("home:"), "/root /made/here 0 0 0022");
    assert_eq!(
        out.value("lower:"),
        "1 2 ls: /gone: No such file or directory"
    );
    assert_eq!(out.value("root:"), "overlay overlay w");
    assert_eq!(
        out.value("dev:"),
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    assert!(out.value("modes:").starts_with("666 1777 666"));
    assert_eq!(out.value("shm:"), "16 x");
    let default = "00000000a80425fb";
    let none = "0000000000000000";
    let caps = format!("{none} {default} {default} {default} {none}");
    assert_eq!(out.value("caps:"), caps);
    assert_eq!(out.value("cgroup:"), "0::/ /sys/fs/cgroup/memory.max");
    assert_eq!(out.text().matches("ro: yes").count(), 2);
    assert_eq!(out.value("sysctl:"), "read-only");
    assert_eq!(out.value("masked:"), "0 0");
    assert_eq!(out.value("parameter:"), "1");
    assert_eq!(out.value("agent:"), "0 0");
    assert_eq!(out.value("lo:"), "1");
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(out.value("clock:").parse::<u64>().unwrap().abs_diff(now) < 3600);

    // The end of the main process is the end of the others.
    let late = sandbox.start(process(&["true"])).map(|s| s.id).unwrap_err();
    assert_eq!(late.message, "the sandbox's main process has ended");
    sandbox.power_off();
}

#[test]
fn processes_are_started_as_they_are_described() {
    let sandbox = Plan::new().start();
    let main = sandbox.idle();

    // Users and groups.
    let id = |user: &str, groups: &[&str]| {
        let script = "echo $(id -u) $(id -g) $(id -G) $HOME; cat /proc/self/status";
        let mut p = process(&["sh", "-c", script]);
        p.user = user.into();
        p.groups = groups.iter().map(|g| (*g).to_owned()).collect();
        sandbox.run(p)
    };
    let out = id("web", &["staff", "77"]);
    assert!(
        out.text().starts_with("33 34 34 4 50 77 /data\n"),
        "{}",
        out.text()
    );
    // Another user has no capabilities, but may get those of the bounding set.
    let caps = |set: &str| out.value(&format!("Cap{set}:")).to_owned();
    assert_eq!(
        [caps("Prm"), caps("Eff"), caps("Inh"), caps("Amb")],
        ["0000000000000000"; 4]
    );
    assert_eq!(caps("Bnd"), "00000000a80425fb");
    assert!(id("1234:55", &[]).text().starts_with("1234 55 55 /\n"));
    let mut p = process(&["true"]);
    p.user = "nobody".into();
    let failure = sandbox.start(p).map(|s| s.id).unwrap_err();
    assert!(failure.message.contains("unable to find user nobody"));
    assert_eq!(failure.status, 125);

    // What is added to the environment, and what limits say.
    let mut p = process(&[
        "sh",
        "-c",
        "env; ulimit -n; ulimit -Hn; grep NoNewPrivs /proc/self/status",
    ]);
    p.env = vec!["PATH=/bin".into(), "A=b c".into()];
    p.no_new_privileges = true;
    p.rlimits = vec![Rlimit {
        kind: "RLIMIT_NOFILE".into(),
        soft: 100,
        hard: 200,
    }];
    let out = sandbox.run(p);
    for line in ["A=b c", "HOME=/root", "100", "200", "NoNewPrivs:\t1"] {
        assert!(
            out.text().lines().any(|l| l == line),
            "{line}: {}",
            out.text()
        );
    }

    // Programs that cannot be executed.
    sandbox.sh(
        "echo text > /plain; echo garbage > /garbage; chmod +x /garbage; \
                printf '#!/none\\n' > /orphan; chmod +x /orphan",
    );
    for (program, status, message) in [
        (
            "nosuch",
            127,
            "exec: \"nosuch\": executable file not found in $PATH",
        ),
        (
            "/no/such",
            127,
            "exec: \"/no/such\": stat /no/such: no such file or directory",
        ),
        ("/plain", 126, "exec: \"/plain\": permission denied"),
        ("/etc", 126, "exec: \"/etc\": is a directory"),
        ("/garbage", 126, "exec /garbage: exec format error"),
        ("/orphan", 127, "exec /orphan: no such file or directory"),
    ] {
        let failure = sandbox
            .start(process(&[program]))
            .map(|s| s.id)
            .unwrap_err();
        assert_eq!(
            (failure.status, failure.message.as_str()),
            (status, message)
        );
    }

    // Ends.
    for (script, status) in [
        ("true", 0),
        ("false", 1),
        ("exit 255", 255),
        ("kill -9 $$", 137),
    ] {
        assert_eq!(sandbox.sh(script).status(), status, "{script}");
    }
    // An orphan holds the streams, and does not hold up the exit.
    let out = sandbox.sh("sleep 100 & echo $!");
    assert_eq!(out.status(), 0);
    let orphan = out.text().trim().to_owned();
    assert_eq!(sandbox.sh(&format!("kill {orphan}")).status(), 0);

    // Beside the main process, in its namespaces.
    let out = sandbox.sh("for n in pid mnt cgroup; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] && echo same; done; cat /proc/self/cgroup");
    assert_eq!(out.text(), "same\nsame\nsame\n0::/\n");
    assert_eq!(sandbox.sh("kill -TERM 1; sleep 100").status(), 137);
    assert_eq!(main.finish().status(), 7);
    sandbox.power_off();
}

#[test]
fn streams_are_binary_clean_and_slow_readers_slow_down_writers() {
    let sandbox = Plan::new().start();
    let _main = sandbox.idle();
    let data: Vec<u8> = (0..10_000_000_u32)
        .map(|i| (i * 31 + i / 255) as u8)
        .collect();
    let mut p = process(&["sh", "-c", "tee /tmp/copy | cat; md5sum < /tmp/copy >&2"]);
    p.stdin = true;
    let started = sandbox.start(p).unwrap();
    let writer = Started {
        stream: started.stream.try_clone().unwrap(),
        id: started.id,
    };
    let sent = data.clone();
    let writing = thread::spawn(move || {
        for chunk in sent.chunks(500_000) {
            writer.input(chunk);
        }
        writer.input(b"");
    });
    thread::sleep(std::time::Duration::from_secs(2));
    assert!(
        !writing.is_finished(),
        "nobody reads, so that nobody can write"
    );
    let out = started.finish();
    writing.join().unwrap();
    assert!(out.stdout == data, "{} bytes came back", out.stdout.len());
    assert_eq!(out.status(), 0);
    assert_eq!(
        out.stderr.len(),
        "d41d8cd98f00b204e9800998ecf8427e  -\n".len()
    );

    // Without standard input there is none.
    assert_eq!(sandbox.run(process(&["cat"])).stdout, b"");
    // A reader that goes away leaves its process alone.
    let mut p = process(&[
        "sh",
        "-c",
        "cat; head -c 3000000 /dev/zero; echo $? > /tmp/after",
    ]);
    p.stdin = true;
    drop(sandbox.start(p).unwrap());
    let out = sandbox.sh("until [ -s /tmp/after ]; do sleep 0.1; done; cat /tmp/after");
    assert_eq!(out.text(), "0\n");
    sandbox.power_off();
}

#[test]
fn a_terminal_is_one() {
    let sandbox = Plan::new().start();
    let mut main = process(&["sh"]);
    main.main = true;
    main.stdin = true;
    main.init = true;
    main.terminal = Some(WindowSize { rows: 30, cols: 90 });
    let mut main = sandbox.start(main).unwrap();
    let mut type_line = |line: &str, wanted: &str| {
        main.input(line.as_bytes());
        main.input(b"\n");
        main.wait_for(wanted)
    };
    type_line(
        "PS1=; echo a-$(tty)-b; stty size; echo $TERM",
        "a-/dev/pts/0-b\r\n30 90\r\nxterm",
    );
    type_line(
        "test -t 1 -a -t 2 && stat -c %t:%T /dev/console | sed s/^/console-/",
        "console-88:0",
    );
    // The init is PID 1, and reaps.
    type_line("echo self-$$-$(cat /proc/1/comm)", "-drupe-init");
    let size = WindowSize { rows: 5, cols: 6 };
    let resize = Request::Resize {
        process: main.id,
        size,
    };
    assert_eq!(sandbox.ask(&resize), Reply::Done);
    let mut type_line = |line: &str, wanted: &str| {
        main.input(line.as_bytes());
        main.input(b"\n");
        main.wait_for(wanted)
    };
    type_line("stty size; echo", "5 6\r\n");
    type_line(
        "trap 'echo caught-$((1+1))' INT; echo trap-$((2+2))",
        "trap-4",
    );
    main.input(b"\x03");
    main.wait_for("caught-2");
    // Through the init to the shell.
    main.input(b"trap 'exit 9' USR1; echo trap-$((3+3))\n");
    main.wait_for("trap-6");
    assert_eq!(signal(&sandbox, main.id, 10), Reply::Done);
    // A shell acts upon it when it has its next line.
    main.input(b"\n");
    let id = main.id;
    let out = main.finish();
    assert_eq!(out.status(), 9);
    assert_eq!(
        signal(&sandbox, id, 10),
        Reply::Done,
        "it has ended, and that is fine"
    );
    sandbox.power_off();
}

#[test]
fn figures_and_processes_are_the_sandboxes() {
    let sandbox = Plan::new().start();
    let _main = sandbox.idle();
    let mut p = process(&["sleep", "12345"]);
    p.user = "web".into();
    let _sleep = sandbox.start(p).unwrap();
    sandbox
        .sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -c 5000000 /dev/zero > /tmp/x");
    let Reply::Stats(stats) = sandbox.ask(&Request::Stats) else {
        panic!("no figures");
    };
    println!("{stats:?}");
    assert!(stats.cpu_ns > 0 && stats.pids >= 3 && stats.memory > 5_000_000);
    assert!(stats.memory_total > stats.memory && stats.block_read > 0);
    let Reply::Processes(list) = sandbox.ask(&Request::Processes) else {
        panic!("no processes");
    };
    println!("{list:?}");
    let first = &list[0];
    assert_eq!((first.pid, first.ppid, first.user.as_str()), (1, 0, "root"));
    let sleep = list.iter().find(|p| p.command == "sleep 12345").unwrap();
    assert_eq!((sleep.user.as_str(), sleep.tty.as_str()), ("web", "?"));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(sleep.started.abs_diff(now) < 3600 && sleep.rss > 0);
    sandbox.power_off();
}

#[test]
fn memory_that_runs_out_is_reported() {
    let sandbox = Plan::new().start();
    let mut main = process(&["sh", "-c", "tail /dev/zero; echo killed-$?"]);
    main.main = true;
    let out = sandbox.run(main);
    assert_eq!(out.text(), "killed-137\n");
    assert!(out.exit.oom_killed);
    sandbox.power_off();
}

#[test]
fn a_privileged_sandbox_can_hold_containers_of_its_own() {
    let sandbox = Plan::new().told(|setup| setup.privileged = true).start();
    let mut main = process(&[
        "sh",
        "-c",
        "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done",
    ]);
    main.main = true;
    main.capabilities = every_capability();
    let _main = sandbox.start(main).unwrap();
    let sh = |script: &str| {
        let mut p = process(&["sh", "-c", script]);
        p.capabilities = every_capability();
        sandbox.run(p)
    };
    let out = sh("cat /proc/self/cgroup; cd /sys/fs/cgroup; \
                  grep -o memory cgroup.subtree_control; grep -o pids cgroup.subtree_control; \
                  mkdir inner && echo 20M > inner/memory.max && echo 5 > inner/pids.max && \
                  sh -c 'echo 0 > inner/cgroup.procs; exec tail /dev/zero'; echo $?; \
                  echo 1 > /proc/sys/kernel/panic && echo writable; ls /dev/vda; \
                  mkdir /m && mount -t tmpfs tmpfs /m && echo mounted");
    assert_eq!(
        out.text(),
        "0::/init\nmemory\npids\n137\nwritable\n/dev/vda\nmounted\n",
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    // A terminal is of the sandbox's own.
    let mut p = process(&["tty"]);
    p.terminal = Some(WindowSize { rows: 1, cols: 1 });
    assert_eq!(sandbox.run(p).text(), "/dev/pts/0\r\n");
    sandbox.power_off();
}

#[test]
fn a_workload_cannot_reach_the_agent() {
    let image = sandbox::busybox_layer();
    sandbox::add_program(image.path(), "/usr/bin/socat");
    let sandbox = Plan::with_layers(&[image.path()]).start();
    let _main = sandbox.idle();
    // Not by its port: it accepts, as it must to see who it is, and closes.
    for cid in [1, 42] {
        let dial = format!("(echo 123456789; sleep 1) | /usr/bin/socat - VSOCK-CONNECT:{cid}:1024");
        let out = sandbox.sh(&format!("{dial} | wc -c; echo $?"));
        assert_eq!(
            out.text(),
            "0\n0\n",
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    // Not by signals, not by /proc, and not by its file.
    let out = sandbox.sh("kill -9 -1; echo $?; grep -l agent /proc/[0-9]*/comm; \
         find / -xdev -name 'init' -size +500k 2>/dev/null");
    assert!(
        !out.text().contains("comm") && !out.text().contains("/init"),
        "{}",
        out.text()
    );
    let Reply::Stats(_) = sandbox.ask(&Request::Stats) else {
        panic!("the agent is gone");
    };
    // Nor the disks, by a node of its own; but what a container uses works.
    let out = sandbox.sh(
        "mknod /disk b $(tr : ' ' < /sys/class/block/vda/dev) && head -c 1 /disk 2>&1; \
         mknod /null c 1 3 && echo x > /null && echo fine; mknod /mem c 1 1 && head -c 1 /mem 2>&1",
    );
    let refused = |path| format!("head: {path}: Operation not permitted\n");
    assert_eq!(
        out.text(),
        format!("{}fine\n{}", refused("/disk"), refused("/mem"))
    );
    // What is no request ends its own connection only.
    let mut stream = sandbox.connect();
    std::io::Write::write_all(&mut stream, &[9; 100]).unwrap();
    let reply = Frame::read_from(&mut stream).unwrap().unwrap();
    assert!(matches!(
        reply.parse(FrameKind::Reply),
        Ok(Reply::Failed(_))
    ));
    sandbox.power_off();
}

#[test]
fn what_is_wrong_with_a_setup_is_said() {
    let sandbox = Plan::new()
        .told(|setup| setup.root.layers_disk = "other".into())
        .boot();
    let plan = Plan::new().setup;
    let mut wrong = plan.clone();
    wrong.root.layers_disk = "other".into();
    let Reply::Failed(failure) = sandbox.ask(&Request::Setup(Box::new(wrong))) else {
        panic!("there is no such disk");
    };
    assert_eq!(failure.message, "the guest has no disk with serial 'other'");
    let again = sandbox.ask(&Request::Setup(Box::new(plan)));
    assert!(
        matches!(again, Reply::Failed(_)),
        "a half made sandbox is none"
    );
    sandbox.power_off();
}

#[test]
fn a_distributions_kernel_does_with_its_modules() {
    let sandbox = Plan::stock().start();
    let mut main = process(&["sh", "-c", "uname -r; echo w > /w && cat /w"]);
    main.main = true;
    let out = sandbox.run(main);
    assert!(out.text().ends_with("-cloud-amd64\nw\n"), "{}", out.text());
    sandbox.power_off();
}
