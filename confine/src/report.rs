//! Which layers a process is confined by.

use serde::{Deserialize, Serialize};

use crate::Failed;

/// A layer of confinement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// A user namespace: no privilege of the host's is left to regain.
    User,
    /// A PID namespace: no other process has a number here.
    Pid,
    /// A mount namespace with an empty root.
    Root,
    /// A network namespace without interfaces.
    Network,
    /// System V IPC and POSIX message queues of its own.
    Ipc,
    /// A host name of its own.
    Uts,
    /// A view of its own control group.
    Cgroup,
    /// No capability.
    Capabilities,
    /// No program gives it privileges.
    NoNewPrivileges,
    /// Resource limits.
    Limits,
    /// Landlock's rules for files.
    Landlock,
    /// A list of system calls for each thread.
    Seccomp,
}

impl Layer {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Layer::User => "user namespace",
            Layer::Pid => "PID namespace",
            Layer::Root => "empty root",
            Layer::Network => "network namespace",
            Layer::Ipc => "IPC namespace",
            Layer::Uts => "UTS namespace",
            Layer::Cgroup => "cgroup namespace",
            Layer::Capabilities => "dropped capabilities",
            Layer::NoNewPrivileges => "no_new_privs",
            Layer::Limits => "resource limits",
            Layer::Landlock => "Landlock",
            Layer::Seccomp => "seccomp",
        }
    }
}

/// Whether a layer is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum State {
    /// It is.
    Active,
    /// It is not, and why.
    Missing(String),
}

/// The layers of a process.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Report(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    layer: Layer,
    #[serde(flatten)]
    state: State,
}

impl Report {
    /// Of a process that was not to be confined.
    pub fn off() -> Self {
        Report::default()
    }

    pub(crate) fn note(&mut self, layer: Layer, result: Result<(), Failed>) {
        let state = match result {
            Ok(()) => State::Active,
            Err(e) => State::Missing(e.to_string()),
        };
        self.0.push(Entry { layer, state });
    }

    /// Each layer and how it stands; none when confinement was switched off.
    pub fn layers(&self) -> impl Iterator<Item = (Layer, &State)> {
        self.0.iter().map(|entry| (entry.layer, &entry.state))
    }

    /// The first layer that is missing, and why.
    pub fn first_missing(&self) -> Option<(Layer, &str)> {
        self.layers().find_map(|(layer, state)| match state {
            State::Missing(why) => Some((layer, why.as_str())),
            State::Active => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_missing_and_survives_json() {
        let mut report = Report::off();
        assert_eq!(report.first_missing(), None);
        report.note(Layer::Limits, Ok(()));
        report.note(Layer::Landlock, Err(Failed::new("use it", "too old")));
        let missing = report.first_missing();
        assert_eq!(missing, Some((Layer::Landlock, "cannot use it: too old")));
        let text = serde_json::to_string(&report).unwrap();
        assert!(
            text.contains(r#""layer":"landlock","state":"missing","why":"cannot"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
