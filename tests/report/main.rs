//! The pages of `drupe bench` in a browser, headless Chromium. The screenshots
//! stay in `target/test-artifacts/` for people to look at.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod browser;
mod schema;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use browser::Browser;

/// Results of a real run.
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/bench-results.json");

fn artifacts() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let directory = target.join("test-artifacts");
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// The page of a file of results.
fn page(results: &Path, name: &str) -> PathBuf {
    let page = artifacts().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_drupe"))
        .args(["bench", "show", "--html"])
        .args([&page, results])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    page
}

fn sample() -> Value {
    serde_json::from_slice(&fs::read(SAMPLE).unwrap()).unwrap()
}

/// All of an array of each of `all`.
fn each<'a>(all: &'a Value, name: &'a str) -> impl Iterator<Item = &'a Value> {
    all.as_array()
        .unwrap()
        .iter()
        .flat_map(move |one| one[name].as_array().unwrap())
}

/// What is drawn of the page, as the browser has understood it.
const SEEN: &str = "({
    figures: [...document.querySelectorAll('figure h3')].map(e => e.textContent),
    strips: [...document.querySelectorAll('svg.strip')].filter(e => {
        const box = e.getBoundingClientRect();
        return box.width > 100 && box.height > 10 && e.querySelector('title') && e.querySelector('desc');
    }).length,
    dots: document.querySelectorAll('svg.strip circle').length,
    outside: [...document.querySelectorAll('svg.strip circle')].filter(e => {
        const dot = e.getBoundingClientRect(), strip = e.closest('svg').getBoundingClientRect();
        return dot.left < strip.left - 4 || dot.right > strip.right + 4;
    }).length,
    answers: document.querySelectorAll('table.answers td').length,
    failures: document.querySelectorAll('.failures li').length,
    left_out: document.querySelectorAll('dt.off').length,
    scripts: document.scripts.length,
    images: document.images.length,
    wider: document.documentElement.scrollWidth - window.innerWidth,
})";

#[test]
fn the_page_shows_all_that_was_measured() {
    let sample = sample();
    let page = page(Path::new(SAMPLE), "bench-report.html");
    let mut browser = Browser::start();
    let blank = browser.screenshot(1280, "light");
    browser.open(&page);
    let mut pictures = Vec::new();
    for (width, scheme) in [
        (1280, "light"),
        (1280, "dark"),
        (400, "light"),
        (400, "dark"),
    ] {
        let picture = browser.screenshot(width, scheme);
        let seen = browser.evaluate(SEEN);
        let suites = &sample["suites"];
        let figures: Vec<&Value> = each(suites, "figures").collect();
        let titles: Vec<&Value> = figures.iter().map(|f| &f["title"]).collect();
        assert_eq!(seen["figures"], json!(titles));
        let results = json!(figures);
        assert_eq!(seen["strips"], each(&results, "results").count(), "{width}");
        let samples: usize = each(&results, "results")
            .map(|m| m["samples"].as_array().unwrap().len())
            .sum();
        assert_eq!(seen["dots"], samples);
        assert_eq!(seen["outside"], 0, "{width}");
        let tables = json!(each(suites, "tables").collect::<Vec<_>>());
        let rows = json!(each(&tables, "rows").collect::<Vec<_>>());
        assert_eq!(seen["answers"], each(&rows, "cells").count());
        assert_eq!(seen["failures"], each(suites, "failures").count());
        assert_eq!(
            seen["left_out"],
            sample["left_out"].as_array().unwrap().len()
        );
        // Nothing has to be scrolled sideways, save wide tables by themselves.
        assert!(seen["wider"].as_i64().unwrap() <= 0, "{width}: {seen}");
        let file = artifacts().join(format!("bench-report-{width}-{scheme}.png"));
        fs::write(&file, &picture).unwrap();
        // A picture with nothing on it compresses to next to nothing.
        assert!(
            picture.len() > 10 * blank.len(),
            "{}: blank",
            file.display()
        );
        pictures.push(picture);
    }
    assert_ne!(pictures[0], pictures[1], "dark is as light");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Adds a text to every text, keys of maps too, that no fixed word is expected for.
fn poison(value: &mut Value, text: &str) {
    match value {
        Value::String(word)
            if ![
                "clock",
                "instructions",
                "less",
                "more",
                "yes",
                "no",
                "unknown",
            ]
            .contains(&word.as_str()) =>
        {
            word.push_str(text);
        }
        Value::Array(all) => all.iter_mut().for_each(|one| poison(one, text)),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match key.as_str() {
                    "mitigations" | "versions" => *value = json!({ text: text }),
                    _ => poison(value, text),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn a_hostile_file_runs_nothing_in_the_browser() {
    let mut results = sample();
    let hostile = "'\"></style></title></svg><script>window.hit = 1; alert(1)</script>\
                   <img src=x onerror='window.hit = 1'><a href=javascript:alert(1)>x</a>";
    poison(&mut results, hostile);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), results.to_string()).unwrap();
    let page = page(file.path(), "bench-report-hostile.html");
    let mut browser = Browser::start();
    browser.open(&page);
    browser.screenshot(1280, "light");
    let seen = browser.evaluate(SEEN);
    assert_eq!((&seen["scripts"], &seen["images"]), (&json!(0), &json!(0)));
    let hit =
        "({hit: window.hit ?? 0, links: document.querySelectorAll('[href^=javascript]').length})";
    assert_eq!(browser.evaluate(hit), json!({"hit": 0, "links": 0}));
    assert_eq!(
        seen["figures"].as_array().unwrap().len(),
        each(&results["suites"], "figures").count()
    );
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
