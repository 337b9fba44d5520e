use super::super::super::testing::{figure, measured, results};
use super::*;

fn sample() -> Results {
    let mut vm = measured("vm", &[0.21, 0.217, 0.25]);
    vm.outliers = 1;
    vm.note = Some("with one vCPU".into());
    results(vec![figure(
        "exit",
        vec![measured("host", &[0.001, 0.0012, 0.0015]), vm],
    )])
}

#[test]
fn a_figure_is_a_table_of_targets() {
    let text = text(&sample(), 80);
    let expected = "
START: how long it takes
  failed on vm+container: it hung

Time to the exit (less is better)
                    host            vm
  median         1.20 ms        217 ms
  75 % interval   1–1.50       210–250
  by host             1×          181×
  samples              3  3, 1 outside
  vm: with one vCPU

What it can see of the host
                  host  vm
  loads a module   yes  no
";
    assert!(text.contains(expected), "{text}");
    assert!(
        text.contains("\npodman: left out: podman is not installed"),
        "{text}"
    );
    assert!(text.contains("\nhost: a host\n"), "{text}");
}

#[test]
fn an_emulated_machine_is_named_first() {
    let mut results = sample();
    let first = |results: &Results| text(results, 200).lines().next().unwrap().to_owned();
    let line = first(&results);
    assert!(
        line.contains("emulated") && line.contains("counted instructions"),
        "{line}"
    );
    assert!(line.contains("only ratios mean anything"), "{line}");
    results.machine.time = super::super::super::results::Time::Clock;
    assert!(first(&results).contains("clock times of an emulated machine"));
    results.machine.emulated = false;
    assert!(first(&results).starts_with("QEMU TCG CPU"));
}

#[test]
fn targets_that_do_not_fit_go_below() {
    let names = ["host", "container", "vm", "vm+container", "qemu", "podman"];
    let all = names
        .map(|name| measured(name, &[123.4, 130.0, 150.0]))
        .into();
    let results = results(vec![figure("exit", all)]);
    for width in [40, 60, 80, 120] {
        let text = text(&results, width);
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
        for name in names {
            assert!(text.contains(name), "{text}");
        }
    }
    let wide = text(&results, 120);
    assert_eq!(wide.matches("median").count(), 1, "{wide}");
}

#[test]
fn nothing_in_the_results_reaches_the_terminal_raw() {
    let mut results = sample();
    let hostile = "\u{1b}]0;x\u{7}\r\n".to_owned();
    results.started.clone_from(&hostile);
    results.machine.cpu.clone_from(&hostile);
    results.targets[0].about.clone_from(&hostile);
    results.left_out[0].why.clone_from(&hostile);
    let suite = &mut results.suites[0];
    suite.name.clone_from(&hostile);
    suite.failures[0].target.clone_from(&hostile);
    suite.figures[0].unit.clone_from(&hostile);
    suite.figures[0].title.clone_from(&hostile);
    suite.figures[0].results[0].target.clone_from(&hostile);
    suite.tables[0].columns[0].clone_from(&hostile);
    suite.tables[0].rows[0].name.clone_from(&hostile);
    let text = text(&results, 80);
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control()),
        "{text:?}"
    );
}

#[test]
fn results_of_nothing_are_printed_too() {
    let mut empty = results(Vec::new());
    empty.suites.clear();
    assert!(text(&empty, 0).contains("Started"));
    let empty = results(vec![figure("exit", Vec::new())]);
    assert!(text(&empty, 80).contains("Time to the exit"));
}
