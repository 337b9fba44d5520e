//! Verdicts, a line each.

use crate::attack::good;
use crate::hw::{self, say, say_number};
use crate::virtio::{Device, GUARD, GUARD_SIZE, GUARD_WORD, Outcome};

/// What a case may come to, besides that the device works afterwards.
#[derive(Clone, Copy)]
pub enum Expect {
    /// The device has to ask for a reset.
    Reset,
    /// It has to do something: use the buffers, or ask for a reset.
    Answer,
    /// Whatever it does or leaves undone.
    Any,
    /// The driver has checked it itself.
    Is(bool),
}

pub struct Report {
    /// Of the cases that come in numbers only each of so many is run.
    every: u64,
    turns: u64,
    pub cases: u64,
    pub wrong: u64,
}

impl Report {
    pub fn new(every: u64) -> Self {
        Report {
            every: every.max(1),
            turns: 0,
            cases: 0,
            wrong: 0,
        }
    }

    /// Whether the next of many similar cases is to be run.
    pub fn turn(&mut self) -> bool {
        self.turns += 1;
        self.turns % self.every == 0
    }

    /// Ends a case: says how it went, and whether memory that the device was not
    /// given is as it was and the device works after a reset.
    pub fn case(
        &mut self,
        device: &Device,
        queue: Option<u16>,
        name: &str,
        outcome: Outcome,
        expect: Expect,
    ) {
        say("case ");
        say(device.kind.name());
        if let Some(queue) = queue {
            say(" q");
            say_number(queue.into());
        }
        say(" ");
        say(name);
        say(match outcome {
            Outcome::NeedsReset => ": needs-reset",
            Outcome::Used => ": used",
            Outcome::Silent => ": silent",
        });
        let mut fine = match expect {
            Expect::Reset => outcome == Outcome::NeedsReset,
            Expect::Answer => outcome != Outcome::Silent,
            Expect::Any => true,
            Expect::Is(fine) => fine,
        };
        if !fine {
            say(" WRONG");
        }
        if !hw::is_filled(GUARD, GUARD_SIZE, GUARD_WORD) {
            say(" WRONG: memory was written that the device was not given");
            hw::fill(GUARD, GUARD_SIZE, GUARD_WORD);
            fine = false;
        }
        if good(device) {
            say(", good");
        } else {
            say(" WRONG: the device does not work after a reset");
            fine = false;
        }
        say("\n");
        self.cases += 1;
        self.wrong += u64::from(!fine);
    }
}
