//! Results as one page that needs nothing else: no script, no font, no network,
//! which its content policy also says to the browser. What comes from the results
//! goes through [`Escaped`], whatever it is.

use std::fmt::{self, Display, Formatter, Write as _};

use super::super::results::{Answer, Figure, Results, Suite, Table};
use super::{base, caution, direction, machine_line, number, per_cent, plot, word};

const STYLE: &str = include_str!("page.css");

/// A text of the results, for elements and quoted attributes.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Neither these nor what turns the direction of text round belongs here.
                c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) => {
                    f.write_str("\u{fffd}")?;
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The class that gives a target its colour, the same in every plot.
pub fn color(target: &str) -> &'static str {
    match target {
        "host" => "host",
        "container" => "container",
        "vm" => "vm",
        "vm+container" => "nested",
        "qemu" => "qemu",
        "podman" => "podman",
        _ => "other",
    }
}

/// The page.
pub fn page(results: &Results) -> String {
    let mut out = String::with_capacity(64 << 10);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta name=color-scheme content=\"light dark\">\n\
         <title>drupe bench, {}</title>\n<style>\n{STYLE}</style>\n<main>\n\
         <h1>Container or virtual machine?</h1>\n<p class=sub>{}<br>Measured by <code>drupe bench</code>, started {}, in {}.</p>\n",
        Escaped(&results.started),
        Escaped(&machine_line(&results.machine)),
        Escaped(&results.started),
        number::with_unit("s", results.seconds),
    );
    if let Some(caution) = caution(&results.machine) {
        let _ = writeln!(
            out,
            "<p class=caution role=note><b>Read this first.</b> {caution}</p>"
        );
    }
    summary(&mut out, results);
    targets(&mut out, results);
    for suite in &results.suites {
        self::suite(&mut out, suite);
    }
    machine(&mut out, results);
    out.push_str("</main>\n</html>\n");
    out
}

/// Every figure's medians in one table.
fn summary(out: &mut String, results: &Results) {
    let names: Vec<&str> = results.targets.iter().map(|t| t.name.as_str()).collect();
    out.push_str("<h2 id=summary>At a glance</h2>\n<div class=wide><table class=numbers><caption>Medians, and how many times the first of the row</caption>\n<thead><tr><th scope=col>Figure");
    for name in &names {
        let _ = write!(out, "<th scope=col class={}>{}", color(name), Escaped(name));
    }
    out.push_str("<tbody>\n");
    for suite in &results.suites {
        for figure in &suite.figures {
            let _ = write!(
                out,
                "<tr><th scope=row><a href=\"#{}\">{}</a> <small>{}</small>",
                anchor(suite, &figure.name),
                Escaped(&figure.title),
                direction(figure.better)
            );
            for name in &names {
                let found = figure.results.iter().find(|m| m.target == *name);
                let _ = match (found, base(figure)) {
                    (Some(m), Some(base)) if !std::ptr::eq(m, base) => write!(
                        out,
                        "<td>{} <small>{}</small>",
                        Escaped(&number::with_unit(&figure.unit, m.median)),
                        number::ratio(m.median, base.median).unwrap_or_default()
                    ),
                    (Some(m), _) => {
                        write!(
                            out,
                            "<td>{}",
                            Escaped(&number::with_unit(&figure.unit, m.median))
                        )
                    }
                    (None, _) => write!(out, "<td><small>not measured</small>"),
                };
            }
            out.push('\n');
        }
    }
    out.push_str("</table></div>\n");
}

fn targets(out: &mut String, results: &Results) {
    out.push_str("<h2 id=targets>What was measured</h2>\n<dl class=targets>\n");
    for target in &results.targets {
        let _ = writeln!(
            out,
            "<dt class={}>{}<dd>{}",
            color(&target.name),
            Escaped(&target.name),
            Escaped(&target.about)
        );
    }
    for left_out in &results.left_out {
        let _ = writeln!(
            out,
            "<dt class=off>{}<dd><b>left out:</b> {}",
            Escaped(&left_out.target),
            Escaped(&left_out.why)
        );
    }
    out.push_str("</dl>\n");
}

fn suite(out: &mut String, suite: &Suite) {
    let _ = writeln!(
        out,
        "<section>\n<h2 id=\"{}\">{}</h2>\n<p>{}",
        anchor(suite, ""),
        Escaped(&suite.name),
        Escaped(&suite.about)
    );
    if !suite.failures.is_empty() {
        out.push_str("<ul class=failures>\n");
        for failure in &suite.failures {
            let (target, why) = (Escaped(&failure.target), Escaped(&failure.why));
            let _ = writeln!(out, "<li><b>failed on {target}:</b> {why}");
        }
        out.push_str("</ul>\n");
    }
    for figure in &suite.figures {
        self::figure(out, suite, figure);
    }
    for table in &suite.tables {
        self::table(out, suite, table);
    }
    out.push_str("</section>\n");
}

fn figure(out: &mut String, suite: &Suite, figure: &Figure) {
    let id = anchor(suite, &figure.name);
    let _ = writeln!(
        out,
        "<figure aria-labelledby=\"{id}\">\n<h3 id=\"{id}\">{}</h3>",
        Escaped(&figure.title)
    );
    plot::plot(out, figure);
    let _ = write!(
        out,
        "<details><summary>How it was taken, and the numbers</summary>\n<p>{}\n\
         <div class=wide><table class=numbers><thead><tr><th scope=col>Target<th scope=col>Median\
         <th scope=col>Interval of the median<th scope=col>Sure to<th scope=col>Samples<th scope=col>Outside\n<tbody>",
        Escaped(&figure.how)
    );
    for m in &figure.results {
        let unit = |value| number::with_unit(&figure.unit, value);
        let _ = writeln!(
            out,
            "<tr><th scope=row>{}<td>{}<td>{} to {}<td>{}<td>{}<td>{}",
            Escaped(&m.target),
            Escaped(&unit(m.median)),
            Escaped(&unit(m.low)),
            Escaped(&unit(m.high)),
            per_cent(m.confidence),
            m.samples.len(),
            m.outliers
        );
        if let Some(note) = &m.note {
            let _ = writeln!(out, "<tr><td colspan=6 class=note>{}", Escaped(note));
        }
    }
    out.push_str("</table></div></details>\n</figure>\n");
}

fn table(out: &mut String, suite: &Suite, table: &Table) {
    let _ = write!(
        out,
        "<h3 id=\"{}\">{}</h3>\n<p>{}\n<div class=wide><table class=answers><thead><tr><th scope=col>The workload …",
        anchor(suite, &table.name),
        Escaped(&table.title),
        Escaped(&table.how)
    );
    for name in &table.columns {
        let _ = write!(out, "<th scope=col class={}>{}", color(name), Escaped(name));
    }
    out.push_str("<tbody>\n");
    for row in &table.rows {
        let _ = write!(out, "<tr><th scope=row>{}", Escaped(&row.name));
        for cell in &row.cells {
            // A sign besides the colour.
            let (class, sign) = match cell.value {
                Answer::Yes => ("yes", "●"),
                Answer::No => ("no", "○"),
                Answer::Unknown => ("unknown", "?"),
            };
            let _ = write!(
                out,
                "<td class={class}><b><span aria-hidden=true>{sign}</span> {}</b><small>{}</small>",
                word(cell.value),
                Escaped(&cell.detail)
            );
        }
        out.push('\n');
    }
    out.push_str("</table></div>\n");
}

fn machine(out: &mut String, results: &Results) {
    let machine = &results.machine;
    let _ = write!(
        out,
        "<h2 id=machine>The machine and the method</h2>\n\
         <p>Targets took turns, so that what the machine did meanwhile met all of them alike. \
         A bar is the interval that holds the median with the confidence that is given beside it; \
         a stroke is the median, a dot a sample. Samples outside Tukey's fences (one and a half times the \
         middle half's width beyond it) are counted and kept.\n\
         <p>Taken by <code>{}</code>\n<dl class=facts>\n",
        Escaped(&results.command.join(" "))
    );
    let _ = writeln!(out, "<dt>machine<dd>{}", Escaped(&machine_line(machine)));
    let facts = machine.versions.iter().chain(&machine.mitigations);
    for (name, text) in facts {
        let _ = writeln!(out, "<dt>{}<dd>{}", Escaped(name), Escaped(text));
    }
    out.push_str("</dl>\n");
}

/// The name of a place in the page: letters, digits and dashes of what it is.
fn anchor(suite: &Suite, name: &str) -> String {
    let name = match name {
        "" => suite.name.clone(),
        name => format!("{}-{name}", suite.name),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    format!("s-{}", name.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests;
