//! What can be seen and reached of the host, found out by trying. Each try leaves
//! everything as it was. A line each: its name, yes, no or saw, and what was seen;
//! what is behind a saw, drupe compares with the host's.

use core::ffi::CStr;

use crate::out::{Line, digits};
use crate::sys::{self, Errno, Result};

/// Tries everything; the process of the host to look for has this number.
pub fn run(pid: u64) {
    saw("boot-id", c"/proc/sys/kernel/random/boot_id");
    saw("kernel", c"/proc/sys/kernel/osrelease");
    saw("memory", c"/proc/meminfo");
    process(pid);
    symbols();
    told("sysctl", write_sysctl());
    told("raw-disk", read_disk());
    told("memory-device", read_first(c"/dev/mem"));
    told("kernel-log", sys::read_kernel_log());
    told("module", load_module());
    told("user-namespace", in_child(|| sys::unshare(sys::NEW_USER)));
    told("mount", in_child(mount));
    told("io-uring", sys::io_uring());
    told("bpf", sys::bpf());
    told("perf", sys::perf());
}

fn told(name: &str, result: Result<()>) {
    let line = Line::new().word(name);
    match result {
        Ok(()) => line.word("yes").end(),
        Err(error) => line.word("no").word(name_of(error)).end(),
    }
}

fn name_of(error: Errno) -> &'static str {
    match error {
        Errno::EPERM => "EPERM",
        Errno::EACCES => "EACCES",
        Errno::ENOENT => "ENOENT",
        Errno::ENOSYS => "ENOSYS",
        Errno::EROFS => "EROFS",
        Errno::ENXIO => "ENXIO",
        Errno::ENODEV => "ENODEV",
        Errno::ENOSPC => "ENOSPC",
        Errno::EINVAL => "EINVAL",
        _ => "error",
    }
}

/// The first line of a file.
fn saw(name: &str, path: &CStr) {
    let mut buffer = [0; 256];
    let line = Line::new().word(name);
    match read(path, &mut buffer) {
        Ok(text) => line.word("saw").bytes(first_line(text)).end(),
        Err(error) => line.word("no").word(name_of(error)).end(),
    }
}

fn first_line(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

fn read<'a>(path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    let file = sys::open(path, sys::O_RDONLY)?;
    let read = sys::read(file, buffer);
    sys::close(file);
    read.map(|n| &buffer[..n])
}

fn read_first(path: &CStr) -> Result<()> {
    let mut buffer = [0; 512];
    match read(path, &mut buffer)? {
        [] => Err(Errno::ENXIO),
        _ => Ok(()),
    }
}

fn process(pid: u64) {
    let mut path = [0; 40];
    let (digits, from) = digits(pid);
    let parts = [b"/proc/", &digits[from..], b"/stat\0"];
    let mut len = 0;
    for part in parts {
        path[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    if let Ok(path) = CStr::from_bytes_until_nul(&path) {
        saw("process", path);
    }
}

/// Whether the addresses of the kernel's functions are to be had. Without the
/// right to them, they are all zero.
fn symbols() {
    let mut buffer = [0; 4096];
    let result = read(c"/proc/kallsyms", &mut buffer).and_then(|text| {
        let shown = text
            .split(|byte| *byte == b'\n')
            .any(|line| line.len() > 16 && line[..16].iter().any(|digit| *digit != b'0'));
        if shown { Ok(()) } else { Err(Errno::EPERM) }
    });
    told("symbols", result);
}

/// Writes what was there. It is one of those that no namespace has for itself.
fn write_sysctl() -> Result<()> {
    const PATH: &CStr = c"/proc/sys/kernel/printk_ratelimit";
    let mut buffer = [0; 64];
    let text = read(PATH, &mut buffer)?;
    let file = sys::open(PATH, sys::O_WRONLY)?;
    let written = sys::write(file, text);
    sys::close(file);
    written.map(drop)
}

/// Makes a node for the first disk that the kernel lists, and reads from it.
fn read_disk() -> Result<()> {
    const NODE: &CStr = c"bench-disk";
    let mut buffer = [0; 1024];
    let text = read(c"/proc/partitions", &mut buffer)?;
    let mut words = text
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .filter_map(crate::decimal);
    let (major, minor) = (words.next(), words.next());
    let (Some(major), Some(minor)) = (major, minor) else {
        return Err(Errno::ENODEV);
    };
    sys::make_node(NODE, major, minor)?;
    let result = read_first(NODE);
    sys::unlink(NODE);
    result
}

/// Nothing that could be loaded: who is allowed to is told so.
fn load_module() -> Result<()> {
    match sys::init_module(b"no module at all") {
        Err(Errno::ENOEXEC) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}

/// In mounts of its own, so that nobody else sees it.
fn mount() -> Result<()> {
    sys::unshare(sys::NEW_MOUNTS)?;
    sys::mount(c"tmpfs", c"/proc")
}

/// Does something that cannot be undone in a process that then ends.
fn in_child(act: impl FnOnce() -> Result<()>) -> Result<()> {
    if sys::fork()? == 0 {
        sys::exit(act().map_or_else(|error| error.into_raw(), |()| 0));
    }
    match sys::wait()? {
        0 => Ok(()),
        number => Err(Errno::new(number)),
    }
}
