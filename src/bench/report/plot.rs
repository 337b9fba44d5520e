//! A figure as strips, one for each target on one axis: a dot for each sample, a
//! bar for the median's interval, a stroke for the median. Places are in per cent,
//! so that a plot is as wide as there is room while its dots stay round and its
//! text keeps its size.

use std::fmt::Write as _;

use super::super::results::{Figure, Measured};
use super::html::{Escaped, color};
use super::{direction, math, number, per_cent};

/// How many times the least the largest must be for a logarithmic axis.
const LOGARITHMIC_FROM: f64 = 20.0;
/// At most as many numbers on an axis.
const TICKS: usize = 5;
/// The height of a strip, and where the median's stroke begins and ends.
const HEIGHT: u32 = 30;

/// Where values lie.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    /// One that has room for every sample and interval.
    fn of(figure: &Figure) -> Axis {
        let values = figure.results.iter().flat_map(|m| {
            let summary = [m.low, m.median, m.high];
            m.samples.iter().copied().chain(summary)
        });
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        let logarithmic = low > 0.0 && high / low >= LOGARITHMIC_FROM;
        match logarithmic {
            true => Axis {
                low: low / 1.2,
                high: high * 1.2,
                logarithmic,
            },
            // A length that begins at nothing can be read as a ratio.
            false => {
                let (low, high) = (low.min(0.0), high.max(0.0));
                let room = if high > low { (high - low) * 0.05 } else { 1.0 };
                Axis {
                    low,
                    high: high + room,
                    logarithmic,
                }
            }
        }
    }

    /// The place of a value, in per cent.
    fn at(&self, value: f64) -> f64 {
        let part = match self.logarithmic {
            true => {
                (math::ln(value) - math::ln(self.low)) / (math::ln(self.high) - math::ln(self.low))
            }
            false => (value - self.low) / (self.high - self.low),
        };
        if part.is_finite() {
            (part * 100.0).clamp(0.0, 100.0)
        } else {
            0.0
        }
    }

    /// Round values along it.
    fn ticks(&self, unit: &str) -> Vec<f64> {
        match (self.logarithmic, unit.starts_with('B')) {
            (true, true) => self.powers(&[2.0, 4.0, 16.0, 64.0, 1024.0, 1_048_576.0], &[1.0]),
            (true, false) => {
                let fine = self.powers(&[10.0], &[1.0, 2.0, 5.0]);
                match fine.len() <= TICKS {
                    true => fine,
                    false => self.powers(&[10.0, 100.0, 1e3, 1e6, 1e9, 1e30, 1e100], &[1.0]),
                }
            }
            (false, _) => self.multiples(unit),
        }
    }

    /// Powers of the first of `steps` that gives few enough, times each of `parts`.
    fn powers(&self, steps: &[f64], parts: &[f64]) -> Vec<f64> {
        let mut ticks = Vec::new();
        for step in steps {
            ticks.clear();
            let first = ((math::ln(self.low) / math::ln(*step)) as i32).saturating_sub(1);
            // A double has no more powers of two than these.
            for power in first..first.saturating_add(2200) {
                let base = step.powi(power);
                if base > self.high || ticks.len() > 4 * TICKS {
                    break;
                }
                let inside = |tick: &f64| *tick >= self.low && *tick <= self.high;
                ticks.extend(parts.iter().map(|part| part * base).filter(inside));
            }
            if ticks.len() <= TICKS {
                break;
            }
        }
        ticks
    }

    /// Multiples of 1, 2 or 5 times a power of ten, in the unit's size that fits.
    fn multiples(&self, unit: &str) -> Vec<f64> {
        let scale = number::scale(unit, self.high.max(-self.low));
        let span = (self.high - self.low) / scale.factor / TICKS as f64;
        let power = (math::ln(span) / math::ln(10.0)) as i32 - 1;
        let steps = (power..power + 4).flat_map(|p| [1.0, 2.0, 5.0].map(|m| m * 10_f64.powi(p)));
        let Some(step) = steps.into_iter().find(|step| *step >= span) else {
            return vec![0.0];
        };
        let step = step * scale.factor;
        let first = (self.low / step) as i32;
        (first..first.saturating_add(2 * TICKS as i32))
            .map(|n| f64::from(n) * step)
            .filter(|tick| *tick >= self.low && *tick <= self.high)
            .collect()
    }
}

/// The strips of a figure, with their axis below.
pub fn plot(out: &mut String, figure: &Figure) {
    let Some(base) = super::base(figure) else {
        return;
    };
    let axis = Axis::of(figure);
    let ticks = axis.ticks(&figure.unit);
    let grid: String = ticks
        .iter()
        .map(|tick| {
            let at = axis.at(*tick);
            format!("<line class=grid x1={at:.2}% x2={at:.2}% y1=0 y2={HEIGHT} />")
        })
        .collect();
    out.push_str("<div class=plot>\n");
    for m in &figure.results {
        let ratio = number::ratio(m.median, base.median).unwrap_or_default();
        let _ = write!(
            out,
            "<b class=target>{}</b>\
             <svg class=\"strip {}\" role=img height={HEIGHT} aria-label=\"{}\"><title>{1}</title>\
             <desc>{}</desc>{grid}",
            Escaped(&m.target),
            color(&m.target),
            Escaped(&format!("{} of {}", figure.title, m.target)),
            Escaped(&describe(figure, m)),
        );
        strip(out, &axis, m);
        let _ = writeln!(
            out,
            "</svg><span class=value><b>{}</b> {}</span>",
            Escaped(&number::with_unit(&figure.unit, m.median)),
            if std::ptr::eq(m, base) { "" } else { &ratio },
        );
    }
    out.push_str("<span class=direction>");
    let logarithmic = if axis.logarithmic {
        "logarithmic<br>"
    } else {
        ""
    };
    let _ = write!(
        out,
        "{logarithmic}{}</span><svg class=axis aria-hidden=true height=22>",
        direction(figure.better)
    );
    for tick in &ticks {
        let at = axis.at(*tick);
        let anchor = match at {
            _ if at < 6.0 => "start",
            _ if at > 94.0 => "end",
            _ => "middle",
        };
        let label = number::with_unit(&figure.unit, *tick);
        let _ = write!(
            out,
            "<line class=grid x1={at:.2}% x2={at:.2}% y1=0 y2=5 />\
             <text x={at:.2}% y=18 text-anchor={anchor}>{}</text>",
            Escaped(&label)
        );
    }
    out.push_str("</svg></div>\n");
}

fn strip(out: &mut String, axis: &Axis, m: &Measured) {
    let middle = HEIGHT / 2;
    let (low, high, median) = (axis.at(m.low), axis.at(m.high), axis.at(m.median));
    let width = (high - low).max(0.2);
    let _ = write!(
        out,
        "<rect class=interval x={low:.2}% y=9 width={width:.2}% height=12 />"
    );
    for (at, sample) in m.samples.iter().enumerate() {
        // Next to each other, so that equal ones can be counted.
        let y = f64::from(middle) + f64::from([0, -6, 6, -3, 3][at % 5]);
        let _ = write!(out, "<circle cx={:.2}% cy={y} r=2.5 />", axis.at(*sample));
    }
    let _ = write!(
        out,
        "<line class=median x1={median:.2}% x2={median:.2}% y1=4 y2={} />",
        HEIGHT - 4
    );
}

fn describe(figure: &Figure, m: &Measured) -> String {
    let unit = |value| number::with_unit(&figure.unit, value);
    format!(
        "median {}, {} interval {} to {}, {} samples",
        unit(m.median),
        per_cent(m.confidence),
        unit(m.low),
        unit(m.high),
        m.samples.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(low: f64, high: f64, logarithmic: bool) -> Axis {
        Axis {
            low,
            high,
            logarithmic,
        }
    }

    #[test]
    fn ticks_are_few_and_round() {
        for (low, high, logarithmic, unit, expected) in [
            (0.0, 0.42, false, "s", vec![0.0, 0.1, 0.2, 0.3, 0.4]),
            (0.0, 17.0, false, "count", vec![0.0, 5.0, 10.0, 15.0]),
            (1e-3, 0.4, true, "s", vec![1e-3, 1e-2, 1e-1]),
            (1.0, 30.0, true, "count", vec![1.0, 2.0, 5.0, 10.0, 20.0]),
            (
                1024.0,
                70_000.0,
                true,
                "B",
                vec![1024.0, 4096.0, 16_384.0, 65_536.0],
            ),
        ] {
            let ticks = axis(low, high, logarithmic).ticks(unit);
            assert_eq!(ticks.len(), expected.len(), "{ticks:?}");
            for (tick, expected) in ticks.iter().zip(expected) {
                assert!((tick - expected).abs() <= 1e-9 * high, "{ticks:?}");
            }
        }
    }

    #[test]
    fn no_range_is_too_wide_or_too_narrow() {
        for low in [0.0, 5e-324, 1e-300, 1.0, 1e300] {
            for high in [low, low * 1.01, low * 1e6, f64::MAX] {
                for unit in ["s", "B", "count", "strange"] {
                    let logarithmic = low > 0.0 && high / low >= LOGARITHMIC_FROM;
                    let axis = axis(low, high, logarithmic);
                    assert!(axis.ticks(unit).len() <= 4 * TICKS + 3, "{low} {high}");
                    assert!((0.0..=100.0).contains(&axis.at(high)), "{low} {high}");
                }
            }
        }
    }
}
