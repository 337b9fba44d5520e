//! `drupe bench` as far as no machine is needed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{drupe, error_line};

/// Where fio runs, its own report is kept, the figures are those of it, and what the
/// workload found is of the same order.
#[test]
fn a_disk_is_measured_by_fio_too() {
    // On a disk, as the build is: not every memory takes O_DIRECT.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = directory.path().join("out");
    let output = Command::new(env!("CARGO_BIN_EXE_drupe"))
        .args("bench disk --targets host --runs 1 --json --out".split(' '))
        .arg(&out)
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*errors), (Some(0), ""));
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let results = read(&out.join("results.json"));
    let suite = &results["suites"][0];
    assert_eq!(suite["failures"], serde_json::json!([]));
    let sample = |name: &str| {
        let figures = suite["figures"].as_array().unwrap();
        let figure = figures.iter().find(|f| f["name"] == name).unwrap();
        figure["results"][0]["samples"][0].as_f64().unwrap()
    };
    // The round that warms up is not kept.
    let files: Vec<_> = fs::read_dir(out.join("fio")).unwrap().collect();
    assert_eq!(files.len(), 1);
    let fio = read(&out.join("fio/host-1.json"));
    assert_eq!(fio["fio version"], results["machine"]["versions"]["fio"]);
    let job = |name: &str| {
        let jobs = fio["jobs"].as_array().unwrap();
        jobs.iter().find(|job| job["jobname"] == name).unwrap()
    };
    for (name, fio, unit) in [
        ("fio-read-random", &job("read-random")["read"]["iops"], 1.0),
        ("fio-read-deep", &job("read-deep")["read"]["iops"], 1.0),
        (
            "fio-write-sequential",
            &job("write-sequential")["write"]["bw_bytes"],
            1.0,
        ),
        ("fio-fsync", &job("fsync")["sync"]["lat_ns"]["mean"], 1e-9),
    ] {
        let (ours, fio) = (sample(name), fio.as_f64().unwrap() * unit);
        assert!(fio > 0.0 && (ours / fio - 1.0).abs() < 1e-9, "{name}");
    }
    let ratio = sample("read-random") * sample("fio-read-random");
    assert!((0.1..10.0).contains(&ratio), "{ratio}");
    // Of what it made nothing is left.
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn results_of_a_bench_are_compared_and_shown() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/bench-results.json");
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (path, expected) in [
        ("/nonexistent/a.json".to_owned(), "No such file"),
        (file("text", "hello"), "no results of a bench"),
        (file("newer", "{\"format\": 2}"), "format 2"),
    ] {
        let output = drupe(["bench", "compare", sample, &path]);
        assert_eq!(output.status.code(), Some(1), "{path}");
        let line = error_line(&output);
        assert!(line.contains(expected) && line.contains(&path), "{line}");
    }
    let output = drupe([
        "bench",
        "compare",
        "--fail-on",
        "worse",
        "--format",
        "json",
        sample,
        sample,
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!all["figures"].as_array().unwrap().is_empty());
    // The same with each sample of one figure ten times as large is worse.
    let mut results: serde_json::Value =
        serde_json::from_slice(&fs::read(sample).unwrap()).unwrap();
    let mut before = results.clone();
    for (all, by) in [(&mut before, 1.0), (&mut results, 10.0)] {
        let suites = all["suites"].as_array_mut().unwrap();
        suites.truncate(1);
        let figures = suites[0]["figures"].as_array_mut().unwrap();
        figures.truncate(1);
        let measured = &mut figures[0]["results"][0];
        measured["samples"] = (10..20).map(|n| f64::from(n) * by).collect();
    }
    let before = file("before", &before.to_string());
    let after = file("after", &results.to_string());
    for (args, status) in [
        (vec!["--fail-on", "worse", &before, &after], 1),
        (vec!["--fail-on", "worse", &after, &before], 0),
        (vec![&before, &after], 0),
    ] {
        let output = drupe([vec!["bench", "compare"], args].concat());
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("start/first"), "{text}");
    }
    let output = drupe(["bench", "show", sample]);
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("START: ")
    );
}
