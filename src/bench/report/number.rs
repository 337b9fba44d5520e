//! Quantities as people read them: three figures and a unit of the right size.

/// A size of a unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale<'a> {
    /// One of it in the figure's unit.
    pub factor: f64,
    /// Its name, or nothing for a bare count.
    pub name: &'a str,
}

const SECONDS: [(f64, &str); 4] = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")];
const BYTES: [(f64, &str); 5] = [
    (1_099_511_627_776.0, "TiB"),
    (1_073_741_824.0, "GiB"),
    (1_048_576.0, "MiB"),
    (1024.0, "KiB"),
    (1.0, "B"),
];
const BYTES_A_SECOND: [(f64, &str); 5] = [
    (1_099_511_627_776.0, "TiB/s"),
    (1_073_741_824.0, "GiB/s"),
    (1_048_576.0, "MiB/s"),
    (1024.0, "KiB/s"),
    (1.0, "B/s"),
];
const A_SECOND: [(f64, &str); 4] = [(1e9, "G/s"), (1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")];

/// The size of `unit` in which `value` is a number from 1 on, if there is one.
pub fn scale(unit: &str, value: f64) -> Scale<'_> {
    let sizes: &'static [(f64, &'static str)] = match unit {
        "s" => &SECONDS,
        "B" => &BYTES,
        "B/s" => &BYTES_A_SECOND,
        "1/s" => &A_SECOND,
        "count" => &[(1.0, "")],
        _ => {
            return Scale {
                factor: 1.0,
                name: unit,
            };
        }
    };
    let value = value.abs();
    // Nothing is as well in the largest.
    let fits = |(factor, _): &&(f64, &str)| value == 0.0 || value >= *factor * 0.999_5;
    let (factor, name) = sizes
        .iter()
        .find(fits)
        .or(sizes.last())
        .copied()
        .unwrap_or((1.0, ""));
    Scale { factor, name }
}

impl Scale<'_> {
    /// A value in this size, without its name.
    pub fn number(&self, value: f64) -> String {
        digits(value / self.factor)
    }
}

/// A value with the name of its unit.
pub fn with_unit(unit: &str, value: f64) -> String {
    let scale = scale(unit, value);
    let number = scale.number(value);
    match scale.name {
        "" => number,
        name => format!("{number} {name}"),
    }
}

/// A quotient, as `26.2×`; nothing of nothing.
pub fn ratio(value: f64, base: f64) -> Option<String> {
    let ratio = value / base;
    ratio.is_finite().then(|| format!("{}×", digits(ratio)))
}

/// Three significant digits, and all of a whole number below a million.
pub fn digits(value: f64) -> String {
    let size = value.abs();
    if value % 1.0 == 0.0 && size < 1e6 {
        return format!("{value:.0}");
    }
    match size {
        _ if size >= 1e6 => format!("{value:.2e}"),
        _ if size >= 99.95 => format!("{value:.0}"),
        _ if size >= 9.995 => format!("{value:.1}"),
        _ if size >= 0.999_5 => format!("{value:.2}"),
        _ if size >= 0.1 => format!("{value:.3}"),
        _ if size >= 0.01 => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short() {
        for (unit, value, text) in [
            ("s", 0.0, "0 s"),
            ("s", 0.000_000_123_4, "123 ns"),
            ("s", 1.25e-5, "12.5 µs"),
            ("s", 0.217, "217 ms"),
            ("s", 0.999_9, "1.00 s"),
            ("s", 12.345, "12.3 s"),
            ("B", 500.0, "500 B"),
            ("B", 3.59 * 1_048_576.0, "3.59 MiB"),
            ("B", 1_073_741_824.0, "1 GiB"),
            ("B/s", 2e9, "1.86 GiB/s"),
            ("1/s", 12_345.0, "12.3 k/s"),
            ("count", 17.0, "17"),
            ("W", 2.5, "2.50 W"),
            ("s", 1e-12, "1.00e-3 ns"),
            ("s", 1e300, "1.00e300 s"),
        ] {
            assert_eq!(with_unit(unit, value), text);
        }
    }

    #[test]
    fn ratios_are_numbers_or_nothing() {
        assert_eq!(ratio(26.2, 1.0).as_deref(), Some("26.2×"));
        assert_eq!(ratio(1.0, 1.0).as_deref(), Some("1×"));
        assert_eq!(ratio(0.123, 1.0).as_deref(), Some("0.123×"));
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!(ratio(0.0, 0.0), None);
    }
}
