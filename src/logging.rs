//! Log messages as lines on standard error: `drupe: warning: ...`.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::{output, terminal};

/// A crate whose messages a guest can cause at will and that does not limit
/// them. What matters of them is reported by the device, through a limit.
const SILENCED: &str = "virtio_queue";

struct Stderr;

static LOGGER: Stderr = Stderr;

/// Starts logging: warnings and errors, or with `verbose` also what happens.
/// Costs two stores; nothing is allocated until there is a message.
pub fn start(verbose: bool) {
    // It fails only when there is a logger already, which then does the work.
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(if verbose {
            LevelFilter::Info
        } else {
            LevelFilter::Warn
        });
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let silenced = target
            .strip_prefix(SILENCED)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        !silenced && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = line(record);
            // One write, so that lines of several threads do not mix. When it
            // fails there is nobody left to tell.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

fn line(record: &Record<'_>) -> String {
    let level = match record.level() {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let message = output::one_line(&record.args().to_string());
    format!("drupe: {level}: {message}{}", terminal::line_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let record = Record::builder()
            .level(Level::Warn)
            .args(format_args!("disk: bad\n\x1b[2Jheader"))
            .build();
        assert_eq!(
            line(&record),
            "drupe: warning: disk: bad\\n\\u{1b}[2Jheader\n"
        );
    }

    #[test]
    fn what_a_guest_can_cause_without_limit_is_silenced() {
        log::set_max_level(LevelFilter::Warn);
        let enabled = |target, level| {
            LOGGER.enabled(&Metadata::builder().target(target).level(level).build())
        };
        assert!(enabled("devices::virtio::blk", Level::Warn));
        assert!(!enabled("devices::virtio::blk", Level::Info));
        assert!(!enabled("virtio_queue::chain", Level::Error));
        assert!(!enabled("virtio_queue", Level::Error));
        assert!(enabled("virtio_queues", Level::Error));
    }
}
