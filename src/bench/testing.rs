//! Results for tests of what is made of them.

use super::results::{
    Answer, Better, Cell, FORMAT, Failure, Figure, LeftOut, Machine, Measured, Results, Row, Suite,
    Table, Target, Time,
};
use super::statistics;

/// Samples, summed up.
pub fn measured(target: &str, samples: &[f64]) -> Measured {
    statistics::summarize(target, samples.to_vec(), None).unwrap()
}

/// A figure of these targets, which is better small.
pub fn figure(name: &str, results: Vec<Measured>) -> Figure {
    Figure {
        name: name.into(),
        title: format!("Time to the {name}"),
        unit: "s".into(),
        better: Better::Less,
        how: "By a stopwatch.".into(),
        results,
    }
}

/// A run with these figures, a table, a failure, and a target that is missing.
pub fn results(figures: Vec<Figure>) -> Results {
    let cell = |value, detail: &str| Cell {
        value,
        detail: detail.into(),
    };
    Results {
        format: FORMAT,
        started: "2026-11-26T00:00:00Z".into(),
        seconds: 312.5,
        command: vec!["drupe".into(), "bench".into(), "start".into()],
        machine: Machine {
            cpu: "QEMU TCG CPU version 2.5+".into(),
            cpus: 1,
            memory_bytes: 8 << 30,
            kernel: "6.1.0-41-cloud-amd64".into(),
            mitigations: [("meltdown".to_owned(), "Mitigation: PTI".to_owned())].into(),
            virtualization: Some("QEMU".into()),
            emulated: true,
            time: Time::Instructions,
            versions: [("crun".to_owned(), "1.8.1".to_owned())].into(),
        },
        targets: ["host", "vm"]
            .map(|name| Target {
                name: name.into(),
                about: format!("a {name}"),
            })
            .into(),
        left_out: vec![LeftOut {
            target: "podman".into(),
            why: "podman is not installed: apt-get install podman".into(),
        }],
        outputs: Vec::new(),
        suites: vec![Suite {
            name: "start".into(),
            about: "how long it takes".into(),
            figures,
            tables: vec![Table {
                name: "reach".into(),
                title: "What it can see of the host".into(),
                how: "By trying.".into(),
                columns: vec!["host".into(), "vm".into()],
                rows: vec![Row {
                    name: "loads a module".into(),
                    cells: vec![cell(Answer::Yes, "it worked"), cell(Answer::No, "EPERM")],
                }],
            }],
            failures: vec![Failure {
                target: "vm+container".into(),
                why: "it hung".into(),
            }],
        }],
    }
}
