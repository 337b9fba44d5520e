//! Users and groups, by the root's own `/etc/passwd` and `/etc/group`, read as
//! Docker reads them: a name before a number, and numbers that nobody has are
//! as good as any.

use std::path::Path;

use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::resolve::Root;

/// Bytes of `/etc/passwd` and of `/etc/group` that are read.
const MAX_FILE: u64 = 8 << 20;
/// The largest id: the one above means "do not change" to the kernel.
const MAX_ID: u32 = u32::MAX - 1;

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// The two files.
#[derive(Debug, Default)]
pub struct Accounts {
    passwd: String,
    group: String,
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl Accounts {
    /// Reads both. An image without them has no names.
    ///
    /// # Errors
    /// The kernel's, and `EFBIG` for a file of more than 8 MiB.
    pub fn read(root: &Root) -> Result<Self> {
        let read = |path: &str| match root.read(Path::new(path), MAX_FILE) {
            // What is no plain file holds no accounts.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => Ok(String::new()),
            result => result
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .context(|| format!("read {path} of the image")),
        };
        Ok(Accounts {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
        })
    }

    /// Resolves `user`, `uid`, `user:group` or any mixture, and further groups.
    ///
    /// # Errors
    /// A name that is in neither file, or a number that is no id.
    pub fn identity(&self, spec: &str, further: &[String]) -> Result<Identity> {
        let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
        let number = user.parse::<u32>().ok();
        let found = match user {
            "" => self.users().find(|u| u.uid == 0),
            _ => self
                .users()
                .find(|u| u.name == user || Some(u.uid) == number),
        };
        let mut identity = match (&found, number) {
            (Some(user), _) => Identity {
                uid: user.uid,
                gid: user.gid,
                groups: Vec::new(),
                home: user.home.to_owned(),
            },
            (None, None) if !user.is_empty() => {
                return Err(Error::request(format!(
                    "unable to find user {user}: no matching entries in passwd file"
                )));
            }
            (None, number) => Identity {
                uid: id(number.unwrap_or(0))?,
                gid: 0,
                groups: Vec::new(),
                home: "/".to_owned(),
            },
        };
        let mut member_of = Vec::new();
        if !group.is_empty() {
            identity.gid = self.group(group)?;
        } else if let Some(user) = &found {
            let groups = self.groups();
            member_of.extend(groups.filter(|g| g.has(user.name)).map(|g| g.gid));
        }
        identity.groups.push(identity.gid);
        for name in further {
            member_of.push(self.group(name)?);
        }
        for gid in member_of {
            if !identity.groups.contains(&gid) {
                identity.groups.push(gid);
            }
        }
        Ok(identity)
    }

    /// The name of a user, if it has one.
    pub fn user_name(&self, uid: u32) -> Option<&str> {
        self.users().find(|u| u.uid == uid).map(|u| u.name)
    }

    fn group(&self, name: &str) -> Result<u32> {
        let number = name.parse::<u32>().ok();
        let found = self
            .groups()
            .find(|g| g.name == name || Some(g.gid) == number);
        match (found, number) {
            (Some(group), _) => Ok(group.gid),
            (None, Some(number)) => id(number),
            (None, None) => Err(Error::request(format!(
                "unable to find group {name}: no matching entries in group file"
            ))),
        }
    }

    fn users(&self) -> impl Iterator<Item = User<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let name = fields.next().filter(|name| is_name(name))?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).filter(|home| !home.is_empty());
            Some(User {
                name,
                uid,
                gid,
                home: home.unwrap_or("/"),
            })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.trim().split(':');
            let name = fields.next().filter(|name| is_name(name))?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some(Group {
                name,
                gid,
                members: fields.next().unwrap_or(""),
            })
        })
    }
}

impl Group<'_> {
    fn has(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == user)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('#')
}

fn id(number: u32) -> Result<u32> {
    match number <= MAX_ID {
        true => Ok(number),
        false => Err(Error::request(format!(
            "{number} is no user or group: ids go up to {MAX_ID}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "# people\nroot:x:0:0:root:/root:/bin/sh\n\
                     www:x:33:34::/var/www:/bin/false\n42:x:1000:1000::/named:/bin/sh\n\
                     nohome:x:50:50\nbroken:x:y:z\n\n"
                .into(),
            group: "root:x:0:\nwww:x:34:\nadm:x:4:www,x\nlog:x:5: www \n99:x:7:\n".into(),
        }
    }

    fn identity(spec: &str) -> (u32, u32, Vec<u32>, String) {
        let i = accounts().identity(spec, &[]).unwrap();
        (i.uid, i.gid, i.groups, i.home)
    }

    #[test]
    fn users_are_read_as_docker_reads_them() {
        assert_eq!(identity(""), (0, 0, vec![0], "/root".into()));
        assert_eq!(identity("www"), (33, 34, vec![34, 4, 5], "/var/www".into()));
        assert_eq!(identity("33"), (33, 34, vec![34, 4, 5], "/var/www".into()));
        assert_eq!(identity("77"), (77, 0, vec![0], "/".into()));
        assert_eq!(identity("nohome"), (50, 50, vec![50], "/".into()));
        // A name that looks like a number.
        assert_eq!(identity("42"), (1000, 1000, vec![1000], "/named".into()));
    }

    #[test]
    fn a_group_replaces_the_users_own() {
        assert_eq!(identity("www:adm"), (33, 4, vec![4], "/var/www".into()));
        assert_eq!(identity("www:4"), (33, 4, vec![4], "/var/www".into()));
        assert_eq!(identity("77:88"), (77, 88, vec![88], "/".into()));
        assert_eq!(identity(":adm"), (0, 4, vec![4], "/root".into()));
        assert_eq!(identity("0:99"), (0, 7, vec![7], "/root".into()));
    }

    #[test]
    fn further_groups_are_names_or_numbers() {
        let further = ["adm".to_owned(), "123".into(), "34".into()];
        let i = accounts().identity("www", &further).unwrap();
        assert_eq!(i.groups, [34, 4, 5, 123]);
        assert!(accounts().identity("www", &["none".into()]).is_err());
    }

    #[test]
    fn what_is_not_there_is_said() {
        let error = |spec| accounts().identity(spec, &[]).unwrap_err().to_string();
        assert_eq!(
            error("nobody"),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert!(error("www:none").contains("unable to find group none"));
        assert!(error("4294967295").contains("no user"));
        assert!(error("99999999999").contains("unable to find user"));
        assert!(Accounts::default().identity("0:0", &[]).is_ok());
        assert!(Accounts::default().identity("", &[]).is_ok());
    }

    #[test]
    fn users_have_names() {
        assert_eq!(accounts().user_name(33), Some("www"));
        assert_eq!(accounts().user_name(34), None);
    }
}
