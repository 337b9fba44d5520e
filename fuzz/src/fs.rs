//! The file system device, over a directory that is made anew for each run.

use std::fs;

use devices::testing::{Desc, Driver};
use devices::virtio::fs::{Fs, FsSpec};

use crate::Input;
use crate::dir::Dir;
use crate::interpreter::{self, Guest, Subject, address};

const TEXT: &[u8] = b"text";

/// A share of the inner directory.
fn share() -> Dir {
    let dir = Dir::new();
    let share = dir.inner();
    fs::create_dir_all(share.join("sub")).expect("a directory");
    fs::write(share.join("a"), TEXT).expect("a file");
    fs::write(share.join("sub/b"), TEXT).expect("a file");
    std::os::unix::fs::symlink("../secret", share.join("link")).expect("a link");
    dir
}

struct Bed {
    driver: Driver,
    dir: Dir,
    readonly: bool,
    single: bool,
}

impl Subject for Bed {
    fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    fn request(&mut self, guest: &mut Guest, input: &mut Input) -> (usize, Vec<Desc>) {
        let shape = input.u8();
        let slot = u64::from(shape % 8) * 0x1000;
        let kind = match input.u8() {
            n @ 0..0xf8 => u32::from(n % 54),
            _ => input.u32(),
        };
        let node = number(input);
        let mut args = Vec::new();
        for _ in 0..input.u8() % 12 {
            part(input, &mut args);
        }
        let len = match shape {
            0..0xf8 => 40 + args.len() as u32,
            _ => input.u32(),
        };
        let mut request = Vec::new();
        request.extend(len.to_le_bytes());
        request.extend(kind.to_le_bytes());
        request.extend(7u64.to_le_bytes());
        request.extend(node.to_le_bytes());
        request.extend([0; 16]);
        request.extend(args);
        guest.put(&self.driver, slot, &request);
        let mut chain = vec![Desc::readable(slot, request.len() as u32)];
        for _ in 0..1 + shape / 8 % 3 {
            let (addr, len) = (address(&self.driver, input), input.len());
            chain.push(Desc::writable(addr, len));
        }
        // Now and then on the queue of high priority.
        (usize::from(shape >> 6 != 2), chain)
    }

    fn check(&mut self) {
        assert!(self.driver.start(0));
        for (kind, node, args, expect) in [(26u32, 0u64, [7u32, 40, 0, 0], 80), (3, 1, [0; 4], 120)]
        {
            let mut request = vec![56, 0, 0, 0];
            request.extend(kind.to_le_bytes());
            request.extend(9u64.to_le_bytes());
            request.extend(node.to_le_bytes());
            request.extend([0; 16]);
            args.iter().for_each(|w| request.extend(w.to_le_bytes()));
            self.driver.put(0x1000, &request);
            let chain = [Desc::readable(0x1000, 56), Desc::writable(0x2000, 200)];
            let len = interpreter::request(&mut self.driver, 1, &chain);
            assert_eq!(len, expect);
            assert_eq!(self.driver.get(0x2004, 4), [0; 4]);
        }
        self.dir.check();
        let share = self.dir.inner();
        if self.readonly || self.single {
            let mut names: Vec<_> = fs::read_dir(&share)
                .expect("a directory")
                .map(|e| e.expect("an entry").file_name())
                .collect();
            names.sort();
            assert_eq!(names, ["a", "link", "sub"]);
        }
        if self.readonly {
            assert_eq!(fs::read(share.join("a")).expect("a file"), TEXT);
        }
    }
}

/// A node or a handle, mostly one that there may be.
fn number(input: &mut Input) -> u64 {
    match input.u8() {
        n @ 0..0xf0 => u64::from(n % 8),
        0xf0..0xf8 => u64::MAX - u64::from(input.u8()),
        _ => input.u64(),
    }
}

/// A piece of a request's arguments.
fn part(input: &mut Input, args: &mut Vec<u8>) {
    const NAMES: [&[u8]; 12] = [
        b"a\0",
        b"b\0",
        b"c\0",
        b"sub\0",
        b"link\0",
        b"..\0",
        b".\0",
        b"../secret\0",
        b"/\0",
        b"user.a\0",
        b"\0",
        b"secret",
    ];
    match input.u8() {
        0..0x50 => args.extend(number(input).to_le_bytes()),
        0x50..0x90 => args.extend(u32::from(input.u8()).to_le_bytes()),
        0x90..0xb0 => args.extend(input.len().to_le_bytes()),
        n @ 0xb0..0xf0 => args.extend(NAMES[usize::from(n % 12)]),
        _ => {
            let n = usize::from(input.u8());
            args.extend(input.bytes(n));
        }
    }
}

/// A hostile driver for a share: of a directory, read-only or not, or of one
/// file. Served without its threads: what a run does should not depend on the
/// clock.
pub fn fs(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let dir = share();
    let (readonly, single) = (how & 3 == 1, how & 12 == 4);
    let path = match single {
        true => dir.inner().join("a"),
        false => dir.inner(),
    };
    let mut spec = FsSpec::new(path, "t");
    spec.readonly = readonly;
    let mut fs = Fs::open(&spec, 0, 32).expect("a share");
    fs.serve_on_event_loop();
    fs.limit_space(1 << 16);
    let mut bed = Bed {
        driver: Driver::new(fs),
        dir,
        readonly,
        single,
    };
    interpreter::run(&mut bed, input.rest());
}
