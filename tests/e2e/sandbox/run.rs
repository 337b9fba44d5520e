//! `drupe run` in the foreground.

use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;

use super::{Background, Home, IMAGE};

#[test]
fn streams_and_the_exit_status_are_the_commands() {
    let home = Home::new();
    let output = home.run_output("", "echo out; echo err >&2; exit 7");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    // The first process of a sandbox cannot be killed from inside.
    let killed = home.run_output("", "sh -c 'kill -9 $$'; exit $?");
    assert_eq!(killed.status.code(), Some(137));
    let none = ["run", "--rm", "--network", "none", IMAGE];
    home.refused(
        &[&none[..], &["no-such-program"]].concat(),
        127,
        "no-such-program",
    );
    home.refused(&[&none[..], &["/etc"]].concat(), 126, "/etc");
    home.refused(
        &[&none[..], &["/bin/no-program"]].concat(),
        126,
        "no-program",
    );
    // Another kernel than the host's.
    let kernel = home.run("", "uname -r");
    assert!(kernel.ends_with("-drupe"), "{kernel}");
    // Nothing is left of all that.
    assert_eq!(home.ok(&["ps", "-aq"]), "");
    let left = std::fs::read_dir(home.path().join("home/sandboxes")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn a_pipe_through_a_sandbox_changes_nothing() {
    let home = Home::new();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    let mut command = home.command(&["run", "-i", "--rm", "--network", "none", IMAGE, "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Background(command.spawn().unwrap());
    let mut input = child.0.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = thread::spawn(move || input.write_all(&sent).unwrap());
    let mut back = Vec::new();
    child
        .0
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut back)
        .unwrap();
    writer.join().unwrap();
    assert!(child.0.wait().unwrap().success());
    assert!(back == bytes, "{} of {} bytes", back.len(), bytes.len());
}

#[test]
fn options_are_what_the_command_finds() {
    let home = Home::new();
    std::fs::write(home.path().join("vars"), "FILE=file\nBOTH=file\n").unwrap();
    let text = home.run(
        "-e A=1 -e BOTH=flag --env-file vars -w /made/here -u web -h box --memory 256M --cpus 2 \
         --ulimit nofile=77 --tmpfs /scratch:size=1M --sysctl kernel.shmmni=1234 --cap-drop ALL",
        "echo env: $A $FILE $BOTH $HOME; echo at: $(pwd); echo who: $(id -un) $(id -gn); \
         echo host: $(hostname); echo cpus: $(nproc); echo files: $(ulimit -n); \
         echo caps: $(grep CapEff /proc/self/status); \
         echo shm: $(cat /proc/sys/kernel/shmmni); df -k /scratch | tail -n 1",
    );
    for line in [
        "env: 1 file flag /data",
        "at: /made/here",
        "who: web web",
        "host: box",
        "cpus: 2",
        "files: 77",
        "caps: CapEff: 0000000000000000",
        "shm: 1234",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
    }
    assert!(text.lines().last().unwrap().contains(" 1024 "), "{text}");
    let text = home.run(
        "--read-only --tmpfs /tmp --init --user 7:8 --group-add 9 --privileged",
        "touch /x 2>/dev/null || echo root: read-only; touch /tmp/x && echo tmp: writable; \
         echo ids: $(id -u) $(id -g) $(id -G); echo first: $(cat /proc/1/comm)",
    );
    let expected = ["root: read-only", "tmp: writable", "ids: 7 8 8 9"];
    for line in expected {
        assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
    }
    assert!(!text.contains("first: sh"), "{text}");
}

#[test]
fn signals_reach_the_command() {
    let home = Home::new();
    let script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let args = [
        "run",
        "--rm",
        "--network",
        "none",
        IMAGE,
        "sh",
        "-c",
        script,
    ];
    let mut command = home.command(&args);
    command.stdout(Stdio::piped());
    let mut child = Background(command.spawn().unwrap());
    let mut output = child.0.stdout.take().unwrap();
    let mut seen = [0; 6];
    output.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"ready\n");
    // SAFETY: kill has no memory effects; the child has not been waited for.
    unsafe { libc::kill(child.0.id() as i32, libc::SIGTERM) };
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got it\n");
    assert_eq!(child.0.wait().unwrap().code(), Some(5));
}

#[test]
fn a_terminal_is_one() {
    let home = Home::new();
    // script(1) gives drupe a terminal; a shell in the sandbox asks about its own.
    let drupe = crate::guest::DRUPE;
    let inner = format!(
        "stty rows 33 cols 77; {drupe} run -it --rm --network none {IMAGE} sh -c \
         'stty size; tty; echo TERM=$TERM; read line; echo got $line; exit 3'; echo status $?; stty -a"
    );
    let mut command = home.command(&[]);
    let program = std::process::Command::new("script");
    let envs: Vec<_> = command
        .get_envs()
        .map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned)))
        .collect();
    command = program;
    for (name, value) in envs {
        command.env(name, value.unwrap());
    }
    command.args(["-qec", &inner, "/dev/null"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Background(command.spawn().expect("tools/deps installs script"));
    let mut input = child.0.stdin.take().unwrap();
    let mut output = child.0.stdout.take().unwrap();
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    let seen = |text: &[u8], what: &str| String::from_utf8_lossy(text).contains(what);
    while !seen(&text, "TERM=") {
        let n = output.read(&mut buffer).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..n]);
    }
    input.write_all(b"hello\r").unwrap();
    output.read_to_end(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    for part in [
        "33 77",
        "/dev/pts/0",
        "TERM=xterm",
        "got hello",
        "status 3",
        " icanon",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn a_program_has_the_capabilities_of_its_file() {
    let home = Home::new();
    let tar = home.path().join("ping.tar");
    let tar = tar.to_str().unwrap();
    // The image once more, and busybox as a ping with CAP_NET_RAW.
    let program = "import io, struct, sys, tarfile
image = tarfile.open(sys.argv[1], 'a', format=tarfile.PAX_FORMAT)
program = open('/bin/busybox', 'rb').read()
ping = tarfile.TarInfo('usr/bin/ping')
ping.mode, ping.size = 0o755, len(program)
capability = struct.pack('<5I', 0x02000001, 1 << 13, 0, 0, 0)
value = capability.decode('utf-8', 'surrogateescape')
ping.pax_headers = {'SCHILY.xattr.security.capability': value}
image.addfile(ping, io.BytesIO(program))
image.close()";
    std::fs::copy(super::image(), tar).unwrap();
    crate::guest::host("python3", &["-c", program, tar]);
    home.ok(&["import", "-q", tar, "ping"]);
    let script = "id -un; ping -c 1 127.0.0.1 >/dev/null 2>&1 || echo /bin/ping: refused; \
                  /usr/bin/ping -c 1 -W 60 127.0.0.1 >/dev/null && echo /usr/bin/ping: answered";
    let text = home.ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--user",
        "web",
        // Nobody pings without the capability.
        "--sysctl",
        "net.ipv4.ping_group_range=1 0",
        "--env",
        "PATH=/bin",
        "ping",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(text, "web\n/bin/ping: refused\n/usr/bin/ping: answered");
}
