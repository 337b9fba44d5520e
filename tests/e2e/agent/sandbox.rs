//! A guest with the agent, spoken to as drupe speaks to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use gpt::mbr::ProtectiveMBR;
use protocol::{
    AGENT_PORT, Exit, Failure, Frame, FrameKind, Network, Process, READY_PORT, Reply, Request,
    Root, Setup, Writable,
};
use tempfile::TempDir;

use crate::guest::{Finished, Guest, PATIENCE, Running, host};

#[path = "../../../src/initramfs.rs"]
#[allow(dead_code)]
mod initramfs;

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// The capabilities of a container of Docker's.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All of them, for a privileged sandbox.
pub fn every_capability() -> Vec<String> {
    let more = [
        "CAP_DAC_READ_SEARCH",
        "CAP_IPC_LOCK",
        "CAP_NET_ADMIN",
        "CAP_SYS_ADMIN",
        "CAP_SYS_BOOT",
        "CAP_SYS_MODULE",
        "CAP_SYS_NICE",
        "CAP_SYS_PTRACE",
        "CAP_SYS_RAWIO",
        "CAP_SYS_RESOURCE",
        "CAP_SYS_TIME",
    ];
    let all = DEFAULT_CAPABILITIES.iter().chain(&more);
    all.map(|c| (*c).to_owned()).collect()
}

/// A tree with busybox and some accounts: a small image's lowest layer.
pub fn busybox_layer() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["bin", "etc", "tmp", "root", "home", "data", "var"] {
        fs::create_dir(path(name)).unwrap();
    }
    fs::copy("/bin/busybox", path("bin/busybox")).expect("tools/deps installs busybox-static");
    for applet in host("/bin/busybox", &["--list"]).lines() {
        if applet != "busybox" {
            symlink("busybox", path("bin").join(applet)).unwrap();
        }
    }
    fs::write(
        path("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/data:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        path("etc/group"),
        "root:x:0:\nweb:x:34:\nadm:x:4:web\nstaff:x:50:\n",
    )
    .unwrap();
    dir
}

/// A disk with these trees as EROFS, each in a partition, the lowest first.
pub fn layers_disk(layers: &[&Path], to: &Path) {
    let images: Vec<Vec<u8>> = layers
        .iter()
        .map(|layer| {
            let image = tempfile::NamedTempFile::new().unwrap();
            let path = image.path().display().to_string();
            host("mkfs.erofs", &[&path, &layer.display().to_string()]);
            fs::read(image.path()).unwrap()
        })
        .collect();
    let size = images.iter().map(|i| i.len() as u64 + MIB).sum::<u64>() + 4 * MIB;
    let mut file = File::create_new(to).unwrap();
    file.set_len(size).unwrap();
    let sectors = u32::try_from(size / SECTOR - 1).unwrap();
    ProtectiveMBR::with_lb_size(sectors)
        .overwrite_lba0(&mut file)
        .unwrap();
    let mut table = gpt::GptConfig::new().writable(true).create(to).unwrap();
    let mut starts = Vec::new();
    for (n, image) in images.iter().enumerate() {
        let kind = gpt::partition_types::LINUX_FS;
        let id = table
            .add_partition(&format!("layer{n}"), image.len() as u64, kind, 0, Some(8))
            .unwrap();
        starts.push(table.partitions()[&id].first_lba * SECTOR);
    }
    table.write().unwrap();
    for (image, start) in images.iter().zip(starts) {
        std::os::unix::fs::FileExt::write_all_at(&file, image, start).unwrap();
    }
}

/// An empty ext4 file system.
pub fn ext4(path: &Path, size: u64) {
    File::create_new(path).unwrap().set_len(size).unwrap();
    host("mkfs.ext4", &["-q", &path.display().to_string()]);
}

/// A guest that is to be started.
pub struct Plan {
    guest: Guest,
    path: PathBuf,
    /// What it will be told.
    pub setup: Setup,
}

impl Plan {
    /// On the tuned kernel, with busybox as its image.
    pub fn new() -> Self {
        Self::with_layers(&[busybox_layer().path()])
    }

    /// With these trees as the layers of its image.
    pub fn with_layers(layers: &[&Path]) -> Self {
        Self::with(
            Guest::with_kernel(&crate::guest::tuned().join("kernel")),
            &[],
            layers,
        )
    }

    /// On Debian's kernel, with its modules.
    pub fn stock() -> Self {
        let directory = crate::guest::stock();
        let modules = initramfs::read_modules(&directory.join("boot-modules")).unwrap();
        let guest = Guest::with_kernel(&directory.join("kernel"));
        Self::with(guest, &modules, &[busybox_layer().path()])
    }

    fn with(guest: Guest, modules: &[initramfs::Module], layers: &[&Path]) -> Self {
        let path = guest.dir.path().to_owned();
        initramfs::write(modules, &path.join("initramfs")).unwrap();
        layers_disk(layers, &path.join("layers"));
        let guest = guest
            .initrd(&path.join("initramfs"))
            .disk(&path.join("layers"), ",readonly,id=layers")
            .arg("--vsock")
            .arg(format!("{}/vsock,cid=42", path.display()));
        let setup = Setup {
            hostname: "box".into(),
            root: Root {
                layers_disk: "layers".into(),
                layers: layers.len() as u32,
                writable: Writable::Tmpfs { size: 64 * MIB },
                read_only: false,
            },
            mounts: vec![],
            network: Network::default(),
            sysctls: BTreeMap::new(),
            shm_size: 16 * MIB,
            time: std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
            privileged: false,
        };
        Plan { guest, path, setup }
    }

    /// One more disk.
    pub fn disk(mut self, path: &Path, serial: &str) -> Self {
        self.guest = self.guest.disk(path, &format!(",id={serial}"));
        self
    }

    /// Further arguments of `drupe boot`.
    pub fn args(mut self, args: &str) -> Self {
        self.guest = self.guest.args(args);
        self
    }

    /// Changes what it will be told.
    pub fn told(mut self, change: impl FnOnce(&mut Setup)) -> Self {
        change(&mut self.setup);
        self
    }

    /// Boots it, and waits for the agent, which is not told anything yet.
    pub fn boot(self) -> Sandbox {
        let vsock = self.path.join("vsock");
        let ready = UnixListener::bind(format!("{}_{READY_PORT}", vsock.display())).unwrap();
        let run = self.guest.start();
        // The kernel's and the agent's messages say what is wrong if it hangs.
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(ready.accept()));
        if receiver.recv_timeout(PATIENCE).is_err() {
            run.wait_for("the agent dials the host");
        }
        Sandbox { run, vsock }
    }

    /// Boots it and sets it up.
    pub fn start(self) -> Sandbox {
        let setup = self.setup.clone();
        let sandbox = self.boot();
        assert_eq!(sandbox.ask(&Request::Setup(Box::new(setup))), Reply::Done);
        sandbox
    }
}

/// A guest whose agent listens.
pub struct Sandbox {
    run: Running,
    vsock: PathBuf,
}

/// A process as a test describes it: as root, with Docker's capabilities.
pub fn process(args: &[&str]) -> Process {
    Process {
        main: false,
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        env: vec!["PATH=/bin".into()],
        cwd: "/".into(),
        user: String::new(),
        groups: vec![],
        terminal: None,
        stdin: false,
        capabilities: DEFAULT_CAPABILITIES.map(str::to_owned).to_vec(),
        no_new_privileges: false,
        rlimits: vec![],
        init: false,
    }
}

/// What came of a process.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: Exit,
}

impl Output {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub fn status(&self) -> u8 {
        self.exit.status
    }

    /// The rest of the line behind `key`.
    pub fn value(&self, key: &str) -> &str {
        let value = self.text().lines().find_map(|line| line.strip_prefix(key));
        value
            .unwrap_or_else(|| panic!("no line begins with {key:?}: {self:?}"))
            .trim()
    }
}

impl Sandbox {
    /// A connection to the agent.
    pub fn connect(&self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.vsock).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes())
            .unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\n") {
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"OK "), "{answer:?}");
        stream
    }

    /// Sends a request on a new connection; that, and the reply.
    pub fn send(&self, request: &Request) -> (UnixStream, Reply) {
        let mut stream = self.connect();
        Frame::json(FrameKind::Request, request)
            .unwrap()
            .write_to(&mut stream)
            .unwrap();
        let frame = Frame::read_from(&mut stream).unwrap().expect("a reply");
        let reply = frame.parse(FrameKind::Reply).unwrap();
        (stream, reply)
    }

    pub fn ask(&self, request: &Request) -> Reply {
        self.send(request).1
    }

    /// Starts a process.
    pub fn start(&self, process: Process) -> Result<Started, Failure> {
        match self.send(&Request::Start(Box::new(process))) {
            (stream, Reply::Started { process }) => Ok(Started {
                stream,
                id: process,
            }),
            (_, Reply::Failed(failure)) => Err(failure),
            (_, other) => panic!("{other:?}"),
        }
    }

    /// Runs a process to its end.
    pub fn run(&self, process: Process) -> Output {
        self.start(process).unwrap().finish()
    }

    /// Runs a script beside the main process.
    pub fn sh(&self, script: &str) -> Output {
        self.run(process(&["sh", "-c", script]))
    }

    /// Starts a main process that lives until it gets SIGTERM.
    pub fn idle(&self) -> Started {
        let script = "trap 'exit 7' TERM; while :; do sleep 1000 & wait; done";
        let mut main = process(&["sh", "-c", script]);
        main.main = true;
        self.start(main).unwrap()
    }

    /// The guest switches itself off, as nothing else ends it.
    pub fn power_off(self) -> Finished {
        let mut stream = self.connect();
        Frame::json(FrameKind::Request, &Request::PowerOff)
            .unwrap()
            .write_to(&mut stream)
            .unwrap();
        let end = self.run.finish();
        assert_eq!(
            end.status.code(),
            Some(0),
            "{}\n{}",
            end.console,
            end.errors
        );
        end
    }
}

/// A process that runs.
pub struct Started {
    pub stream: UnixStream,
    pub id: u32,
}

impl Started {
    /// Sends standard input.
    pub fn input(&self, bytes: &[u8]) {
        Frame::new(FrameKind::Stdin, bytes)
            .write_to(&mut &self.stream)
            .unwrap();
    }

    /// Reads standard output until it has `wanted` in it.
    pub fn wait_for(&mut self, wanted: &str) -> String {
        let mut text = String::new();
        while !text.contains(wanted) {
            let frame = Frame::read_from(&mut self.stream).unwrap();
            let frame = frame.unwrap_or_else(|| panic!("no {wanted:?}: {text}"));
            assert_eq!(
                frame.kind,
                FrameKind::Stdout,
                "no {wanted:?}: {text} {frame:?}"
            );
            text += &String::from_utf8_lossy(&frame.payload);
        }
        text
    }

    /// Everything up to its end.
    pub fn finish(mut self) -> Output {
        let (mut stdout, mut stderr, mut exit) = (Vec::new(), Vec::new(), None);
        while let Some(frame) = Frame::read_from(&mut self.stream).unwrap() {
            assert!(exit.is_none(), "nothing comes behind the exit");
            match frame.kind {
                FrameKind::Stdout => stdout.extend(frame.payload),
                FrameKind::Stderr => stderr.extend(frame.payload),
                _ => exit = Some(frame.parse(FrameKind::Exit).unwrap()),
            }
        }
        let exit = exit.unwrap_or_else(|| panic!("no exit: {}", String::from_utf8_lossy(&stdout)));
        Output {
            stdout,
            stderr,
            exit,
        }
    }
}

/// Makes a whiteout, as overlayfs has it.
pub fn whiteout(path: &Path) {
    host("mknod", &[&path.display().to_string(), "c", "0", "0"]);
}

/// Adds a program of this machine's, and the libraries that it needs.
pub fn add_program(layer: &Path, program: &str) {
    let libraries = host("ldd", &[program]);
    let paths = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for path in paths.chain([program]) {
        let to = layer.join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
}
