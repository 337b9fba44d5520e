//! crun within a machine. Its bundles are in the image and are ready but for the
//! command, which is not known when the image is made.

use core::ffi::CStr;

use crate::sys::{self, Errno, Result};

/// Files of a bundle: the configuration up to the list of the command's words, and
/// from there on.
const BEFORE: &CStr = c"before";
const AFTER: &CStr = c"after";
/// What crun reads.
const CONFIG: &CStr = c"config.json";
/// crun, and how it is called.
const CRUN: &CStr = c"/usr/bin/crun";
const COMMAND: [&CStr; 3] = [CRUN, c"run", c"bench"];

/// Becomes crun that runs this by the bundle in this directory.
pub fn run(bundle: &CStr, args: &[&CStr]) -> Result<()> {
    sys::change_directory(bundle)?;
    let config = sys::open(CONFIG, sys::O_CREATE)?;
    copy(BEFORE, config)?;
    for (n, arg) in args.iter().enumerate() {
        // They are drupe's own: nothing in them would have to be escaped.
        let comma: &[u8] = if n > 0 { b",\"" } else { b"\"" };
        for part in [comma, arg.to_bytes(), b"\""] {
            sys::write(config, part)?;
        }
    }
    copy(AFTER, config)?;
    sys::close(config);
    Err(sys::exec(CRUN, &COMMAND))
}

fn copy(from: &CStr, to: i32) -> Result<()> {
    let from = sys::open(from, sys::O_RDONLY)?;
    let mut buffer = [0; 4096];
    loop {
        match sys::read(from, &mut buffer)? {
            0 => break,
            n if sys::write(to, &buffer[..n])? == n => {}
            _ => return Err(Errno::ENOSPC),
        }
    }
    sys::close(from);
    Ok(())
}
