//! What `drupe bench` runs on every target: the same bytes as a process, in a
//! container and in a machine, so that what differs is the target.
//!
//! It stands on system calls alone, without any library: its first instruction is
//! its own, it needs no file, and it adds a few kilobytes to drupe. `build.rs` of
//! drupe builds it so, with `--cfg freestanding`; any other build, as for tests,
//! is an ordinary program.
//!
//! ```text
//! sys      system calls, and the start of a program without a library
//! out      lines on standard output
//! calls    what a kernel does for a process, timed
//! compute  what a processor does alone, timed
//! disk     a file past the page cache, timed
//! net      a stream to the host and back, timed
//! probes   what can be seen and reached of the host
//! bundle   crun within a machine, given its command
//! init     the first process of a machine that has nothing else
//! ```
#![cfg_attr(freestanding, no_std, no_main)]

mod bundle;
mod calls;
mod compute;
mod disk;
mod init;
mod net;
mod out;
mod probes;
mod sys;

use core::ffi::CStr;

use out::Line;

/// The status for arguments that make no sense.
const MISUSED: i32 = 2;

/// Does what the arguments say, the program's name first, and returns its status.
fn run(args: &[&CStr]) -> i32 {
    let number = |at: usize| args.get(at).and_then(|arg| decimal(arg.to_bytes()));
    let failed = |error: sys::Errno| {
        Line::new()
            .word("failed")
            .number(error.into_raw() as u64)
            .end();
        1
    };
    let end = |result: sys::Result<()>| result.map_or_else(failed, |()| 0);
    match args.get(1).map_or(&b""[..], |arg| arg.to_bytes()) {
        b"true" => 0,
        b"first" => {
            Line::new().word("first").end();
            0
        }
        b"hold" => {
            Line::new().word("first").end();
            sys::pause()
        }
        b"cpu" => match (number(2), number(3)) {
            (Some(rounds), Some(processes)) => end(compute::run(rounds, processes)),
            _ => MISUSED,
        },
        b"calls" => match number(2) {
            Some(milliseconds) => end(calls::run(milliseconds * 1_000_000)),
            None => MISUSED,
        },
        b"disk" => match number(2) {
            Some(milliseconds) => end(disk::run(milliseconds * 1_000_000)),
            None => MISUSED,
        },
        b"net" => match (
            args.get(2).and_then(|arg| address(arg.to_bytes())),
            number(3),
            number(4),
        ) {
            (Some(host), Some(port), Some(milliseconds)) if port <= u64::from(u16::MAX) => {
                end(net::run(host, port as u16, milliseconds * 1_000_000))
            }
            _ => MISUSED,
        },
        b"probes" => match number(2) {
            Some(pid) => {
                probes::run(pid);
                0
            }
            None => MISUSED,
        },
        b"exec" => match args.get(2) {
            Some(program) => failed(sys::exec(program, &args[2..])),
            None => MISUSED,
        },
        b"bundle" => match args.get(2) {
            Some(bundle) => end(bundle::run(bundle, &args[3..])),
            None => MISUSED,
        },
        b"init" => init::run(&args[1..]),
        _ => {
            Line::new()
                .word("usage: workload true|first|hold|cpu|calls|disk|net|probes|exec|bundle|init")
                .end();
            MISUSED
        }
    }
}

/// A number in digits.
fn decimal(text: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| {
        let digit = char::from(*byte).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    };
    match text {
        [] => None,
        _ => text.iter().try_fold(0, digit),
    }
}

/// An IPv4 address, four numbers between dots.
fn address(text: &[u8]) -> Option<[u8; 4]> {
    let mut parts = text.split(|byte| *byte == b'.');
    let mut address = [0; 4];
    for byte in &mut address {
        *byte = u8::try_from(decimal(parts.next()?)?).ok()?;
    }
    parts.next().is_none().then_some(address)
}

#[cfg(not(freestanding))]
fn main() -> std::process::ExitCode {
    use std::os::unix::ffi::OsStringExt;
    let args: Vec<_> = std::env::args_os()
        .filter_map(|arg| std::ffi::CString::new(arg.into_vec()).ok())
        .collect();
    let args: Vec<_> = args.iter().map(|arg| arg.as_c_str()).collect();
    std::process::ExitCode::from(run(&args) as u8)
}

#[cfg(test)]
mod tests {
    use super::{address, decimal};

    #[test]
    fn numbers_are_read() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"1234567890"), Some(1_234_567_890));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"-1", b"1a", b" 1", b"18446744073709551616"] {
            assert_eq!(decimal(bad), None);
        }
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(address(b"10.0.2.255"), Some([10, 0, 2, 255]));
        for bad in [&b""[..], b"10.0.2", b"10.0.2.256", b"10.0.2.1.", b"a.b.c.d"] {
            assert_eq!(address(bad), None);
        }
    }
}
