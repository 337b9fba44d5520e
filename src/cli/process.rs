//! Options about a process: environment, capabilities, limits.

use std::collections::BTreeMap;
use std::str::FromStr;

use protocol::Rlimit;

/// What root in a sandbox may do unless it is said: Docker's list.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];
/// The others that Linux has.
const OTHER: [&str; 27] = [
    "DAC_READ_SEARCH",
    "LINUX_IMMUTABLE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "LEASE",
    "AUDIT_CONTROL",
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
const ALL: &str = "ALL";

/// A capability, or `ALL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability(&'static str);

impl FromStr for Capability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let mut known = DEFAULT.iter().chain(&OTHER).chain([&ALL]);
        known
            .find(|known| **known == name)
            .map(|known| Capability(known))
            .ok_or_else(|| format!("'{text}' is no capability: write it as NET_ADMIN, or ALL"))
    }
}

/// Every capability.
pub fn all_capabilities() -> Vec<String> {
    let all = DEFAULT.iter().chain(&OTHER);
    all.map(|name| format!("CAP_{name}")).collect()
}

/// The capabilities of a process, as Docker works them out: those of `--cap-add`
/// stay whatever is dropped, and with `ALL` dropped there are no others.
pub fn capabilities(add: &[Capability], drop: &[Capability]) -> Vec<String> {
    let has = |list: &[Capability], name: &str| list.iter().any(|cap| cap.0 == name);
    let wanted = |name: &&&str| match (has(add, name), has(add, ALL)) {
        (true, _) => !has(drop, name) || has(drop, ALL),
        (_, true) => !has(drop, name),
        _ => DEFAULT.contains(name) && !has(drop, ALL) && !has(drop, name),
    };
    let all = DEFAULT.iter().chain(&OTHER);
    all.filter(wanted)
        .map(|name| format!("CAP_{name}"))
        .collect()
}

/// `--ulimit`: `NAME=SOFT[:HARD]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UlimitFlag(pub Rlimit);

/// The limits that there are.
const LIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

impl FromStr for UlimitFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is no limit: write it as nofile=1024:4096");
        let (name, values) = text.split_once('=').ok_or_else(bad)?;
        if !LIMITS.contains(&name) {
            return Err(format!(
                "'{name}' is no limit: it takes {}",
                LIMITS.join(", ")
            ));
        }
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let number = |text: &str| match text {
            "-1" | "unlimited" => Ok(u64::MAX),
            text => text.parse().map_err(|_| bad()),
        };
        let (soft, hard) = (number(soft)?, number(hard)?);
        if soft > hard {
            return Err(format!("'{text}': the soft limit is above the hard one"));
        }
        Ok(UlimitFlag(Rlimit {
            kind: format!("RLIMIT_{}", name.to_ascii_uppercase()),
            soft,
            hard,
        }))
    }
}

/// `--sysctl`, `--filter`, `--label`: `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair(pub String, pub String);

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Pair(name.to_owned(), value.to_owned())),
            _ => Err(format!("'{text}': write it as NAME=VALUE")),
        }
    }
}

/// A label: without a value it has an empty one, as with docker.
///
/// # Errors
/// When it has no name.
pub fn label(text: &str) -> Result<Pair, String> {
    match text.contains('=') || text.is_empty() {
        true => text.parse(),
        false => Ok(Pair(text.to_owned(), String::new())),
    }
}

/// A variable, or the name of one of this process.
///
/// # Errors
/// When it has no name.
pub fn variable(text: &str) -> Result<String, String> {
    match text.is_empty() || text.starts_with('=') {
        true => Err(format!("'{text}' has no name: write it as NAME=VALUE")),
        false => Ok(text.to_owned()),
    }
}

/// Seconds that something may take.
///
/// # Errors
/// When it is no whole number of them.
pub fn seconds(text: &str) -> Result<u32, String> {
    let bad = || format!("'{text}' is no number of seconds: give 0 to {}", u32::MAX);
    text.parse().map_err(|_| bad())
}

/// The pairs by name, the last of each.
pub fn map(pairs: &[Pair]) -> BTreeMap<String, String> {
    let pairs = pairs
        .iter()
        .map(|Pair(name, value)| (name.clone(), value.clone()));
    pairs.collect()
}

/// Puts an environment together: each of `changes` over `base`. `NAME=VALUE` sets
/// a variable; `NAME` takes it from `host`, or takes it away when it is not there.
pub fn environment(
    base: &[String],
    changes: impl IntoIterator<Item = String>,
    host: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut env: Vec<String> = base.to_vec();
    for change in changes {
        let (name, value) = match change.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (change.clone(), host(&change)),
        };
        let is_it = |entry: &String| entry.split('=').next() == Some(&name);
        match (env.iter().position(is_it), value) {
            (Some(at), Some(value)) => env[at] = format!("{name}={value}"),
            (None, Some(value)) => env.push(format!("{name}={value}")),
            (Some(at), None) => drop(env.remove(at)),
            (None, None) => {}
        }
    }
    env
}

/// The lines of an `--env-file` that say something.
///
/// # Errors
/// A line without a name.
pub fn env_file(text: &str) -> Result<Vec<String>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim_start);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let name = line.split('=').next().unwrap_or_default();
            match name.is_empty() || name.contains(char::is_whitespace) {
                true => Err(format!("'{line}': write each variable as NAME=VALUE")),
                false => Ok(line.to_owned()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(add: &[&str], drop: &[&str]) -> Vec<String> {
        let parse = |list: &[&str]| list.iter().map(|c| c.parse().unwrap()).collect::<Vec<_>>();
        capabilities(&parse(add), &parse(drop))
    }

    #[test]
    fn capabilities_are_dockers_and_what_is_said() {
        assert_eq!(caps(&[], &[]).len(), DEFAULT.len());
        assert_eq!(caps(&["ALL"], &[]).len(), all_capabilities().len());
        assert_eq!(all_capabilities().len(), 41);
        assert!(caps(&[], &["all"]).is_empty());
        assert_eq!(caps(&["cap_net_admin"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert!(!caps(&["ALL"], &["SYS_ADMIN"]).contains(&"CAP_SYS_ADMIN".to_owned()));
        assert!(!caps(&[], &["CHOWN"]).contains(&"CAP_CHOWN".to_owned()));
        assert!("FLY".parse::<Capability>().is_err());
    }

    #[test]
    fn limits_have_names_and_two_values() {
        let limit = |text: &str| text.parse::<UlimitFlag>().map(|flag| flag.0);
        let rlimit = |soft, hard| Rlimit {
            kind: "RLIMIT_NOFILE".into(),
            soft,
            hard,
        };
        assert_eq!(limit("nofile=1024:2048"), Ok(rlimit(1024, 2048)));
        assert_eq!(limit("nofile=5"), Ok(rlimit(5, 5)));
        assert_eq!(limit("nofile=5:-1"), Ok(rlimit(5, u64::MAX)));
        for text in [
            "nofile",
            "nofile=",
            "nofile=x",
            "nofile=2:1",
            "files=1",
            "nofile=-1:1",
        ] {
            assert!(limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pairs_have_values_and_labels_may() {
        let pair = |name: &str, value: &str| Ok(Pair(name.to_owned(), value.to_owned()));
        assert_eq!("a=b=c".parse(), pair("a", "b=c"));
        assert_eq!("a=".parse(), pair("a", ""));
        assert_eq!((label("a=b"), label("a")), (pair("a", "b"), pair("a", "")));
        for text in ["", "=", "=x", "a"] {
            assert!(text.parse::<Pair>().is_err(), "{text}");
            assert_eq!(label(text).is_err(), text != "a", "{text}");
        }
    }

    #[test]
    fn later_variables_win_and_names_alone_come_from_the_host() {
        let base = ["PATH=/bin".to_owned(), "A=1".to_owned(), "B=1".to_owned()];
        let host = |name: &str| (name == "HOSTS").then(|| "h".to_owned());
        let changes = ["A=2", "C=a=b", "HOSTS", "B", "NONE", "D="].map(str::to_owned);
        let env = environment(&base, changes, host);
        assert_eq!(env, ["PATH=/bin", "A=2", "C=a=b", "HOSTS=h", "D="]);
    }

    #[test]
    fn a_file_of_variables_has_comments() {
        let text = "\u{feff}# comment\n\nA=1 # not one\n  B= x \nC\n";
        assert_eq!(env_file(text).unwrap(), ["A=1 # not one", "B= x ", "C"]);
        for text in ["=x", "A B=1"] {
            assert!(env_file(text).is_err(), "{text}");
        }
    }
}
