//! Exit statuses: one table for the code, the help and the documentation.

use std::process::ExitCode;

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $status:literal, $meaning:literal;)*) => {
        /// How drupe ends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Exit {
            $(#[doc = $meaning] $name,)*
            /// The VM was stopped by force after a signal of this number.
            Signal(u8),
            /// A sandbox's command ended with this.
            Command(u8),
        }

        impl Exit {
            /// The exit status.
            pub fn status(self) -> u8 {
                match self {
                    $(Exit::$name => $status,)*
                    Exit::Signal(number) => 128_u8.saturating_add(number),
                    Exit::Command(status) => status,
                }
            }
        }

        /// Every fixed status and what it means.
        #[cfg(test)]
        const TABLE: &[(Exit, u8, &str)] = &[$((Exit::$name, $status, $meaning),)*];

        /// The table as it stands in the help of `boot`.
        pub const HELP: &str = concat!(
            "Exit status:\n",
            $("  ", $status, "      ", $meaning, "\n",)*
            "  128+N  stopped by signal N before the guest had powered off\n",
            "         (130 for Ctrl-C or Ctrl-A x, 143 for SIGTERM)",
        );
    };
}

/// How drupe ends when it fails itself, with those commands that otherwise end as
/// a sandbox's command does.
pub const OWN_FAILURE: u8 = 125;

statuses! {
    Success = 0, "the guest powered itself off";
    Error = 1, "the VM could not be started, or the host failed it";
    Usage = 2, "the command line or the configuration is wrong";
    Reboot = 3, "the guest asked for a reboot";
    TripleFault = 4, "the guest ended in a triple fault";
    KvmInternal = 5, "KVM could not go on with the guest (internal error)";
    Panic = 6, "the guest's kernel panicked";
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_distinct_small_and_in_the_help() {
        for (at, (exit, status, meaning)) in TABLE.iter().enumerate() {
            assert_eq!(exit.status(), *status);
            // 125 to 127 belong to those who run programs, 128 and up to signals.
            assert!(*status < 125);
            assert!(TABLE[..at].iter().all(|(_, other, _)| other != status));
            assert!(HELP.contains(&format!("\n  {status}      {meaning}\n")));
        }
        assert_eq!(Exit::Signal(15).status(), 143);
        assert_eq!(Exit::Signal(255).status(), 255);
        assert_eq!(Exit::Command(OWN_FAILURE).status(), 125);
    }
}
