//! Who owns a file on either side, and as whom a worker creates one.

use std::marker::PhantomData;

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, umask};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities, set_capabilities};

/// Whom the guest sees as the owner of files that belong to somebody else
/// (`/proc/sys/fs/overflowuid`).
const NOBODY: u32 = 65534;

/// How owners of the host and of the guest relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// An ordinary user can only create what is theirs: the guest's root is that
    /// user, as in a rootless container. Everybody else is nobody.
    User {
        /// The user of the host.
        uid: u32,
        /// Their group.
        gid: u32,
    },
    /// Root gives files to anybody: both sides have the same owners.
    Root,
}

impl Owners {
    /// By whom this process runs as.
    pub fn of_process() -> Self {
        if geteuid().is_root() {
            return Owners::Root;
        }
        Owners::User {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        }
    }

    /// The guest's view of the host's owner and group.
    pub fn to_guest(self, uid: u32, gid: u32) -> (u32, u32) {
        match self {
            Owners::Root => (uid, gid),
            Owners::User { uid: u, gid: g } => {
                let map = |id, own| if id == own { 0 } else { NOBODY };
                (map(uid, u), map(gid, g))
            }
        }
    }

    /// The host's owner for one of the guest.
    ///
    /// # Errors
    /// `EPERM` when no user of the host stands for it, `EINVAL` for -1.
    pub fn uid_to_host(self, uid: u32) -> Result<Uid, Errno> {
        let own = match self {
            Owners::Root => uid,
            Owners::User { uid: own, .. } => own,
        };
        self.check(uid).map(|()| Uid::from_raw(own))
    }

    /// The host's group for one of the guest.
    ///
    /// # Errors
    /// As [`Owners::uid_to_host`].
    pub fn gid_to_host(self, gid: u32) -> Result<Gid, Errno> {
        let own = match self {
            Owners::Root => gid,
            Owners::User { gid: own, .. } => own,
        };
        self.check(gid).map(|()| Gid::from_raw(own))
    }

    fn check(self, id: u32) -> Result<(), Errno> {
        match self {
            // To the kernel this would mean: as it was.
            _ if id == u32::MAX => Err(Errno::INVAL),
            Owners::User { .. } if id != 0 => Err(Errno::PERM),
            _ => Ok(()),
        }
    }

    /// From here until the result is dropped, what this thread creates belongs to
    /// that user and group of the guest. An ordinary user can only be themselves.
    ///
    /// # Errors
    /// `EPERM` when this process may not.
    pub fn act_as(self, uid: u32, gid: u32) -> Result<Acting, Errno> {
        let acting = Acting {
            root: self == Owners::Root,
            thread: PhantomData,
        };
        if acting.root {
            set_fs_ids(uid, gid)?;
            if uid != 0 {
                // The guest's kernel has checked what this user may do, with all
                // their groups, which the request does not tell.
                let mut sets = capabilities(None)?;
                sets.effective |= CapabilitySet::DAC_OVERRIDE & sets.permitted;
                set_capabilities(None, sets)?;
            }
        }
        Ok(acting)
    }

    /// From here until the result is dropped, the kernel clears set-user-ID and
    /// set-group-ID bits of what this thread writes. For an ordinary user it
    /// always does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn without_set_id(self, wanted: bool) -> Result<Option<WithoutSetId>, Errno> {
        if !wanted || self != Owners::Root {
            return Ok(None);
        }
        let mut sets = capabilities(None)?;
        if !sets.effective.contains(CapabilitySet::FSETID) {
            return Ok(None);
        }
        sets.effective.remove(CapabilitySet::FSETID);
        set_capabilities(None, sets)?;
        Ok(Some(WithoutSetId(PhantomData)))
    }
}

/// See [`Owners::act_as`].
#[derive(Debug)]
pub struct Acting {
    root: bool,
    /// Belongs to the thread.
    thread: PhantomData<*const ()>,
}

impl Drop for Acting {
    fn drop(&mut self) {
        // Back to root is never refused, and gives the capabilities back too.
        if self.root && set_fs_ids(0, 0).is_err() {
            log::error!("a worker of a share cannot become root again");
        }
    }
}

/// See [`Owners::without_set_id`].
#[derive(Debug)]
pub struct WithoutSetId(PhantomData<*const ()>);

impl Drop for WithoutSetId {
    fn drop(&mut self) {
        // It is permitted still, so this is never refused.
        if let Ok(mut sets) = capabilities(None) {
            sets.effective |= CapabilitySet::FSETID;
            let _ = set_capabilities(None, sets);
        }
    }
}

/// Sets the user and group that this thread accesses files as.
fn set_fs_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::PERM);
    }
    // SAFETY: neither call takes a pointer; both are of this thread alone. Each
    // returns the former value, and -1 changes nothing.
    let (uid_now, gid_now) = unsafe {
        // The group first, as long as that is allowed.
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    if (uid_now as u32, gid_now as u32) != (uid, gid) {
        return Err(Errno::PERM);
    }
    Ok(())
}

/// Gives this thread a file creation mask of its own, which takes nothing away:
/// the guest has applied its own mask.
///
/// # Errors
/// The kernel's, such as where a container's filter forbids it.
pub fn clear_thread_umask() -> Result<(), Errno> {
    // SAFETY: file descriptors stay shared; what is no longer shared is the
    // working directory, the root and the mask.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS)? };
    umask(rustix::fs::Mode::empty());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_user_is_the_guests_root() {
        let owners = Owners::User {
            uid: 1000,
            gid: 100,
        };
        assert_eq!(owners.to_guest(1000, 100), (0, 0));
        assert_eq!(owners.to_guest(0, 1000), (NOBODY, NOBODY));
        assert_eq!(owners.uid_to_host(0).unwrap().as_raw(), 1000);
        assert_eq!(owners.gid_to_host(0).unwrap().as_raw(), 100);
        assert_eq!(owners.uid_to_host(1000).unwrap_err(), Errno::PERM);
        assert_eq!(owners.gid_to_host(NOBODY).unwrap_err(), Errno::PERM);
        assert_eq!(owners.uid_to_host(u32::MAX).unwrap_err(), Errno::INVAL);
        owners.act_as(4711, 4711).unwrap();

        assert_eq!(Owners::Root.to_guest(7, 8), (7, 8));
        assert_eq!(Owners::Root.uid_to_host(7).unwrap().as_raw(), 7);
        assert!(Owners::Root.gid_to_host(u32::MAX).is_err());
    }

    #[test]
    fn root_creates_as_somebody_else_and_comes_back() {
        if Owners::of_process() != Owners::Root {
            return;
        }
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir.path(), mode).unwrap();
        let create = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            let meta = path.metadata().unwrap();
            (meta.uid(), meta.gid())
        };
        let before = capabilities(None).unwrap();
        let acting = Owners::Root.act_as(1234, 567).unwrap();
        assert_eq!(create("a"), (1234, 567));
        drop(acting);
        assert_eq!(create("b"), (0, 0));
        assert_eq!(capabilities(None).unwrap(), before);
        let kept = Owners::Root.without_set_id(true).unwrap();
        let fewer = capabilities(None).unwrap().effective;
        assert!(!fewer.contains(CapabilitySet::FSETID));
        drop(kept);
        assert_eq!(capabilities(None).unwrap(), before);
        assert!(Owners::Root.act_as(u32::MAX, 0).is_err());
    }

    #[test]
    fn the_mask_is_the_threads_own() {
        // In a thread of its own, so that no other test sees this mask.
        let test = std::thread::spawn(|| {
            clear_thread_umask()?;
            umask(rustix::fs::Mode::from_raw_mode(0o027));
            let worker = std::thread::spawn(|| {
                clear_thread_umask().map(|()| umask(rustix::fs::Mode::empty()).as_raw_mode())
            });
            let inside = worker.join().unwrap()?;
            Ok::<_, Errno>((inside, umask(rustix::fs::Mode::empty()).as_raw_mode()))
        });
        assert_eq!(test.join().unwrap(), Ok((0, 0o027)));
    }
}
