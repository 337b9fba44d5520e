//! Progress on a terminal: a line for each layer that is on its way.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use images::Event;

use crate::commands::units::decimal;

/// How often lines are drawn again while bytes arrive.
const PERIOD: Duration = Duration::from_millis(100);
/// Signs of a bar.
const BAR: u64 = 30;
/// Columns and rows of a terminal that does not tell.
const USUAL: (usize, usize) = (80, 24);

/// Bars on standard error, when that is a terminal.
pub struct Bars(Option<Mutex<Lines>>);

impl Bars {
    /// Bars, or none when they are not wanted.
    pub fn new(quiet: bool) -> Self {
        let wanted = !quiet && io::stderr().is_terminal();
        Bars(wanted.then(Mutex::default))
    }

    /// Shows what happened.
    pub fn show(&self, event: Event) {
        let Some(lines) = &self.0 else {
            return;
        };
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if lines.note(event, now) {
            let text = lines.draw(size(), now);
            // Nothing depends on it.
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        if let Some(lines) = &mut self.0 {
            let lines = lines.get_mut().unwrap_or_else(PoisonError::into_inner);
            // What follows is the result, or the error.
            let _ = io::stderr().write_all(lines.clear().as_bytes());
        }
    }
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => USUAL,
    }
}

/// What is known of a layer.
#[derive(Debug, Clone, Copy)]
enum State {
    Waiting,
    Present,
    Arriving {
        bytes: u64,
        total: u64,
        /// When the first of it was seen, and how much that was.
        start: (Instant, u64),
    },
    Done,
}

/// The lines, and how many of them are on the terminal.
#[derive(Debug, Default)]
struct Lines {
    layers: Vec<State>,
    shown: usize,
    last: Option<Instant>,
}

impl Lines {
    /// Takes note of an event; true when it is time to draw.
    fn note(&mut self, event: Event, now: Instant) -> bool {
        match event {
            Event::Layers { count } => *self.layer(count.saturating_sub(1)) = State::Waiting,
            Event::Present { layer } => *self.layer(layer) = State::Present,
            Event::Converted { layer } => *self.layer(layer) = State::Done,
            Event::Downloaded {
                layer,
                bytes,
                total,
            } => {
                let state = self.layer(layer);
                let start = match *state {
                    State::Arriving { start, .. } => start,
                    _ => (now, bytes),
                };
                *state = State::Arriving {
                    bytes,
                    total,
                    start,
                };
                let due = |last: Instant| now.saturating_duration_since(last) >= PERIOD;
                return self.last.is_none_or(due);
            }
        }
        true
    }

    fn layer(&mut self, layer: usize) -> &mut State {
        if layer >= self.layers.len() {
            self.layers.resize(layer + 1, State::Waiting);
        }
        &mut self.layers[layer]
    }

    /// What puts the lines in place of those that are there: on a terminal with
    /// few rows only those of layers that are not done.
    fn draw(&mut self, (columns, rows): (usize, usize), now: Instant) -> String {
        let mut text = self.clear();
        let room = rows.saturating_sub(1);
        let all = self.layers.len() <= room;
        let open = |state: &State| !matches!(state, State::Done | State::Present);
        let layers = self.layers.iter().enumerate();
        for (n, state) in layers.filter(|(_, s)| all || open(s)).take(room) {
            let line = line(n, self.layers.len(), *state, now);
            // A line that is cut does not break, and all its signs are ASCII.
            let _ = writeln!(text, "{line:.*}", columns.saturating_sub(1));
            self.shown += 1;
        }
        self.last = Some(now);
        text
    }

    /// What takes the lines off the terminal.
    fn clear(&mut self) -> String {
        match std::mem::take(&mut self.shown) {
            0 => String::new(),
            // To the first of them, and everything from there on away.
            shown => format!("\x1b[{shown}A\r\x1b[J"),
        }
    }
}

fn line(layer: usize, count: usize, state: State, now: Instant) -> String {
    let what = match state {
        State::Waiting => "waiting".to_owned(),
        State::Present => "already there".to_owned(),
        State::Done => "done".to_owned(),
        State::Arriving {
            bytes,
            total,
            start: (since, first),
        } => {
            let full = (bytes.min(total) * BAR).checked_div(total).unwrap_or(0);
            let bar = "#".repeat(full as usize);
            let (bytes_text, total) = (decimal(bytes), decimal(total));
            let mut text = format!("{bar:-<30}  {bytes_text}/{total}", bar = bar);
            let time = now.saturating_duration_since(since).as_secs_f64();
            if time >= PERIOD.as_secs_f64() {
                let rate = bytes.saturating_sub(first) as f64 / time;
                let _ = write!(text, "  {}/s", decimal(rate as u64));
            }
            text
        }
    };
    format!("layer {}/{count}  {what}", layer + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(layer: usize, bytes: u64) -> Event {
        Event::Downloaded {
            layer,
            bytes,
            total: 4_000_000,
        }
    }

    #[test]
    fn lines_take_the_place_of_those_before() {
        let mut lines = Lines::default();
        let start = Instant::now();
        assert!(lines.note(Event::Layers { count: 3 }, start));
        assert_eq!(
            lines.draw(USUAL, start),
            "layer 1/3  waiting\nlayer 2/3  waiting\nlayer 3/3  waiting\n"
        );
        lines.note(Event::Present { layer: 0 }, start);
        lines.note(Event::Converted { layer: 2 }, start);
        lines.note(arrive(1, 0), start);
        let later = start + Duration::from_secs(2);
        assert!(lines.note(arrive(1, 2_000_000), later));
        let bar = "#".repeat(15) + &"-".repeat(15);
        assert_eq!(
            lines.draw(USUAL, later),
            format!(
                "\x1b[3A\r\x1b[Jlayer 1/3  already there\n\
                 layer 2/3  {bar}  2MB/4MB  1MB/s\nlayer 3/3  done\n"
            )
        );
        assert_eq!(lines.clear(), "\x1b[3A\r\x1b[J");
        assert_eq!(lines.clear(), "");
    }

    #[test]
    fn bytes_alone_are_drawn_now_and_then() {
        let mut lines = Lines::default();
        let start = Instant::now();
        assert!(lines.note(arrive(0, 1), start));
        lines.draw(USUAL, start);
        assert!(!lines.note(arrive(0, 2), start + PERIOD / 2));
        assert!(lines.note(Event::Converted { layer: 0 }, start + PERIOD / 2));
        assert!(lines.note(arrive(0, 3), start + PERIOD));
    }

    #[test]
    fn lines_stay_within_a_small_terminal() {
        let mut lines = Lines::default();
        let now = Instant::now();
        lines.note(Event::Layers { count: 9 }, now);
        lines.note(Event::Present { layer: 0 }, now);
        let text = lines.draw((15, 4), now);
        assert_eq!(text, "layer 2/9  wai\nlayer 3/9  wai\nlayer 4/9  wai\n");
        // A layer without a size, and one that grows past its size.
        lines.note(
            Event::Downloaded {
                layer: 1,
                bytes: 5,
                total: 0,
            },
            now,
        );
        lines.note(arrive(2, 9_000_000), now);
        lines.draw((0, 0), now);
        assert!(lines.draw(USUAL, now).contains(&"#".repeat(30)));
    }
}
