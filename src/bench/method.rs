//! How samples are taken: in rounds, each target once in each, so that what the
//! machine does meanwhile meets all of them alike. The order turns from round to
//! round, and the first round warms up and is not kept.

use super::error::{Error, Result};
use super::results::{Better, Failure, Figure, Suite};
use super::statistics;

/// A quantity that a suite measures.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// As [`Figure::name`].
    pub name: &'static str,
    /// As [`Figure::title`].
    pub title: &'static str,
    /// As [`Figure::unit`].
    pub unit: &'static str,
    /// As [`Figure::better`].
    pub better: Better,
    /// As [`Figure::how`].
    pub how: &'static str,
}

/// A sample of some of the quantities: their names and values.
pub type Sample = Vec<(&'static str, f64)>;

/// Takes samples of targets, which have these names: `take` gets the number of
/// one. What fails on a target is recorded, and that target is left alone from
/// then on.
///
/// # Errors
/// [`Error::Interrupted`] only.
pub fn rounds(
    suite: &mut Suite,
    targets: &[&str],
    quantities: &[Quantity],
    (warm_up, kept): (usize, usize),
    mut take: impl FnMut(usize) -> Result<Sample>,
) -> Result<()> {
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); targets.len()];
    let mut failed = vec![false; targets.len()];
    for round in 0..warm_up + kept {
        for turn in 0..targets.len() {
            let at = (turn + round) % targets.len();
            if failed[at] {
                continue;
            }
            log::info!("{}: round {round}: {}", suite.name, targets[at]);
            let mut result = take(at);
            // Whose time is counted in instructions does not know how long it
            // waits for its disk: once more, when the files are in the cache.
            if round == 0 && matches!(result, Err(Error::TooLong(_))) {
                result = take(at);
            }
            match result {
                Ok(sample) if round >= warm_up => samples[at].push(sample),
                Ok(_) => {}
                Err(error @ Error::Interrupted(_)) => return Err(error),
                Err(error) => {
                    failed[at] = true;
                    suite.failures.push(Failure {
                        target: targets[at].to_owned(),
                        why: error.to_string(),
                    });
                }
            }
        }
    }
    for quantity in quantities {
        let of = |(at, target): (usize, &&str)| {
            let values = samples[at].iter().flatten();
            let values = values.filter(|(name, _)| *name == quantity.name);
            statistics::summarize(target, values.map(|(_, value)| *value).collect(), None)
        };
        let results: Vec<_> = targets.iter().enumerate().filter_map(of).collect();
        if !results.is_empty() {
            suite.figures.push(Figure {
                name: quantity.name.to_owned(),
                title: quantity.title.to_owned(),
                unit: quantity.unit.to_owned(),
                better: quantity.better,
                how: quantity.how.to_owned(),
                results,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite() -> Suite {
        Suite {
            name: "test".into(),
            about: String::new(),
            figures: Vec::new(),
            tables: Vec::new(),
            failures: Vec::new(),
        }
    }

    const QUANTITY: Quantity = Quantity {
        name: "n",
        title: "N",
        unit: "count",
        better: Better::Less,
        how: "",
    };

    #[test]
    fn targets_take_turns_and_the_first_round_is_dropped() {
        let (mut suite, mut order) = (suite(), Vec::new());
        rounds(&mut suite, &["a", "b", "c"], &[QUANTITY], (1, 2), |at| {
            order.push(at);
            Ok(vec![("n", order.len() as f64)])
        })
        .unwrap();
        assert_eq!(order, [0, 1, 2, 1, 2, 0, 2, 0, 1]);
        let results = &suite.figures[0].results;
        assert_eq!(results[0].samples, [6.0, 8.0]);
        assert_eq!(results[2].samples, [5.0, 7.0]);
    }

    #[test]
    fn a_failure_hides_nothing() {
        let mut suite = suite();
        rounds(
            &mut suite,
            &["a", "b"],
            &[QUANTITY],
            (1, 3),
            |at| match at {
                0 => Err(Error::Failed("no".into())),
                _ => Ok(vec![("n", 1.0)]),
            },
        )
        .unwrap();
        assert_eq!(suite.failures.len(), 1);
        assert_eq!(suite.failures[0].target, "a");
        assert_eq!(suite.figures[0].results.len(), 1);
        assert_eq!(suite.figures[0].results[0].samples.len(), 3);
    }

    #[test]
    fn the_first_time_may_take_too_long() {
        let (mut suite, mut takes) = (suite(), 0);
        rounds(&mut suite, &["a"], &[QUANTITY], (1, 2), |_| {
            takes += 1;
            match takes {
                1 => Err(Error::TooLong(std::time::Duration::ZERO)),
                _ => Ok(vec![("n", 1.0)]),
            }
        })
        .unwrap();
        assert_eq!((takes, suite.failures.len()), (4, 0));
        assert_eq!(suite.figures[0].results[0].samples.len(), 2);
    }

    #[test]
    fn an_interruption_is_the_end() {
        let mut suite = suite();
        let result = rounds(&mut suite, &["a"], &[QUANTITY], (0, 1), |_| {
            Err(Error::Interrupted(2))
        });
        assert!(matches!(result, Err(Error::Interrupted(2))));
    }
}
