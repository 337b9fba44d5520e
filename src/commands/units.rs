//! Sizes as people read them, in docker's units: memory in powers of 1024, disks
//! and networks in powers of 1000.

/// What a disk or a network holds or has carried: decimal units, three digits.
pub fn decimal(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value >= 999.5 {
        let Some(next) = units.next() else { break };
        value /= 1000.0;
        unit = next;
    }
    let digits = match value {
        _ if unit == "B" => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    let number = format!("{value:.digits$}");
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => &number,
    };
    format!("{number}{unit}")
}

/// What is in memory: binary units, as `1.50MiB`.
pub fn binary(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count}B"),
        _ if value < 10.0 => format!("{value:.2}{}", UNITS[unit]),
        _ if value < 100.0 => format!("{value:.1}{}", UNITS[unit]),
        _ => format!("{value:.0}{}", UNITS[unit]),
    }
}

/// What a command says that has tidied up, as docker's do: what is gone, if
/// anything is, and how much room that makes.
pub fn reclaimed(title: &str, lines: &str, bytes: u64) -> String {
    let size = decimal(bytes);
    match lines.is_empty() {
        true => format!("Total reclaimed space: {size}\n"),
        false => format!("{title}:\n{lines}\nTotal reclaimed space: {size}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.23MB"),
            (124_400_000, "124MB"),
            (999_999, "1MB"),
            (12_000_000_000, "12GB"),
            (u64::MAX, "18447PB"),
        ] {
            assert_eq!(decimal(bytes), text);
        }
    }

    #[test]
    fn it_is_said_what_is_gone() {
        let nothing = "Total reclaimed space: 0B\n";
        assert_eq!(reclaimed("Deleted Volumes", "", 0), nothing);
        let text = "Deleted Volumes:\na\nb\n\nTotal reclaimed space: 2kB\n";
        assert_eq!(reclaimed("Deleted Volumes", "a\nb\n", 2000), text);
    }

    #[test]
    fn memory_is_counted_in_binary_units() {
        for (count, text) in [
            (0, "0B"),
            (999, "999B"),
            (1536, "1.50KiB"),
            (1 << 20, "1.00MiB"),
            (100 << 30, "100GiB"),
        ] {
            assert_eq!(binary(count), text);
        }
    }
}
