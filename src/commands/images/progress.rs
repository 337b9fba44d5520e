//! Progress bars: one for each layer that is on its way.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use images::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Bars on standard error, when that is a terminal.
pub struct Bars {
    all: Option<MultiProgress>,
    layers: Mutex<BTreeMap<usize, ProgressBar>>,
}

impl Bars {
    /// Bars, or none when they are not wanted.
    pub fn new(quiet: bool) -> Self {
        let wanted = !quiet && io::stderr().is_terminal();
        Bars {
            all: wanted.then(MultiProgress::new),
            layers: Mutex::default(),
        }
    }

    /// Shows what happened.
    pub fn show(&self, event: Event) {
        let Some(all) = &self.all else {
            return;
        };
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bar = |layer: usize| {
            let new = || all.add(ProgressBar::new(0).with_style(style("waiting")));
            layers.entry(layer).or_insert_with(new).clone()
        };
        match event {
            Event::Layers { count } => {
                for layer in 0..count {
                    bar(layer).set_prefix(format!("layer {}/{count}", layer + 1));
                }
            }
            Event::Present { layer } => {
                let bar = bar(layer);
                bar.set_style(style("already there"));
                bar.finish();
            }
            Event::Downloaded {
                layer,
                bytes,
                total,
            } => {
                let bar = bar(layer);
                if bar.length() != Some(total) {
                    bar.set_length(total);
                    let template = "{prefix}  {bar:30}  {bytes}/{total_bytes}  {bytes_per_sec}";
                    bar.set_style(with_template(template));
                }
                bar.set_position(bytes);
            }
            Event::Converted { layer } => {
                let bar = bar(layer);
                bar.set_style(style("done"));
                bar.finish();
            }
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        if let Some(all) = &self.all {
            // What follows is the result, or the error.
            let _ = all.clear();
        }
    }
}

fn style(state: &str) -> ProgressStyle {
    with_template(&format!("{{prefix}}  {state}"))
}

fn with_template(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
