//! `docs/bench-results.schema.json` against what drupe writes, by Debian's
//! `python3-jsonschema`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const SCHEMA: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/docs/bench-results.schema.json"
);

/// What is wrong with each of these: the path of its first error, or nothing.
fn errors(all: &[Value]) -> Vec<Option<String>> {
    let script = "
import json, sys, jsonschema
validator = jsonschema.Draft202012Validator(json.load(open(sys.argv[1])))
validator.check_schema(validator.schema)
path = lambda error: '/'.join(map(str, error.absolute_path)) + ': ' + error.message
print(json.dumps([next(map(path, validator.iter_errors(one)), None) for one in json.load(sys.stdin)]))";
    let mut child = Command::new("python3")
        .args(["-c", script, SCHEMA])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to = child.stdin.take().unwrap();
    to.write_all(json!(all).to_string().as_bytes()).unwrap();
    drop(to);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "python3-jsonschema: 'make deps' installs it"
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_schema_describes_what_is_written() {
    let good = crate::sample();
    let mut all = vec![good.clone()];
    let mut bad = |pointer: &str, value: Value| {
        let mut one = good.clone();
        *one.pointer_mut(pointer).unwrap() = value;
        all.push(one);
    };
    bad("/format", json!(2));
    bad("/machine/time", json!("seconds"));
    bad("/machine/cpus", json!(0));
    bad("/suites/0/figures/0/unit", json!("ms"));
    bad("/suites/0/figures/0/results/0/samples", json!([]));
    bad("/suites/0/figures/0/results/0/confidence", json!(95));
    bad("/suites/0/figures/0/results/0/outliers", json!(-1));
    bad("/targets/0", json!({"name": "host"}));
    bad(
        "/targets/0",
        json!({"name": "host", "about": "", "more": 1}),
    );
    let said = errors(&all);
    assert_eq!(said[0], None);
    assert!(said[1..].iter().all(Option::is_some), "{said:?}");
}
