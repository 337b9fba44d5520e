use serde_json::Value;

use super::super::super::testing::{figure, measured, results};
use super::*;

fn sample() -> Results {
    let mut vm = measured("vm", &[0.21, 0.217, 0.25]);
    vm.note = Some("a note".into());
    results(vec![figure(
        "exit",
        vec![measured("host", &[0.001, 0.0012, 0.0015]), vm],
    )])
}

#[test]
fn everything_measured_is_on_the_page() {
    let page = page(&sample());
    for text in [
        "Read this first.",
        "counted instructions",
        "<h3 id=\"s-start-exit\">Time to the exit</h3>",
        "<a href=\"#s-start-exit\">",
        "217 ms",
        "181×",
        "a note",
        "By a stopwatch.",
        "failed on vm+container:</b> it hung",
        "left out:</b> podman is not installed",
        "Mitigation: PTI",
        "<code>drupe bench start</code>",
        "<td class=yes>",
        "<td class=no>",
        "EPERM",
        "default-src 'none'",
    ] {
        assert!(page.contains(text), "{text} is not in {page}");
    }
    assert_eq!(page.matches("<circle ").count(), 6);
    assert_eq!(page.matches("class=\"strip ").count(), 2);
    for outside in [
        "http:", "https:", "//", "url(", "@import", "<script", "src=",
    ] {
        assert!(
            !page.replace(" src ", "").contains(outside),
            "{outside} in {page}"
        );
    }
}

/// Adds a text to every text that the results have, keys of maps too.
fn poison(value: &mut Value, text: &str) {
    match value {
        Value::String(s) if !["instructions", "less", "yes", "no"].contains(&s.as_str()) => {
            s.push_str(text);
        }
        Value::Array(all) => all.iter_mut().for_each(|one| poison(one, text)),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match key.as_str() {
                    "mitigations" | "versions" => {
                        *value = serde_json::json!({text: text});
                    }
                    _ => poison(value, text),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn no_text_of_the_results_becomes_markup() {
    let hostile = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\u{0}\u{202e}&lt;";
    let mut plain = sample();
    plain.suites[0].figures[0].unit = "W".into();
    let plain = page(&plain);
    let mut value = serde_json::to_value(sample()).unwrap();
    poison(&mut value, hostile);
    let poisoned = page(&serde_json::from_value(value).unwrap());
    assert!(poisoned.contains("&lt;script&gt;"));
    for markup in ["<script", "<img", "\u{0}", "\u{202e}"] {
        assert!(!poisoned.contains(markup), "{markup:?}");
    }
    // As many elements and attributes as without. Colours and texts differ, no more.
    let count = |page: &str, c: char| page.matches(c).count();
    for c in ['<', '>', '"'] {
        assert_eq!(count(&plain, c), count(&poisoned, c), "{c}");
    }
}

#[test]
fn strange_numbers_make_a_page() {
    for samples in [
        &[0.0, 0.0][..],
        &[f64::MAX, 0.0],
        &[-1.0, 1.0],
        &[5e-324, f64::MAX],
    ] {
        let results = results(vec![figure("exit", vec![measured("host", samples)])]);
        let page = page(&results);
        assert!(!page.contains("NaN") && !page.contains("inf%"), "{page}");
    }
    let mut empty = results(vec![figure("exit", Vec::new())]);
    assert!(page(&empty).ends_with("</html>\n"));
    empty.suites.clear();
    assert!(page(&empty).ends_with("</html>\n"));
}
