//! The Mann-Whitney test: how likely it is that two sets of samples of the same
//! thing differ by as much as these do, or more. It asks only which of two samples
//! is the larger, so that neither outliers nor the form of the distribution
//! matter.

use std::cmp::Ordering;

use super::report::math::normal_two_tails;

/// Up to so many samples in all it is exact.
const EXACT: usize = 40;

/// What the test comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Test {
    /// The probability, of a difference in either direction.
    pub probability: f64,
    /// What the second samples are, against the first.
    pub direction: Ordering,
}

/// Compares the samples `b` with the samples `a`. Of none, nothing is said.
pub fn test(a: &[f64], b: &[f64]) -> Test {
    let (doubled, ties) = ranks(a, b);
    let (n, m) = (a.len(), b.len());
    if n == 0 || m == 0 {
        return Test {
            probability: 1.0,
            direction: Ordering::Equal,
        };
    }
    let sum: u64 = doubled[..n].iter().sum();
    Test {
        probability: match n + m <= EXACT {
            true => exact(&doubled, n, sum),
            false => approximate(n as f64, m as f64, sum as f64 / 2.0, ties),
        },
        direction: ((n * (n + m + 1)) as u64).cmp(&sum),
    }
}

/// The least probability that so many samples can come to.
pub fn least_probability(n: usize, m: usize) -> f64 {
    let n = n.min(m);
    // 2 of the ways to choose n of n + m.
    let ways = (1..=n).fold(1.0, |ways, k| ways * (m + k) as f64 / k as f64);
    (2.0 / ways).min(1.0)
}

/// Twice the rank of each, those of `a` first, equal ones sharing theirs; and the
/// sum of t^3 - t over the sets of t equal ones.
fn ranks(a: &[f64], b: &[f64]) -> (Vec<u64>, f64) {
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|x, y| all[*x].total_cmp(&all[*y]));
    let mut doubled = vec![0; all.len()];
    let mut ties = 0.0;
    let mut at = 0;
    while at < order.len() {
        let same = order[at..]
            .iter()
            .take_while(|o| all[**o] == all[order[at]])
            .count()
            .max(1);
        for place in &order[at..at + same] {
            // Ranks from at + 1 to at + same: twice their mean.
            doubled[*place] = (2 * at + same + 1) as u64;
        }
        let t = same as f64;
        ties += t * t * t - t;
        at += same;
    }
    (doubled, ties)
}

/// Counts the ways to choose `n` of the ranks, by their sum.
fn exact(doubled: &[u64], n: usize, sum: u64) -> f64 {
    let all: u64 = doubled.iter().sum();
    let size = all as usize + 1;
    let mut ways = vec![vec![0.0_f64; size]; n + 1];
    ways[0][0] = 1.0;
    for (seen, rank) in doubled.iter().enumerate() {
        let rank = *rank as usize;
        for chosen in (1..=n.min(seen + 1)).rev() {
            let (fewer, more) = ways.split_at_mut(chosen);
            let (from, to) = (&fewer[chosen - 1], &mut more[0]);
            for (to, from) in to[rank..].iter_mut().zip(from) {
                *to += *from;
            }
        }
    }
    let total: f64 = ways[n].iter().sum();
    // Twice as far from the mean, which is n (N + 1) for doubled ranks.
    let mean = (n * (doubled.len() + 1)) as i64;
    let distance = (sum as i64 - mean).abs();
    let far = |(at, _): &(usize, &f64)| (*at as i64 - mean).abs() >= distance;
    let beyond: f64 = ways[n]
        .iter()
        .enumerate()
        .filter(far)
        .map(|(_, ways)| ways)
        .sum();
    (beyond / total).min(1.0)
}

/// The normal distribution in its place, with the corrections for ties and for
/// continuity.
fn approximate(n: f64, m: f64, sum: f64, ties: f64) -> f64 {
    let all = n + m;
    let variance = n * m / 12.0 * ((all + 1.0) - ties / (all * (all - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let distance = (sum - n * (all + 1.0) / 2.0).abs();
    normal_two_tails((distance - 0.5).max(0.0) / variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probability(a: &[f64], b: &[f64]) -> f64 {
        test(a, b).probability
    }

    #[test]
    fn probabilities_are_those_of_the_tables() {
        // Mann and Whitney 1947, table I, both tails: n = 4, m = 4.
        for (a, p) in [
            ([1.0, 2.0, 3.0, 4.0], 0.028_57),
            ([1.0, 2.0, 3.0, 5.0], 0.057_14),
            ([1.0, 2.0, 3.0, 6.0], 0.114_29),
        ] {
            let b: Vec<f64> = (1..=8).map(f64::from).filter(|x| !a.contains(x)).collect();
            assert!((probability(&a, &b) - p).abs() < 1e-4, "{a:?}");
            assert!((probability(&b, &a) - p).abs() < 1e-4, "{a:?}");
            assert_eq!(test(&a, &b).direction, Ordering::Greater);
            assert_eq!(test(&b, &a).direction, Ordering::Less);
        }
        assert!((least_probability(4, 4) - 0.028_57).abs() < 1e-4);
        assert_eq!(least_probability(1, 1), 1.0);
        assert!((least_probability(10, 10) - 2.0 / 184_756.0).abs() < 1e-9);
    }

    #[test]
    fn equal_samples_tell_nothing() {
        assert_eq!(probability(&[5.0; 8], &[5.0; 9]), 1.0);
        assert_eq!(probability(&[5.0; 80], &[5.0; 90]), 1.0);
        assert_eq!(probability(&[], &[1.0]), 1.0);
        assert!(probability(&[5.0; 8], &[6.0; 8]) < 1e-3);
    }

    #[test]
    fn both_ways_to_count_agree() {
        for shift in [0.0, 3.5, 8.0] {
            let a: Vec<f64> = (0..30).map(f64::from).collect();
            let b: Vec<f64> = (0..30).map(|x| f64::from(x) + shift).collect();
            let (doubled, ties) = ranks(&a, &b);
            let sum: u64 = doubled[..30].iter().sum();
            let exact = exact(&doubled, 30, sum);
            let near = approximate(30.0, 30.0, sum as f64 / 2.0, ties);
            assert!((exact - near).abs() < 0.01, "{shift}: {exact} {near}");
        }
    }
}
