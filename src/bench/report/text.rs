//! Results as tables of a terminal: the targets are columns.

use std::fmt::Write as _;

use super::super::results::{Figure, Results, Suite, Table};
use super::{base, caution, direction, machine_line, number, per_cent, word};
use crate::output::one_line;

/// The narrowest terminal that is thought of.
const MIN_WIDTH: usize = 40;
/// Between columns.
const GAP: usize = 2;

/// Everything, in lines of at most `width` characters where words allow it.
pub fn text(results: &Results, width: usize) -> String {
    let width = width.max(MIN_WIDTH);
    let mut out = String::new();
    if let Some(caution) = caution(&results.machine) {
        paragraph(&mut out, "", caution, width);
    }
    let machine = machine_line(&results.machine);
    paragraph(&mut out, "", &machine, width);
    let about = format!(
        "Started {}, took {}.",
        results.started,
        number::with_unit("s", results.seconds)
    );
    paragraph(&mut out, "", &about, width);
    out.push('\n');
    for target in &results.targets {
        paragraph(
            &mut out,
            &format!("{}: ", target.name),
            &target.about,
            width,
        );
    }
    for left_out in &results.left_out {
        let head = format!("{}: left out: ", left_out.target);
        paragraph(&mut out, &head, &left_out.why, width);
    }
    for suite in &results.suites {
        out.push('\n');
        self::suite(&mut out, suite, width);
    }
    out
}

fn suite(out: &mut String, suite: &Suite, width: usize) {
    paragraph(
        out,
        &format!("{}: ", suite.name.to_uppercase()),
        &suite.about,
        width,
    );
    for failure in &suite.failures {
        let head = format!("  failed on {}: ", failure.target);
        paragraph(out, &head, &failure.why, width);
    }
    for figure in &suite.figures {
        out.push('\n');
        self::figure(out, figure, width);
    }
    for table in &suite.tables {
        out.push('\n');
        self::table(out, table, width);
    }
}

fn figure(out: &mut String, figure: &Figure, width: usize) {
    let title = format!("{} ({})", figure.title, direction(figure.better));
    paragraph(out, "", &title, width);
    let Some(base) = base(figure) else { return };
    let confidence = per_cent(base.confidence);
    let alike = figure
        .results
        .iter()
        .all(|m| per_cent(m.confidence) == confidence);
    let labels = vec![
        String::new(),
        "  median".to_owned(),
        match alike {
            true => format!("  {confidence} interval"),
            false => "  interval".to_owned(),
        },
        format!("  by {}", one_line(&base.target)),
        "  samples".to_owned(),
    ];
    let column = |m: &super::Measured| {
        let scale = number::scale(&figure.unit, m.median);
        let range = format!("{}–{}", scale.number(m.low), scale.number(m.high));
        let samples = m.samples.len();
        vec![
            one_line(&m.target),
            one_line(&number::with_unit(&figure.unit, m.median)),
            match alike {
                true => range,
                false => format!("{range} ({})", per_cent(m.confidence)),
            },
            number::ratio(m.median, base.median).unwrap_or_else(|| "–".into()),
            match m.outliers {
                0 => samples.to_string(),
                outliers => format!("{samples}, {outliers} outside"),
            },
        ]
    };
    let columns: Vec<_> = figure.results.iter().map(column).collect();
    grid(out, &labels, &columns, width);
    for m in &figure.results {
        if let Some(note) = &m.note {
            paragraph(out, &format!("  {}: ", m.target), note, width);
        }
    }
}

fn table(out: &mut String, table: &Table, width: usize) {
    paragraph(out, "", &table.title, width);
    let answers: Vec<Vec<String>> = (table.columns.iter().enumerate())
        .map(|(at, target)| {
            let cell = |row: &super::super::results::Row| {
                row.cells
                    .get(at)
                    .map_or("–", |cell| word(cell.value))
                    .to_owned()
            };
            let answers = table.rows.iter().map(cell);
            std::iter::once(one_line(target)).chain(answers).collect()
        })
        .collect();
    let names = table
        .rows
        .iter()
        .map(|row| format!("  {}", one_line(&row.name)));
    let labels: Vec<_> = std::iter::once(String::new()).chain(names).collect();
    grid(out, &labels, &answers, width);
}

/// Columns beside labels: as many side by side as fit, and the others below.
/// Labels that take more than half the width are continued in a line of their own.
pub fn grid(out: &mut String, labels: &[String], columns: &[Vec<String>], width: usize) {
    let length = |text: &String| text.chars().count();
    let wide = |column: &Vec<String>| column.iter().map(length).max().unwrap_or(0) + GAP;
    let label = labels.iter().map(length).max().unwrap_or(0);
    let all: usize = columns.iter().map(wide).sum();
    let label = label.min(width.saturating_sub(all).max(width * 2 / 5));
    let mut rest = columns;
    while !rest.is_empty() {
        let mut used = label;
        let fit = |column: &&Vec<String>| {
            used += wide(column);
            used <= width
        };
        let count = rest.iter().take_while(fit).count().max(1);
        let (now, later) = rest.split_at(count.min(rest.len()));
        for (at, text) in labels.iter().enumerate() {
            let mut lines = wrap(text, label);
            let last = lines.pop().unwrap_or_default();
            for line in &lines {
                let _ = writeln!(out, "{line}");
            }
            let mut line = format!("{last:label$}");
            for column in now {
                let cell = column.get(at).map_or("", String::as_str);
                let _ = write!(line, "{cell:>0$}", wide(column));
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        rest = later;
    }
}

/// A text after a head, its further lines indented as the head is and by two more.
pub fn paragraph(out: &mut String, head: &str, text: &str, width: usize) {
    let line = one_line(&format!("{head}{text}"));
    for line in wrap(&line, width) {
        let _ = writeln!(out, "{line}");
    }
}

/// Lines of at most `width` characters, the first of the text's indentation and
/// the others of two blanks more. A word that is longer has a line for itself.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let indent = text.chars().take_while(|c| *c == ' ').count();
    let mut lines = vec![" ".repeat(indent)];
    let mut used = indent;
    let mut first = true;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if !first && used + 1 + length > width {
            lines.push(" ".repeat(indent + 2));
            used = indent + 2;
            first = true;
        }
        if let Some(line) = lines.last_mut() {
            if !first {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
        }
        used += length;
        first = false;
    }
    lines
}

#[cfg(test)]
mod tests;
