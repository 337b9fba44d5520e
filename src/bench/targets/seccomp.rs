//! The filter of system calls that podman and docker give a container, for a
//! runtime that is called without them. Their file has conditions, on the
//! processor and on capabilities, which the runtime's configuration has not.

use std::fs;

use serde_json::{Value, json};

/// Where `golang-github-containers-common` has it, an administrator's first.
const FILES: [&str; 2] = [
    "/etc/containers/seccomp.json",
    "/usr/share/containers/seccomp.json",
];

/// The filter for root with these capabilities, where there is one.
pub fn filter(capabilities: &[String]) -> Option<Value> {
    let text = FILES
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())?;
    convert(&serde_json::from_str(&text).ok()?, capabilities)
}

fn convert(profile: &Value, capabilities: &[String]) -> Option<Value> {
    let rule = |rule: &Value| {
        let words = |part: &str, what: &str| {
            let list = rule[part][what].as_array();
            let words = list.into_iter().flatten().filter_map(Value::as_str);
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let has = |name: &String| capabilities.contains(name);
        let this = |name: &String| ["amd64", "x32", "x86"].contains(&name.as_str());
        let (wanted, unwanted) = (words("includes", "caps"), words("excludes", "caps"));
        let (only, never) = (words("includes", "arches"), words("excludes", "arches"));
        let applies = wanted.iter().all(has)
            && !unwanted.iter().any(has)
            && (only.is_empty() || only.iter().any(this))
            && !never.iter().any(this);
        applies.then(|| {
            let mut kept = json!({"names": rule["names"], "action": rule["action"]});
            for name in ["args", "errnoRet"] {
                let value = &rule[name];
                if !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()) {
                    kept[name] = value.clone();
                }
            }
            kept
        })
    };
    let rules: Vec<_> = profile["syscalls"]
        .as_array()?
        .iter()
        .filter_map(rule)
        .collect();
    let mut filter = json!({
        "defaultAction": profile["defaultAction"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    });
    let errno = &profile["defaultErrnoRet"];
    if !errno.is_null() {
        filter["defaultErrnoRet"] = errno.clone();
    }
    Some(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_decided() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "archMap": [],
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
                {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
                {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_BPF"]}},
                {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
                {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
                {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}},
            ],
        });
        let filter = convert(&profile, &["CAP_SYS_CHROOT".to_owned()]).unwrap();
        assert_eq!(filter["defaultErrnoRet"], 38);
        assert_eq!(
            filter["syscalls"],
            json!([
                {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
                {"names": ["chroot"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW"},
            ])
        );
        assert_eq!(convert(&json!({}), &[]), None);
    }
}
