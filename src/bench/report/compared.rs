//! A comparison of two runs, for a terminal.

use super::super::compare::{Compared, Comparison, Verdict};
use super::number;
use super::text::{grid, paragraph};
use crate::output::one_line;

/// Everything, in lines of at most `width` characters: what changed comes first.
pub fn text(comparison: &Comparison, width: usize) -> String {
    let mut out = String::new();
    for warning in &comparison.warnings {
        paragraph(&mut out, "warning: ", warning, width);
    }
    if !comparison.figures.is_empty() {
        figures(&mut out, &comparison.figures, width);
    }
    for one in &comparison.answers {
        let head = format!("{} on {}: ", one.suite, one.target);
        let text = format!("{}: was {}, is {}", one.question, one.first, one.second);
        paragraph(&mut out, &head, &text, width);
    }
    for (which, keys) in [
        ("first", &comparison.only_first),
        ("second", &comparison.only_second),
    ] {
        for key in keys {
            paragraph(&mut out, &format!("only in the {which}: "), key, width);
        }
    }
    out.push('\n');
    let count = |verdict| {
        comparison
            .figures
            .iter()
            .filter(|one| one.verdict == verdict)
            .count()
    };
    let summary = format!(
        "{} better, {} worse, {} the same within noise",
        count(Verdict::Better),
        count(Verdict::Worse),
        count(Verdict::Same)
    );
    paragraph(&mut out, "", &summary, width);
    let few = count(Verdict::Few);
    if few > 0 {
        let text = format!(
            "{few} with too few samples to tell: measure both with --runs {} or more",
            comparison.enough_runs
        );
        paragraph(&mut out, "", &text, width);
    }
    out
}

fn figures(out: &mut String, figures: &[Compared], width: usize) {
    let mut sorted: Vec<&Compared> = figures.iter().collect();
    sorted.sort_by_key(|one| one.verdict);
    let column = |head: &str, cell: &dyn Fn(&Compared) -> String| -> Vec<String> {
        let cells = sorted.iter().map(|one| one_line(&cell(one)));
        std::iter::once(head.to_owned()).chain(cells).collect()
    };
    let labels = column("", &|one| format!("{}/{}", one.suite, one.figure));
    let columns = [
        column("target", &|one| one.target.clone()),
        column("first", &|one| number::with_unit(&one.unit, one.first)),
        column("second", &|one| number::with_unit(&one.unit, one.second)),
        column("ratio", &|one| {
            number::ratio(one.second, one.first).unwrap_or_else(|| "–".into())
        }),
        column("", &|one| verdict(one.verdict).to_owned()),
    ];
    grid(out, &labels, &columns, width);
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Worse => "worse",
        Verdict::Better => "better",
        Verdict::Same => "same",
        Verdict::Few => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_comes_first() {
        let one = |figure: &str, verdict| Compared {
            suite: "start".into(),
            figure: figure.into(),
            title: String::new(),
            target: "vm\u{1b}[2J".into(),
            unit: "s".into(),
            first: 0.2,
            second: 0.3,
            ratio: Some(1.5),
            probability: 0.001,
            verdict,
        };
        let comparison = Comparison {
            warnings: vec!["the two ran on other kernels: 6.1 and 6.12".into()],
            figures: vec![
                one("cpu", Verdict::Few),
                one("exit", Verdict::Same),
                one("first", Verdict::Worse),
            ],
            enough_runs: 7,
            answers: Vec::new(),
            only_first: vec!["cpu/one on vm, in s".into()],
            only_second: Vec::new(),
        };
        let text = text(&comparison, 80);
        assert!(!text.contains('\u{1b}'), "{text}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "warning: the two ran on other kernels: 6.1 and 6.12"
        );
        assert!(
            lines[2].starts_with("start/first") && lines[2].ends_with("worse"),
            "{text}"
        );
        assert!(
            lines[2].contains("200 ms") && lines[2].contains("1.50×"),
            "{text}"
        );
        assert!(
            text.contains("only in the first: cpu/one on vm, in s\n"),
            "{text}"
        );
        assert!(
            text.contains("\n0 better, 1 worse, 1 the same within noise\n"),
            "{text}"
        );
        assert!(
            text.ends_with("1 with too few samples to tell: measure both with --runs 7 or more\n")
        );
    }
}
