//! Samples in a few numbers, without a guess at how they are distributed.
//!
//! The median's confidence interval is made of two of the samples themselves: in
//! `n` independent samples, the number below the true median is binomial with
//! `p = 1/2`, so the interval between the `k`th from below and the `k`th from
//! above holds it with probability `1 - 2 P(X < k)`. The narrowest such interval
//! of 95 % is taken; with fewer than 6 samples there is none, and it is all of
//! them, with the confidence that it has.

use super::results::Measured;

/// The confidence that is aimed at.
const CONFIDENCE: f64 = 0.95;
/// Tukey's fences: this many interquartile ranges beyond the quartiles.
const FENCE: f64 = 1.5;

/// What samples come to; nothing without any.
pub fn summarize(target: &str, samples: Vec<f64>, note: Option<String>) -> Option<Measured> {
    let mut sorted = samples.clone();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let (rank, confidence) = rank(sorted.len());
    let (first_quartile, third_quartile) = (quantile(&sorted, 0.25), quantile(&sorted, 0.75));
    let reach = FENCE * (third_quartile - first_quartile);
    let outside =
        |sample: &&f64| **sample < first_quartile - reach || **sample > third_quartile + reach;
    Some(Measured {
        target: target.to_owned(),
        median: quantile(&sorted, 0.5),
        low: sorted[rank],
        high: sorted[last - rank],
        confidence,
        outliers: sorted.iter().filter(outside).count() as u32,
        samples,
        note,
    })
}

/// How far from either end of `n` sorted samples the interval is, from 0, and its
/// confidence.
fn rank(n: usize) -> (usize, f64) {
    // P(X < k), term by term: from 2^-n on.
    let mut term = 0.5_f64.powi(n as i32);
    let mut below = term;
    let mut best = (0, 1.0 - 2.0 * below);
    for k in 1..=n.saturating_sub(1) / 2 {
        term *= (n - k + 1) as f64 / k as f64;
        below += term;
        let confidence = 1.0 - 2.0 * below;
        if confidence < CONFIDENCE {
            break;
        }
        best = (k, confidence);
    }
    (best.0, best.1.max(0.0))
}

/// Between the two nearest of the sorted samples, of which there is one at least.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let place = at * (sorted.len() - 1) as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * part
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(samples: &[f64]) -> Measured {
        summarize("host", samples.to_vec(), None).unwrap()
    }

    #[test]
    fn ranks_are_those_of_the_tables() {
        // Conover, Practical Nonparametric Statistics, table of the sign test:
        // 95 % needs 6; 10 leave one out on each side, 20 leave five.
        for (n, k, confidence) in [
            (1, 0, 0.0),
            (2, 0, 0.5),
            (5, 0, 0.9375),
            (6, 0, 0.968_75),
            (10, 1, 0.978_515_6),
            (20, 5, 0.958_61),
        ] {
            let (rank, sure) = rank(n);
            assert_eq!(rank, k, "{n}");
            assert!((sure - confidence).abs() < 1e-4, "{n}: {sure}");
        }
    }

    #[test]
    fn outliers_count_and_are_counted() {
        let measured = of(&[10.0, 11.0, 12.0, 10.5, 11.5, 100.0, 11.0]);
        assert_eq!(measured.outliers, 1);
        assert_eq!(measured.median, 11.0);
        assert_eq!((measured.low, measured.high), (10.0, 100.0));
        assert_eq!(measured.samples[5], 100.0);
        assert_eq!(of(&[1.0, 1.0, 1.0]).outliers, 0);
        assert_eq!(of(&[4.0, 2.0]).median, 3.0);
        assert_eq!(summarize("host", Vec::new(), None), None);
    }

    proptest! {
        #[test]
        fn the_median_lies_in_its_interval(samples in prop::collection::vec(0.0..1e9, 1..60)) {
            let measured = of(&samples);
            prop_assert!(measured.low <= measured.median && measured.median <= measured.high);
            prop_assert!(samples.contains(&measured.low) && samples.contains(&measured.high));
            prop_assert!((0.0..1.0).contains(&measured.confidence));
            prop_assert!(samples.len() < 6 || measured.confidence >= CONFIDENCE);
        }
    }
}
