//! Names of capabilities and of resource limits.

use protocol::Rlimit;
use rustix::process::Resource;
use rustix::thread::CapabilitySet;

use crate::error::{Error, Result};

/// `capabilities(7)`, in the order of their numbers.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The set of these names, as `CAP_CHOWN`.
///
/// # Errors
/// A name that is none.
pub fn capabilities(names: &[String]) -> Result<CapabilitySet> {
    let mut set = CapabilitySet::empty();
    for name in names {
        let number = name
            .strip_prefix("CAP_")
            .and_then(|short| CAPABILITIES.iter().position(|c| *c == short));
        let number = number.ok_or_else(|| {
            Error::request(format!("{name} is no capability: see capabilities(7)"))
        })?;
        set |= CapabilitySet::from_bits_retain(1 << number);
    }
    Ok(set)
}

/// `getrlimit(2)`.
const RESOURCES: [(&str, Resource); 16] = [
    ("AS", Resource::As),
    ("CORE", Resource::Core),
    ("CPU", Resource::Cpu),
    ("DATA", Resource::Data),
    ("FSIZE", Resource::Fsize),
    ("LOCKS", Resource::Locks),
    ("MEMLOCK", Resource::Memlock),
    ("MSGQUEUE", Resource::Msgqueue),
    ("NICE", Resource::Nice),
    ("NOFILE", Resource::Nofile),
    ("NPROC", Resource::Nproc),
    ("RSS", Resource::Rss),
    ("RTPRIO", Resource::Rtprio),
    ("RTTIME", Resource::Rttime),
    ("SIGPENDING", Resource::Sigpending),
    ("STACK", Resource::Stack),
];

/// The limits as the kernel takes them.
///
/// # Errors
/// A name that is none, or a soft limit above the hard one.
pub fn rlimits(limits: &[Rlimit]) -> Result<Vec<(Resource, rustix::process::Rlimit)>> {
    let value = |n: u64| (n != u64::MAX).then_some(n);
    let convert = |limit: &Rlimit| {
        let resource = limit
            .kind
            .strip_prefix("RLIMIT_")
            .and_then(|short| RESOURCES.iter().find(|(name, _)| *name == short));
        let Some((_, resource)) = resource else {
            return Err(Error::request(format!(
                "{} is no resource limit: see getrlimit(2)",
                limit.kind
            )));
        };
        if limit.soft > limit.hard {
            return Err(Error::request(format!(
                "{}: the soft limit {} is above the hard one, {}",
                limit.kind, limit.soft, limit.hard
            )));
        }
        let limit = rustix::process::Rlimit {
            current: value(limit.soft),
            maximum: value(limit.hard),
        };
        Ok((*resource, limit))
    };
    limits.iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        for (name, bit) in [
            ("CAP_CHOWN", CapabilitySet::CHOWN),
            ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
            ("CAP_SETFCAP", CapabilitySet::SETFCAP),
            ("CAP_CHECKPOINT_RESTORE", CapabilitySet::CHECKPOINT_RESTORE),
        ] {
            assert_eq!(capabilities(&[name.into()]).unwrap(), bit, "{name}");
        }
        assert_eq!(capabilities(&[]).unwrap(), CapabilitySet::empty());
        for bad in ["CHOWN", "CAP_chown", "CAP_", ""] {
            assert!(capabilities(&[bad.into()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_have_the_kernels_numbers() {
        let limit = |kind: &str, soft, hard| Rlimit {
            kind: kind.into(),
            soft,
            hard,
        };
        let limits = rlimits(&[limit("RLIMIT_NOFILE", 5, u64::MAX)]).unwrap();
        assert!(matches!(limits[0].0, Resource::Nofile));
        assert_eq!((limits[0].1.current, limits[0].1.maximum), (Some(5), None));
        assert!(rlimits(&[limit("NOFILE", 1, 1)]).is_err());
        assert!(rlimits(&[limit("RLIMIT_CORE", 2, 1)]).is_err());
    }
}
