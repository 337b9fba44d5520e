//! What a person reads of the results.

use super::results::{Answer, Results};

/// A plain table of every figure.
pub fn text(results: &Results) -> String {
    let mut text = String::new();
    for suite in &results.suites {
        for figure in &suite.figures {
            text += &format!("{}: {} ({})\n", suite.name, figure.title, figure.unit);
            for m in &figure.results {
                text += &format!(
                    "  {:<14}{:>12.4e}  [{:.4e}, {:.4e}] n={} outliers={}\n",
                    m.target,
                    m.median,
                    m.low,
                    m.high,
                    m.samples.len(),
                    m.outliers
                );
            }
        }
        for table in &suite.tables {
            text += &format!(
                "{}: {}: {}\n",
                suite.name,
                table.title,
                table.columns.join(", ")
            );
            for row in &table.rows {
                let word = |answer| match answer {
                    Answer::Yes => "yes",
                    Answer::No => "no",
                    Answer::Unknown => "unknown",
                };
                let cells: Vec<_> = row.cells.iter().map(|cell| word(cell.value)).collect();
                text += &format!("  {:<50}{}\n", row.name, cells.join(", "));
            }
        }
        for failure in &suite.failures {
            text += &format!(
                "{}: failed on {}: {}\n",
                suite.name, failure.target, failure.why
            );
        }
    }
    for left_out in &results.left_out {
        text += &format!("left out: {}: {}\n", left_out.target, left_out.why);
    }
    text
}
