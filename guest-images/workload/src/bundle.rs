//! crun within a machine. Its bundle is in the image and is ready but for the
//! command, which is not known when the image is made.

use core::ffi::CStr;

use crate::sys::{self, Errno, Result};

/// The configuration up to the list of the command's words, and from there on.
const BEFORE: &CStr = c"/bundle/before";
const AFTER: &CStr = c"/bundle/after";
/// What crun reads.
const CONFIG: &CStr = c"/bundle/config.json";
/// crun, and how it is called.
const CRUN: &CStr = c"/usr/bin/crun";
const COMMAND: [&CStr; 5] = [CRUN, c"run", c"-b", c"/bundle", c"bench"];

/// Becomes crun that runs this.
pub fn run(args: &[&CStr]) -> Result<()> {
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
