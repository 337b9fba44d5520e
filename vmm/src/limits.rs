//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What root gives itself: enough for the largest directories, and little enough
/// that the kernel's table of descriptors stays small.
const WANTED: u64 = 1 << 20;

/// The most descriptors that are kept back for everything but shares: disks with
/// their layers, sockets, vCPUs.
const RESERVED: u64 = 8192;

/// Raises the limit on open files as far as this process may, and returns how
/// many of them shares may have: each file that the guest knows takes one, and
/// the usual limit of 1024 is for programs that use `select`, which nothing here
/// does.
pub(crate) fn files_for_shares() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    // Root may go past its maximum, and everybody up to theirs.
    for maximum in [maximum.max(WANTED), maximum] {
        let current = limit.current.unwrap_or(0).max(maximum.min(WANTED));
        if raise(current, maximum).is_ok() {
            break;
        }
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(WANTED);
    share_of(files.min(WANTED))
}

fn raise(current: u64, maximum: u64) -> rustix::io::Result<()> {
    let maximum = (maximum != u64::MAX).then_some(maximum);
    let current = Some(current);
    setrlimit(Resource::Nofile, Rlimit { current, maximum })
}

fn share_of(files: u64) -> usize {
    let left = files - RESERVED.min(files / 2);
    usize::try_from(left).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_something_for_the_others() {
        assert_eq!(share_of(1024), 512);
        assert_eq!(share_of(4096), 2048);
        assert_eq!(share_of(WANTED) as u64, WANTED - RESERVED);
        let files = files_for_shares();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(files, share_of(limit.current.unwrap().min(WANTED)));
        let maximum = limit.maximum.unwrap_or(u64::MAX);
        assert!(limit.current.unwrap() >= maximum.min(WANTED));
    }
}
