use super::super::results::{Answer, Time};
use super::super::testing::{figure, measured, results};
use super::*;

/// Ten samples round a value, a per cent apart.
fn around(value: f64) -> Vec<f64> {
    (0..10)
        .map(|n| value * (1.0 + f64::from(n) / 100.0))
        .collect()
}

fn run(host: f64, vm: f64) -> Results {
    let both = vec![measured("host", &around(host)), measured("vm", &around(vm))];
    results(vec![figure("exit", both)])
}

fn verdicts(comparison: &Comparison) -> Vec<Verdict> {
    comparison.figures.iter().map(|one| one.verdict).collect()
}

#[test]
fn a_run_is_the_same_as_itself() {
    let comparison = compare(&run(1.0, 2.0), &run(1.0, 2.0));
    assert_eq!(verdicts(&comparison), [Verdict::Same, Verdict::Same]);
    assert!(!comparison.has_worse());
    assert_eq!(comparison.warnings, Vec::<String>::new());
    assert_eq!(
        (comparison.only_first.len(), comparison.only_second.len()),
        (0, 0)
    );
    assert_eq!(comparison.answers, []);
    let nothing = results(Vec::new());
    assert_eq!(compare(&nothing, &nothing).figures, []);
}

#[test]
fn changes_have_a_direction() {
    let mut first = run(1.0, 2.0);
    let mut second = run(0.8, 3.0);
    let comparison = compare(&first, &second);
    assert_eq!(verdicts(&comparison), [Verdict::Better, Verdict::Worse]);
    assert!(comparison.has_worse());
    assert!((comparison.figures[1].ratio.unwrap() - 1.5).abs() < 1e-9);
    first.suites[0].figures[0].better = Better::More;
    second.suites[0].figures[0].better = Better::More;
    assert_eq!(
        verdicts(&compare(&first, &second)),
        [Verdict::Worse, Verdict::Better]
    );
}

#[test]
fn a_change_within_the_noise_is_none() {
    let comparison = compare(&run(1.0, 2.0), &run(1.004, 1.996));
    assert_eq!(verdicts(&comparison), [Verdict::Same, Verdict::Same]);
}

#[test]
fn few_samples_say_that_they_are_few() {
    let few = |value| results(vec![figure("exit", vec![measured("vm", &[value; 3])])]);
    let comparison = compare(&few(1.0), &few(9.0));
    assert_eq!(verdicts(&comparison), [Verdict::Few]);
    assert_eq!(comparison.enough_runs, 4);
}

/// With nothing changed, no more than a twentieth of comparisons see a change:
/// here two hundred comparisons of twenty figures each, of a seeded generator.
#[test]
fn noise_alone_is_seldom_called_a_change() {
    let mut seed = 1_u64;
    let mut random = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        1.0 + (seed >> 40) as f64 / f64::from(1 << 24)
    };
    let mut run = || {
        let mut sample = || (0..10).map(|_| random()).collect::<Vec<_>>();
        let one = |n| figure(&format!("f{n}"), vec![measured("vm", &sample())]);
        results((0..20).map(one).collect())
    };
    let changed = (0..200).filter(|_| {
        let comparison = compare(&run(), &run());
        verdicts(&comparison)
            .iter()
            .any(|v| matches!(v, Verdict::Better | Verdict::Worse))
    });
    let changed = changed.count();
    assert!((1..=20).contains(&changed), "{changed} of 200");
}

#[test]
fn what_one_alone_has_is_listed() {
    let mut second = run(1.0, 2.0);
    second.suites[0].figures[0].results.remove(0);
    let mut other = second.suites[0].figures[0].clone();
    other.name = "first".into();
    second.suites[0].figures.push(other);
    let comparison = compare(&run(1.0, 2.0), &second);
    assert_eq!(comparison.only_first, ["start/exit on host, in s"]);
    assert_eq!(comparison.only_second, ["start/first on vm, in s"]);
    second.suites[0].figures[0].unit = "B".into();
    let comparison = compare(&run(1.0, 2.0), &second);
    assert_eq!(comparison.figures, []);
    assert!(
        comparison
            .only_second
            .contains(&"start/exit on vm, in B".to_owned())
    );
}

#[test]
fn other_machines_and_answers_are_told() {
    let mut second = run(1.0, 2.0);
    second.machine.kernel = "6.12".into();
    second.machine.time = Time::Clock;
    second
        .machine
        .mitigations
        .insert("meltdown".into(), "Vulnerable".into());
    second.suites[0].tables[0].rows[0].cells[1].value = Answer::Yes;
    let comparison = compare(&run(1.0, 2.0), &second);
    let all = comparison.warnings.join("\n");
    assert_eq!(comparison.warnings.len(), 3, "{all}");
    for text in ["6.12", "clock times of an emulated machine", "Vulnerable"] {
        assert!(all.contains(text), "{all}");
    }
    let [answer] = &comparison.answers[..] else {
        panic!("{:?}", comparison.answers)
    };
    assert_eq!(
        (answer.target.as_str(), answer.first, answer.second),
        ("vm", "no", "yes")
    );
}
