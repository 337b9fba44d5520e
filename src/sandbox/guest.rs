//! What the agent is told: a sandbox's description in the protocol's terms, and
//! the disks and shares of its machine that go with it. Nothing is opened here.

use std::path::PathBuf;

use protocol::{DiskMount, MountSource, Process, Root, Setup, WindowSize, Writable};

use super::spec::{Source, Spec};
use super::time::Time;

/// Serial number of the disk with the image's layers.
pub const LAYERS: &str = "layers";
/// Serial number of the disk that takes changes to the root.
pub const SCRATCH: &str = "scratch";

/// A host directory for the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// What the guest calls it.
    pub tag: String,
    /// The directory or the file.
    pub path: PathBuf,
    /// The guest may not change it.
    pub read_only: bool,
}

/// A volume's disk for the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeDisk {
    /// The disk's serial number.
    pub serial: String,
    /// The volume.
    pub name: String,
    /// The guest may not change it.
    pub read_only: bool,
}

/// What is mounted: in the guest's terms and in the machine's.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    /// For the agent.
    pub guest: Vec<protocol::Mount>,
    /// Devices.
    pub shares: Vec<Share>,
    /// Devices.
    pub volumes: Vec<VolumeDisk>,
}

/// Gives each mount of a sandbox its device. `is_file` tells files of the host
/// from directories.
pub fn mounts(spec: &Spec, is_file: impl Fn(&std::path::Path) -> bool) -> Mounts {
    let mut mounts = Mounts::default();
    for mount in &spec.mounts {
        let source = match &mount.source {
            Source::Bind { path } => {
                let tag = format!("share{}", mounts.shares.len());
                let file = is_file(path).then(|| file_name(path));
                mounts.shares.push(Share {
                    tag: tag.clone(),
                    path: path.clone(),
                    read_only: mount.read_only,
                });
                MountSource::Share { tag, file }
            }
            Source::Volume { name, populate, .. } => {
                // A machine has a disk once, wherever it is mounted.
                let known = mounts.volumes.iter_mut().find(|v| v.name == *name);
                let serial = match known {
                    Some(volume) => {
                        volume.read_only &= mount.read_only;
                        volume.serial.clone()
                    }
                    None => {
                        let serial = format!("vol{}", mounts.volumes.len());
                        mounts.volumes.push(VolumeDisk {
                            serial: serial.clone(),
                            name: name.clone(),
                            read_only: mount.read_only,
                        });
                        serial
                    }
                };
                MountSource::Disk(DiskMount {
                    serial,
                    populate: *populate && !mount.read_only,
                })
            }
            Source::Tmpfs { size, top } => MountSource::Tmpfs {
                size: size.map(|size| size.bytes()),
                top: *top,
            },
        };
        mounts.guest.push(protocol::Mount {
            source,
            target: mount.target.clone(),
            read_only: mount.read_only,
        });
    }
    mounts
}

/// The name under which a shared file is seen.
pub fn file_name(path: &std::path::Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The sandbox, for its agent.
pub fn setup(spec: &Spec, mounts: Vec<protocol::Mount>, network: protocol::Network) -> Setup {
    Setup {
        hostname: spec.hostname.clone(),
        root: Root {
            layers_disk: LAYERS.to_owned(),
            // Bounded by what an image may have.
            layers: u32::try_from(spec.image.layers.len()).unwrap_or(u32::MAX),
            writable: match spec.machine.disk_size {
                Some(_) => Writable::Disk {
                    serial: SCRATCH.to_owned(),
                },
                // As a tmpfs has it unless it is told.
                None => Writable::Tmpfs {
                    size: spec.machine.memory.bytes() / 2,
                },
            },
            read_only: spec.read_only,
        },
        mounts,
        network,
        sysctls: spec.sysctls.clone(),
        shm_size: spec.machine.shm_size.bytes(),
        time: Time::now().nanos(),
        privileged: spec.privileged,
    }
}

/// The sandbox's own process, for its agent.
pub fn process(spec: &Spec, size: Option<WindowSize>) -> Process {
    let process = &spec.process;
    Process {
        main: true,
        args: process.args.clone(),
        env: process.env.clone(),
        cwd: process.cwd.clone(),
        user: process.user.clone(),
        groups: process.groups.clone(),
        terminal: process.terminal.then(|| size.unwrap_or(DEFAULT_SIZE)),
        stdin: process.stdin,
        capabilities: process.capabilities.clone(),
        no_new_privileges: process.no_new_privileges,
        rlimits: process.rlimits.clone(),
        init: process.init,
    }
}

/// A terminal that nobody looks at.
pub const DEFAULT_SIZE: WindowSize = WindowSize { rows: 24, cols: 80 };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::spec::Mount;
    use crate::sandbox::spec::tests::spec;
    use vmm::config::ByteSize;

    fn volume(name: &str, target: &str, read_only: bool) -> Mount {
        Mount {
            source: Source::Volume {
                name: name.into(),
                anonymous: false,
                populate: true,
            },
            target: target.into(),
            read_only,
        }
    }

    #[test]
    fn each_mount_gets_its_device() {
        let mut spec = spec("x");
        spec.mounts.extend([
            volume("a", "/a", true),
            volume("b", "/b", false),
            // The same disk again, and this time to write to.
            volume("a", "/c", false),
            Mount {
                source: Source::Bind {
                    path: "/host/file".into(),
                },
                target: "/file".into(),
                read_only: true,
            },
            Mount {
                source: Source::Bind {
                    path: "/host/dir".into(),
                },
                target: "/dir".into(),
                read_only: false,
            },
        ]);
        let mounts = mounts(&spec, |path| path.ends_with("file"));
        assert_eq!(mounts.guest.len(), 6);
        let serials: Vec<_> = mounts
            .volumes
            .iter()
            .map(|v| (&v.serial[..], &v.name[..], v.read_only))
            .collect();
        assert_eq!(serials, [("vol0", "a", false), ("vol1", "b", false)]);
        let tags: Vec<_> = mounts
            .shares
            .iter()
            .map(|s| (&s.tag[..], s.read_only))
            .collect();
        assert_eq!(tags, [("share0", true), ("share1", false)]);
        assert_eq!(
            mounts.guest[4].source,
            MountSource::Share {
                tag: "share0".into(),
                file: Some("file".into())
            }
        );
        assert_eq!(
            mounts.guest[1].source,
            MountSource::Disk(DiskMount {
                serial: "vol0".into(),
                populate: false
            })
        );
        assert!(mounts.guest[1].read_only && !mounts.guest[3].read_only);
    }

    #[test]
    fn the_root_is_in_memory_unless_it_has_a_disk() {
        let mut spec = spec("x");
        let root = |spec: &Spec| setup(spec, Vec::new(), protocol::Network::default()).root;
        assert_eq!(root(&spec).writable, Writable::Tmpfs { size: 256 << 20 });
        assert_eq!(root(&spec).layers, 1);
        spec.machine.disk_size = Some(ByteSize(1 << 30));
        assert_eq!(
            root(&spec).writable,
            Writable::Disk {
                serial: SCRATCH.into()
            }
        );
    }

    #[test]
    fn a_terminal_has_the_size_of_the_clients() {
        let mut spec = spec("x");
        let size = WindowSize { rows: 1, cols: 2 };
        assert_eq!(process(&spec, Some(size)).terminal, None);
        spec.process.terminal = true;
        assert_eq!(process(&spec, Some(size)).terminal, Some(size));
        assert_eq!(process(&spec, None).terminal, Some(DEFAULT_SIZE));
        assert!(process(&spec, None).main);
    }
}
