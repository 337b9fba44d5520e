//! Lists as people read them, and as programs do.

use serde::Serialize;

use crate::commands::{self, Failure, print};
use crate::exit::Exit;
use crate::output;

/// Two blanks between columns, as wide as they have to be.
pub fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut all = vec![head.map(str::to_owned)];
    all.extend(
        rows.into_iter()
            .map(|row| row.map(|cell| output::one_line(&cell))),
    );
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            all.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths);
        let text: String = cells
            .map(|(cell, width)| {
                // Not by a width of format!, which has 16 bits.
                let rest = width.saturating_sub(cell.chars().count());
                format!("{cell}{}  ", " ".repeat(rest))
            })
            .collect();
        format!("{}\n", text.trim_end())
    };
    all.iter().map(line).collect()
}

/// Prints something for a program.
///
/// # Errors
/// Standard output's.
pub fn json(value: &impl Serialize) -> Result<Exit, Failure> {
    print(&commands::json(value)?)
}

/// Text of at most `length` characters.
pub fn short(text: &str, length: usize) -> String {
    match text.chars().count() > length {
        true => text.chars().take(length - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            ["a".to_owned(), "b\n".to_owned()],
            ["long".to_owned(), String::new()],
        ];
        assert_eq!(table(["X", "Y"], rows), "X     Y\na     b\nlong\n");
        // A command line may be longer than a width of format! can be.
        let long = "x".repeat(70_000);
        let rows = [["a".to_owned(), long.clone()], [long, "b".to_owned()]];
        let lines = table(["X", "Y"], rows);
        assert!(lines.lines().all(|line| line.chars().count() > 70_001));
    }

    #[test]
    fn texts_are_short() {
        assert_eq!(short("äöü", 3), "äöü");
        assert_eq!(short("äöüß", 3), "äö…");
    }
}
