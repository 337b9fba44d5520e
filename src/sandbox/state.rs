//! How a sandbox stands: `configs/ID/state.json`. Its creator writes it once, then
//! its keeper, and, when that died on the way, whoever finds out.

use serde::{Deserialize, Serialize};

use super::spec::Publish;
use super::time::Time;

/// The exit code of a sandbox whose monitor died: nobody knows the workload's.
pub const LOST: u8 = 255;

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It has never run.
    Created,
    /// Its machine boots.
    Starting,
    /// Its process runs.
    Running,
    /// It has run.
    Exited,
}

impl Status {
    /// As it is filtered for and printed.
    pub fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Starting => "starting",
            Status::Running => "running",
            Status::Exited => "exited",
        }
    }

    /// A monitor is needed for this.
    pub fn is_live(self) -> bool {
        matches!(self, Status::Starting | Status::Running)
    }
}

/// How a sandbox stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct State {
    /// Where it is in its life.
    pub status: Status,
    /// The monitor's process, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When its process was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
    /// When it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Time>,
    /// What its process ended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// The guest's kernel killed something of it for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// Why it could not be started, or ended other than by its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The ports of the host that lead in, while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Publish>,
    /// The TAP that was made for it, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// What its monitor is confined by, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confinement: Option<confine::Report>,
}

impl State {
    /// That of a new sandbox.
    pub fn created() -> Self {
        State {
            status: Status::Created,
            pid: None,
            started: None,
            finished: None,
            exit_code: None,
            oom_killed: false,
            error: None,
            ports: Vec::new(),
            tap: None,
            confinement: None,
        }
    }

    /// The same sandbox with its process ended.
    pub fn exited(&self, code: u8, oom_killed: bool, error: Option<String>, at: Time) -> Self {
        State {
            status: Status::Exited,
            started: self.started,
            finished: Some(at),
            exit_code: Some(code),
            oom_killed,
            error,
            ..State::created()
        }
    }

    /// As `ps` shows it: `Up 3 minutes`.
    pub fn text(&self) -> String {
        let ago = |time: Option<Time>| time.map(|t| super::time::rough(t.elapsed()));
        match self.status {
            Status::Created => "Created".to_owned(),
            Status::Starting => "Starting".to_owned(),
            Status::Running => format!("Up {}", ago(self.started).unwrap_or_default()),
            Status::Exited => format!(
                "Exited ({}) {} ago",
                self.exit_code.unwrap_or(LOST),
                ago(self.finished).unwrap_or_default()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_forgets_what_only_a_run_has() {
        let running = State {
            status: Status::Running,
            pid: Some(1),
            started: Some(Time::now()),
            tap: Some("t".into()),
            ..State::created()
        };
        let end = running.exited(3, false, None, Time::now());
        assert_eq!((end.pid, end.tap.clone()), (None, None));
        assert_eq!(end.started, running.started);
        assert_eq!(end.text(), "Exited (3) less than a second ago");
        assert!(running.text().starts_with("Up less"));
        let text = serde_json::to_string(&end).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), end);
    }
}
